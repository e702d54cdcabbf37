"""What one host is still asked for: each order is carried out until its outcome is known.

It is level-triggered: what is heard removes an order, whatever is left is asked about again. An
attempt that may have gone out is asked about before it is sent; only what an agent refuses by name
is certain.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

from coordinator.agents.connection import CALL_TIMEOUT_S, Connection
from coordinator.agents.ears import Ears
from coordinator.agents.reconciling import is_in_doubt
from coordinator.agents.slots import Slots
from coordinator.agents.tickets import FindServer, SourceRefusedError, Tickets, no_servers
from coordinator.runtime import crash_points
from coordinator.runtime.ports import Chance, Delivery, HostRecord
from coordinator.saga.commands import (
    Recall,
    SendAction,
    SendCancel,
    SendCompensation,
    SendFence,
)
from coordinator.saga.events import (
    AttemptAccepted,
    AttemptCancelled,
    AttemptFailed,
    AttemptLost,
    AttemptMissing,
    AttemptRecalled,
    FenceRefused,
)
from coordinator.saga.workflow import Attempt as AttemptRecord
from coordinator.saga.workflow import Workflow
from coordinator.wire.failure import failure_from_proto
from coordinator.wire.order import Call, call_of, name_of
from coordinator.wire.report import event_from_attempt
from coordinator.wire.view import traceparent_of
from countermand.rpc.crash import Crash
from countermand.rpc.errors import (
    AttemptNotFound,
    AttemptReused,
    Busy,
    CallUnsupported,
    Compensated,
    CountermandError,
    Expired,
    Fenced,
    FieldInvalid,
    FieldUnsupported,
    HostUnreachable,
    IncarnationChanged,
    JournalLost,
    JournalRewound,
    PoolFailing,
    PoolNotFound,
    PoolNotShared,
    PoolReadOnly,
    VerbUnsupported,
    WrongCluster,
)
from countermand.rpc.names import parse_attempt
from countermand.v1.agent_pb2 import GetAttemptRequest
from countermand.v1.attempt_pb2 import Attempt

log = logging.getLogger(__name__)

CALLS_IN_FLIGHT_MAX = 64  # per host and direction; what waits here is durable
RETRY_S_MIN = 0.1  # between two calls about one attempt
RETRY_S_MAX = 3.0

# What an agent says of a request before it is in its journal, and would say of it each time: it has
# no effect, and never will. Whatever else goes wrong says nothing about the attempt.
_CERTAIN = (
    Compensated,
    Expired,
    FieldInvalid,
    FieldUnsupported,
    PoolFailing,
    PoolNotFound,
    PoolReadOnly,
    VerbUnsupported,
)
# What an agent says, and would say each time, of another host's attempt that it is to fence: it is
# not asked a second time. A pool that it could not open so far it may open yet.
_CANNOT_FENCE = (*(set(_CERTAIN) - {PoolFailing}), CallUnsupported, PoolNotShared)
# What an operator has to look at: nothing is sent to such a host.
QUARANTINING = (Fenced, IncarnationChanged, JournalLost, JournalRewound, WrongCluster)

_OUTCOMES = frozenset(
    {Attempt.STATE_SUCCEEDED, Attempt.STATE_FAILED, Attempt.STATE_CANCELLED},
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Order:
    """What is still to be done about one attempt."""

    workflow: Workflow  # as committed
    command: Delivery


class Orders:
    """Carries out what one host is asked for, while there is a connection to it."""

    def __init__(
        self,
        *,
        record: Callable[[], HostRecord],
        cluster_id: str,
        slots: Slots,
        chance: Chance,
        crash: Crash,
        ears: Ears,
        quarantine: Callable[[CountermandError], None],
        servers: FindServer = no_servers,
        trusted: Callable[[], bool] = lambda: True,
    ) -> None:
        """Keeps its ports; nothing is sent before `connected`."""
        self._trusted = trusted  # whether no other coordinator can have taken over
        self._record = record
        self._cluster_id = cluster_id
        self._chance = chance
        self._crash = crash
        self._ears = ears
        self._quarantine = quarantine
        self._tickets = Tickets(servers)
        self.connection: Connection | None = None
        self._orders: dict[str, _Order] = {}  # by the attempt's name: what has no outcome yet
        self._slots = slots  # of those: which actions may be out, and who is next
        self._sent: set[str] = set()  # of those: what may have gone out
        self._absent: set[str] = set()  # of those: what the agent says that it does not have
        self._lost: set[str] = set()  # of the orders: what was reported as lost
        self._accepted: set[str] = set()  # of the orders: what was reported as accepted
        self._taken: set[str] = set()  # of the orders: what the agent has said that it has
        self._joined: set[str] = (
            set()
        )  # of the orders: what the agent took, or had, when it was sent
        self._reused: set[str] = set()  # of the orders: what it had with other arguments
        self._had: set[str] = set()  # of these: what it had said so of before it was last asked
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._calls = asyncio.Semaphore(CALLS_IN_FLIGHT_MAX)
        self._calls_back = asyncio.Semaphore(CALLS_IN_FLIGHT_MAX)  # cancels and compensations
        self._full_until = 0.0  # the agent's queue was full: no action is sent before

    def __len__(self) -> int:
        """Returns how many attempts have no outcome yet."""
        return len(self._orders)

    # -- for the line ---------------------------------------------------------------------------

    def deliver(self, workflow: Workflow, command: Delivery, *, ask_first: bool) -> None:
        """Takes an order; a newer one about the same attempt replaces the older."""
        name = name_of(workflow, command)
        if isinstance(command, SendCancel) and self._never_out(name) and not ask_first:
            # Certain, and nobody else can know: it stood in this line from its commit to now.
            self._drop(name)
            event = AttemptCancelled(task=command.task, number=command.number)
            self._ears.event(workflow.id, event)
            return
        self._orders[name] = _Order(workflow=workflow, command=command)
        if self._slots.position(name) and not isinstance(command, SendAction):
            self._slots.free(name)  # a cancel does not stand in line
            self.wake_next()
        if ask_first and not isinstance(command, SendFence):
            self._sent.add(name)
            if not isinstance(command, SendCompensation):
                self._slots.occupy(name)  # it may be out, until the agent has said that it is not
        self._wake(name)

    def recall(self, workflow: Workflow, command: Recall, name: str) -> None:
        """Takes back an action that has not left: it stood in this line from its commit to now."""
        if self._never_out(name):
            self._drop(name)
            event = AttemptRecalled(task=command.task, number=command.number)
            self._ears.event(workflow.id, event)

    def withdraw(self, name: str) -> None:
        """Sees to an attempt no more, whatever may still be heard of it."""
        self._drop(name)

    def position(self, name: str) -> int:
        """Returns where an attempt stands in line for a slot, from 1; 0 if it does not."""
        return self._slots.position(name)

    def source_awaited(self, name: str) -> str:
        """Returns the host that an attempt waits for, since its source is there; empty if none."""
        return self._source_awaited(self._orders[name]) if self._never_out(name) else ""

    def _never_out(self, name: str) -> bool:
        order = self._orders.get(name)
        is_action = order is not None and isinstance(order.command, SendAction)
        return is_action and name not in self._sent

    def connected(self, connection: Connection) -> None:
        """Carries out everything on a new connection."""
        self.connection = connection
        self._lost.clear()
        self._accepted.clear()
        self.see_to_all()

    def disconnected(self) -> None:
        """Sends nothing until there is a connection again."""
        self.connection = None

    def see_to_all(self) -> None:
        """Asks about everything that is still open."""
        for name in tuple(self._orders):
            if not self._slots.position(name):
                self._wake(name)
        self.wake_next()

    def close(self) -> None:
        """Stops whatever is under way; the store knows of it."""
        for task in self._tasks.values():
            task.cancel()

    def heard_progress(self, attempt: Attempt) -> None:
        """Passes on how far an attempt is."""
        if order := self._orders.get(attempt.name):
            self._ears.progress(order.workflow.id, attempt.name, attempt.progress)
        elif (name := parse_attempt(attempt.name)) and self._ears.elsewhere(name.workflow_id):
            self._ears.progress(name.workflow_id, attempt.name, attempt.progress)

    def heard(self, attempt: Attempt) -> None:
        """Passes on what the agent's journal says of an attempt."""
        order = self._orders.get(attempt.name)
        if order is None:
            return
        name, command = attempt.name, order.command
        if _was_made_up_for(command, attempt):
            self._fail(name, order, Compensated(attempt=name))
            return
        if self._may_be_anothers(order, attempt):
            return
        self._taken.add(name)
        event = event_from_attempt(
            attempt, task=command.task, number=command.number, host=self._record().id
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

    def _may_be_anothers(self, order: _Order, attempt: Attempt) -> bool:
        """Returns whether an agent's record may be of another request than an order.

        A store that went back in time may have lost an attempt of the same name. Whether it was
        the same request too, the agent says when it is sent: then it joins that, and never does it
        twice.
        """
        command, guard = order.command, self._ears.guard
        if isinstance(command, SendFence) or attempt.name in self._joined:
            return False
        if isinstance(command, SendCompensation) and attempt.compensates == _compensated(order):
            return False  # to make up for the same attempt once more would change nothing
        intent = order.workflow.task(command.task).attempts[command.number - 1].intent
        return guard.is_from_before(attempt.owner_epoch) and not guard.may_be_lost(intent)

    def _drop(self, name: str) -> None:
        self._orders.pop(name, None)
        known = (self._sent, self._absent, self._lost, self._accepted, self._taken, self._had)
        for names in (*known, self._joined, self._reused):
            names.discard(name)
        self._slots.free(name)
        self.wake_next()

    def report_lost(self, error: CountermandError) -> None:
        """Says of every open attempt that nobody knows what becomes of it."""
        for name, order in self._orders.items():
            self._report_lost(name, order, error)

    def wake_next(self) -> None:
        """Has the first in line look again, if a slot is free; it does the same for the next."""
        if name := self._slots.next():
            self._wake(name)

    # -- one order ------------------------------------------------------------------------------

    def _wake(self, name: str) -> None:
        if self.connection is not None and name not in self._tasks:
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
        wait_s = RETRY_S_MIN
        while (order := self._orders.get(name)) and (connection := self.connection):
            if not self._trusted():
                await asyncio.sleep(RETRY_S_MAX)
                continue
            is_action = isinstance(order.command, SendAction)
            is_out = name in self._sent and name not in self._absent
            if not is_out and self._source_awaited(order):
                self._slots.free(name)  # others go first meanwhile
                self.wake_next()
                await asyncio.sleep(wait_s * (1 - self._chance.jitter() / 2))
                wait_s = min(wait_s * 2, RETRY_S_MAX)
                continue
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
                    if self._orders.get(name) is not order or self.connection is not connection:
                        continue  # it had to wait, and something else is asked for now
                    if not await self._carry_out(name, order, connection):
                        continue
            except CountermandError as error:
                delay_s = self._refused(name, order, error, wait_s)
                if delay_s is None:
                    return
                wait_s = min(wait_s * 2, RETRY_S_MAX)
                await asyncio.sleep(delay_s)
                continue
            if self._orders.get(name, order) is order:
                return

    def _source_awaited(self, order: _Order) -> str:
        workflow, command = order.workflow, order.command
        return self._tickets.awaited(workflow, command) if isinstance(command, SendAction) else ""

    def _has_slot(self, name: str, order: _Order) -> bool:
        """Returns whether an action may go out now; if not, it stands in line."""
        task = order.command.task
        priority = order.workflow.plan.task(task).policy.priority
        intent = order.workflow.task(task).attempts[order.command.number - 1].intent
        if not self._slots.take(name, priority=priority, intent=intent):
            self._crash(crash_points.WAITS_FOR_SLOT)
            return False
        self.wake_next()
        return True

    async def _carry_out(self, name: str, order: _Order, connection: Connection) -> bool:
        """Asks about what may be out, sends what is not; returns whether that is all for now."""
        is_fence = isinstance(order.command, SendFence)  # its journal has nothing of that
        if name in self._sent and name not in self._absent and not is_fence:
            if await self._ask(name, order, connection):
                await self._bring_ticket(name, order, connection)
                return True
            if self._orders.get(name) is not order:
                return False
            if isinstance(order.command, SendAction):
                # It waits for its turn like a new one; but it may still be on its way.
                self._absent.add(name)
                self._slots.free(name)
                self.wake_next()
                return False
        if isinstance(order.command, SendCompensation) and self._in_doubt(order):
            made = _compensated(order)
            if not await self._has(made, order, connection):
                self._stop_for(JournalRewound(why=_undecidable(made)))
                return True
        call = self._call(order)
        try:
            await self._tickets.furnish(call)
        except SourceRefusedError as refused:
            # Of what may be out nothing is certain: without a ticket it comes to nothing by itself.
            if name not in self._sent:
                self._fail(name, order, refused.cause)
                return True
        if self._orders.get(name) is not order:
            return False  # something else is asked for since
        self._sent.add(name)
        self._absent.discard(name)
        self._crash(crash_points.BEFORE_SEND)
        self._note_had(name, order)
        answer = await connection.call(
            call.rpc,
            call.request,
            timeout_s=CALL_TIMEOUT_S,
            traceparent=traceparent_of(order.workflow, name),
        )
        self._crash(crash_points.AFTER_SEND)
        self._joined.add(name)
        self.heard(answer.attempt)
        return True

    def _call(self, order: _Order) -> Call:
        return call_of(
            order.workflow,
            order.command,
            cluster_id=self._cluster_id,
            incarnation=self._record().incarnation,
        )

    async def _bring_ticket(self, name: str, order: _Order, connection: Connection) -> None:
        """Sends an open attempt again, which its agent has, if it needs a fresh ticket."""
        if self._orders.get(name) is not order or not isinstance(order.command, SendAction):
            return
        call = self._call(order)
        try:
            if await self._tickets.furnish(call):
                await connection.call(call.rpc, call.request, timeout_s=CALL_TIMEOUT_S)
        except (CountermandError, SourceRefusedError) as error:
            log.info("ticket.missing", extra={"attempt": name, "error": str(error)})

    async def _ask(self, name: str, order: _Order, connection: Connection) -> bool:
        """Asks what became of an attempt; returns whether there is nothing more to send."""
        self._note_had(name, order)
        attempt = await self._read(name, order, connection)
        if attempt is None:
            return self._orders.get(name) is order and self._is_amiss(name, order)
        if self._may_be_anothers(order, attempt):
            if name not in self._reused:
                return False
            self._fail(name, order, AttemptReused(attempt=name))
            return True
        self.heard(attempt)
        return not isinstance(order.command, SendCancel) or attempt.state in _OUTCOMES

    async def _has(self, name: str, order: _Order, connection: Connection) -> bool:
        return await self._read(name, order, connection) is not None

    async def _read(self, name: str, order: _Order, connection: Connection) -> Attempt | None:
        """Returns what the agent's journal has of an attempt."""
        attempts = order.workflow.task(order.command.task).attempts
        request = GetAttemptRequest(
            name=name,
            owner_epoch=order.workflow.owner_epoch,
            cluster_id=self._cluster_id,
            intent_sequence=attempts[order.command.number - 1].intent,
        )
        try:
            answer = await connection.call("GetAttempt", request, timeout_s=CALL_TIMEOUT_S)
        except AttemptNotFound as error:
            if error.metadata.get("incarnation") in (None, "", self._record().incarnation):
                return None
            # Of a journal that it does not have any more: the line greets it anew.
            raise HostUnreachable(address=self._record().address) from error
        except CountermandError as error:
            # Whatever keeps it from answering says nothing about the attempt.
            raise HostUnreachable(address=self._record().address) from error
        found: Attempt = answer.attempt
        return found

    def _note_had(self, name: str, order: _Order) -> None:
        """Notes whether the agent must have an attempt: then it may not answer that it has not.

        One that arrives only now may be heard of before that answer.
        """
        if name in self._taken or any(a.start_time is not None for a in self._last(order)):
            self._had.add(name)

    def _last(self, order: _Order) -> tuple[AttemptRecord, ...]:
        """Returns the attempt of an order as committed, if it is its task's last."""
        workflow, command = self._ears.workflow(order.workflow.id), order.command
        last = workflow.task(command.task).attempts[-1:] if workflow else ()
        return tuple(attempt for attempt in last if attempt.number == command.number)

    def _is_amiss(self, name: str, order: _Order) -> bool:
        """Returns whether an agent that does not have an attempt must not be sent anything more."""
        last = self._last(order)
        if not (last and last[0].open):
            return False  # nobody waits for it any more: it may have been told to forget
        if name in self._had and last[0].intent >= self._record().lost_intent:
            self._stop_for(JournalRewound(why=f"it had {name}, and has it no more"))
        elif isinstance(order.command, SendCancel) and self._in_doubt(order):
            self._stop_for(JournalRewound(why=_undecidable(name)))
        else:
            return False
        return True

    def _in_doubt(self, order: _Order) -> bool:
        return is_in_doubt(self._record(), order.workflow, order.command)

    def _stop_for(self, error: CountermandError) -> None:
        """Sends nothing more, until somebody has looked; nothing is concluded."""
        log.error("host.held", extra={"host": self._record().id, "reason": error.reason})
        self.disconnected()
        self._quarantine(error)
        self.report_lost(error)

    def _refused(
        self, name: str, order: _Order, error: CountermandError, wait_s: float
    ) -> float | None:
        """Returns how long to wait before trying again; None if there is nothing more to do."""
        workflow_id, command = order.workflow.id, order.command
        if isinstance(error, Expired) and self._proves_loss(name, order):
            return wait_s
        if isinstance(error, AttemptReused):
            self._reused.add(name)
        if isinstance(error, Busy):
            delay_s = error.retry_delay.total_seconds()
            if isinstance(command, SendAction):
                self._full_until = asyncio.get_running_loop().time() + delay_s
            return delay_s
        if isinstance(error, QUARANTINING):
            self._quarantine(error)
            log.error("order.refused", extra={"attempt": name, "reason": error.reason})
            self._report_lost(name, order, error)
            return None
        if isinstance(error, AttemptNotFound) and isinstance(command, SendCancel):
            if self._is_amiss(name, order):
                return None
            self._drop(name)
            self._ears.event(workflow_id, AttemptMissing(task=command.task, number=command.number))
            return None
        if isinstance(command, SendFence):
            return self._fence_refused(name, order, error, wait_s)
        if not isinstance(error, _CERTAIN) or isinstance(command, SendCancel):
            return wait_s  # it is in _sent: the next round asks first
        self._fail(name, order, error)
        return None

    def _proves_loss(self, name: str, order: _Order) -> bool:
        """Returns whether an agent was told to forget what is open: by a store that knew more.

        It would have been told so only after it had settled, so that it may have taken effect.
        """
        attempts = order.workflow.task(order.command.task).attempts
        if self._ears.guard.may_be_lost(attempts[order.command.number - 1].intent):
            return False  # an operator has looked since
        host = self._record().id
        why = f"host {host} was told to forget {name}, which is open"
        # If it is still the own one: another coordinator may have seen to its end meanwhile.
        self._ears.guard.notice(why, own=order.workflow.id)
        return True

    def _fail(self, name: str, order: _Order, error: CountermandError) -> None:
        """Says that an attempt has failed for certain, without any effect."""
        self._drop(name)
        failure = failure_from_proto(error.failure(attempt=name, host_id=self._record().id))
        command = order.command
        event = AttemptFailed(task=command.task, number=command.number, failure=failure)
        self._ears.event(order.workflow.id, event)

    def _fence_refused(
        self, name: str, order: _Order, error: CountermandError, wait_s: float
    ) -> float | None:
        """Says that a host cannot fence another's attempt; until it is sure, it is asked again."""
        if not isinstance(error, _CANNOT_FENCE):
            return wait_s
        self._drop(name)
        command, host = order.command, self._record().id
        failure = failure_from_proto(error.failure(attempt=name, host_id=host))
        refused = FenceRefused(task=command.task, number=command.number, host=host, failure=failure)
        self._ears.event(order.workflow.id, refused)
        return None

    def _full_for_s(self) -> float:
        """Returns how long no action is sent, because the agent's queue was full."""
        return self._full_until - asyncio.get_running_loop().time()

    def _report_lost(self, name: str, order: _Order, error: CountermandError) -> None:
        if name in self._lost:
            return
        self._lost.add(name)
        self._accepted.discard(name)
        command = order.command
        failure = failure_from_proto(error.failure(attempt=name, host_id=self._record().id))
        self._ears.event(
            order.workflow.id,
            AttemptLost(task=command.task, number=command.number, failure=failure),
        )


def _was_made_up_for(command: Delivery, attempt: Attempt) -> bool:
    """Returns whether what is asked for shows nothing any more, however it ended.

    It was made up for by a store that is no more.
    """
    is_action = isinstance(command, SendAction | SendCancel)
    return is_action and attempt.tombstoned and attempt.state == Attempt.STATE_SUCCEEDED


def _compensated(order: _Order) -> str:
    """Returns the attempt that an order makes up for."""
    command = order.command
    made = order.workflow.task(command.task).attempts[command.number - 1].compensates
    return name_of(order.workflow, replace(command, number=made))


def _undecidable(name: str) -> str:
    return f"it was lost, and whether {name} took effect cannot be found out"
