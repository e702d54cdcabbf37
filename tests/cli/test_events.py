"""Events that are followed, and gone on with from where somebody left off."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from countermand.cli.follow import _reaches
from countermand.client import Run
from countermand.v1.event_pb2 import HistoryEvent, WorkflowStateChanged
from countermand.v1.workflow_pb2 import WatchWorkflowResponse, Workflow
from countermand.v1.workflow_state_pb2 import WorkflowState
from tests.cli.shell import Shell, coordinating
from tests.cli.terminal import Terminal
from tests.endtoend.cluster import free_address


def numbers(text, field):
    return [int(json.loads(line)[field]) for line in text.splitlines()]


def test_a_followed_history_ends_with_its_workflow_and_goes_on_after_a_sequence(shell):
    shell.held("follow-1")
    shell("workflow", "cancel", "follow-1", "--reason", "x")
    whole = numbers(shell("workflow", "events", "follow-1", "--follow", "-o", "json"), "sequence")
    rest = shell("workflow", "logs", "follow-1", "-f", "--after", "3", "-o", "json")

    assert whole == list(range(1, len(whole) + 1))
    assert numbers(rest, "sequence") == whole[3:]


def test_all_that_happened_is_read_once_and_then_ends(shell):
    shell.held("follow-2")
    first = shell("events", "--after", "0", "-o", "json")
    last = numbers(first, "position")[-1]
    shell("workflow", "cancel", "follow-2", "--reason", "x")
    shell("workflow", "wait", "follow-2", code=3)
    more = shell("events", "--after", str(last), "-o", "json")

    assert {json.loads(line)["workflow"] for line in more.splitlines()} == {"workflows/follow-2"}
    assert min(numbers(more, "position")) > last
    assert shell("events", "--after", str(numbers(more, "position")[-1])) == ""


def test_from_where_on_has_to_be_said(shell):
    assert "--after 0 is all; or --follow" in shell("events", code=2)
    assert "an event has no name" in shell("events", "--follow", "-o", "name", code=2)


def test_who_stops_reading_is_told_how_to_go_on(shell):
    shell.held("follow-3")
    with Terminal(shell.address, "workflow", "events", "follow-3", "--follow") as terminal:
        terminal.until("workflow ‖ paused").interrupt()
        assert terminal.end() == 130
    last = shell.json("workflow", "get", "follow-3")["last_sequence"]

    assert f"countermand workflow events follow-3 --follow --after {last}" in terminal.text


def test_a_wrong_address_is_an_error_and_not_a_silence(shell):
    nobody = Shell(free_address(), shell.name)
    said = nobody.run("events", "--follow", "--after", "7")
    assert said.exit_code == 1
    assert "does not answer" in said.stderr


def test_nothing_is_missed_while_the_coordinator_is_away(tmp_path):
    (tmp_path / "data").mkdir()
    with coordinating(tmp_path / "data", free_address()) as address:
        shell = Shell(address, "lives")
        shell.held("lives-1")
        environment = os.environ | {"COUNTERMAND_COORDINATOR": address}
        command = [sys.executable, "-m", "countermand.cli", "events", "--follow", "--after", "0"]
        reader = subprocess.Popen(
            [*command, "-o", "json"], env=environment, stdout=subprocess.PIPE, text=True
        )
        assert reader.stdout is not None
        seen = [json.loads(reader.stdout.readline())]
    try:
        with coordinating(tmp_path / "data", address):
            shell("workflow", "cancel", "lives-1", "--reason", "x")
            settled = "WORKFLOW_STATE_COMPENSATED"
            while seen[-1].get("workflow_state_changed", {}).get("after") != settled:
                seen.append(json.loads(reader.stdout.readline()))
    finally:
        reader.kill()
        reader.communicate()

    sequences = [int(event["sequence"]) for event in seen]
    assert sequences == list(range(1, len(sequences) + 1))


def test_a_watch_in_a_pipe_says_what_is_needed_and_stays(shell):
    shell.held("piped-hold")
    command = [sys.executable, "-m", "countermand.cli", "workflow", "watch", "piped-hold"]
    environment = os.environ | {"COUNTERMAND_COORDINATOR": shell.address, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as watch:
        assert watch.stdout is not None
        told = []
        for line in watch.stdout:
            told.append(line)
            if "next: countermand workflow resume piped-hold" in line:
                break
        assert any("needs somebody: make failed" in line for line in told)
        shell("workflow", "cancel", "piped-hold", "--reason", "seen enough")
        rest = watch.stdout.read()
    assert watch.returncode == 3
    assert rest.splitlines()[-1].startswith("↺ compensated")


# -- waiting --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "code"), [("paused", 0), ("attention", 0), ("PAUSED", 0), ("tired", 2)]
)
def test_a_wait_for_what_is_so_is_over(shell, wanted, code):
    workflow_id = f"for-{'any' if wanted.islower() else 'upper'}-{wanted.lower()}"
    shell.held(workflow_id)

    shell("workflow", "wait", workflow_id, "--for", wanted, code=code)


class Passing(Run):
    """A workflow that is made up for and settled before anybody asks again."""

    def __init__(self) -> None:
        """Asks nobody."""

    async def watch(self, after_sequence=0, *, events_only=False):
        assert (after_sequence, events_only) == (7, True)
        for state in ("PAUSED", "COMPENSATING", "COMPENSATED"):
            after = WorkflowState.Value(f"WORKFLOW_STATE_{state}")
            moved = WorkflowStateChanged(after=after)
            yield WatchWorkflowResponse(event=HistoryEvent(workflow_state_changed=moved))


@pytest.mark.asyncio
@pytest.mark.parametrize(("state", "reached"), [("COMPENSATING", True), ("BLOCKED", False)])
async def test_a_wait_for_a_state_sees_it_pass_by(state, reached):
    wanted = WorkflowState.Value(f"WORKFLOW_STATE_{state}")

    assert await _reaches(Passing(), Workflow(last_sequence=7), (wanted,)) is reached


def test_what_settles_without_has_the_code_of_its_end(shell):
    shell.held("wait-never")
    shell("workflow", "cancel", "wait-never", "--reason", "x")

    assert "It is settled, and was not running meanwhile." in shell(
        "workflow", "wait", "wait-never", "--for", "running", code=3
    )
    assert "It is settled, and needed nobody." in shell(
        "workflow", "wait", "wait-never", "--for", "attention", code=3
    )
    shell("workflow", "wait", "wait-never", "--for", "settled", code=3)
    shell("workflow", "wait", "wait-never", "--for", "paused", "--settled", code=2)


def test_a_wait_for_a_state_has_an_end(shell):
    shell.held("wait-long")

    late = shell(
        "workflow", "wait", "wait-long", "--for", "running", "--timeout", "100ms", code=124
    )
    assert late == (
        "Timed out: not done after 0.1 s; workflows/wait-long is paused, and needs somebody: "
        "`countermand workflow resume wait-long`\n"
    )
