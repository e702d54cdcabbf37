"""The line to one host: sees to every order until its outcome is known, and to nothing else.

While it is connected it watches the agent's journal and carries orders out; each time it connects
it asks about whatever may have gone out before. It is level-triggered: what is heard removes an
order, whatever is left is asked about again. No verdict is taken from silence: a host that is
silent for long makes its attempts UNKNOWN, never failed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import datetime

from coordinator.agents.connection import CALL_TIMEOUT_S, Connect, Connection
from coordinator.agents.slots import WINDOW, Slots
from coordinator.runtime import crash_points
from coordinator.runtime.ports import (
    Chance,
    Clock,
    Delivery,
    HostRecord,
    HostState,
    HostView,
)
from coordinator.saga.commands import SendAction, SendCancel, SendCompensation
from coordinator.saga.events import (
    AttemptAccepted,
    AttemptCancelled,
    AttemptEvent,
    AttemptFailed,
    AttemptLost,
    AttemptMissing,
    HostChosen,
)
from coordinator.saga.workflow import Workflow
from coordinator.wire.failure import failure_from_proto
from coordinator.wire.order import call_of, name_of
from coordinator.wire.report import event_from_attempt
from coordinator.wire.view import traceparent_of
from countermand.rpc.crash import Crash
from countermand.rpc.errors import (
    AttemptNotFound,
    Bug,
    Busy,
    Compensated,
    CountermandError,
    Expired,
    Fenced,
    FieldInvalid,
    FieldUnsupported,
    HostUnreachable,
    IncarnationChanged,
    PoolNotFound,
    PoolReadOnly,
    VerbUnsupported,
    WrongCluster,
)
from countermand.v1.agent_pb2 import (
    GetAttemptRequest,
    GetHostRequest,
    HostReport,
    WatchAttemptsRequest,
    WatchAttemptsResponse,
)
from countermand.v1.attempt_pb2 import Attempt, Progress

log = logging.getLogger(__name__)


CALLS_IN_FLIGHT_MAX = 64  # per host and direction; what waits here is durable
SUSPECT_S = 15.0  # silence after which attempts are shown as UNKNOWN
UNREACHABLE_S = 60.0  # silence after which people should look
RESYNC_S = 30.0  # everything that is still open is asked about this often, come what may
RECONNECT_S_MIN = 0.1
RECONNECT_S_MAX = 3.0

# What an agent says of a request before it is in its journal, and would say of it each time: it has
# no effect, and never will. Whatever else goes wrong says nothing about the attempt.
_CERTAIN = (
    Compensated,
    Expired,
    FieldInvalid,
    FieldUnsupported,
    PoolNotFound,
    PoolReadOnly,
    VerbUnsupported,
)
# What an operator has to look at: nothing is sent to such a host.
_QUARANTINING = (Fenced, IncarnationChanged, WrongCluster)

_OUTCOMES = frozenset(
    {Attempt.STATE_SUCCEEDED, Attempt.STATE_FAILED, Attempt.STATE_CANCELLED},
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ears:
    """Whom a line tells what it hears."""

    event: Callable[[str, AttemptEvent | HostChosen], None]  # (workflow id, fact)
    progress: Callable[[str, str, Progress], None]  # (workflow id, attempt, how far)
    record: Callable[[HostRecord], Awaitable[None]]  # the host's record changed: keeps it
    in_flight: Callable[[str], bool]  # (host id) → whether an attempt of an open workflow is there


@dataclass(frozen=True, slots=True, kw_only=True)
class _Standing:
    """What is still to be done about one attempt."""

    workflow: Workflow  # as committed
    command: Delivery


class Line:
    """Delivers orders to one host."""

    def __init__(
        self,
        record: HostRecord,
        *,
        connect: Connect,
        cluster_id: str,
        clock: Clock,
        chance: Chance,
        crash: Crash,
        ears: Ears,
        window: int = WINDOW,
        when_up: Callable[[], None] = lambda: None,
    ) -> None:
        """Keeps its ports; `run` connects."""
        self.record = record
        self.report: HostReport | None = None  # the agent's description of itself, as last heard
        self.problem: CountermandError | None = None
        self.seen_time: datetime | None = None
        self._connect = connect
        self._cluster_id = cluster_id
        self._clock = clock
        self._chance = chance
        self._crash = crash
        self._ears = ears
        self._when_up = when_up
        self._keeping = asyncio.Lock()  # of the record: what draws on it is written one by one
        self._connection: Connection | None = None  # set while the watch runs
        self._orders: dict[str, _Standing] = {}  # by the attempt's name: what has no outcome yet
        self._slots = Slots(window)  # of those: which actions may be out, and who is next
        self._sent: set[str] = set()  # of those: what may have gone out
        self._absent: set[str] = set()  # of those: what the agent says that it does not have
        self._lost: set[str] = set()  # of the orders: what was reported as lost
        self._accepted: set[str] = set()  # of the orders: what was reported as accepted
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._calls = asyncio.Semaphore(CALLS_IN_FLIGHT_MAX)
        self._calls_back = asyncio.Semaphore(CALLS_IN_FLIGHT_MAX)  # cancels and compensations
        self._full_until = 0.0  # the agent's queue was full: no action is sent before
        self._silent_since = asyncio.get_running_loop().time()
        self._up = asyncio.Event()

    # -- for the fleet --------------------------------------------------------------------------

    @property
    def state(self) -> HostState:
        """Returns where the host is."""
        if isinstance(self.problem, _QUARANTINING):
            return HostState.QUARANTINED
        if self._connection is not None:
            return HostState.READY
        silent_s = asyncio.get_running_loop().time() - self._silent_since
        if silent_s >= UNREACHABLE_S:
            return HostState.UNREACHABLE
        if silent_s >= SUSPECT_S:
            return HostState.SUSPECT
        return HostState.CONNECTING if self.seen_time is None else HostState.SUSPECT

    def view(self) -> HostView:
        """Returns the host as it stands now."""
        problem = self.problem.failure(host_id=self.record.id) if self.problem else None
        return HostView(
            record=self.record,
            state=self.state,
            problem=failure_from_proto(problem) if problem else None,
            report=self.report,
            open_attempts=len(self._orders) - self._slots.waiting,
            waiting=self._slots.waiting,
            window=self._slots.window,
            seen_time=self.seen_time,
            silent_s=asyncio.get_running_loop().time() - self._silent_since,
        )

    async def ready(self, timeout_s: float) -> None:
        """Returns once the line is up, or the time is over."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._up.wait()
        except TimeoutError:
            pass

    @property
    def load(self) -> int:
        """Returns how many attempts it sees to, those that wait for a slot included."""
        return len(self._orders)

    def deliver(self, workflow: Workflow, command: Delivery, *, ask_first: bool) -> None:
        """Takes an order; a newer one about the same attempt replaces the older."""
        name = name_of(workflow, command)
        if isinstance(command, SendCancel) and self._never_out(name) and not ask_first:
            # Certain, and nobody else can know: it stood in this line from its commit to now.
            self._drop(name)
            event = AttemptCancelled(task=command.task, number=command.number)
            self._ears.event(workflow.id, event)
            return
        self._orders[name] = _Standing(workflow=workflow, command=command)
        if ask_first:
            self._sent.add(name)
            if not isinstance(command, SendCompensation):
                self._slots.occupy(name)  # it may be out, until the agent has said that it is not
        self._wake(name)

    def withdraw(self, name: str) -> None:
        """Sees to an attempt no more, whatever may still be heard of it."""
        self._drop(name)

    def position(self, name: str) -> int:
        """Returns where an attempt stands in line for a slot, from 1; 0 if it does not."""
        return self._slots.position(name)

    def _never_out(self, name: str) -> bool:
        standing = self._orders.get(name)
        is_action = standing is not None and isinstance(standing.command, SendAction)
        return is_action and name not in self._sent

    async def keep(self, change: Callable[[HostRecord], HostRecord]) -> None:
        """Changes the record of its host, durably first."""
        async with self._keeping:
            record = change(self.record)
            if record != self.record:
                await self._ears.record(record)
                self.record = record

    async def run(self) -> None:
        """Keeps the line up until cancelled."""
        wait_s = RECONNECT_S_MIN
        try:
            while True:
                connection = self._connect(self.record.address)
                try:
                    await self._session(connection)
                    self.problem = HostUnreachable(address=self.record.address)
                except CountermandError as error:
                    self.problem = error
                except Exception as error:
                    # A message that cannot be processed must not end the line to its host.
                    log.exception("line.failed", extra={"host": self.record.id})
                    self.problem = Bug(what=repr(error))
                finally:
                    if self._connection is not None:
                        wait_s = RECONNECT_S_MIN
                        self._silent_since = asyncio.get_running_loop().time()
                        log.warning("host.lost", extra={"host": self.record.id})
                    self._connection = None
                    self._up.clear()
                    await connection.close()
                self._report_silence()
                await asyncio.sleep(wait_s * (1 - self._chance.jitter() / 2))
                wait_s = min(wait_s * 2, RECONNECT_S_MAX)
        finally:
            for task in self._tasks.values():
                task.cancel()

    # -- connected ------------------------------------------------------------------------------

    async def _session(self, connection: Connection) -> None:
        """Greets the agent, then watches its journal until the stream breaks."""
        answer = await connection.call("GetHost", GetHostRequest(), timeout_s=CALL_TIMEOUT_S)
        await self._greet(answer.host)
        resync: asyncio.Task[None] | None = None
        time = asyncio.get_running_loop().time
        try:
            # A quiet agent sends bookmarks: one that is mute for so long is not well.
            async with asyncio.timeout(SUSPECT_S) as limit:
                # Watch first, then ask: whatever changes in between is in the stream.
                async for message in connection.watch(WatchAttemptsRequest()):
                    limit.reschedule(time() + SUSPECT_S)
                    if self._connection is None:
                        self._connected(connection)
                        resync = asyncio.create_task(self._resync())
                    self._take(message)
        except TimeoutError:
            raise HostUnreachable(address=self.record.address) from None
        finally:
            if resync is not None:
                resync.cancel()

    async def _greet(self, report: HostReport) -> None:
        """Checks that the agent is the one that the open attempts were planned with."""
        if report.cluster_id not in ("", self._cluster_id):
            raise WrongCluster(expected=report.cluster_id, cluster_id=self._cluster_id)
        known = self.record.incarnation
        if known and known != report.incarnation and self._ears.in_flight(self.record.id):
            # A lost journal is never read as "nothing to make up for": somebody has to look.
            raise IncarnationChanged(incarnation=report.incarnation, expected=known)
        self.report = report
        # Kept before the first order goes out: what was sent is known to have been sent to it.
        await self.keep(lambda record: replace(record, incarnation=report.incarnation))

    def _connected(self, connection: Connection) -> None:
        self._connection = connection
        self._up.set()
        self.problem = None
        self._lost.clear()
        self._accepted.clear()
        log.info("host.ready", extra={"host": self.record.id, "open": len(self._orders)})
        self._wake_all()
        self._when_up()

    async def _resync(self) -> None:
        """Asks about everything that is still open, now and then: nothing hangs on one message."""
        while True:
            await asyncio.sleep(RESYNC_S)
            self._wake_all()

    def _take(self, message: WatchAttemptsResponse) -> None:
        self.seen_time = self._clock.now()
        self._silent_since = asyncio.get_running_loop().time()
        for update in message.updates:
            if update.sequence:
                self._heard(update.attempt)
            elif standing := self._orders.get(update.attempt.name):
                attempt = update.attempt
                self._ears.progress(standing.workflow.id, attempt.name, attempt.progress)

    def _heard(self, attempt: Attempt) -> None:
        """Passes on what the agent's journal says of an attempt."""
        order = self._orders.get(attempt.name)
        if order is None:
            return
        name, command = attempt.name, order.command
        event = event_from_attempt(
            attempt, task=command.task, number=command.number, host=self.record.id
        )
        if isinstance(event, AttemptAccepted):
            if name in self._accepted:
                return  # the answer and the watch both say so
            self._accepted.add(name)
        elif isinstance(event, AttemptLost):
            self._accepted.discard(name)
            if isinstance(command, SendCancel):
                # The agent itself cannot tell, and a cancel will not teach it: as if never seen.
                event = AttemptMissing(task=command.task, number=command.number)
        if attempt.state in _OUTCOMES or isinstance(event, AttemptMissing):
            self._drop(name)
        if event is not None:
            self._ears.event(order.workflow.id, event)

    def _drop(self, name: str) -> None:
        self._orders.pop(name, None)
        for names in (self._sent, self._absent, self._lost, self._accepted):
            names.discard(name)
        self._slots.free(name)
        self._wake_next()

    # -- one order ------------------------------------------------------------------------------

    def _wake_all(self) -> None:
        for name in tuple(self._orders):
            if not self._slots.position(name):
                self._wake(name)
        self._wake_next()

    def _wake_next(self) -> None:
        """Has the first in line look again, if a slot is free; it does the same for the next."""
        if name := self._slots.next():
            self._wake(name)

    def _wake(self, name: str) -> None:
        if self._connection is not None and name not in self._tasks:
            task = asyncio.create_task(self._see_to(name))
            self._tasks[name] = task
            task.add_done_callback(lambda done: self._seen_to(name, done))

    def _seen_to(self, name: str, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()):
            # A defect of ours: the order stays, and is asked about again with the others.
            log.error("order.failed", exc_info=error, extra={"attempt": name})

    async def _see_to(self, name: str) -> None:
        """Carries out the newest order about an attempt; the watch says what comes of it."""
        try:
            await self._see_to_newest(name)
        finally:
            # At once, not when the task is looked at: an order in between must wake it again.
            del self._tasks[name]

    async def _see_to_newest(self, name: str) -> None:
        wait_s = RECONNECT_S_MIN
        while (order := self._orders.get(name)) and (connection := self._connection):
            is_action = isinstance(order.command, SendAction)
            is_out = name in self._sent and name not in self._absent
            if is_action and not is_out and not self._has_slot(name, order):
                return  # it is woken when its turn has come
            if is_action and (full_s := self._full_for_s()) > 0:
                # Each waits a little longer than told, so that they do not come all at once.
                await asyncio.sleep(full_s * (1 + self._chance.jitter() / 2))
                continue
            try:
                async with self._calls if is_action else self._calls_back:
                    if is_action and self._full_for_s() > 0:
                        continue
                    if self._orders.get(name) is not order or self._connection is not connection:
                        continue  # it had to wait, and something else is asked for now
                    if not await self._carry_out(name, order, connection):
                        continue
            except CountermandError as error:
                delay_s = self._refused(name, order, error, wait_s)
                if delay_s is None:
                    return
                wait_s = min(wait_s * 2, RECONNECT_S_MAX)
                await asyncio.sleep(delay_s)
                continue
            if self._orders.get(name, order) is order:
                return

    def _has_slot(self, name: str, order: _Standing) -> bool:
        """Returns whether an action may go out now; if not, it stands in line."""
        task = order.command.task
        priority = order.workflow.plan.task(task).policy.priority
        intent = order.workflow.task(task).attempts[order.command.number - 1].intent
        if not self._slots.take(name, priority=priority, intent=intent):
            self._crash(crash_points.WAITS_FOR_SLOT)
            return False
        self._wake_next()
        return True

    async def _carry_out(self, name: str, order: _Standing, connection: Connection) -> bool:
        """Asks about what may be out, sends what is not; returns whether that is all for now."""
        if name in self._sent and name not in self._absent:
            if await self._ask(name, order, connection):
                return True
            if self._orders.get(name) is not order:
                return False
            if isinstance(order.command, SendAction):
                # It waits for its turn like a new one; but it may still be on its way.
                self._absent.add(name)
                self._slots.free(name)
                self._wake_next()
                return False
        call = call_of(
            order.workflow,
            order.command,
            cluster_id=self._cluster_id,
            incarnation=self.record.incarnation,
        )
        self._sent.add(name)
        self._absent.discard(name)
        self._crash(crash_points.BEFORE_SEND)
        answer = await connection.call(
            call.rpc,
            call.request,
            timeout_s=CALL_TIMEOUT_S,
            traceparent=traceparent_of(order.workflow, name),
        )
        self._crash(crash_points.AFTER_SEND)
        self._heard(answer.attempt)
        return True

    async def _ask(self, name: str, order: _Standing, connection: Connection) -> bool:
        """Asks what became of an attempt; returns whether there is nothing more to send."""
        request = GetAttemptRequest(
            name=name, owner_epoch=order.workflow.owner_epoch, cluster_id=self._cluster_id
        )
        try:
            answer = await connection.call("GetAttempt", request, timeout_s=CALL_TIMEOUT_S)
        except AttemptNotFound:
            return False
        except CountermandError as error:
            # Whatever keeps it from answering says nothing about the attempt.
            raise HostUnreachable(address=self.record.address) from error
        self._heard(answer.attempt)
        return not isinstance(order.command, SendCancel) or answer.attempt.state in _OUTCOMES

    def _refused(
        self, name: str, order: _Standing, error: CountermandError, wait_s: float
    ) -> float | None:
        """Returns how long to wait before trying again; None if there is nothing more to do."""
        workflow_id, command = order.workflow.id, order.command
        if isinstance(error, Busy):
            delay_s = error.retry_delay.total_seconds()
            if isinstance(command, SendAction):
                self._full_until = asyncio.get_running_loop().time() + delay_s
            return delay_s
        if isinstance(error, _QUARANTINING):
            self.problem = error
            log.error("order.refused", extra={"attempt": name, "reason": error.reason})
            self._report_lost(name, order, error)
            return None
        if isinstance(error, AttemptNotFound) and isinstance(command, SendCancel):
            self._drop(name)
            self._ears.event(workflow_id, AttemptMissing(task=command.task, number=command.number))
            return None
        if not isinstance(error, _CERTAIN) or isinstance(command, SendCancel):
            return wait_s  # it is in _sent: the next round asks first
        self._drop(name)
        failure = failure_from_proto(error.failure(attempt=name, host_id=self.record.id))
        self._ears.event(
            workflow_id,
            AttemptFailed(task=command.task, number=command.number, failure=failure),
        )
        return None

    def _full_for_s(self) -> float:
        """Returns how long no action is sent, because the agent's queue was full."""
        return self._full_until - asyncio.get_running_loop().time()

    # -- silence --------------------------------------------------------------------------------

    def _report_silence(self) -> None:
        """Says of every open attempt that nobody knows, once the host has been silent for long."""
        quarantined = self.state is HostState.QUARANTINED
        silent_s = asyncio.get_running_loop().time() - self._silent_since
        if not quarantined and silent_s < SUSPECT_S:
            return
        for name, order in self._orders.items():
            if name not in self._lost:
                problem = self.problem or HostUnreachable(address=self.record.address)
                self._report_lost(name, order, problem)

    def _report_lost(self, name: str, order: _Standing, error: CountermandError) -> None:
        if name in self._lost:
            return
        self._lost.add(name)
        self._accepted.discard(name)
        command = order.command
        failure = failure_from_proto(error.failure(attempt=name, host_id=self.record.id))
        self._ears.event(
            order.workflow.id,
            AttemptLost(task=command.task, number=command.number, failure=failure),
        )
