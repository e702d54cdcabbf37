"""What `deploy/` starts is started here without containers: its commands, with other places."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml

DEPLOY = Path(__file__).parents[2] / "deploy"
HOME = "/var/lib/countermand"  # in the container
SERVICES: Mapping[str, Mapping[str, str]] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())[
    "services"
]
OURS = [name for name, service in SERVICES.items() if "command" in service]


@pytest.mark.slow
@pytest.mark.parametrize("name", OURS)
def test_each_service_gets_ready(name, tmp_path):
    command = SERVICES[name]["command"].replace(HOME, str(tmp_path))
    for port in ("127.0.0.1:7710", "127.0.0.1:7711"):
        command = command.replace(port, "127.0.0.1:0")
    if "--listen" not in command:
        command += " --listen 127.0.0.1:0"
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"

    with (
        (tmp_path / "log").open("wb") as log,
        subprocess.Popen(
            shlex.split(command),
            cwd=tmp_path,
            env={"PATH": path, "COUNTERMAND_WEB": "off"},
            stdout=subprocess.PIPE,
            stderr=log,
        ) as process,
    ):
        assert process.stdout is not None
        try:
            assert b".ready" in process.stdout.readline(), (tmp_path / "log").read_text()
        finally:
            process.terminate()


def test_nothing_is_published_but_on_loopback():
    for service in SERVICES.values():
        for port in service.get("ports", ()):
            assert port.startswith("127.0.0.1:"), port
