"""What owners of external tasks find when the coordinator has just started."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

from google.protobuf.struct_pb2 import Struct

from coordinator.owners.owners import Owners
from coordinator.owners.reported import Reported
from coordinator.runtime.loop import Loop, Start
from coordinator.runtime.ports import Submission
from coordinator.runtime.watch import Watches
from coordinator.saga.events import AttemptAccepted, AttemptSucceeded
from coordinator.saga.states import AttemptState
from coordinator.saga.workflow import About
from coordinator.store.database import sqlite
from coordinator.store.run import Inline
from coordinator.store.sql import SqlStore
from coordinator.wire.spec import plan_of
from countermand.client.spec import external_task, sequence, workflow_spec
from countermand.rpc.crash import never
from countermand.v1.annotation_pb2 import EFFECT_READ_ONLY
from countermand.v1.attempt_pb2 import Progress
from tests.runtime.rig import World

ATTEMPT = "workflows/w/tasks/clone/attempts/1"
SPEC = workflow_spec(
    "vendors",
    sequence(
        "all",
        external_task(
            "clone",
            owner="acme",
            kind="clone",
            effect=EFFECT_READ_ONLY,
            heartbeat_timeout=timedelta(seconds=30),
        ),
    ),
)


@contextlib.asynccontextmanager
async def life(folder: Path) -> AsyncIterator[tuple[Loop, Owners]]:
    """Opens what is stored in a folder; nothing is decided yet."""
    world = World()
    store = SqlStore(sqlite(folder / "store.db"), Inline(), new_id=world.new_id, crash=never)
    loop = Loop(store=store, clock=world, chance=world, crash=never, hints=Watches[Progress]())
    await loop.open()
    owners = Owners(say=loop.hear, show=lambda *_: None, reported=Reported(store))
    owners.open(loop.open_workflows())
    loop.attach(owners)
    try:
        yield loop, owners
    finally:
        await store.close()


async def test_an_owner_that_reports_before_anything_is_decided_is_known(tmp_path) -> None:
    """Were it told that its attempt is over, it would drop work that is wanted."""
    async with life(tmp_path) as (loop, _):
        deciding = asyncio.create_task(loop.run())
        submission = Submission(spec=SPEC.SerializeToString(), input=b"", hash=b"")
        plan = plan_of(SPEC, Struct())
        await loop.ask("w", Start(about=About(kind="vendors"), plan=plan, submission=submission))
        await loop.ask("w", AttemptAccepted(task=plan.by_name["clone"], number=1))
        deciding.cancel()

    async with life(tmp_path) as (_, owners):
        assert owners.of("acme") == (ATTEMPT,)
        assert owners.heard(ATTEMPT) is AttemptState.RUNNING


async def test_after_a_restart_the_oldest_still_comes_first(tmp_path) -> None:
    """By when it was asked, not by when its workflow began; pages neither repeat nor skip."""
    one = SPEC.root.members[0]
    then = type(one)()
    then.CopyFrom(one)
    then.name = "then"
    spec = workflow_spec("vendors", sequence("all", one, then))
    submission = Submission(spec=spec.SerializeToString(), input=b"", hash=b"")
    plan = plan_of(spec, Struct())
    async with life(tmp_path) as (loop, _):
        deciding = asyncio.create_task(loop.run())
        for name in ("a", "b", "c"):
            await loop.ask(
                name, Start(about=About(kind="vendors"), plan=plan, submission=submission)
            )
        await loop.ask("a", AttemptAccepted(task=plan.by_name["clone"], number=1))
        await loop.ask("a", AttemptSucceeded(task=plan.by_name["clone"], number=1))
        deciding.cancel()

    async with life(tmp_path) as (_, owners):
        assert owners.count("acme") == 3
        first = owners.page("acme", after=0, limit=2)
        rest = owners.page("acme", after=first[-1].attempt.intent, limit=2)
        assert [each.workflow_id for each in (*first, *rest)] == ["b", "c", "a"]
        assert owners.page("acme", after=rest[-1].attempt.intent, limit=2) == ()
        assert owners.page("other", after=0, limit=2) == ()
