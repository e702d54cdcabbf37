"""What is around every command: closed streams, bytes that are no text, errors in their form."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import yaml

from countermand.cli.exits import code_of
from countermand.cli.settings import Settings
from countermand.v1.workflow_pb2 import Workflow
from tests.cli.answers import check_error

COMMAND = [sys.executable, "-m", "countermand.cli"]


def started(coordinator, *words, close="", env=None, **options):
    """Runs a command as a shell does, perhaps with streams closed."""
    environment = {**os.environ, "COUNTERMAND_COORDINATOR": coordinator, **(env or {})}
    script = ["/bin/sh", "-c", f'exec "$@" {close}', "sh", *COMMAND, *words]
    return subprocess.run(
        script, env=environment, capture_output=True, check=False, stdin=None, **options
    )


# -- streams --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("close", "words", "code"),
    [
        ("<&-", ("workflow", "resume", "made-up"), 1),
        (">&-", ("workflow", "get", "made-up"), 0),
        (">&-", ("workflow", "watch", "made-up"), 3),
        (">&- 2>&-", ("doctor",), 4),
        ("<&- >&- 2>&-", ("workflow", "list", "-o", "json"), 0),
        ("2>&-", ("workflow", "get", "nowhere"), 1),
    ],
)
def test_a_closed_stream_is_nobody(coordinator, close, words, code):
    done = started(coordinator, *words, close=close)

    assert done.returncode == code, done
    assert b"Traceback" not in done.stdout + done.stderr


@pytest.mark.parametrize("word", [b"\xff", b"caf\xe9"])
def test_bytes_that_are_no_text_are_named(coordinator, word):
    for words in (("workflow", "get", word), ("workflow", "pause", "x", "--reason", word)):
        done = started(coordinator, *words)
        assert done.returncode == 2
        assert done.stderr.endswith(b" is not UTF-8 text\n")
    done = started(coordinator, "external", "owners", env={b"COUNTERMAND_OWNER": word})
    assert (done.returncode, b"COUNTERMAND_OWNER=" in done.stderr) == (2, True)


def test_a_letter_that_cannot_be_written_is_not_lost(coordinator):
    """As JSON and as YAML, where the terminal knows another alphabet."""
    label = "café 日本"
    latin = {"PYTHONIOENCODING": "latin1", "PYTHONUTF8": "0"}
    for form, read in (("json", json.loads), ("yaml", yaml.safe_load)):
        done = started(coordinator, "workflow", "get", "labelled", "-o", form, env=latin)
        assert read(done.stdout.decode("latin1"))["labels"] == {"café": label}, done
        done = started(coordinator, "workflow", "get", "labelled", "-o", form)
        assert label in done.stdout.decode()


# -- errors ---------------------------------------------------------------------------------------


ERRORS = [
    ("workflow nonsense", "USAGE"),
    ("workflow get", "USAGE"),
    ("workflow get x --nonsense", "USAGE"),
    ("workflow list --state tired", "USAGE"),
    ("workflow list --timeout soon", "USAGE"),
    ("workflow cancel x", "USAGE"),
    ("workflow wait x --settled --for paused", "USAGE"),
    ("workflow get made-up --profile nope", "USAGE"),
    ("workflow get made-up --coordinator nonsense", "USAGE"),
    ("workflow submit /none/x.yaml --id x", "USAGE"),
    ("workflow bundle made-up /none/x.zip", "LOCAL"),
    ("open {no_bundle}", "LOCAL"),
    ("open /none/x.zip", "USAGE"),
    ("template show nope", "USAGE"),
    ("template render move-disk --input nothing=1", "FIELD_INVALID"),
    ("doctor --fix", "USAGE"),
    ("workflow get nowhere", "WORKFLOW_NOT_FOUND"),
    ("workflow get made-up --coordinator 127.0.0.1:1", "COORDINATOR_UNAVAILABLE"),
    ("workflow wait endless --timeout 10ms", "TIMEOUT"),
]


@pytest.mark.parametrize(("words", "reason"), ERRORS, ids=[words for words, _ in ERRORS])
def test_every_error_has_its_form_for_programs(run, words, reason, tmp_path):
    (tmp_path / "file").write_text("no bundle")
    asked = words.format(no_bundle=tmp_path / "file").split()
    plain = run(*asked)
    as_json = run(*asked, "-o", "json")
    as_yaml = run(*asked, "--output=yaml")
    before = run("-o", "json", *asked)

    assert plain.exit_code == as_json.exit_code == as_yaml.exit_code == before.exit_code > 0
    assert as_json.stdout == as_yaml.stdout == ""
    error = check_error(as_json.stderr)
    assert error["reason"] == reason
    assert yaml.safe_load(as_yaml.stderr) == json.loads(before.stderr) == {"error": error}


def test_a_profile_that_asks_for_it_has_its_errors_so_too(run, tmp_path, monkeypatch):
    file = tmp_path / "config.toml"
    file.write_text('profile = "p"\n[profiles.p]\noutput = "json"\n')
    monkeypatch.setenv("COUNTERMAND_CONFIG", str(file))

    for words in (("workflow", "nonsense"), ("workflow", "cancel", "x")):
        assert json.loads(run(*words).stderr)["error"]["reason"] == "USAGE"
    monkeypatch.setenv("COUNTERMAND_OUTPUT", "table")
    assert run("workflow", "nonsense").stderr.startswith("Usage:")


def test_what_could_be_two_has_its_form_as_well(shell):
    shell.submit(shell.task("one"), workflow_id="two-of-one")
    shell.submit(shell.task("one"), workflow_id="two-of-two")
    done = shell.run("workflow", "get", "two-of-", "-o", "json")

    error = json.loads(done.stderr)["error"]
    assert (done.exit_code, error["reason"]) == (2, "USAGE")
    assert "two-of-two, two-of-one" in error["message"]


@pytest.mark.parametrize("state", [0, 4711])
def test_a_state_without_a_code_has_its_form_as_well(capsys, state):
    assert code_of(Settings(output="json"), Workflow(name="workflows/w", state=state)) == 1
    assert json.loads(capsys.readouterr().err)["error"]["reason"] == "STATE_WITHOUT_CODE"


@pytest.mark.parametrize("form", ["json", "name"])
def test_a_form_that_nobody_asked_for_here_is_left_aside(run, form, tmp_path, monkeypatch):
    """A profile's form is meant for what has one."""
    file = tmp_path / "config.toml"
    file.write_text(f'profile = "p"\n[profiles.p]\noutput = "{form}"\n')
    drawn = run("workflow", "timeline", "made-up")
    refused = run("workflow", "timeline", "made-up", "-o", form)
    monkeypatch.setenv("COUNTERMAND_CONFIG", str(file))
    by_profile = run("workflow", "timeline", "made-up")
    monkeypatch.delenv("COUNTERMAND_CONFIG")
    monkeypatch.setenv("COUNTERMAND_OUTPUT", form)
    by_environment = run("workflow", "timeline", "made-up")

    assert refused.exit_code == 2
    assert drawn.exit_code == by_profile.exit_code == by_environment.exit_code == 0
    assert "copy-1" in by_profile.stdout
    assert "copy-1" in by_environment.stdout
