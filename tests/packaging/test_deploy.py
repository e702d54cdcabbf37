"""What `deploy/` starts is started here without containers: its commands, with other places."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml

from coordinator.web import address as web

DEPLOY = Path(__file__).parents[2] / "deploy"
HOME = "/var/lib/countermand"  # in the container
SERVICES: Mapping[str, Mapping[str, str]] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())[
    "services"
]
OURS = [name for name, service in SERVICES.items() if service["image"] == "countermand"]


@pytest.mark.slow
@pytest.mark.parametrize("name", OURS)
def test_each_service_gets_ready(name, tmp_path):
    command = SERVICES[name]["command"].replace(HOME, str(tmp_path))
    for port in ("127.0.0.1:7710", "127.0.0.1:7711", "127.0.0.1:7720", "127.0.0.1:7721"):
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


def test_nothing_listens_but_on_loopback():
    """All share the network of the machine; who would listen everywhere there is told not to."""
    assert {service["network_mode"] for service in SERVICES.values()} == {"host"}
    assert not any("ports" in service for service in SERVICES.values())
    others = {name: str(SERVICES[name]) for name in SERVICES if name not in OURS}
    assert len(others) == 3
    assert all("127.0.0.1" in said for said in others.values()), others


def test_what_is_mounted_from_here_is_here():
    mounted = [
        source
        for service in SERVICES.values()
        for source, _, _ in (each.partition(":") for each in service.get("volumes", ()))
        if source.startswith("./")
    ]
    assert len(mounted) == 5
    assert all((DEPLOY / source).exists() for source in mounted), mounted


def test_prometheus_asks_every_service():
    config = yaml.safe_load((DEPLOY / "prometheus/prometheus.yaml").read_text())
    asked = {
        target
        for job in config["scrape_configs"]
        for targets in job["static_configs"]
        for target in targets["targets"]
    }
    agents = {
        words[words.index("--metrics") + 1]
        for words in (SERVICES[name]["command"].split() for name in OURS)
        if "--metrics" in words
    }
    assert len(agents) == len(OURS) - 1
    assert asked == agents | {web.LISTEN}
    rules = Path("/etc/prometheus") / config["rule_files"][0]
    assert any(str(rules) in each for each in SERVICES["prometheus"]["volumes"])


def test_nothing_is_published_but_on_loopback():
    for service in SERVICES.values():
        for port in service.get("ports", ()):
            assert port.startswith("127.0.0.1:"), port
