"""Sends every workflow's trace: reads the history from where it left off, projects, and sends.

It stands beside the way of a request, never in it: nobody who commits knows of it, whatever breaks
in it. While the collector is away it waits, with one page of spans and the open ends of the traces
that it has met. How far it has come is kept in the store after the collector has taken what came
before; so a process that dies in between sends a few spans once more, the same to the byte.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from typing import Protocol, TypeVar

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from coordinator.runtime import crash_points
from coordinator.runtime.ports import StoredEntry, StoreError, StoreFencedError
from coordinator.runtime.watch import Topic
from coordinator.traces.projection import Projection
from coordinator.traces.sending import CollectorAway, Send, SpansRefused
from countermand.rpc.crash import Crash, never
from countermand.v1.attempt_pb2 import Progress
from countermand.v1.event_pb2 import HistoryEvent

log = logging.getLogger(__name__)

READER = "traces"  # what its position in the history is kept under
PAGE = 50  # events: about 3 ms of work, while which nobody else has the loop
PAGES_UNNOTED_MAX = 20  # what a life may send that the next one sends again
REQUEST_BYTES_MAX = 1 << 20  # collectors take 4 MiB, unless told otherwise
# What projections remember in all, about 50 MB: of those that had events last. Of others the
# history is read again.
REMEMBERED_MAX = 250_000
GATHER_S = 0.1  # after a hint: under load a page then holds many commits
QUIET_S = 15.0  # without a hint: looks all the same
AGAIN_S, AGAIN_S_MAX = 1.0, 60.0  # after the collector, or the store, has failed

Value = TypeVar("Value")


class History(Protocol):
    """What the exporter needs of the store, which is the one of `ports.py`."""

    async def events(self, *, after: int, limit: int) -> list[StoredEntry]:
        """Returns entries of all workflows after a position, in order."""

    async def history(self, workflow_id: str, *, after: int, limit: int) -> list[StoredEntry]:
        """Returns a workflow's entries after a sequence, in order."""

    async def position(self) -> int:
        """Returns the highest position ever given, 0 if there was none."""

    async def position_of(self, reader: str) -> int | None:
        """Returns how far somebody has read the history; None: never."""

    async def note_position(self, reader: str, position: int) -> None:
        """Notes how far somebody has read the history."""

    async def forget_reader(self, reader: str) -> None:
        """Says that somebody reads no more."""


class Exporter:
    """Reads on, projects, sends."""

    def __init__(
        self,
        store: History,
        *,
        cluster_id: str,
        hints: Topic[Progress],
        send: Send,
        crash: Crash = never,
    ) -> None:
        """Sends nothing before `run`."""
        self._store = store
        self._hints = hints
        self._send = send
        self._crash = crash
        self._resource = Resource(
            attributes=[
                _attribute("service.name", "countermand-coordinator"),
                _attribute("countermand.cluster", cluster_id),
            ]
        )
        self._projections: OrderedDict[str, Projection] = OrderedDict()
        self._remembered = 0  # by all of them
        self.position: int | None = None  # how far the collector has been told; None: not begun

    async def run(self) -> None:
        """Sends what is committed, until cancelled: the next life goes on where this one was."""
        try:
            while True:
                try:
                    await self._read_on()
                except Exception:  # the loop that must survive: nobody else is to end with it
                    log.exception("traces.broke", extra={"position": self.position})
                    self._projections.clear()
                    self._remembered = 0
                    await asyncio.sleep(AGAIN_S_MAX)
        finally:
            await self._send.close()

    async def _read_on(self) -> None:
        noted = position = self.position = await self._again(self._begin)
        pages = 0
        while True:
            seen = self._hints.changes
            entries = await self._again(partial(self._store.events, after=position, limit=PAGE))
            spans = [span for each in entries for span in await self._project(each)]
            if spans:
                await self._sent(spans)
            if entries:
                position = self.position = entries[-1].position
            pages += 1
            is_last = len(entries) < PAGE
            if position > noted and (is_last or pages >= PAGES_UNNOTED_MAX):
                await self._again(partial(self._store.note_position, READER, position))
                self._crash(crash_points.SPANS_NOTED)
                noted, pages = position, 0
            if is_last:
                await self._hints.wait(seen, QUIET_S)
                await asyncio.sleep(GATHER_S)

    async def _begin(self) -> int:
        """Returns where to go on; at first, what has happened before nobody waits for."""
        position = await self._store.position_of(READER)
        if position is None:
            position = await self._store.position()
            await self._store.note_position(READER, position)
        return position

    # -- projecting -------------------------------------------------------------------------------

    async def _project(self, entry: StoredEntry) -> list[Span]:
        """Returns the spans that an event closes; none of a workflow that was removed meanwhile."""
        projection = self._projections.pop(entry.workflow_id, None)
        self._remembered -= projection.size if projection else 0
        try:
            if projection is None or projection.sequence != entry.sequence - 1:
                projection = await self._again(partial(self._before, entry))
            if projection is None:
                return []
            spans = projection.take(HistoryEvent.FromString(entry.payload))
        except (AssertionError, LookupError, ValueError):  # a defect of ours, about one workflow
            named = {"workflow": entry.workflow_id, "sequence": entry.sequence}
            log.exception("traces.not_projected", extra=named)
            return []
        if not projection.settled:
            self._keep(entry.workflow_id, projection)
        return spans

    def _keep(self, workflow_id: str, projection: Projection) -> None:
        """Remembers a trace that goes on; forgets those that have been quiet for longest."""
        self._projections[workflow_id] = projection
        self._remembered += projection.size
        while self._remembered > REMEMBERED_MAX and len(self._projections) > 1:
            _, quiet = self._projections.popitem(last=False)
            self._remembered -= quiet.size

    async def _before(self, entry: StoredEntry) -> Projection | None:
        """Returns a workflow's trace up to an event, out of its stored history."""
        projection = Projection()
        while projection.sequence < entry.sequence - 1:
            limit = min(PAGE, entry.sequence - 1 - projection.sequence)
            page = await self._store.history(
                entry.workflow_id, after=projection.sequence, limit=limit
            )
            if not page:
                return None
            for each in page:
                projection.take(HistoryEvent.FromString(each.payload))
        return projection

    # -- sending ----------------------------------------------------------------------------------

    async def _sent(self, spans: Sequence[Span]) -> None:
        for some in _in_requests(spans):
            request = ExportTraceServiceRequest()
            sent = request.resource_spans.add(resource=self._resource)
            sent.scope_spans.add(scope=InstrumentationScope(name="countermand"), spans=some)
            try:
                await self._again(partial(self._send, request))
            except SpansRefused as error:
                # Sent again they would be refused again, and all behind them would wait for ever.
                log.warning("traces.refused", extra={"spans": len(some), "error": str(error)})
            self._crash(crash_points.SPANS_SENT)

    async def _again(self, do: Callable[[], Awaitable[Value]]) -> Value:
        """Does something, again and again until it works."""
        delay_s = 0.0
        while True:
            try:
                done = await do()
            except (CollectorAway, StoreError) as error:
                if not delay_s:
                    log.warning("traces.wait", extra={"error": str(error)})
                delay_s = min(delay_s * 2, AGAIN_S_MAX) or AGAIN_S
                await asyncio.sleep(delay_s)
            else:
                if delay_s:
                    log.info("traces.go_on")
                return done


async def export_nothing(store: History) -> None:
    """Says that nobody waits for traces, and does nothing more until cancelled.

    Raises:
        StoreFencedError: The own session has ended: another one may see to them by now.
    """
    while True:
        try:
            await store.forget_reader(READER)
        except StoreFencedError:
            raise
        except StoreError as error:
            log.warning("traces.wait", extra={"error": str(error)})
            await asyncio.sleep(AGAIN_S)
        else:
            await asyncio.Event().wait()


def _attribute(key: str, value: str) -> KeyValue:
    return KeyValue(key=key, value=AnyValue(string_value=value))


def _in_requests(spans: Sequence[Span]) -> Iterator[list[Span]]:
    """Yields spans as they are sent together: one that is large goes alone."""
    some: list[Span] = []
    size = 0
    for span in spans:
        if some and size + span.ByteSize() > REQUEST_BYTES_MAX:
            yield some
            some, size = [], 0
        some.append(span)
        size += span.ByteSize()
    if some:
        yield some
