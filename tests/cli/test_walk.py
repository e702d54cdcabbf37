"""A resume without decisions asks a person for each, and sends nothing before a last look."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

from countermand.cli import walk
from countermand.v1.task_pb2 import Task
from countermand.v1.workflow_pb2 import ResumeRequirement
from tests.cli.terminal import Terminal


def resuming(shell, workflow_id, *options):
    return Terminal(shell.address, "workflow", "resume", workflow_id, *options)


def state(shell, workflow_id):
    return shell.json("workflow", "get", workflow_id)["state"].removeprefix("WORKFLOW_STATE_")


def test_a_rerun_is_asked_for_and_shown_before_it_is_sent(shell):
    shell.held("walk-rerun")
    with resuming(shell, "walk-rerun") as terminal:
        terminal.until("What (r, s, c, q) [r]: ").type("")
        terminal.until("FIELD=VALUE (Enter: no more): ").type("arguments.pool=slow")
        terminal.until("FIELD=VALUE (Enter: no more): ").type("")
        terminal.until("Why, for the audit: ").type("fast is full")
        terminal.until("Send it? [y/N]: ")
        before = shell.json("workflow", "get", "walk-rerun")
        assert terminal.type("y").end() == 0

    assert before["state"] == "WORKFLOW_STATE_PAUSED"
    assert terminal.text.splitlines() == [
        (
            "workflows/walk-rerun is ‖ paused: 1 task needs a decision. Nothing is sent before "
            "you have seen it all."
        ),
        "",
        f"1 of 1  make  ✗ failed  {shell.name}: do-make",
        "  FULL: It is full.",
        "  r  rerun: attempt 2 of it, with other arguments if you like",
        "  s  skip: go on with what comes after it; you give lun (string)",
        "  c  compensate: give the workflow up; there is nothing to make up for",
        "  q  quit: nothing is sent",
        "What (r, s, c, q) [r]: ",
        "  Change one, as FIELD=VALUE (Enter: no more): arguments.pool=slow",
        "  Change one, as FIELD=VALUE (Enter: no more): ",
        "",
        "Why, for the audit: fast is full",
        "",
        "The same as a command:",
        (
            "  countermand workflow resume walk-rerun --rerun make --set make.arguments.pool=slow "
            "--reason 'fast is full'"
        ),
        "What changes:",
        "  TASK  KEY             BEFORE  AFTER",
        "  make  arguments.pool  -       slow",
        "Send it? [y/N]: y",
        "workflows/walk-rerun is ▸ running",
    ]


def test_a_skip_asks_for_the_outputs_that_others_read(shell):
    shell.held("walk-skip")
    with resuming(shell, "walk-skip", "--reason", "made by hand") as terminal:
        terminal.until("What").type("x").until("'x' is not one of")
        terminal.until("What").type("s").until("lun (string, for use): ").type("lun-7")
        assert terminal.until("Send it?").type("y").end() == 0
    inbound = shell.json("workflow", "task", "walk-skip", "use")["inbound"]

    assert "--skip make --output make.lun=lun-7 --reason 'made by hand'" in terminal.text
    assert "Why" not in terminal.text
    assert [(each["field"], each["value"]) for each in inbound] == [("arguments.lun", "lun-7")]


def test_what_is_wrong_is_asked_again_at_once_and_the_rest_is_kept(shell):
    """Before the reason, and about that task only; a word is as good as its letter."""
    shell.held("walk-again")
    with resuming(shell, "walk-again") as terminal:
        terminal.until("What").type("Rerun").until("more").type("no value")
        terminal.until("is not FIELD=VALUE").until("more").type("pool=slow")
        terminal.until("more").type("arguments.lun=seven").until("more").type("")
        terminal.until("  --set make.pool: ").until("more").type("arguments.pool=slow").until(
            "more"
        ).type("")
        terminal.until("Why, for the audit: ").type("x")
        assert terminal.until("Send it?").type("n").end() == 1

    assert terminal.text.count("What (r, s, c, q)") == 1
    assert (
        "walk-again --rerun make --set make.arguments.lun=seven --set make.arguments.pool=slow "
        "--reason x"
    ) in terminal.text
    assert "kept: make.arguments.lun=seven" in terminal.text
    assert "decisions[" not in terminal.text


@pytest.mark.parametrize("word", ["skip", "compensate", "quit"])
def test_the_words_that_are_shown_are_taken(word):
    task = Task(name="workflows/w/tasks/copy", kind=Task.KIND_VERB)
    needed = ResumeRequirement(choices=["rerun", "skip", "give_up"])
    answers = walk.Answers()
    with CliRunner().isolation(input=f"{word}\n"):
        try:
            walk._ask_about(task, needed, (), (task,), answers)
        except click.Abort:
            assert word == "quit"
    given = {"skip": answers.skips, "compensate": answers.compensates}
    assert {name for name, values in given.items() if values} == {word} - {"quit"}


def test_whoever_does_not_agree_has_changed_nothing(shell):
    shell.held("walk-away")
    with resuming(shell, "walk-away") as quits:
        assert quits.until("What").type("q").end() == 1
    with resuming(shell, "walk-away", "--reason", "x") as declines:
        assert declines.until("What").type("c").until("Send it?").type("").end() == 1
    with resuming(shell, "walk-away") as leaves:
        assert leaves.until("What").interrupt().end() == 1

    for terminal in (quits, declines, leaves):
        assert terminal.text.endswith("Nothing has changed.\n")
    assert state(shell, "walk-away") == "PAUSED"


def test_each_failed_task_has_its_question(shell):
    members = [shell.task(name) for name in ("one", "two")]
    shell.submit(
        *members,
        workflow_id="walk-two",
        kind="KIND_PARALLEL",
        policy={"on_failure": "ON_FAILURE_PAUSE", "on_sibling_failure": "ON_SIBLING_FAILURE_AWAIT"},
    )
    for name in ("one", "two"):
        shell.external("accept", f"walk-two/{name}")
    for name in ("one", "two"):
        shell.external("end", f"walk-two/{name}", "--failed", "FULL")
    shell("workflow", "wait", "walk-two", code=4)

    with resuming(shell, "walk-two", "--reason", "x") as terminal:
        terminal.until("1 of 2  one").until("What").type("s")
        terminal.until("2 of 2  two").until("What").type("s")
        assert terminal.until("Send it?").type("y").end() == 0

    shell("workflow", "wait", "walk-two")


def test_where_nothing_is_to_be_decided_nothing_is_asked(shell):
    shell.submit(shell.task("one"), workflow_id="walk-on")
    shell("workflow", "pause", "walk-on", "--reason", "look")
    with resuming(shell, "walk-on") as terminal:
        assert terminal.end() == 0

    assert terminal.text == "workflows/walk-on is ▸ running\n"


def test_in_a_pipe_the_list_is_told_and_nothing_asked(shell):
    shell.held("walk-pipe")
    done = shell.run("workflow", "resume", "walk-pipe")

    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.splitlines()[0] == (
        "Error: workflows/walk-pipe cannot go on yet (REQUIREMENTS_UNMET):"
    )
    assert "--rerun make, --skip make or --compensate make" in done.stderr


# -- dry runs -------------------------------------------------------------------------------------


def dry(shell, workflow_id, *options, code=0):
    return shell("workflow", "resume", workflow_id, *options, "--dry-run", code=code).splitlines()


def test_a_dry_run_says_what_becomes_of_each_task(shell):
    copy = shell.task("copy", operator_checklist="Remove it.")
    fails = [shell.task("one"), shell.task("two")]
    both = {"name": "both", "group": {"kind": "KIND_PARALLEL", "members": fails}}
    shell.submit(copy, both, policy={"on_failure": "ON_FAILURE_PAUSE"})
    shell.do("copy")
    for name in ("one", "two"):
        shell.external("accept", f"@/{name}")
    for name in ("one", "two"):
        shell.external("end", f"@/{name}", "--failed", "FULL")
    shell("workflow", "wait", "@", "--for", "paused")

    cancelled = shell("workflow", "cancel", "@", "--dry-run")
    assert "\nCancelling it: makes up for copy (people, by its checklist).\n" in cancelled
    nothing = "Nothing has changed: it was a dry run."
    gave_up = dry(shell, "@", "--compensate", "one")
    assert gave_up == [
        "one: the workflow is given up; makes up for copy (people, by its checklist)",
        nothing,
    ]
    on = dry(shell, "@", "--rerun", "one", "--set", "one.arguments.pool=slow", "--skip", "two")
    assert on == [
        f"one: runs again with {shell.name}",
        "two: is skipped, and what comes after it goes on",
        "TASK  KEY             BEFORE  AFTER",
        "one   arguments.pool  -       slow",
        nothing,
    ]
    assert state(shell, "@") == "PAUSED"


@pytest.mark.parametrize(
    ("bound", "typed", "asked", "hosts"),
    [
        ("", "", "Host (Enter: chosen anew; it was host-a)", []),
        ("", "host-a", "Host (Enter: chosen anew; it was host-a)", ["copy=host-a"]),
        ("host-b", "", "Host [host-b]", []),
        ("host-b", "host-a", "Host [host-b]", ["copy=host-a"]),
    ],
)
def test_a_host_that_was_chosen_is_chosen_anew_unless_one_is_named(bound, typed, asked, hosts):
    task = Task(kind=Task.KIND_VERB, host_id="host-a", bound_host_id=bound)
    answers = walk.Answers()
    with CliRunner().isolation(input=f"\n{typed}\n") as (said, *_):
        walk._ask_arguments(task, "copy", answers)
        assert asked in said.getvalue().decode()
    assert answers.hosts == hosts
