"""What `deploy/` starts is started here without containers: its commands, with other places."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

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


SEVERAL: Mapping[str, Mapping[str, Any]] = yaml.safe_load(
    (DEPLOY / "compose.several.yaml").read_text()
)["services"]


@pytest.mark.slow
def test_several_coordinators_share_one_database(postgres_url, tmp_path):
    """Each of those that are added, and the one that is there, all of them at once."""
    environment = {"COUNTERMAND_WEB": "off", "COUNTERMAND_DATABASE": postgres_url}
    ours = [each["command"] for name, each in SEVERAL.items() if name.startswith("coordinator")]
    assert len(ours) == 3
    started = []
    for command in ours:
        words = re.sub(r"127\.0\.0\.1:77\d\d", "127.0.0.1:0", command).split()
        with (tmp_path / "log").open("ab") as log:
            started.append(
                subprocess.Popen(
                    [sys.executable, "-m", "coordinator", *words[1:]],
                    cwd=DEPLOY.parent,
                    env=environment,
                    stdout=subprocess.PIPE,
                    stderr=log,
                )
            )
    try:
        for process in started:
            assert process.stdout is not None
            assert b".ready" in process.stdout.readline(), (tmp_path / "log").read_text()
    finally:
        for process in started:
            process.terminate()
        for process in started:
            with process:
                assert process.wait() == 0


def test_those_that_are_several_listen_at_different_places_of_loopback_alone():
    places = re.findall(r"127\.0\.0\.1:\d+", " ".join(str(each) for each in SEVERAL.values()))
    listened = re.findall(r"--(?:listen|web) ([\d.:]+)", str(SEVERAL))
    assert len(set(listened)) == len(listened) == 6
    assert set(listened) <= set(places)
    assert "listen_addresses=127.0.0.1" in SEVERAL["postgres"]["command"]
    added = [each for name, each in SEVERAL.items() if name != "coordinator"]
    assert {each["network_mode"] for each in added} == {"host"}


def test_a_coordinator_that_has_lost_its_session_is_started_again():
    unit = (DEPLOY / "countermand-coordinator@.service").read_text()
    assert "Restart=always" in unit
    assert "StartLimitIntervalSec=0" in unit
    # What compose.yaml starts is started again by what it says for all of ours.
    assert all(each["restart"] != "no" for each in (*SERVICES.values(), SEVERAL["postgres"]))


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
