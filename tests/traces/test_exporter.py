"""What is committed arrives as spans, once to look at, whatever dies or is away in between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import pairwise

import grpc
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from coordinator.runtime import crash_points
from coordinator.runtime.watch import Watches
from coordinator.store.memory import Kept, MemoryStore
from coordinator.traces import exporter
from coordinator.traces.exporter import READER, Exporter
from coordinator.traces.ids import trace_id_of
from coordinator.traces.projection import Projection
from coordinator.traces.sending import sender
from coordinator.traces.writing import EVENTS_MAX, note
from countermand.rpc.collector import GRPC, collector_of
from countermand.rpc.crash import Crash, never
from countermand.v1.attempt_pb2 import Progress
from countermand.v1.event_pb2 import HistoryEvent
from countermand.v1.failure_pb2 import Failure
from tests.store.walks import Walk
from tests.traces import rules
from tests.traces.collector import PROTOCOLS, Collector, collector


@dataclass
class World:
    """One life of a coordinator, as far as its exporter sees it."""

    store: MemoryStore
    watches: Watches[Progress]
    to: Collector
    running: asyncio.Task[None]
    may_die: bool = False

    async def walk(self, name: str, steps: int = 1_000) -> Walk:
        """Walks a workflow from its beginning, for some steps or to its end."""
        walk = Walk(name)
        await self.commit(walk)
        await self.go_on(walk, steps)
        return walk

    async def go_on(self, walk: Walk, steps: int = 1_000) -> None:
        for _ in range(steps):
            if walk.workflow.settled:
                break
            if walk.step() is not None:
                await self.commit(walk)

    async def commit(self, walk: Walk) -> None:
        await self.store.commit([walk.change])
        self.watches.committed(walk.workflow.id, settled=walk.workflow.settled)

    async def all_sent(self) -> None:
        """Returns once everything that is committed has been sent, and that is noted."""
        async with asyncio.timeout(30):
            while await self.store.position_of(READER) != await self.store.position():
                if self.running.done():
                    assert self.may_die, "the exporter has ended"
                    return
                await asyncio.sleep(0.001)

    def whole(self, walk: Walk) -> None:
        """Asserts that the trace of a workflow has arrived as a viewer needs it."""
        trace_id = trace_id_of(walk.workflow.id, walk.workflow.create_time).hex()
        mine = [
            s.SerializeToString(deterministic=True)
            for s in self.to.spans
            if s.trace_id.hex() == trace_id
        ]
        spans = self.to.of(trace_id)
        assert len(set(mine)) == len(spans), "the same span came in two shapes"
        rules.check(spans, settled=walk.workflow.settled)


@asynccontextmanager
async def world(to: Collector, kept: Kept, *, crash: Crash = never) -> AsyncIterator[World]:
    store = MemoryStore(kept, new_id=lambda: "cluster")
    await store.open()
    watches: Watches[Progress] = Watches()
    where = collector_of(to.environment | {"OTEL_EXPORTER_OTLP_TIMEOUT": "1"})
    assert where is not None
    send = sender(where)
    made = Exporter(store, cluster_id="c", hints=watches.everything, send=send, crash=crash)
    running = asyncio.create_task(made.run())
    one = World(store, watches, to, running, may_die=crash is not never)
    try:
        while await store.position_of(READER) is None:  # noqa: ASYNC110 - what is stored is asked for
            await asyncio.sleep(0.001)
        yield one
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await store.close()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporter, "GATHER_S", 0.0)
    monkeypatch.setattr(exporter, "AGAIN_S", 0.01)


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_what_is_committed_arrives(protocol):
    async with collector(protocol) as to, world(to, Kept()) as one:
        walks = [await one.walk(f"seed-{number}") for number in range(20)]
        await one.all_sent()
        for walk in walks:
            one.whole(walk)
        assert to.services == {"countermand-coordinator"}


async def test_what_is_at_work_is_seen_before_it_has_settled():
    async with collector(GRPC) as to, world(to, Kept()) as one:
        walk = await one.walk("seed-1", steps=1)
        await one.all_sent()
        assert not walk.workflow.settled
        assert to.spans[0].name == "accepted"
        one.whole(walk)


@pytest.mark.parametrize("point", crash_points.CRASH_POINTS_OF_TRACES)
async def test_whoever_dies_leaves_nothing_out(point):
    """S-H2: what had been sent comes once more, the same to the byte."""
    kept = Kept()
    async with collector(GRPC) as to:
        walks: list[Walk] = []
        for life in range(4):

            def dies(passed: str, life=life) -> None:
                if passed == point and life < 3:
                    raise asyncio.CancelledError

            async with world(to, kept, crash=dies) as one:
                for each in walks:
                    await one.go_on(each, steps=5)
                walks.append(await one.walk(f"life-{life}", steps=5))
                await one.all_sent()
        async with world(to, kept) as one:
            for each in walks:
                await one.go_on(each)
            await one.all_sent()
            for each in walks:
                one.whole(each)


async def test_a_collector_that_is_away_is_waited_for():
    """What it has not taken is sent again, and nothing behind it before."""
    async with collector(GRPC) as to, world(to, Kept()) as one:
        to.answers.extend([grpc.StatusCode.UNAVAILABLE] * 3)
        walks = [await one.walk(f"seed-{number}") for number in range(5)]
        await one.all_sent()
        assert to.spans[0].name == "accepted"
        for walk in walks:
            one.whole(walk)
        assert not to.answers


async def test_spans_that_are_refused_hold_up_no_others(caplog):
    async with collector(GRPC) as to, world(to, Kept()) as one:
        to.answers.append(grpc.StatusCode.INVALID_ARGUMENT)
        await one.walk("refused")
        await one.all_sent()
        walk = await one.walk("seed-2")
        await one.all_sent()
        one.whole(walk)
        assert "traces.refused" in [record.getMessage() for record in caplog.records]


async def test_what_was_sent_is_noted_although_there_is_more_to_read(monkeypatch):
    """Or a coordinator that ends meanwhile would send all of it again."""
    monkeypatch.setattr(exporter, "PAGE", 1)
    monkeypatch.setattr(exporter, "PAGES_UNNOTED_MAX", 3)
    async with collector(GRPC) as to, world(to, Kept()) as one:
        noted: list[int] = []
        note_position = one.store.note_position

        async def notes(reader: str, position: int) -> None:
            noted.append(position)
            await note_position(reader, position)

        monkeypatch.setattr(one.store, "note_position", notes)
        walk = await one.walk("long")
        await one.all_sent()
        one.whole(walk)
        between = [after - before for before, after in pairwise([0, *noted])]
        assert max(between) <= 3
        assert len(noted) >= walk.workflow.sequence // 3


async def test_more_workflows_than_projections_are_kept(monkeypatch):
    """What was put away is projected again from its history."""
    monkeypatch.setattr(exporter, "REMEMBERED_MAX", 2)
    async with collector(GRPC) as to, world(to, Kept()) as one:
        walks = [await one.walk(f"seed-{number}", steps=0) for number in range(6)]
        while not all(walk.workflow.settled for walk in walks):
            for walk in walks:
                await one.go_on(walk, steps=1)
        await one.all_sent()
        for walk in walks:
            one.whole(walk)


async def test_what_breaks_in_it_ends_nobody_else_and_is_tried_again(monkeypatch, caplog):
    monkeypatch.setattr(exporter, "AGAIN_S_MAX", 0.01)
    async with collector(GRPC) as to, world(to, Kept()) as one:
        events, broken = one.store.events, iter([True])

        async def breaks(**asked: int) -> object:
            if next(broken, False):
                raise RuntimeError("a defect")
            return await events(**asked)

        monkeypatch.setattr(one.store, "events", breaks)
        walk = await one.walk("seed-1")
        await one.all_sent()
        one.whole(walk)
        assert "traces.broke" in [record.getMessage() for record in caplog.records]


async def test_a_workflow_that_cannot_be_projected_holds_up_no_others(monkeypatch, caplog):
    take = Projection.take

    def breaks(self: Projection, event: HistoryEvent) -> list[Span]:
        if event.workflow == "workflows/broken":
            raise LookupError("a defect")
        return take(self, event)

    monkeypatch.setattr(Projection, "take", breaks)
    async with collector(GRPC) as to, world(to, Kept()) as one:
        await one.walk("broken")
        walk = await one.walk("seed-2")
        await one.all_sent()
        one.whole(walk)
        assert "traces.not_projected" in [record.getMessage() for record in caplog.records]


def test_no_request_is_larger_than_a_collector_takes():
    spans = [Span(name="x" * size) for size in (10, exporter.REQUEST_BYTES_MAX, 10, 10)]
    sizes = [len(some) for some in exporter._in_requests(spans)]
    assert sizes == [1, 1, 2]


def test_a_span_has_so_many_events_and_counts_the_others():
    """An owner whose heartbeats come and go for days must not make what no collector takes."""
    span = Span()
    for _ in range(EVENTS_MAX + 5):
        note(span, HistoryEvent(), "unknown", Failure(reason="HEARTBEAT_LAPSED", message="x"))
    assert (len(span.events), span.dropped_events_count) == (EVENTS_MAX, 5)


async def test_a_workflow_that_is_removed_meanwhile_is_left_out():
    kept = Kept()
    async with collector(GRPC) as to:
        async with world(to, kept) as one:
            await one.all_sent()
        async with collector(GRPC, is_open=False) as hangs, world(hangs, kept) as one:
            gone = await one.walk("gone")
            await one.store.clear(gone.workflow.id)
            walk = await one.walk("seed-3")
        async with world(to, kept) as one:
            await one.all_sent()
            one.whole(walk)
            trace_id = trace_id_of(gone.workflow.id, gone.workflow.create_time)
            assert to.of(trace_id.hex()) == []
