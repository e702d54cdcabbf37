"""What is left of external tasks in memory once they are over: nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any, cast

from google.protobuf.struct_pb2 import Struct

from coordinator.api.deciding import Deciding
from coordinator.api.external_task_service import ExternalTaskService
from coordinator.api.reporting import Reporting
from coordinator.api.rights import Rights
from coordinator.api.shown import Showing
from coordinator.api.tokens import Tokens
from coordinator.owners.owners import Owners
from coordinator.owners.reported import Reported
from coordinator.owners.silence import COMPACT_AT, Silence
from coordinator.runtime.loop import Loop, Start
from coordinator.runtime.ports import Hosts, ProgressRecord, Submission
from coordinator.runtime.watch import Watches
from coordinator.saga.events import AttemptAccepted, AttemptSucceeded
from coordinator.saga.workflow import About
from coordinator.store.database import sqlite
from coordinator.store.run import Inline
from coordinator.store.sql import SqlStore
from coordinator.wire.spec import plan_of
from countermand.rpc.crash import never
from countermand.v1.attempt_pb2 import Progress
from countermand.v1.external_task_pb2 import (
    ReportExternalTaskRequest,
    WatchExternalTasksRequest,
    WatchExternalTasksResponse,
)
from tests.runtime.rig import World, until
from tests.runtime.test_owners_restart import ATTEMPT, SPEC


async def test_a_report_that_is_written_after_the_end_keeps_nothing(tmp_path) -> None:
    world, watches, tokens = World(), Watches[Progress](), Tokens("key")
    store = SqlStore(sqlite(tmp_path / "store.db"), Inline(), new_id=world.new_id, crash=never)
    loop = Loop(store=store, clock=world, chance=world, crash=never, hints=watches)
    await loop.open()
    reported = Reported(store)
    owners = Owners(say=loop.hear, show=lambda *_: None, reported=reported)
    loop.attach(owners)
    showing = Showing(
        loop=loop, store=store, hosts=cast("Hosts", None), watches=watches, retention=None
    )
    reporting = Reporting(
        loop=loop,
        store=store,
        owners=owners,
        rights=Rights(tokens=tokens, showing=showing),
        watches=watches,
        deciding=Deciding(loop=loop, store=store, showing=showing, clock=world),
        showing=showing,
    )
    working = [asyncio.create_task(loop.run())]
    submission = Submission(spec=SPEC.SerializeToString(), input=b"", hash=b"")
    plan = plan_of(SPEC, Struct())
    task = plan.by_name["clone"]
    await loop.ask("w", Start(about=About(kind="vendors"), plan=plan, submission=submission))
    await loop.ask("w", AttemptAccepted(task=task, number=1))
    request = ReportExternalTaskRequest(
        attempt=ATTEMPT,
        capability_token=tokens.of("acme", ATTEMPT.rpartition("/attempts/")[0]),
        progress=Progress(done=3, total=5),
    )
    report = asyncio.create_task(reporting.report(request))
    await until(lambda: reported.get(("w", task, 1)))
    await loop.ask("w", AttemptSucceeded(task=task, number=1))
    working.append(asyncio.create_task(reported.run()))
    answer = await report
    assert answer.attempt.state == answer.attempt.STATE_SUCCEEDED
    assert watches.progress("w") == {}
    assert reported.get(("w", task, 1)) is None
    for each in working:
        each.cancel()
    await store.close()


async def test_what_ended_in_an_earlier_life_is_not_kept(tmp_path) -> None:
    world = World()
    store = SqlStore(sqlite(tmp_path / "store.db"), Inline(), new_id=world.new_id, crash=never)
    loop = Loop(store=store, clock=world, chance=world, crash=never, hints=Watches[Progress]())
    await loop.open()
    reported = Reported(store)
    loop.attach(Owners(say=loop.hear, show=lambda *_: None, reported=reported))
    working = asyncio.create_task(loop.run())
    submission = Submission(spec=SPEC.SerializeToString(), input=b"", hash=b"")
    plan = plan_of(SPEC, Struct())
    await loop.ask("w", Start(about=About(kind="vendors"), plan=plan, submission=submission))
    working.cancel()
    task = plan.by_name["clone"]
    records = [
        ProgressRecord(
            workflow_id="w", task=task, number=number, done=1, total=2, unit="blocks", message=""
        )
        for number in (1, 7)
    ]
    await store.note_progress(records)

    await reported.open()
    owners = Owners(say=loop.hear, show=lambda *_: None, reported=reported)
    owners.open(loop.open_workflows())
    assert owners.progress(("w", task, 1)) == records[0]  # it still waits
    assert owners.progress(("w", task, 7)) is None
    await store.close()


async def test_whoever_is_waited_for_no_more_takes_no_room() -> None:
    silence = Silence[int](lambda _: None)
    for key in range(5 * COMPACT_AT):
        silence.wait_for(key, 3600.0)
        silence.forget(key)
    assert len(silence._due) <= COMPACT_AT + 1


async def test_nobody_is_told_of_changes_once_a_watch_has_ended(tmp_path) -> None:
    store = SqlStore(sqlite(tmp_path / "store.db"), Inline(), new_id=World().new_id, crash=never)
    owners = Owners(say=lambda *_: None, show=lambda *_: None, reported=Reported(store))
    others: dict[str, Any] = dict.fromkeys(_NOT_ASKED)
    service = ExternalTaskService(owners=owners, **others)
    asked = WatchExternalTasksRequest(owner_id="acme")
    watch = cast(
        "AsyncGenerator[WatchExternalTasksResponse]", service.WatchExternalTasks(asked, None)
    )
    assert (await anext(watch)).HasField("bookmark")
    assert owners._watchers
    await watch.aclose()
    assert not owners._watchers
    await store.close()


# What an empty watch has no need of.
_NOT_ASKED = ("loop", "store", "rights", "reporting", "starting", "deciding", "showing")
