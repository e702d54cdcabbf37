"""Many workflows changed at once: counted first, told one by one, and no further than agreed to."""

from __future__ import annotations

import json

import pytest

from tests.cli.terminal import Terminal


@pytest.fixture
def three(shell):
    """Three workflows with a label of their own, that wait for their owner."""
    label = f"test={shell.name}"
    ids = [f"{shell.name}-{number}" for number in range(3)]
    for workflow_id in ids:
        root = {"kind": "KIND_SEQUENCE", "members": [shell.task("one")]}
        spec = json.dumps({"kind": "bulk", "root": root})
        shell("workflow", "submit", "-", "--id", workflow_id, "--label", label, given=spec)
    return label, ids


def states(shell, label):
    return {one["name"].partition("/")[2]: one["state"] for one in shell.json(*listing(label))}


def listing(label):
    return ("workflow", "list", "--label", label)


@pytest.mark.parametrize("verb", ["pause", "cancel"])
def test_a_dry_run_tells_which_and_how_many_and_changes_nothing(shell, three, verb):
    label, ids = three
    done = shell.run("workflow", verb, "--label", label, "--dry-run")

    assert done.exit_code == 0
    assert [line.split()[0] for line in done.stdout.splitlines()[1:]] == ids[::-1]
    assert done.stderr == f"3 workflows would be {verb.rstrip('e')}{DONE[verb]}. {UNCHANGED}\n"
    assert set(states(shell, label).values()) == {"WORKFLOW_STATE_RUNNING"}


DONE = {"pause": "ed", "cancel": "led"}
UNCHANGED = "Nothing has changed."


def test_a_script_says_yes_and_hears_of_each(shell, three):
    label, ids = three
    silent = shell.run("workflow", "cancel", "--label", label, "--reason", "gone")
    done = shell.run("workflow", "cancel", "--label", label, "--reason", "gone", "--yes")
    again = shell.run("workflow", "cancel", "--label", label, "--reason", "gone", "--yes")

    assert silent.exit_code == 2
    assert "3 workflows would be cancelled: look with --dry-run, and say --yes" in silent.stderr
    assert done.exit_code == 0
    assert [line.split()[0] for line in done.stdout.splitlines()] == [
        f"workflows/{one}" for one in ids[::-1]
    ]
    assert done.stderr == "3 of 3 workflows cancelled.\n"
    assert (again.exit_code, again.stderr) == (0, f"No workflow has label {label}.\n")


def test_what_fails_is_told_one_by_one_and_the_others_are_changed(shell, three):
    _, ids = three
    shell("workflow", "cancel", ids[1], "--reason", "first")
    shell("workflow", "wait", ids[1], code=3)

    done = shell.run("workflow", "pause", *ids, "--reason", "maintenance")
    as_json = shell.run("workflow", "cancel", *ids, "--reason", "gone", "-o", "json")

    assert done.exit_code == as_json.exit_code == 1
    told = done.stderr.splitlines()
    assert told[0] == f"workflows/{ids[1]}:"
    assert "STATE_FORBIDS" in told[1]
    assert told[2] == "2 of 3 workflows paused, 1 failed."
    first, second, third = json.loads(as_json.stdout)
    assert first["workflow"]["name"] == first["name"] == f"workflows/{ids[0]}"
    assert second["error"]["reason"] == "STATE_FORBIDS"
    assert third["name"] == f"workflows/{ids[2]}"


def test_a_person_sees_the_count_and_decides(shell, three):
    label, _ = three
    command = ("workflow", "pause", "--label", label, "--state", "running", "--reason", "look")
    with Terminal(shell.address, *command) as terminal:
        terminal.until("Pause 3 workflows? [y/N]").type("n")
        assert terminal.end() == 1
        refused = terminal.text
    before = states(shell, label)
    with Terminal(shell.address, *command) as terminal:
        terminal.until("Pause 3 workflows?").type("y")
        assert terminal.end() == 0

    assert refused.endswith("Nothing has changed.\n")
    assert set(before.values()) == {"WORKFLOW_STATE_RUNNING"}
    assert not set(states(shell, label).values()) & {"WORKFLOW_STATE_RUNNING"}


def test_a_coordinator_that_goes_away_ends_it(shell, three):
    label, ids = three
    done = shell.run("--coordinator", "127.0.0.1:1", "workflow", "pause", *ids, "--reason", "x")

    assert done.exit_code == 1
    assert done.stderr.count("COORDINATOR_UNAVAILABLE") == 1
    assert set(states(shell, label).values()) == {"WORKFLOW_STATE_RUNNING"}


def test_what_was_paused_goes_on_together_but_for_what_needs_a_decision(shell):
    label = "test=together"
    for number in range(2):
        shell.held(f"together-{number}", label)
    shell.submit(shell.task("one"), workflow_id="together-free")
    shell("workflow", "pause", "together-free", "--reason", "look")

    named = ("together-free", "together-0")
    done = shell.run("workflow", "resume", *named, "--reason", "go on")
    chosen = shell.run("workflow", "resume", "--label", label, "--reason", "go on", "--yes")

    assert (done.exit_code, done.stdout) == (1, "workflows/together-free is ▸ running\n")
    assert done.stderr.splitlines()[0] == "workflows/together-0:"
    assert "REQUIREMENTS_UNMET" in done.stderr
    assert chosen.exit_code == 1
    assert chosen.stderr.endswith("0 of 2 workflows resumed, 2 failed.\n")


@pytest.mark.parametrize(
    "words",
    [
        ("cancel", "--reason", "x"),
        ("cancel", "one", "--state", "running", "--reason", "x"),
        ("cancel", "one"),
        ("resume", "one", "two", "--rerun", "copy", "--reason", "x"),
        ("resume", "--label", "a=b", "--watch"),
        ("pause", "--state", "tired", "--reason", "x"),
    ],
    ids=["nothing", "both", "reason", "decisions", "watch", "state"],
)
def test_what_cannot_be_meant_is_refused_before_anything_changes(shell, words):
    assert shell.run("workflow", *words).exit_code == 2
