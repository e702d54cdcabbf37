"""What waits for owners of external tasks, who watches, and what comes of their silence.

It holds nothing that is not in the workflows as committed: an attempt of an external task waits for
its owner for as long as its outcome is open. Orders only say that something is to be done about it;
after a restart they are delivered again, and find it here as it was.
"""

from __future__ import annotations

import asyncio
import logging
from bisect import bisect_left, insort
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial

from coordinator.owners.reported import Reported
from coordinator.owners.silence import Silence
from coordinator.runtime.owners import Key, Standing, Waiting, waits_for
from coordinator.runtime.ports import Order, ProgressRecord
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
    AttemptEvent,
    AttemptLost,
    AttemptRecalled,
    FenceRefused,
    OwnerSilent,
)
from coordinator.saga.reports import OWNER_SILENT
from coordinator.saga.states import (
    AttemptState,
    Effect,
    TaskState,
    WorkflowState,
)
from coordinator.saga.workflow import STOPS_LATE, Failure, Workflow
from countermand.rpc.errors import WatcherTooSlow
from countermand.rpc.names import attempt_name, workflow_name

log = logging.getLogger(__name__)

HEARTBEAT_LAPSED = "HEARTBEAT_LAPSED"
OPERATOR_CHECKLIST = "OPERATOR_CHECKLIST"
PATIENCE_S = 600.0  # with an owner that was asked to stop or to make up for something
UNREAD_MAX = 100_000  # names that a watch keeps for a reader that does not read: it can watch anew
QUIET_S = 30.0  # a watch says that it is alive

Say = Callable[[str, AttemptEvent | OwnerSilent], None]  # (workflow id, fact)
Show = Callable[[str, str, ProgressRecord], None]  # (workflow id, attempt, how far)
Slot = tuple[str, int]  # a task: workflow id, index
Place = tuple[int, str]  # an attempt's among all: its intent, its name


@dataclass(slots=True)
class _Queue:
    """What waits for one owner, the oldest first; counted as it moves, since it may be much."""

    places: list[Place] = field(default_factory=list)
    unaccepted: int = 0
    silent: int = 0

    def count(self, waiting: Waiting) -> None:
        self.unaccepted += not waiting.accepted
        self.silent += waiting.silent

    def discount(self, waiting: Waiting) -> None:
        self.unaccepted -= not waiting.accepted
        self.silent -= waiting.silent


class Watcher:
    """Somebody who watches what waits for one owner: the names that have changed since."""

    def __init__(self, names: Sequence[str]) -> None:
        """Begins with everything that waits."""
        self._changed = dict.fromkeys(names)
        self._too_slow = False
        self._woken = asyncio.Event()

    def changed(self, name: str) -> None:
        """Hears that something about an attempt is different."""
        if len(self._changed) < UNREAD_MAX:
            self._changed[name] = None
        else:
            self._too_slow = True
        self._woken.set()

    def take(self) -> list[str]:
        """Returns the names that have changed, each once.

        Raises:
            WatcherTooSlow: So many have that not all were kept.
        """
        if self._too_slow:
            raise WatcherTooSlow(events_max=UNREAD_MAX)
        names = list(self._changed)
        self._changed.clear()
        self._woken.clear()
        return names

    async def wait(self, timeout_s: float) -> None:
        """Waits until something has changed, or the time is over."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._woken.wait()
        except TimeoutError:
            pass


class Owners:
    """What waits for owners; it takes orders as lines to hosts do."""

    def __init__(self, *, say: Say, show: Show, reported: Reported) -> None:
        """Waits for nobody yet."""
        self._say = say
        self._show = show
        self._reported = reported
        self._by_slot: dict[Slot, Waiting] = {}
        self._by_name: dict[str, Waiting] = {}
        self._by_workflow: dict[str, set[int]] = {}
        self._by_owner: dict[str, _Queue] = {}
        self._watchers: dict[str, set[Watcher]] = {}
        self._silence: Silence[str] = Silence(self._is_silent)
        # What was asked to stop: signs of life are no answer to that.
        self._stopping: Silence[str] = Silence(self._stops_late)

    def open(self, workflows: Iterable[Workflow]) -> None:
        """Takes up what waited before a restart: nobody must be told meanwhile that it is over."""
        for workflow in workflows:
            self.moved(workflow, frozenset(range(len(workflow.plan.nodes))))
        self._reported.keep(waiting.key for waiting in self._by_slot.values())

    async def run(self) -> None:
        """Sees to it that silence is noticed, until cancelled."""
        async with asyncio.TaskGroup() as both:
            both.create_task(self._silence.run())
            both.create_task(self._stopping.run())

    # -- for the service ------------------------------------------------------------------------

    def waiting(self, name: str) -> Waiting | None:
        """Returns an attempt that waits for its owner."""
        return self._by_name.get(name)

    def of(self, owner: str) -> Sequence[str]:
        """Returns the names of what waits for an owner, the oldest first."""
        return tuple(name for _, name in self._places(owner))

    def page(self, owner: str, *, after: int, limit: int) -> Sequence[Waiting]:
        """Returns what waits for an owner, the oldest first, from after an intent on."""
        places = self._places(owner)
        first = bisect_left(places, (after + 1, ""))
        return tuple(self._by_name[name] for _, name in places[first : first + limit])

    def count(self, owner: str) -> int:
        """Returns how much waits for an owner."""
        return len(self._places(owner))

    def _places(self, owner: str) -> Sequence[Place]:
        queue = self._by_owner.get(owner)
        return queue.places if queue else ()

    def standings(self, *, after: str, limit: int) -> Sequence[Standing]:
        """Returns how owners stand, in order of their ids, from after one on."""
        known = sorted(owner for owner in {*self._by_owner, *self._watchers} if owner > after)
        return [self._standing(owner) for owner in known[:limit]]

    def _standing(self, owner: str) -> Standing:
        queue = self._by_owner.get(owner) or _Queue()
        oldest = self._by_name[queue.places[0][1]] if queue.places else None
        return Standing(
            owner=owner,
            waiting=len(queue.places),
            unaccepted=queue.unaccepted,
            silent=queue.silent,
            oldest_time=oldest.attempt.create_time if oldest else None,
            watching=owner in self._watchers,
        )

    def counts(self) -> dict[str, int]:
        """Returns how much waits for each owner."""
        return {owner: len(queue.places) for owner, queue in self._by_owner.items()}

    async def watch(self, owner: str) -> AsyncGenerator[Sequence[str]]:
        """Yields names: first of everything that waits, then of what changes; or none for long.

        A slow reader misses nothing: what changed twice is told once.
        """
        watcher = Watcher(self.of(owner))
        self._watchers.setdefault(owner, set()).add(watcher)
        try:
            yield watcher.take()
            while True:
                await watcher.wait(QUIET_S)
                yield watcher.take()
        finally:
            self._watchers[owner].discard(watcher)
            if not self._watchers[owner]:
                del self._watchers[owner]

    def heard(self, name: str) -> AttemptState | None:
        """Hears a sign of life of an attempt; returns where it is, None if it waits for nobody."""
        waiting = self._by_name.get(name)
        if waiting is None:
            return None
        self._silence.hear(name)
        if waiting.state is TaskState.UNKNOWN and waiting.accepted:
            event = AttemptAccepted(task=waiting.index, number=waiting.attempt.number)
            self._say(waiting.workflow_id, event)
            return AttemptState.RUNNING  # it is, as soon as that is committed
        return waiting.attempt.state

    def progress(self, key: Key) -> ProgressRecord | None:
        """Returns the last progress that was reported of an attempt."""
        return self._reported.get(key)

    async def report(self, record: ProgressRecord) -> ProgressRecord:
        """Keeps a report, and returns what is known once that is durable."""
        return await self._reported.report(record)

    # -- orders ---------------------------------------------------------------------------------

    def deliver(self, order: Order) -> None:
        """Takes an order; returns at once."""
        workflow, command = order.workflow, order.command
        if isinstance(command, SendAction | SendCancel | SendCompensation):
            self._look_at(workflow, command.task)
        waiting = self._by_slot.get((workflow.id, command.task))
        if waiting is None or waiting.attempt.number != command.number:
            return
        match command:
            case SendCancel() if not waiting.accepted or _is_in_nobodys_way(workflow, waiting):
                self._say(workflow.id, _cancelled(waiting))
            case SendCompensation() if waiting.checklist:
                self._ask_people(waiting)
            case Recall() if not waiting.accepted:
                self._say(workflow.id, AttemptRecalled(task=command.task, number=command.number))
            case SendFence():
                self._refuse_fence(waiting, command)
            case _:
                pass

    def moved(self, workflow: Workflow, changed: frozenset[int]) -> None:
        """Hears that a workflow has changed."""
        mine = self._by_workflow.get(workflow.id)
        if mine is not None and workflow.settled:
            for index in tuple(mine):
                self._forget((workflow.id, index))
            return
        for index in changed:
            spec = workflow.plan.nodes[index].task
            if spec is not None and spec.external is not None:
                self._look_at(workflow, index)

    def _look_at(self, workflow: Workflow, index: int) -> None:
        """Keeps what waits for an owner as the workflow says."""
        task, slot = workflow.task(index), (workflow.id, index)
        owner = waits_for(workflow, index)
        known = self._by_slot.get(slot)
        if known is not None and (not owner or known.attempt.number != task.last.number):
            self._forget(slot)
            known = None
        if owner:
            name = attempt_name(workflow.id, workflow.plan.nodes[index].name, task.last.number)
            waiting = Waiting(
                workflow_id=workflow.id,
                index=index,
                owner=owner,
                name=name,
                spec=workflow.plan.task(index),
                state=task.state,
                attempt=task.last,
            )
            self._by_slot[slot] = self._by_name[name] = waiting
            self._by_workflow.setdefault(workflow.id, set()).add(index)
            queue = self._by_owner.setdefault(owner, _Queue())
            queue.count(waiting)
            if known is not None:
                queue.discount(known)
            else:
                # Nearly always the last place: intents grow.
                insort(queue.places, _place(waiting))
                if kept := self._reported.get(waiting.key):
                    self._show(workflow.id, name, kept)  # an earlier life has heard it
                elif waiting.accepted:  # by another session's owner, which may have heard more
                    self._reported.seek(waiting.key, partial(self._show, workflow.id, name))
            self._tell(owner, name)
            self._wait_for(waiting)

    def _forget(self, slot: Slot) -> None:
        waiting = self._by_slot.pop(slot, None)
        if waiting is None:
            return
        del self._by_name[waiting.name]
        queue, of_workflow = self._by_owner[waiting.owner], self._by_workflow[slot[0]]
        del queue.places[bisect_left(queue.places, _place(waiting))]
        queue.discount(waiting)
        of_workflow.discard(slot[1])
        if not queue.places:
            del self._by_owner[waiting.owner]
        if not of_workflow:
            del self._by_workflow[slot[0]]
        self._silence.forget(waiting.name)
        self._stopping.forget(waiting.name)
        self._reported.drop(waiting.key)
        self._tell(waiting.owner, waiting.name)

    def _tell(self, owner: str, name: str) -> None:
        for watcher in self._watchers.get(owner, ()):
            watcher.changed(name)

    # -- silence --------------------------------------------------------------------------------

    def _wait_for(self, waiting: Waiting) -> None:
        """Says how long its owner may be silent, as things are."""
        assert waiting.spec.external is not None, waiting.name
        said = waiting.spec.external.heartbeat_timeout
        patience_s = said.total_seconds() if said is not None else PATIENCE_S
        is_asked = waiting.state in (TaskState.CANCELLING, TaskState.COMPENSATING)
        if (is_asked and not waiting.checklist) or (
            waiting.state is TaskState.RUNNING and said is not None
        ):
            self._silence.wait_for(waiting.name, patience_s, phase=waiting.state)
        else:  # not accepted yet, or nobody is expected to say anything
            self._silence.forget(waiting.name)
        if waiting.state is not TaskState.CANCELLING:
            self._stopping.forget(waiting.name)
        else:
            self._stopping.wait_for(waiting.name, max(patience_s, PATIENCE_S))

    def _stops_late(self, name: str) -> None:
        """Says that an owner which gives signs of life does not stop."""
        waiting = self._by_name[name]
        log.warning("owner.stops_late", extra=_about(waiting))
        failure = Failure(
            reason=STOPS_LATE,
            message=f"{waiting.owner} was asked long ago to stop it, and is still at work.",
            attempt=name,
        )
        event = OwnerSilent(task=waiting.index, number=waiting.attempt.number, failure=failure)
        self._say(waiting.workflow_id, event)

    def _is_silent(self, name: str) -> None:
        """Says what comes of an owner that has not been heard for too long."""
        waiting = self._by_name[name]
        index, number, state = waiting.index, waiting.attempt.number, waiting.state
        log.warning("owner.silent", extra=_about(waiting))
        if state is TaskState.RUNNING:
            failure = Failure(
                reason=HEARTBEAT_LAPSED,
                message=f"{waiting.owner} has given no sign of life for too long.",
                attempt=name,
            )
            self._say(waiting.workflow_id, AttemptLost(task=index, number=number, failure=failure))
            return
        if state is TaskState.CANCELLING and waiting.spec.effect is Effect.READ_ONLY:
            # Nothing is left of it, whatever its owner does: nobody has to be asked any further.
            self._say(waiting.workflow_id, _cancelled(waiting))
            return
        what = "stop" if state is TaskState.CANCELLING else "make up for"
        failure = Failure(
            reason=OWNER_SILENT,
            message=f"{waiting.owner} was asked to {what} it and does not answer: wake it up, or "
            "see for yourself what is left.",
            retriable=True,
            attempt=name,
        )
        self._say(waiting.workflow_id, OwnerSilent(task=index, number=number, failure=failure))

    def _ask_people(self, waiting: Waiting) -> None:
        failure = Failure(
            reason=OPERATOR_CHECKLIST,
            message=waiting.checklist,
            attempt=waiting.name,
        )
        event = OwnerSilent(task=waiting.index, number=waiting.attempt.number, failure=failure)
        self._say(waiting.workflow_id, event)

    def _refuse_fence(self, waiting: Waiting, command: SendFence) -> None:
        failure = Failure(reason="NOT_A_HOST", message=f"{waiting.owner} is no host.")
        event = FenceRefused(
            task=command.task, number=command.number, host=command.host, failure=failure
        )
        self._say(waiting.workflow_id, event)


def _about(waiting: Waiting) -> dict[str, str]:
    """Returns what a line of the log says of an owner that should say something."""
    workflow = workflow_name(waiting.workflow_id)
    task, _, _ = waiting.name.rpartition("/attempts/")
    about = {"workflow": workflow, "task": task, "attempt": waiting.name}
    return {**about, "owner": waiting.owner, "state": waiting.state}


def _place(waiting: Waiting) -> Place:
    return waiting.attempt.intent, waiting.name


def _is_in_nobodys_way(workflow: Workflow, waiting: Waiting) -> bool:
    """Returns whether an attempt leaves nothing, and nothing comes after it that waits for its end.

    Where something is made up for, or tried again, what it reads must not change under it.
    """
    return workflow.state is WorkflowState.ENDING and waiting.spec.effect is Effect.READ_ONLY


def _cancelled(waiting: Waiting) -> AttemptCancelled:
    return AttemptCancelled(task=waiting.index, number=waiting.attempt.number)
