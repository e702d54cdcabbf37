"""What a repair leaves in the audit, and what it leaves alone: on a real loop and store."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from google.protobuf.message import Message

from coordinator.api.doctor.comparing import Finding, Kind
from coordinator.api.doctor.doctor import Doctor
from coordinator.runtime.ports import AuditEvent, HostState, HostView, StoreError
from countermand.rpc.errors import (
    CountermandError,
    HostRefused,
    HostUnreachable,
    ImageBusy,
    StorageFailed,
)
from countermand.v1.agent_pb2 import (
    GetHostResponse,
    HostReport,
    ListAttemptsResponse,
    ListImagesResponse,
    RemoveOrphansRequest,
    RemoveOrphansResponse,
    SurveyPoolResponse,
)
from countermand.v1.image_pb2 import Image, ImageAddress, OwnerTag, Pool
from tests.runtime.rig import NOW, Agent, Coordinator, coordinator, copy, series, until

ORPHAN = "workflows/first/tasks/copy/attempts/9"
FINDING = "hosts/a/findings/image-orphan/p/orphan"


class Clock:
    def now(self) -> Any:
        return NOW


@dataclass
class Disk:
    """What the doctor sees of host a: an image that no attempt has made."""

    cluster_id: str
    before_removal: Callable[[], Any] | None = None
    removed: list[RemoveOrphansRequest] = field(default_factory=list)
    images: int = 0
    error: StorageFailed | None = None
    connected: int = 0
    away: CountermandError | None = None

    def connect(self, _address: str) -> Disk:
        self.connected += 1
        return self

    async def call(self, rpc: str, request: Any, *, timeout_s: float) -> Message:
        if self.away:
            raise self.away
        if rpc == "GetHost":
            return GetHostResponse(host=HostReport(incarnation="i", pools=[Pool(pool_id="p")]))
        if rpc == "ListAttempts":
            return ListAttemptsResponse()
        if rpc == "SurveyPool":
            return SurveyPoolResponse()
        if rpc == "RemoveOrphans":
            if self.before_removal:
                await self.before_removal()
            self.removed.append(request)
            kept = [self.error.failure()] if self.error else []
            return RemoveOrphansResponse(removed=1, kept=kept)
        self.images += 1
        owner = OwnerTag(cluster_id=self.cluster_id, attempt=ORPHAN)
        address = ImageAddress(pool_id="p", image_id="orphan")
        return ListImagesResponse(images=[Image(address=address, owner=owner, generation=7)])

    async def close(self) -> None:
        self.connected -= 1


@asynccontextmanager
async def diseased(tmp_path):
    """Yields a coordinator, its doctor, and a disk with an orphan."""
    agent = Agent(pools=("p",))
    async with coordinator(tmp_path, {"a": agent}) as one:
        await one.start("first", series(copy("copy", "p/base", "p/made", "a")))
        await until(lambda: agent.sent)
        agent.end("workflows/first/tasks/copy/attempts/1")
        await until(lambda: one.loop.workflow("first") is None)
        disk = Disk(cluster_id=CLUSTER_ID)
        doctor = Doctor(
            loop=one.loop,
            store=one.store,
            connect=disk.connect,
            cluster_id=CLUSTER_ID,
            clock=Clock(),
        )
        yield one, doctor, disk


CLUSTER_ID = "c"


def host(one: Coordinator) -> HostView:
    return one.fleet.all()["a"]


async def told(one: Coordinator) -> list[tuple[str, str, str]]:
    events: list[AuditEvent] = await one.store.audit("hosts/a", before=2**62, limit=9)
    assert all((e.principal, e.reason, e.time) == ("local", "why", NOW) for e in events)
    return [
        (event.change.name, event.detail, event.failure.reason if event.failure else "")
        for event in reversed(events)
    ]


@pytest.mark.parametrize(
    "error",
    [
        HostUnreachable(address="a:1", said="connection refused"),
        HostRefused(address="a:1", why="it speaks no TLS", advice="give it some"),
    ],
)
async def test_a_host_that_is_away_says_the_same_as_its_line(tmp_path, error) -> None:
    async with diseased(tmp_path) as (one, doctor, disk):
        disk.away = error
        found = [each async for each in doctor.diagnose([host(one)]) if isinstance(each, Finding)]
    assert [(each.kind, each.message) for each in found] == [(Kind.HOST_AWAY, error.message)]


async def test_a_host_that_is_ready_and_does_not_answer_may_hang(tmp_path) -> None:
    """A frozen agent keeps its connection: `host get` would say that it is ready."""
    async with diseased(tmp_path) as (one, doctor, disk):
        disk.away = HostUnreachable(address="a:1")
        ready = host(one)
        away = replace(ready, state=HostState.UNREACHABLE)
        asked = [each async for each in doctor.diagnose([ready, away])]
    first, second = (each for each in asked if isinstance(each, Finding))
    assert "alive" in first.advice
    assert "host get a" in second.advice


async def test_a_repair_is_noted_before_and_after(tmp_path) -> None:
    async with diseased(tmp_path) as (one, doctor, disk):

        async def looks() -> None:
            assert await told(one) == [("REPAIR_BEGUN", FINDING, "")]

        disk.before_removal = looks
        assert await doctor.repair(host(one), [FINDING], "why") == {FINDING: None}
        assert await told(one) == [("REPAIR_BEGUN", FINDING, ""), ("REPAIRED", FINDING, "")]
        [orphan] = disk.removed[0].images
        assert (orphan.attempt, orphan.expected_generation) == (ORPHAN, 7)


async def test_what_the_agent_keeps_is_noted_with_why(tmp_path) -> None:
    async with diseased(tmp_path) as (one, doctor, disk):
        disk.error = StorageFailed(pool="p", error="EIO", image="orphan")
        done = await doctor.repair(host(one), [FINDING], "why")
        assert done[FINDING].reason == "STORAGE_FAILED"
        assert (await told(one))[1:] == [("REPAIR_REFUSED", FINDING, "STORAGE_FAILED")]


async def test_an_image_that_was_taken_up_after_the_last_look_is_kept(
    tmp_path, monkeypatch
) -> None:
    """It is no difference that it is held: the lock comes between the look and the removal."""
    async with diseased(tmp_path) as (one, doctor, disk):
        note = one.store.note_audit

        async def meanwhile(events: list[AuditEvent]) -> None:
            monkeypatch.undo()
            await one.start("late", series(copy("copy", "p/orphan", "p/other", "a")))
            await note(events)

        monkeypatch.setattr(one.store, "note_audit", meanwhile)
        done = await doctor.repair(host(one), [FINDING], "why")
        assert done[FINDING].reason == ImageBusy.reason
        assert done[FINDING].metadata["holder"] == "workflows/late"
        assert not disk.removed
        assert (await told(one))[1:] == [("REPAIR_REFUSED", FINDING, "IMAGE_BUSY")]


async def test_nobody_takes_up_an_image_while_it_is_removed(tmp_path) -> None:
    async with diseased(tmp_path) as (one, doctor, disk):

        async def meanwhile() -> None:
            await one.start("late", series(copy("copy", "p/orphan", "p/other", "a")))
            assert not one.known("late").locked

        disk.before_removal = meanwhile
        assert await doctor.repair(host(one), [FINDING], "why") == {FINDING: None}
        await until(lambda: one.known("late").locked)


async def test_nothing_is_removed_that_could_not_be_noted(tmp_path, monkeypatch) -> None:
    async with diseased(tmp_path) as (one, doctor, disk):

        async def full(_events: list[AuditEvent]) -> None:
            raise StoreError("the disk is full")

        monkeypatch.setattr(one.store, "note_audit", full)
        with pytest.raises(StoreError):
            await doctor.repair(host(one), [FINDING], "why")
        assert not disk.removed


async def test_what_cannot_be_noted_afterwards_leaves_no_connection_open(
    tmp_path, monkeypatch
) -> None:
    async with diseased(tmp_path) as (one, doctor, disk):

        async def full(_events: list[AuditEvent]) -> None:
            raise StoreError("the disk is full")

        async def fills_up() -> None:
            monkeypatch.setattr(one.store, "note_audit", full)

        disk.before_removal = fills_up
        with pytest.raises(StoreError):
            await doctor.repair(host(one), [FINDING], "why")
        assert disk.removed
        assert not disk.connected
