"""Owners that were asked to stop, give signs of life, and do not."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from google.protobuf.struct_pb2 import Struct

from coordinator.runtime.loop import Loop, Start
from coordinator.runtime.ports import Submission
from coordinator.saga.events import (
    Ask,
    AttemptAccepted,
    AttemptCancelled,
    CancelRequested,
    OwnerSilent,
)
from coordinator.saga.states import TaskState, WorkflowState
from coordinator.saga.workflow import STOPS_LATE, About, Failure, Task
from coordinator.wire.needs import needs_of
from coordinator.wire.spec import plan_of
from countermand.client.spec import external_task, sequence, workflow_spec
from countermand.v1.annotation_pb2 import EFFECT_REVERSIBLE
from tests.runtime.rig import until
from tests.runtime.test_owners_restart import ATTEMPT, life

ASK = Ask(principal="ann", reason="wrong template", request_id="r")
CANCELLED = Failure(reason="CANCELLED", message="Cancelled by ann.")
CLONE = external_task("clone", owner="acme", kind="clone", effect=EFFECT_REVERSIBLE)
SPEC = workflow_spec("vendors", sequence("all", CLONE))


async def test_one_that_is_alive_and_does_not_stop_is_found_by_whoever_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody makes up for what is at work; but it might be so for ever, and nobody would see it."""
    monkeypatch.setattr("coordinator.owners.owners.PATIENCE_S", 0.5)
    plan, submission = (
        plan_of(SPEC, Struct()),
        Submission(spec=SPEC.SerializeToString(), input=b"", hash=b""),
    )
    index = plan.by_name["clone"]

    def clone(loop: Loop) -> Task:
        workflow = loop.workflow("w")
        assert workflow is not None
        return workflow.task(index)

    async with life(tmp_path) as (loop, owners):
        working = [asyncio.create_task(each.run()) for each in (loop, owners)]
        await loop.ask("w", Start(about=About(kind="vendors"), plan=plan, submission=submission))
        await loop.ask("w", AttemptAccepted(task=index, number=1))
        await loop.ask("w", CancelRequested(ask=ASK, failure=CANCELLED))
        assert not clone(loop).needs_somebody

        def is_noticed() -> bool:
            owners.heard(ATTEMPT)
            return clone(loop).needs_somebody

        await until(is_noticed)
        assert clone(loop).state is TaskState.CANCELLING  # nothing else has come of it
        await loop.ask("w", AttemptAccepted(task=index, number=9))  # and then it is durable
        for each in working:
            each.cancel()

    async with life(tmp_path) as (loop, owners):  # as it is stored
        working = [asyncio.create_task(loop.run())]
        workflow = loop.workflow("w")
        assert workflow is not None
        late = Failure(reason=STOPS_LATE, message="late")
        again = await loop.ask("w", OwnerSilent(task=index, number=1, failure=late))
        assert not again.changed  # it is said once
        [need] = needs_of(workflow)
        assert (need.task, need.reason) == ("workflows/w/tasks/clone", STOPS_LATE)
        assert "acme was asked to stop clone long ago" in need.message
        assert "`countermand external end w/clone --cancelled`" in need.message
        done = await loop.ask("w", AttemptCancelled(task=index, number=1))
        assert done.workflow.state is WorkflowState.COMPENSATED
        assert done.workflow.task(index).failure is None
        working[0].cancel()


async def test_one_that_was_given_up_meanwhile_is_left_alone(tmp_path: Path) -> None:
    """It makes up for what it did: that it stopped late is no reason to ask people."""
    plan = plan_of(SPEC, Struct())
    submission = Submission(spec=SPEC.SerializeToString(), input=b"", hash=b"")
    index = plan.by_name["clone"]
    async with life(tmp_path) as (loop, _):
        working = asyncio.create_task(loop.run())
        await loop.ask("w", Start(about=About(kind="vendors"), plan=plan, submission=submission))
        await loop.ask("w", AttemptAccepted(task=index, number=1))
        await loop.ask("w", CancelRequested(ask=ASK, failure=CANCELLED))
        silent = Failure(reason="OWNER_SILENT", message="It does not answer.")
        given_up = await loop.ask("w", OwnerSilent(task=index, number=1, failure=silent))
        assert given_up.workflow.task(index).state is TaskState.COMPENSATING
        late = Failure(reason=STOPS_LATE, message="late")
        for number in (1, 2):
            said = await loop.ask("w", OwnerSilent(task=index, number=number, failure=late))
            assert not said.changed
        working.cancel()
