"""The commands, against a real coordinator's services on loopback."""

import json
import os
import pty
import re
import signal
import subprocess
import sys

import pytest
from click.testing import CliRunner

from countermand.cli.exits import at_rest, code_of, fail
from countermand.cli.host import _describe, _row
from countermand.cli.main import main
from countermand.cli.settings import Settings
from countermand.client.spec import dump_spec, sequence, task, workflow_spec
from countermand.rpc.errors import FieldInvalid, JournalLost, PoolFailing, Violation
from countermand.v1.host_pb2 import Host
from countermand.v1.image_pb2 import Pool
from countermand.v1.verb_pb2 import Noop
from countermand.v1.workflow_pb2 import Need, Workflow
from countermand.v1.workflow_state_pb2 import WorkflowState
from tests.cli.processes import served
from tests.endtoend.cluster import free_address

SPEC = dump_spec(workflow_spec("drill", sequence("all", task("one", action=Noop()))))


# -- exit codes ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "code"),
    [("good", 0), ("failed", 1), ("made-up", 3), ("left", 4), ("blocked", 4)],
)
def test_waiting_ends_with_the_code_of_the_ending(run, name, code):
    assert run("workflow", "wait", name).exit_code == code


@pytest.mark.parametrize("state", [0, 4711])
def test_a_state_without_an_exit_code_is_no_success(capsys, state):
    assert code_of(Settings(), Workflow(name="workflows/w", state=state)) == 1
    assert f"workflows/w is in state {state}" in capsys.readouterr().err


@pytest.mark.parametrize("word", ["running", "pausing", "compensating", "ending"])
def test_a_state_that_goes_on_by_itself_is_told_by_its_word(capsys, word):
    state = WorkflowState.Value(f"WORKFLOW_STATE_{word.upper()}")
    workflow = Workflow(name="workflows/w", state=state)

    assert not at_rest(workflow)
    assert code_of(Settings(), workflow) == 1
    assert f"workflows/w is still {word}: wait" in capsys.readouterr().err


def test_what_is_stuck_while_its_end_actions_run_needs_somebody():
    workflow = Workflow(state=WorkflowState.WORKFLOW_STATE_ENDING, needs=[Need(message="mend it")])

    assert at_rest(workflow)
    assert code_of(Settings(), workflow) == 4


@pytest.mark.parametrize("state", [0, 4711])
def test_nothing_is_waited_for_in_a_state_that_is_not_known(state):
    assert at_rest(Workflow(state=state))


def test_a_wait_lasts_until_the_pause_holds(run):
    """The failure is open while a sibling is still in flight."""
    done = run("workflow", "wait", "pausing", "--timeout", "20s")

    assert (done.exit_code, done.stderr) == (4, "")
    assert done.stdout == (
        "‖ paused  workflows/pausing\n  needs somebody: copy-2 failed.\n"
        "  next: countermand workflow resume pausing\n"
    )


def test_a_wait_that_is_over_is_124(run):
    done = run("workflow", "wait", "endless", "--timeout", "100ms")

    assert (done.exit_code, done.stdout) == (124, "")
    assert "Timed out: not done after 0.1 s" in done.stderr


def test_a_wait_for_the_end_does_not_stop_at_blocked(run):
    done = run("workflow", "wait", "blocked", "--settled", "--timeout", "100ms")

    assert done.exit_code == 124


@pytest.mark.parametrize(
    "args",
    [
        ("workflow", "cancel", "good"),
        ("workflow", "list", "--state", "tired"),
        ("workflow", "list", "--label", "team"),
        ("workflow", "wait", "good", "--timeout", "soon"),
        ("workflow", "resume", "good", "--rerun", "copy-1"),
        ("hosts",),
        ("--coordinator", "nonsense", "host", "list"),
        ("host", "list", "--coordinator", ":7700"),
        ("host", "list", "--coordinator", "host-a:99999"),
        ("host", "add", "host-a", "host-a"),
    ],
    ids=[
        "no-reason",
        "state",
        "label",
        "duration",
        "decision",
        "command",
        "no-address",
        "no-host",
        "no-port",
        "no-agent",
    ],
)
def test_wrong_usage_is_2_and_says_what_is_right(run, args):
    done = run(*args)

    assert done.exit_code == 2
    assert "Error: " in done.stderr


# -- errors -------------------------------------------------------------------------------------


def test_an_error_says_what_happened_and_what_to_do(run):
    done = run("workflow", "get", "nowhere")

    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr == (
        "Error: There is no workflow workflows/nowhere: check the name, or "
        "`countermand workflow list`. (WORKFLOW_NOT_FOUND)\n"
    )


@pytest.mark.parametrize(
    ("count", "more"), [(10, ""), (11, "  and 1 more; "), (60, "  and 50 more; ")]
)
def test_of_many_mistakes_the_first_are_told_and_the_rest_counted(capsys, count, more):
    error = FieldInvalid(*(Violation(f"spec.x[{number}]", "is wrong") for number in range(count)))

    assert fail(Settings(coordinator=""), error) == 1
    head, *told = capsys.readouterr().err.splitlines()
    assert head == "Error: the request is not right (FIELD_INVALID):"
    assert told[:10] == [f"  spec.x[{number}]: is wrong" for number in range(10)]
    assert told[10:] == ([f"{more}`-o json` has all of them"] if more else [])


def test_an_error_as_json_is_for_programs(run):
    done = run("-o", "json", "workflow", "submit", "-", "--id", "x", given="{}")

    error = json.loads(done.stderr)["error"]
    assert (done.exit_code, done.stdout) == (1, "")
    assert (error["code"], error["reason"]) == ("INVALID_ARGUMENT", "FIELD_INVALID")
    assert [v["field"] for v in error["violations"]] == ["spec.root.members", "spec.kind"]


def test_every_violation_has_its_line(run):
    done = run("workflow", "submit", "-", "--id", "x", given="{}")

    assert done.stderr.splitlines() == [
        "Error: the request is not right (FIELD_INVALID):",
        "  spec.root.members: needs at least one",
        "  spec.kind: must match [a-z0-9]",
    ]


def test_a_misspelt_spec_is_named_before_anything_is_sent(run):
    done = run("workflow", "plan", "-", given='{"kindd": 1}')

    assert done.exit_code == 1
    assert "kindd" in done.stderr


def test_a_call_that_is_not_served_says_so(run):
    done = run("workflow", "pause", "endless", "--reason", "why not")

    assert done.exit_code == 1
    assert "PauseWorkflow is part of the contract but not served" in done.stderr


def test_a_coordinator_that_is_not_there_is_named():
    done = CliRunner().invoke(main, ["--coordinator", "127.0.0.1:1", "host", "list"])

    assert done.exit_code == 1
    assert "The coordinator at 127.0.0.1:1 does not answer" in done.stderr


def test_a_spec_that_is_no_text_is_an_error_in_one_line(run, tmp_path):
    (tmp_path / "spec.json").write_bytes(b"\xff\xfe{}")
    done = run("workflow", "submit", str(tmp_path / "spec.json"), "--id", "x")

    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.endswith("spec.json is not UTF-8 text: invalid start byte\n")


@pytest.mark.parametrize(
    "args", [("workflow", "watch", "made-up"), ("workflow", "list"), ("version",)]
)
def test_an_output_that_is_full_is_an_error_in_one_line(coordinator, args):
    command = [sys.executable, "-m", "countermand.cli", *args]
    environment = os.environ | {"COUNTERMAND_COORDINATOR": coordinator}
    with open("/dev/full", "w") as full:  # noqa: PTH123 - a device
        done = subprocess.run(
            command, stdout=full, stderr=subprocess.PIPE, text=True, env=environment, check=False
        )

    assert done.returncode == 1
    assert done.stderr == "Error: the output: No space left on device\n"


# -- what is shown ------------------------------------------------------------------------------


def test_a_repeated_submit_says_how_the_workflow_stands(run):
    spec = dump_spec(workflow_spec("done", sequence("all", task("one", action=Noop()))))
    done = run("workflow", "submit", "-", "--id", "finished", given=spec)

    assert done.stdout == (
        "workflows/finished exists already: ✓ succeeded. Look: countermand workflow get finished\n"
    )


def test_a_spec_that_is_too_large_is_refused_in_words(run):
    spec = json.dumps({"kind": "x" * 300_000, "root": {"members": [{"name": "a"}]}})
    done = run("workflow", "submit", "-", "--id", "large", given=spec)

    assert done.exit_code == 1
    assert "The spec with its input has 300" in done.stderr
    assert "more than 262144" in done.stderr


def test_submitting_says_how_to_follow_and_repeats_harmlessly(run):
    first = run("workflow", "submit", "-", "--id", "vm-42", given=SPEC)
    again = run("workflow", "submit", "-", "--id", "vm-42", given=SPEC)

    assert again.stdout == (
        "workflows/vm-42 exists already: ▸ running. Look: countermand workflow get vm-42\n"
    )
    assert first.stdout == (
        "Submitted workflows/vm-42. Follow it: countermand workflow watch vm-42\n"
    )
    assert run("workflow", "get", "@latest", "-o", "name").stdout == "workflows/vm-42\n"


IN_LINE = "waits for images held by others: fast/vm-1 (held by workflows/other; 1 before it in"


def test_a_submit_says_that_it_waits_in_line_and_a_list_too(run):
    done = run("workflow", "submit", "-", "--id", "in-line", given=SPEC)
    listed = run("workflow", "list")

    assert done.stdout.splitlines()[1:] == [f"  {IN_LINE} line)"]
    assert any("waits for images held by others" in line for line in listed.stdout.splitlines())


@pytest.mark.parametrize("how", ["--watch", "--wait"])
def test_whoever_follows_hears_what_is_waited_for(run, how):
    done = run("workflow", "submit", "-", "--id", f"in-line{how}-soon", how, given=SPEC)

    assert done.exit_code == 0
    assert f"{IN_LINE} line)" in (done.stdout if how == "--watch" else done.stderr)
    assert done.stdout.splitlines()[-1].startswith("✓ succeeded")


def test_a_plan_says_what_would_make_up_for_each_task(run):
    done = run("workflow", "plan", "-", given=SPEC)

    assert done.stdout.splitlines()[0].split() == (
        ["TASK", "VERB", "HOST", "EFFECT", "MADE", "UP", "FOR", "BY"]
    )
    assert "nothing" in done.stdout


@pytest.mark.parametrize("name", ["made-up", "workflows/made-up"])
def test_a_workflow_is_shown_whole_by_id_or_name(run, name):
    done = run("workflow", "get", name)

    assert done.stdout.splitlines()[0] == "workflows/made-up  ↺ compensated  drill"
    assert done.stdout.splitlines()[2:6] == [
        "  what failed: copy-2 on host-b: pool fast is full (NO_SPACE)",
        "  made up for: copy-1 on host-a: delete the copy",
        "  left: nothing",
        (
            "  next: Once the cause is gone, run it anew: "
            "`countermand workflow fork made-up --id NEW`."
        ),
    ]
    assert "  copy-1  ↺ compensated  host-a  copy image  50%" in done.stdout


def test_a_list_is_a_table_json_or_names(run):
    table = run("workflow", "list")
    found = json.loads(run("workflow", "list", "-o", "json").stdout)
    names = run("workflow", "list", "-o", "name").stdout.split()

    assert table.stdout.splitlines()[0].split() == [
        "WORKFLOW",
        "KIND",
        "STATE",
        "TASKS",
        "AGE",
        "WHY",
    ]
    assert {one["name"] for one in found} == set(names) >= {"workflows/good", "workflows/left"}


def test_an_empty_list_names_its_filters(run):
    done = run("workflow", "list", "--host", "host-z", "--state", "quarantined", "--label", "a=b")

    assert done.stderr == (
        "No workflow is quarantined and has a task on host-z and has label a=b.\n"
    )


def test_a_watch_or_its_events_as_names(run):
    assert run("workflow", "watch", "good", "-o", "name").stdout == "workflows/good\n"
    assert run("workflow", "events", "good", "-o", "name").exit_code == 2


def test_a_watch_in_a_pipe_is_a_line_per_event_and_the_verdict(run):
    done = run("workflow", "watch", "made-up")

    lines = done.stdout.splitlines()
    assert done.exit_code == 3
    assert [line.split("  ", 3)[-1].split("  ", 1)[-1].strip() for line in lines[:-1]] == [
        "attempt 1 goes out on host-a",
        "attempt 1 ✗ failed: Pool fast is full. (NO_SPACE)",
        "workflow ↶ compensating: Pool fast is full. (NO_SPACE)",
        "attempt 2 makes up for attempt 1 on host-a",
        "↺ compensated",
        "workflow ↺ compensated",
    ]
    assert lines[-1] == (
        "↺ compensated  workflows/made-up failed in task copy-2 on host-b (NO_SPACE): Pool fast is "
        "full. Made up for: copy-1 on host-a (delete the copy). Nothing is left behind."
    )


def test_a_watch_as_json_is_a_line_per_event(run):
    done = run("workflow", "watch", "good", "-o", "json")

    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert [event["sequence"] for event in events] == ["1", "2"]


def test_events_can_be_read_from_the_middle(run):
    done = run("workflow", "events", "made-up", "--after", "5")

    assert [line.split()[2] for line in done.stdout.splitlines()] == ["6"]


def test_a_held_host_says_what_to_do_next(capsys):
    """S-Z10: what is wrong, how it is put right, and what if it cannot be."""
    why = JournalLost(why="its pool fast is missing").failure(host_id="host-a")
    _describe(Host(name="hosts/host-a", state=Host.STATE_QUARANTINED, problem=why))
    said = capsys.readouterr().out
    assert "its pool fast is missing: put back what it had, or accept the host" in said
    assert 'countermand host accept host-a --reason "…"' in said


def test_of_a_pool_that_fails_a_list_of_hosts_says_no_more_than_what_is_wrong():
    """What to do about it may be long, and is said of the one host."""
    why = "/srv/fast has lost its pool.json: is it mounted? If the images are there, write it again"
    failing = Pool(pool_id="fast", problem=PoolFailing(pool="fast", why=why).failure())
    row = _row(Host(name="hosts/host-a", state=Host.STATE_READY, pools=[failing]))
    assert str(row[-1]).endswith("has lost its pool.json: is it mounted?")


def test_verbs_that_need_no_pool_are_shown_of_a_host(capsys):
    verbs = ["example.org/ring", "example.org/stamp"]
    _describe(Host(name="hosts/host-a", state=Host.STATE_READY, custom_verbs=verbs))
    assert "  verbs of plug-ins: example.org/ring, example.org/stamp\n" in capsys.readouterr().out


def test_hosts_are_accepted(run):
    run("host", "add", "host-z", "127.0.0.1:7712")
    accepted = run("host", "accept", "host-z", "--reason", "its pool was replaced")
    assert accepted.exit_code == 0
    assert "host-z" in accepted.stdout
    run("host", "remove", "host-z", "--reason", "gone")


def test_what_was_done_to_a_host_is_shown(run):
    shown = run("host", "events", "host-z")
    assert shown.exit_code == 0
    rows = [line.split()[-4:] for line in shown.stdout.splitlines()[1:]]
    assert rows == [["host-z", "removed", "local", "sold"], ["host-z", "added", "local", "sold"]]
    first = run("host", "events", "--limit", "1", "-o", "json")
    assert [event["kind"] for event in json.loads(first.stdout)] == ["KIND_REMOVED"]


def test_hosts_are_added_drained_and_removed(run):
    added = run("host", "add", "host-a", "127.0.0.1:7711")
    drained = run("host", "drain", "host-a", "--reason", "kernel")
    listed = run("host", "list")
    shown = run("host", "get", "host-a")
    removed = run("host", "remove", "host-a", "--reason", "sold")
    empty = run("host", "list")

    assert "✓ ready" in added.stdout
    assert drained.stderr == "still runs: workflows/w/tasks/t\n"
    assert "◐ draining" in listed.stdout
    assert shown.stdout.startswith("hosts/host-a  ◐ draining  127.0.0.1:7711")
    assert removed.stdout == "Removed host-a.\n"
    assert (empty.stdout, empty.stderr.startswith("No hosts. Add one")) == ("", True)


def test_on_a_terminal_the_watch_is_a_tree_and_can_do_without_colour(coordinator):
    done = on_a_terminal(coordinator, "workflow", "watch", "made-up")
    plain = on_a_terminal(coordinator, "--no-color", "workflow", "watch", "made-up")

    assert "↺ copy-1" in plain
    assert "delete the copy" in plain
    assert "\x1b[35m" in done  # magenta: made up for
    assert "\x1b[35m" not in plain
    assert not re.search(r"\x1b\[[0-9;]*m", plain)  # nor dim, nor bold


def test_an_interrupted_watch_leaves_the_workflow_alone(coordinator):
    command = [sys.executable, "-m", "countermand.cli", "workflow", "watch", "blocked"]
    environment = os.environ | {"COUNTERMAND_COORDINATOR": coordinator, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        assert any("! blocked" in line for line in iter(process.stdout.readline, ""))
        process.send_signal(signal.SIGINT)
        _, said = process.communicate()

    assert process.returncode == 130
    assert said == "\nStopped looking; whatever was submitted goes on.\n"


def test_a_watch_outlives_a_coordinator_that_is_killed():
    command = [sys.executable, "-m", "countermand.cli", "workflow", "watch", "lives"]
    with served(free_address(), "1") as (first, address):
        environment = os.environ | {"COUNTERMAND_COORDINATOR": address, "PYTHONUNBUFFERED": "1"}
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        ) as watch:
            assert watch.stdout is not None
            assert "accepted: drill" in watch.stdout.readline()
            first.kill()
            first.wait()
            with served(address, "2"):
                rest, said = watch.communicate()

    assert watch.returncode == 0
    assert [line.split("  ")[-1].strip() for line in rest.splitlines()] == [
        "workflow ✓ succeeded",
        "workflows/lives",
    ]
    assert said == ""


def on_a_terminal(coordinator, *args):
    """Returns what a command draws on a terminal."""
    controller, terminal = pty.openpty()
    environment = os.environ | {
        "COUNTERMAND_COORDINATOR": coordinator,
        "TERM": "xterm",
        "COLUMNS": "100",
    }
    environment.pop("NO_COLOR", None)
    command = [sys.executable, "-m", "countermand.cli", *args]
    with subprocess.Popen(command, stdout=terminal, stderr=terminal, env=environment) as process:
        os.close(terminal)
        drawn = b""
        while True:
            try:
                piece = os.read(controller, 65536)
            except OSError:  # the other side is closed
                break
            if not piece:
                break
            drawn += piece
        process.wait()
    os.close(controller)
    return drawn.decode()
