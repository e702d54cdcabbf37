"""Takes requests, runs attempts, records outcomes: the agent's promise is kept here.

Each request is first decided in one durable transaction (`admission`), then launched; each
outcome is recorded in one. Between the two the work belongs to the agent, not to the call: a
caller that goes away stops nothing. Knows nothing of gRPC calls: every carrier calls `accept`,
`compensate` and `cancel`.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any, TypeVar

from agent import admission, attempts, crash_points, recovery, wire, work
from agent.admission import Order, Refusals, lane_of
from agent.attempts import (
    Admit,
    AttemptRecord,
    Event,
    Header,
    Join,
    Kind,
    Place,
    Refuse,
    State,
)
from agent.drivers.driver import Driver, Step
from agent.executors import Calls, Executor, InlineExecutor, Interrupted
from agent.journal import Transaction, Transactor
from agent.pulling import Pulling
from agent.running import Lane, Running, Slots, Ticket, WorkDone
from agent.verbs import catalogue
from agent.verbs.plugins import NO_PLUGINS, Plugins
from agent.watch import Watchers
from agent.work import Outcome, Outside, Worker
from countermand.rpc.credentials import Credentials
from countermand.rpc.errors import (
    AttemptCancelled,
    CountermandError,
    RunTimeout,
    StorageFailed,
)
from countermand.v1.agent_pb2 import CompensateRequest, SourceAccess
from countermand.v1.attempt_pb2 import Attempt, AttemptHeader
from countermand.v1.verb_pb2 import Action

log = logging.getLogger(__name__)

T = TypeVar("T")

# Attempts that touch no storage: bounded by memory only.
LIGHT_MAX = 1024

# While the journal's disk is full an outcome waits; nothing but an operator makes room.
RECORD_DELAY_S = 1.0

# An attempt whose storage did not say how it ended is looked at again after this: a path that
# failed over is back by then, and a disk that is really broken is not kept busy.
LOOK_AGAIN_DELAY_S = 30.0

# How long a stopping agent may wait for what is queued to notice.
INTERRUPT_S_MAX = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much at once, of each lane."""

    attempts_max: int = 4  # beyond this a spinning array only seeks
    queue_max: int = 1024


class Runner:
    """Runs the attempts of one agent."""

    def __init__(
        self,
        *,
        journal: Transactor,
        pools: Mapping[str, Driver],
        executor: Executor,
        outside: Outside,
        limits: Limits,
        host_id: str,
        credentials: Credentials | None = None,
        plugins: Plugins = NO_PLUGINS,
        checks: Calls | None = None,
    ) -> None:
        """Does nothing before `start`; plug-ins check their arguments by `checks`."""
        self.identity = wire.Identity(host_id=host_id, incarnation=journal.incarnation)
        self.journal = journal
        self.pools = pools
        self.plugins = plugins
        self.limits = limits
        self.executor = executor
        self.running: dict[str, Running] = {}
        self.work = WorkDone()
        self.observers: list[Callable[[Sequence[AttemptRecord]], None]] = []
        self.when_resumed: Callable[[AttemptRecord], None] = lambda _: None
        self.watchers = Watchers(self, self.running)
        self._outside = outside
        self._refusals = Refusals(pools, plugins, checks or InlineExecutor())
        self._stopping = False
        self._leaving = asyncio.Event()
        self._pulling = Pulling(credentials)
        self._worker = Worker(
            journal=self,
            pools=pools,
            executor=executor,
            outside=outside,
            host_id=host_id,
            pulling=self._pulling,
            plugins=plugins,
        )
        self._tasks: set[asyncio.Task[Any]] = set()
        self._looks: dict[str, asyncio.Task[None]] = {}  # what is to be looked at again
        self._slots = {
            Lane(kind, touches_storage): Slots(
                running_max=limits.attempts_max if touches_storage else LIGHT_MAX,
                waiting_max=limits.queue_max,
                pools_max={
                    pool_id: driver.config.attempts_max
                    for pool_id, driver in pools.items()
                    if driver.config.attempts_max is not None
                },
            )
            for kind in Kind
            for touches_storage in (False, True)
        }
        journal.on_commit = self._on_commit

    @property
    def outside(self) -> Outside:
        """Returns the world as it sees it, for those who work beside it."""
        return self._outside

    # -- life -----------------------------------------------------------------------------------

    async def start(self) -> None:
        """Replays the journal: settles or resumes what was open, sweeps what is nobody's."""
        self._worker.cluster_id = await self.journal.transact(lambda tx: tx.meta("cluster_id"))
        records = await recovery.replay(
            self.journal, self.pools, self.executor, now=self._outside.now
        )
        for record in records:
            running = self._relaunch(record)
            self.when_resumed(record)
            if record.tombstoned or record.state is State.CANCELLING:
                running.stop(AttemptCancelled())
        sweeping = recovery.sweep_for_ever(self.journal, self.pools, self.executor)
        self._sweeping = asyncio.ensure_future(sweeping)
        self._tasks.add(self._sweeping)

    async def stop(self) -> None:
        """Leaves what is running as it is, for the next start, and closes the journal."""
        self._stopping = True
        self._leaving.set()
        self._tasks.discard(self._sweeping)
        for task in (self._sweeping, *self._looks.values()):
            task.cancel()
        for running in self.running.values():
            running.interrupt()
        while self._tasks:  # a request in the middle of its admission launches one more
            await asyncio.wait(self._tasks)
        await self.journal.close()
        self.executor.close()

    # -- requests -------------------------------------------------------------------------------

    async def accept(
        self, message: AttemptHeader, action: Action, *, access: SourceAccess | None = None
    ) -> Attempt:
        """Begins an attempt of an action, or joins it; of a source's accesses the latest is used.

        Raises:
            CountermandError: Any of the table in agent.proto.
        """
        header = wire.read_header(message)
        catalogue.check(action)
        refusal = await self._refusals.of(action)
        order = admission.order_of_action(header, action, refusal=refusal, access=access)
        return await self._uninterrupted(self._admit(order))

    async def compensate(self, request: CompensateRequest) -> Attempt:
        """Begins to make up for an attempt, whether or not it was ever received.

        Raises:
            CountermandError: Any of the table in agent.proto.
        """
        header = wire.read_header(request.header)
        admission.check_compensation(header, request)
        refusal = None
        if request.HasField("replacement"):
            catalogue.check(request.replacement)
            refusal = await self._refusals.of(request.replacement)
        order = admission.order_of_compensation(header, request, refusal=refusal)
        return await self._uninterrupted(self._admit(order))

    async def cancel(self, message: AttemptHeader) -> Attempt:
        """Asks an action to stop; what makes up for one goes on whatever anybody asks.

        Raises:
            AttemptNotFound: It was not received so far.
            CountermandError: As `accept`.
        """
        header = wire.read_header(message, hash_needed=False)
        ask = partial(admission.ask_to_stop, header=header, now=self._outside.now())
        return await self._uninterrupted(self._cancel(ask))

    async def _cancel(
        self, ask: Callable[[Transaction], tuple[AttemptRecord, bool] | CountermandError]
    ) -> Attempt:
        answer = await self.transact(ask)
        if isinstance(answer, CountermandError):
            raise answer
        record, reopened = answer
        running = self.running.get(record.name)
        if reopened:
            if running is not None:  # it has said that it does not know, and is about to go
                await asyncio.shield(running.ended)
            running = self._relaunch(record)
        if running is not None and record.kind is Kind.ACTION:
            running.stop(AttemptCancelled())
        return self.tell(record)

    async def challenge(self, message: AttemptHeader) -> Header:
        """Returns the header of who may give orders here; nothing is journalled.

        Raises:
            CountermandError: Any of the table in agent.proto, before anything about the attempt.
        """
        header = wire.read_header(message, hash_needed=False)
        if error := await self.transact(lambda tx: attempts.challenge(header, tx.facts(header))):
            raise error
        return header

    async def transact(self, function: Callable[[Transaction], T]) -> T:
        """Runs a request's transaction; a journal whose disk fails takes no orders.

        Raises:
            StorageFailed: The journal cannot be read, or written to.
        """
        try:
            return await self.journal.transact(function)
        except sqlite3.Error as error:
            log.exception("journal.failed")
            raise StorageFailed(pool="(journal)", error=error, image="a request") from error

    def running_in(self, pool_id: str) -> int:
        """Returns how many attempts run that read or write a pool."""
        return sum(slots.running_in[pool_id] for slots in self._slots.values())

    def waiting_in(self, pool_id: str) -> int:
        """Returns how many attempts wait that read or write a pool."""
        return sum(slots.waiting_in(pool_id) for slots in self._slots.values())

    def tell(self, record: AttemptRecord, *, with_action: bool = False) -> Attempt:
        """Returns an attempt as it is told of, with its progress."""
        running = self.running.get(record.name)
        progress = running.progress() if running is not None else None
        return wire.attempt(record, self.identity, progress=progress, with_action=with_action)

    # -- admission ------------------------------------------------------------------------------

    async def _admit(self, order: Order) -> Attempt:
        """Decides on an order, in one transaction, and begins what was admitted."""
        ticket = self._slots[order.lane].take(order.pools)
        place = Place.FULL if ticket is None else ticket.place
        self._outside.crash(crash_points.BEFORE_JOURNAL)
        admitted: AttemptRecord | None = None
        try:
            decision, admitted = await self.transact(
                partial(admission.decide, order=order, place=place, now=self._outside.now())
            )
        finally:
            if ticket is not None and admitted is None:
                ticket.leave()
        if order.access is not None and not isinstance(decision, Refuse):
            self._pulling.offer(order.header.attempt, order.access)
        match decision:
            case Refuse(error=error):
                raise error
            case Join(record=known):
                if known.name not in self.running:
                    self._pulling.forget(known.name)
                return self.tell(known)
            case Admit():
                assert ticket is not None
                assert admitted is not None
                return await self._begin(order.header, admitted, ticket)

    async def _begin(self, header: Header, record: AttemptRecord, ticket: Ticket) -> Attempt:
        """Launches what was admitted, and says so."""
        is_action = record.kind is Kind.ACTION
        self._worker.cluster_id = self._worker.cluster_id or header.cluster_id
        self._outside.crash(
            crash_points.AFTER_JOURNAL if is_action else crash_points.AFTER_TOMBSTONE
        )
        target = self.running.get(record.compensates)
        self._launch(record, ticket)
        if target is not None and target.committed:
            # Nothing of it may become visible once we have said that it is made up for.
            await asyncio.shield(target.ended)
        return self.tell(record)

    async def _uninterrupted(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Ends what was begun even if the caller goes away in the middle of it."""
        task = asyncio.ensure_future(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)

    # -- work -----------------------------------------------------------------------------------

    def _launch(self, record: AttemptRecord, ticket: Ticket, *, resumed: bool = False) -> Running:
        running = Running(
            record,
            monotonic=self._outside.monotonic,
            keep_note=self._keep_note,
            resumed=resumed,
            work=self.work,
        )
        earlier = [
            other.ended
            for other in self.running.values()
            if record.compensates
            and record.compensates in {other.record.name, other.record.compensates}
        ]
        # It is there if it was admitted: commits wake those who wait in their order.
        if target := self.running.get(record.compensates):
            target.stop(AttemptCancelled())
        if self._stopping:
            running.interrupt()
        self.running[record.name] = running
        task = asyncio.ensure_future(self._run(running, ticket, earlier))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return running

    def _relaunch(self, record: AttemptRecord) -> Running:
        if look := self._looks.pop(record.name, None):
            look.cancel()
        action = work.action_for(record)
        slots = self._slots[lane_of(record.kind, action)]
        return self._launch(record, slots.retake(catalogue.pools(action)), resumed=True)

    async def _look_again(self, name: str, stop_error: CountermandError | None) -> None:
        """Takes up an attempt of unknown outcome once more, unless somebody else has."""

        def reopen(tx: Transaction) -> AttemptRecord | None:
            record = tx.get(name)
            if record is None or not attempts.can_look_again(record):
                return None
            return tx.put(attempts.move(record, Event.STARTED, now=self._outside.now()))

        while True:
            await asyncio.sleep(LOOK_AGAIN_DELAY_S)
            try:
                record = await self.journal.transact(reopen)
            except sqlite3.Error as error:
                log.warning("journal.failed", extra={"attempt": name, "error": str(error)})
                continue
            break
        del self._looks[name]
        if record is not None:
            running = self._relaunch(record)
            if stop_error is not None:  # who asked it to stop before does so still
                running.stop(stop_error)

    async def _keep_note(self, running: Running, step: Step) -> None:
        """Keeps a verb's note; while the journal cannot be written to, only if it is needed."""
        name = running.record.name

        def keep(tx: Transaction) -> None:
            tx.keep_note(name, step.note)

        if step.note_needed:
            await self._record(running, keep, until=lambda: running.stop_error is not None)
            return
        try:
            await self.journal.transact(keep)
        except sqlite3.Error as error:  # a crash would cost more work, and nothing else
            log.warning("attempt.note_skipped", extra={"attempt": name, "error": str(error)})

    async def _run(
        self, running: Running, ticket: Ticket, earlier: list[asyncio.Future[None]]
    ) -> None:
        """Sees one attempt through: its turn, its work, its outcome."""
        name = running.record.name
        try:
            await self._wait_for(running, *earlier)
            if running.record.state is State.ACCEPTED:
                await self._wait_for(running, ticket.ready)
                await self._record(running, self._starting(running))
            elif not ticket.ready.done():
                # Of an earlier life: even when asked to stop, its work must sweep.
                await self._wait_for_slot(running, ticket)
            if running.record.is_open and not running.interrupted:
                await self._work(running)
        except Interrupted:
            log.info("attempt.interrupted", extra={"attempt": name})
        except Exception:
            log.exception("attempt.defect", extra={"attempt": name})
        finally:
            ticket.leave()
            del self.running[name]
            self._pulling.forget(name)
            running.ended.set_result(None)
        if attempts.can_look_again(running.record) and not self._stopping:
            look = self._look_again(name, running.stop_error)
            self._looks[name] = asyncio.ensure_future(look)

    async def _wait_for(self, running: Running, *awaited: asyncio.Future[Any]) -> None:
        """Waits for others, or until it is asked to stop."""
        if not awaited:
            return
        stopping: asyncio.Future[Any] = asyncio.ensure_future(running.stopping.wait())
        # Not gathered: it would take the stop for an error that nobody has heard of.
        others: asyncio.Future[Any] = asyncio.ensure_future(asyncio.wait(awaited))
        try:
            await asyncio.wait([stopping, others], return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
            others.cancel()
        if running.interrupted:
            raise Interrupted

    async def _wait_for_slot(self, running: Running, ticket: Ticket) -> None:
        while not ticket.ready.done():
            if running.interrupted:
                raise Interrupted
            await asyncio.wait({ticket.ready}, timeout=INTERRUPT_S_MAX)

    def _starting(self, running: Running) -> Callable[[Transaction], None]:
        def start(tx: Transaction) -> None:
            record = tx.get(running.record.name)
            assert record is not None
            stopped = record.tombstoned or running.stop_error is not None
            event = Event.STOPPED if stopped else Event.STARTED
            moved = attempts.move(record, event, now=self._outside.now())
            if moved is not record:
                tx.put(moved)

        return start

    async def _work(self, running: Running) -> None:
        record = running.record
        is_action = record.kind is Kind.ACTION
        timer = watchdog = None
        if record.run_timeout is not None and is_action:
            error = RunTimeout(run_timeout_s=record.run_timeout.total_seconds())
            left = self._left(record.run_timeout, record.start_time)
            timer = asyncio.get_running_loop().call_later(left, running.stop, error)
        if record.stall_timeout is not None and is_action:
            watchdog = asyncio.ensure_future(running.stop_when_still(record.stall_timeout))
        try:
            outcome = await self._worker.outcome(running)
        finally:
            if timer is not None:
                timer.cancel()
            if watchdog is not None:
                watchdog.cancel()
        self._outside.crash(
            crash_points.BEFORE_RECORD if is_action else crash_points.AFTER_COMPENSATION
        )
        await self._record(running, self._settling(running, outcome))

    def _left(self, run_timeout: timedelta, start_time: datetime | None) -> float:
        """Returns the seconds left since the first start, whatever lives lie between."""
        assert start_time is not None
        return max(0.0, (start_time + run_timeout - self._outside.now()).total_seconds())

    def _settling(self, running: Running, outcome: Outcome) -> Callable[[Transaction], None]:
        done, total = running.done_and_total

        def settle(tx: Transaction) -> None:
            now = self._outside.now()
            record = tx.get(running.record.name)
            assert record is not None
            moved = attempts.move(
                record, outcome.event, now=now, output=outcome.output, failure=outcome.failure
            )
            note = record.note if moved.state is State.UNKNOWN else ""
            tx.put(replace(moved, done_bytes=done, total_bytes=total, note=note))
            if record.kind is Kind.COMPENSATION and outcome.event is Event.SUCCEEDED:
                target = tx.get(record.compensates)
                if target is not None and target.state is State.UNKNOWN:
                    tx.put(attempts.move(target, Event.STOPPED, now=now))

        return settle

    async def _record(
        self,
        running: Running,
        function: Callable[[Transaction], None],
        *,
        until: Callable[[], bool] = lambda: False,
    ) -> None:
        """Records a change of an attempt, as soon as the journal can be written to.

        Raises:
            Interrupted: The agent is stopping: the next start finds out what is not recorded.
        """
        failures = 0
        extra = {"attempt": running.record.name}
        while True:
            try:
                await self.journal.transact(function)
            except sqlite3.Error:
                failures += 1
                if failures == 1:
                    log.exception("journal.failed", extra=extra)
                await self._pause()
                if self._stopping:
                    raise Interrupted from None
                if until():
                    break
                continue
            break
        if failures:
            log.warning("journal.waited", extra={**extra, "failures": failures})

    async def _pause(self) -> None:
        """Waits a while, or until the agent is stopping."""
        try:
            async with asyncio.timeout(RECORD_DELAY_S):
                await self._leaving.wait()
        except TimeoutError:
            return

    def _on_commit(self, changed: list[AttemptRecord]) -> None:
        """Tells of what was committed, in the order in which it was."""
        moved = []
        for record in changed:
            running = self.running.get(record.name)
            if _is_news(record, running.record if running else None):
                moved.append(record)
            if running:
                running.record = record
        for observer in self.observers:
            observer(moved)
        self.watchers.publish(changed)


def _is_news(record: AttemptRecord, before: AttemptRecord | None) -> bool:
    """Returns whether an attempt's state has changed: one that is at rest may be marked anew."""
    return not record.tombstoned if before is None else record.state is not before.state
