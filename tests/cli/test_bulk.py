"""Many workflows changed at once: counted first, told one by one, and no further than agreed to."""

from __future__ import annotations

import json

import pytest

from coordinator.saga import requests
from countermand.cli import resume, steer
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


def test_workflows_are_named_or_chosen_and_not_both(shell):
    both = shell.run("workflow", "pause", "later", "--host", "host-a", "--dry-run")
    neither = shell.run("workflow", "pause", "--dry-run")

    assert (both.exit_code, neither.exit_code) == (2, 2)
    assert "either by WORKFLOW or by --label, --state and the like, not by both" in both.stderr
    assert "say which to pause: WORKFLOW, or --label, --state and the like" in neither.stderr


@pytest.mark.parametrize("verb", ["pause", "cancel"])
def test_a_dry_run_tells_which_and_how_many_and_changes_nothing(shell, three, verb):
    label, ids = three
    done = shell.run("workflow", verb, "--label", label, "--dry-run")

    assert done.exit_code == 0
    assert [line.split()[0] for line in done.stdout.splitlines()[1:]] == ids[::-1]
    assert done.stderr == f"3 workflows would be {verb.rstrip('e')}{DONE[verb]}. {UNCHANGED}\n"
    assert set(states(shell, label).values()) == {"WORKFLOW_STATE_RUNNING"}


IN_WHICH = "is running or pausing or paused or blocked"
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
    assert (again.exit_code, again.stderr) == (
        0,
        f"No workflow {IN_WHICH} and has label {label}.\n",
    )


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


@pytest.fixture
def past(shell):
    """A workflow past its pivot that is blocked, and its label."""
    label, name = f"past={shell.name}", f"{shell.name}-past"
    members = [shell.task("turn", effect="EFFECT_PIVOT"), shell.task("fails")]
    members[1]["external_task"]["effect"] = "EFFECT_FORWARD_ONLY"
    spec = json.dumps({"kind": "past", "root": {"kind": "KIND_SEQUENCE", "members": members}})
    shell("workflow", "submit", "-", "--id", name, "--label", label, given=spec)
    shell.external("accept", f"{name}/turn")
    shell.external("end", f"{name}/turn")
    shell.external("accept", f"{name}/fails")
    shell.external("end", f"{name}/fails", "--failed", "FULL")
    shell("workflow", "wait", name, "--for", "blocked")
    return label, name


def test_what_is_blocked_is_chosen_as_well(shell, past):
    label, name = past
    words = ("--label", label, "--reason", "x", "--yes")
    cancelled = shell.run("workflow", "cancel", *words)
    resumed = shell.run("workflow", "resume", *words)
    paused = shell.run("workflow", "pause", *words)

    assert (cancelled.exit_code, cancelled.stdout) == (1, "")
    assert "cannot be made up for" in cancelled.stderr
    assert cancelled.stderr.endswith("0 of 1 workflow cancelled, 1 failed.\n")
    assert (resumed.exit_code, resumed.stderr) == (
        0,
        f"No workflow is pausing or paused and has label {label}.\n",
    )
    assert paused.exit_code == 0
    assert paused.stdout.splitlines()[0] == f"workflows/{name} is ‖ paused"


def test_what_is_being_made_up_for_already_is_left_out_and_told(shell):
    label, name = "made-up=already", "made-up-already"
    stays = shell.task("stays", operator_checklist="Remove the label.")
    root = {"kind": "KIND_SEQUENCE", "members": [stays, shell.task("fails")]}
    spec = json.dumps({"kind": "made-up", "root": root})
    shell("workflow", "submit", "-", "--id", name, "--label", label, given=spec)
    shell.external("accept", f"{name}/stays")
    shell.external("end", f"{name}/stays")
    shell("workflow", "cancel", name, "--reason", "x")
    shell("workflow", "wait", name, "--for", "blocked")

    told = "1 workflow is being made up for already, and left out.\n"
    for verb in ("cancel", "pause"):
        done = shell.run("workflow", verb, "--label", label, "--reason", "x", "--yes")
        assert (done.exit_code, done.stdout, done.stderr) == (0, "", told)
    held = ("pause", "--hold-compensation", "--label", label, "--reason", "x", "--yes")
    assert shell.run("workflow", *held).stderr == "1 of 1 workflow paused.\n"


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (steer.CANCELLABLE, requests._CANCELLABLE),
        (steer.HOLDABLE, requests._PAUSABLE),
        (steer.HOLDABLE_WITH_COMPENSATION, requests._HOLDABLE),
        (resume.RESUMABLE, requests._RESUMABLE),
    ],
)
def test_the_states_are_the_coordinators(ours, theirs):
    assert {word.upper() for word in ours} == set(theirs)


# -- dry runs -------------------------------------------------------------------------------------


def test_a_dry_run_says_what_would_be_refused(shell, three, past):
    label, ids = three
    shell("workflow", "cancel", ids[1], "--reason", "first")
    shell("workflow", "wait", ids[1], code=3)
    before = states(shell, label)

    alone = shell.run("workflow", "cancel", ids[1], "--dry-run")
    past_return = shell.run("workflow", "cancel", past[1], "--dry-run")
    some = shell.run("workflow", "pause", *ids, "--dry-run")
    chosen = shell.run(
        "workflow", "cancel", "--label", label, "--state", "compensated", "--dry-run"
    )
    resumed = shell.run("workflow", "resume", *ids[:2], "--dry-run")
    as_json = shell.run("workflow", "cancel", *ids, "--dry-run", "-o", "json")

    for done in (alone, past_return, some, chosen, resumed, as_json):
        assert done.exit_code == 1, done.output
    assert (alone.stdout, "(STATE_FORBIDS)" in alone.stderr) == ("", True)
    assert "turn cannot be made up for" in past_return.stderr
    assert [line.split()[0] for line in some.stdout.splitlines()[1:]] == [ids[0], ids[2]]
    assert some.stderr.endswith(f"2 of 3 workflows would be paused. {UNCHANGED}\n")
    assert chosen.stderr.endswith(f"0 of 1 workflow would be cancelled. {UNCHANGED}\n")
    assert resumed.stderr.endswith(f"0 of 2 workflows would be resumed. {UNCHANGED}\n")
    told = json.loads(as_json.stdout)
    assert [set(one) - {"name"} for one in told] == [{"workflow"}, {"error"}, {"workflow"}]
    assert states(shell, label) == before


def test_what_is_named_twice_is_changed_once(shell, three):
    _, ids = three
    shell("workflow", "pause", ids[0], ids[1], "--reason", "x")
    done = shell.run(
        "workflow", "cancel", ids[2], ids[0], f"workflows/{ids[0]}", ids[2], "--reason", "gone"
    )

    assert (done.exit_code, done.stderr) == (0, "2 of 2 workflows cancelled.\n")


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
