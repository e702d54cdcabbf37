"""What `countermand doctor` says of the coordinator, its database, its hosts and the clocks."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from click.testing import CliRunner

from countermand.cli import health
from countermand.cli.main import main
from countermand.v1.coordinator_pb2 import Recovery
from countermand.v1.doctor_pb2 import Diagnosis
from countermand.v1.host_pb2 import Host
from tests.cli.processes import served

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
OURS = {"countermand": "0.1.0"}


def diagnosis(version: str = "0.1.0", apart_s: float = 0) -> Diagnosis:
    told = Diagnosis(version=version)
    told.time.FromDatetime(NOW + timedelta(seconds=apart_s))
    return told


@pytest.mark.parametrize(
    ("agents", "told", "said"),
    [
        (["0.1.0"], diagnosis(), []),
        (["0.1.0"], diagnosis(apart_s=0.4), []),
        ([], diagnosis("0.2.0"), ["the coordinator is 0.2.0, and this command 0.1.0"]),
        (["0.1.0", "0.3.0"], diagnosis(), ["the coordinator is 0.1.0, and agents are 0.3.0"]),
        (
            [],
            diagnosis(apart_s=90),
            ["the coordinator's clock is 1 min 30 s ahead of this machine's: set them by NTP"],
        ),
        (
            [],
            diagnosis(apart_s=-5),
            ["the coordinator's clock is 5.0 s behind this machine's: set them by NTP"],
        ),
        (["0.3.0"], Diagnosis(), []),  # of an older coordinator, which says neither
    ],
)
def test_what_does_not_fit_together_is_told(agents, told, said):
    hosts = [Host(version=version) for version in agents]
    seen = health.Health(address="a", workflows=False, hosts=hosts)

    assert list(health.differences(OURS, seen, told, NOW)) == said


def test_a_database_that_went_back_is_told_first():
    seen = health.Health(address="a", workflows=False, hosts=[], recovery=Recovery(why="host b"))

    [said] = health.differences(OURS, seen, Diagnosis(), NOW)
    assert said.startswith("the database went back in time (host b), and nothing is decided")
    assert "coordinator recover" in said
    assert health.in_json(OURS, seen, Diagnosis(), NOW)["recovery"] == {"why": "host b"}


def test_it_says_how_everything_is_before_it_compares(real):
    environment = {"COUNTERMAND_COORDINATOR": real}
    CliRunner().invoke(
        main, ["host", "add", "ill", "127.0.0.1:37", "--unreachable-allowed"], env=environment
    )
    done = CliRunner().invoke(main, ["doctor"], env=environment)

    lines = done.stdout.splitlines()
    assert done.exit_code == 4, done.output
    assert lines[0].startswith("countermand 0.")
    assert lines[1] == f"coordinator {real} answers"
    assert lines[2].startswith("database answers: it has")
    assert any(line.startswith("  ill  ") and "never heard" in line for line in lines)
    assert "Looked at" in lines[-1]


def test_with_no_coordinator_the_versions_are_told_all_the_same():
    done = CliRunner().invoke(main, ["doctor", "--coordinator", "127.0.0.1:1"])

    assert done.exit_code == 1
    assert "The coordinator at 127.0.0.1:1 does not answer" in done.stderr
    assert done.stdout.startswith("countermand 0.")


FIX = ("doctor", "--fix", "--reason", "a test")


@pytest.fixture
def found():
    """Returns how a command is run where one orphan is found, with a coordinator of its own."""
    with served() as (_, address):
        yield lambda *words, **given: CliRunner().invoke(
            main, words, env={"COUNTERMAND_COORDINATOR": address} | given.pop("env", {}), **given
        )


def is_there(found):
    findings = json.loads(found("doctor", "-o", "json").stdout)["findings"]
    return [one["subject"] for one in findings] == ["disk-1"]


def test_a_script_that_has_not_said_yes_repairs_nothing(found, tmp_path):
    file = tmp_path / "config.toml"
    file.write_text('profile = "p"\n[profiles.p]\noutput = "json"\n')
    asked = [found(*FIX, "-o", form) for form in ("name", "json", "yaml")]
    by_profile = found(*FIX, env={"COUNTERMAND_CONFIG": str(file)})

    for done in (*asked, by_profile):
        assert (done.exit_code, done.stdout) == (2, ""), done.output
        assert "--yes" in done.stderr
    assert is_there(found)


def test_a_person_repairs_nothing_before_they_have_agreed(found):
    no = found(*FIX, input="n\n")
    silent = found(*FIX)
    assert is_there(found)
    yes = found(*FIX, input="y\n")

    assert "Repair 1 difference? [y/N]" in no.stderr
    assert (no.exit_code, silent.exit_code, yes.exit_code) == (4, 1, 0), yes.output
    assert yes.stdout.endswith("disk-1  repaired\n")
    assert not is_there(found)


def test_a_script_says_yes_and_hears_what_became_of_each(found):
    done = found(*FIX, "--yes", "-o", "json")

    told = json.loads(done.stdout)
    assert done.exit_code == 0
    assert [one["name"] for one in told["repaired"]] == [one["name"] for one in told["findings"]]
    assert not is_there(found)
