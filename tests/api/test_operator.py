"""An operator at a terminal: what the commands say, what they do, and how they end."""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import dataclass
from datetime import timedelta

import pytest

from countermand.client.spec import compensate_by, policy, retry, sequence, task, workflow_spec
from countermand.v1.verb_pb2 import Noop
from tests.api.calls import BASE, state
from tests.api.steering import events, failing, paused, verbs
from tests.endtoend.cluster import Cluster, copy


@dataclass(frozen=True, slots=True)
class Ended:
    """A command that has ended."""

    code: int
    out: str
    err: str


@pytest.fixture
def countermand(cluster: Cluster):
    """Runs a command in a process of its own, as a shell would."""

    async def run(*args: str) -> Ended:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "countermand.cli",
            "--coordinator",
            cluster.coordinator.address,
            *args,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await process.communicate()
        assert process.returncode is not None
        return Ended(process.returncode, out.decode(), err.decode())

    return run


async def test_a_failure_is_found_understood_and_mended(stubs, countermand):
    """S-R6, S-R9, S-R12, S-R13, S-R18, S-R22, S-R23: from the list to the end."""
    await stubs.start("told", failing("told"))
    await paused(stubs, "told")

    waited = await countermand("workflow", "wait", "told")
    assert waited.code == 4
    assert "Possible: rerun, skip" in waited.out
    listed = await countermand("workflow", "list", "--needs-attention", "-o", "name")
    assert listed.out == "workflows/told\n"

    shown = await countermand("workflow", "get", "told")
    assert "waits for a resume: paused because " in shown.out
    assert "2 of 2 failed: one: IMAGE_NOT_FOUND" in shown.out

    needed = await countermand("workflow", "requirements", "told")
    assert "--rerun one, --skip one or --compensate one" in needed.out
    assert "--output one.image.image_id=STRING  (for then)" in needed.out
    assert "countermand workflow resume told --rerun one --rerun two --reason WHY" in needed.out

    plain = await countermand("workflow", "resume", "told")
    assert (plain.code, plain.out) == (1, "")
    for words in (
        "workflows/told cannot go on yet (REQUIREMENTS_UNMET):",
        "workflows/told/tasks/one: one is FAILED",
        "workflows/told/tasks/two: two is FAILED",
        "For example: countermand workflow resume told --rerun one --rerun two --reason WHY",
    ):
        assert words in plain.err
    as_json = await countermand("workflow", "resume", "told", "-o", "json")
    error = json.loads(as_json.err)["error"]
    assert [v["type"] for v in error["violations"]] == ["DECISION", "DECISION"]

    mend = ("--rerun", "two", "--set", "two.source.image_id=base", "--skip", "one")
    outputs = ("--output", "one.image.pool_id=pool-a", "--output", "one.image.image_id=told-first")
    dry = await countermand("workflow", "resume", "told", *mend, *outputs, "--dry-run")
    assert dry.code == 0, dry.err
    told, table = dry.out.splitlines()[:2], dry.out.splitlines()[2:]
    assert told == ["two: runs again on b", "one: is skipped, and what comes after it goes on"]
    assert [line.split() for line in table] == [
        ["TASK", "KEY", "BEFORE", "AFTER"],
        ["two", "source.image_id", "not-there-yet", "base"],
        ["one", "image.image_id", "-", "told-first"],
        ["one", "image.pool_id", "-", "pool-a"],
        ["Nothing", "has", "changed:", "it", "was", "a", "dry", "run."],
    ]
    assert verbs(await events(stubs, "told")) == []

    done = await countermand(
        "workflow", "resume", "told", *mend, *outputs, "--reason", "copied by hand"
    )
    assert done.code == 0, done.err
    assert "workflows/told is " in done.out
    assert (await countermand("workflow", "wait", "told")).code == 0
    told = await countermand("workflow", "events", "told")
    assert "local asked to skip: copied by hand (image." in told.out
    two = await countermand("workflow", "task", "told", "two")
    assert "rerun by local at " in two.out
    assert "patch by local at " in two.out


async def test_a_fork_runs_the_same_again(stubs, countermand):
    """Whatever became of the first; it is linked, and a repeat is harmless."""
    await stubs.start("first", failing("first"))
    await paused(stubs, "first")
    given_up = await countermand(
        "workflow", "resume", "first", "--compensate", "one", "--reason", "enough"
    )
    assert given_up.code == 0, given_up.err
    assert (await countermand("workflow", "wait", "first", "--settled")).code == 3
    for _ in range(2):
        forked = await countermand("workflow", "fork", "first", "--id", "second")
        assert forked.code == 0, forked.err
        assert "Forked workflows/second from workflows/first." in forked.out
    second = await paused(stubs, "second")
    assert (second.forked_from, second.kind) == ("workflows/first", "failing")
    await countermand("workflow", "cancel", "second", "--reason", "over")
    assert state(await stubs.wait("second")) == "COMPENSATED"


async def test_a_pause_says_why(stubs, countermand):
    await stubs.start("why", failing("why"))
    await paused(stubs, "why")
    again = await countermand("workflow", "pause", "why", "--reason", "twice")
    assert again.code == 1
    assert "workflows/why is paused; pause needs one of: running, blocked. It is " in again.err
    assert "paused already: `countermand workflow resume why` lets it go on. (STATE_" in again.err
    await countermand("workflow", "cancel", "why", "--reason", "over")
    await stubs.wait("why")


async def test_a_compensation_is_abandoned_and_left_behind(stubs, countermand):
    """S-V13: exit code 4 says that something was left, and `get` says what and why."""
    by_noop = compensate_by(Noop(failure_message="stuck"))
    spec = workflow_spec(
        "left",
        sequence(
            "all",
            copy("made", "a", BASE, "pool-a/left", compensation=by_noop),
            task("fails", host="a", action=Noop(failure_message="as asked")),
        ),
        policy=policy(compensation_retry=retry(1, delay=timedelta(minutes=1))),
    )
    await stubs.start("left", spec)
    waited = await countermand("workflow", "wait", "left")
    assert waited.code == 4
    assert "compensation retry|replace|done|abandon left made" in waited.out

    wrong = await countermand("workflow", "compensation", "done", "left", "fails", "--reason", "x")
    assert wrong.code == 1
    assert "fails is FAILED: decisions are taken about tasks in COMPENSATING" in wrong.err
    paused_ = await countermand("workflow", "pause", "left", "--reason", "x")
    assert paused_.code == 1
    assert "To hold compensations, too: --hold-compensation" in paused_.err

    args = ("left", "made", "--reason", "the pool is lost")
    abandoned = await countermand("workflow", "compensation", "abandon", *args)
    assert abandoned.code == 0, abandoned.err
    settled = await countermand("workflow", "wait", "left", "--settled")
    assert settled.code == 4
    assert "Left behind: the copy pool-a/left on a." in settled.out
    shown = await countermand("workflow", "get", "left")
    assert "left behind on a: the copy pool-a/left (the pool is lost)" in shown.out


async def test_lists_are_filtered(stubs, countermand):
    listed = await countermand(
        "workflow", "list", "--kind", "failing", "--older-than", "1h", "--host", "a"
    )
    assert (listed.code, listed.out) == (0, "")
    assert "No workflow is of kind failing and has a task on a and is older than 1 h." in listed.err
    settled = await countermand("workflow", "list", "--state", "compensated", "-o", "json")
    names = {one["name"] for one in json.loads(settled.out)}
    assert names <= {"workflows/first", "workflows/second", "workflows/why"}
