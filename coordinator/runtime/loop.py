"""The loop around the saga: take events, advance, commit, and only then deliver commands.

Everything that has gathered while the last batch was being flushed is advanced and committed in one
transaction. Readers see only what is committed; the loop itself works on what it has decided, and
goes back to what is committed when the store refuses. If the process stops anywhere here, `open`
finds every intent again from the committed state alone.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial

from coordinator.runtime import crash_points
from coordinator.runtime.floors import NOBODYS, UNHEARD, Floor, lower
from coordinator.runtime.locks import (
    Held,
    Lines,
    LockView,
    Standing,
    line_up,
    stands_in_line,
)
from coordinator.runtime.observer import Observer
from coordinator.runtime.ports import (
    Agents,
    Chance,
    Change,
    Claim,
    Clock,
    Delivery,
    Hints,
    ImagesHeldError,
    Opening,
    Order,
    Recovered,
    Request,
    Store,
    StoreConflictError,
    StoreError,
    StoreFencedError,
    StoreRefusedError,
    Submission,
    UsedIdError,
)
from coordinator.runtime.timers import Timers
from coordinator.runtime.watermark import Watermarks
from coordinator.saga.advance import Decision, Refusal, advance, quarantine, start
from coordinator.saga.commands import SendCompensation, SetTimer, outstanding
from coordinator.saga.events import Ask, Event, FenceRefused, LocksGranted, Now, OwnerChanged
from coordinator.saga.plan import Plan
from coordinator.saga.spec import Lock, Terms
from coordinator.saga.states import WorkflowState
from coordinator.saga.workflow import About, Group, Retention, Task, Workflow, has_been_on
from countermand.rpc.crash import Crash
from countermand.rpc.errors import Bug, ImageBusy
from countermand.rpc.names import workflow_name

log = logging.getLogger(__name__)

BATCH_MAX = 256  # decisions in one transaction: more would only delay the first of them
INBOX_MAX = 20_000  # requests beyond it are told to wait; agents' reports are always taken
SETTLED_MAX = 1024  # kept for those who ask how it ended, about 4 KiB each
STORE_RETRY_S = 0.5  # a store in trouble is asked again this often
INTENTS_SPARE = 1 << 21  # before a batch: no batch needs as many
_A_MOMENT = timedelta(microseconds=1)  # what times are stored in


class OverloadedError(Exception):
    """Too many requests wait to be decided."""


class _NotYetError(Exception):
    """What would be answered rests on something that is not durable yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """A workflow to be started."""

    about: About
    plan: Plan
    submission: Submission
    retention: Retention = Retention.IN_TIME


@dataclass(frozen=True, slots=True)
class _Hold:
    """A workflow to be quarantined: what was heard of it cannot be made durable."""


@dataclass(frozen=True, slots=True)
class _Between:
    """What is to be done while no decision is on its way into the store."""

    do: Callable[[], None]


@dataclass(slots=True, kw_only=True)
class _Item:
    """One thing to decide, and who waits for it to be durable."""

    workflow_id: str
    what: Event | Start | _Hold
    request: Request | None = None
    waiter: asyncio.Future[Decision] | None = None
    since: float = 0.0  # by the loop's clock: when it was first put in line


@dataclass(slots=True)
class _Batch:
    """Decisions on their way into one transaction."""

    items: list[_Item] = field(default_factory=list)
    decisions: list[Decision] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)


class Loop:
    """Decides about every open workflow of this coordinator, in batches."""

    def __init__(
        self,
        *,
        store: Store,
        clock: Clock,
        chance: Chance,
        crash: Crash,
        hints: Hints,
        observers: Sequence[Observer] = (),
    ) -> None:
        """Keeps its ports; `open` begins."""
        self._store = store
        self._clock = clock
        self._chance = chance
        self._crash = crash
        self._hints = hints
        self._observers = observers
        self._agents: Agents | None = None
        self._inbox: asyncio.Queue[_Item | _Between] = asyncio.Queue()
        self._oldest: float | None = None  # since when the first of those at work has waited
        self._committed: dict[str, Workflow] = {}
        self._decided: dict[str, Workflow] = {}
        self._settled: OrderedDict[str, Workflow] = OrderedDict()
        self._late: set[str] = set()  # workflows in which something is too late
        self._timers = Timers(clock=clock, say=self.hear)
        self._locks = Lines()  # of what is decided
        self._withheld: dict[str, Lock] = {}  # among them: images that no workflow is to have
        # Likewise: other coordinators' workflows, by the own one in whose way they are.
        self._others: dict[str, tuple[Standing, ...]] = {}
        self._watermarks = Watermarks(self._committed.get)
        self._next_intent = 1
        self._intents_end: int | None = None
        self._highest_intent = 0  # of what was claimed: intents of a workflow only rise
        self._coming: list[Claim] = []  # that are to be taken up
        self._others_floor = UNHEARD if store.shared else NOBODYS
        self._owner_epoch = 0
        self._recovered: Recovered | None = None
        self._last_create_time = datetime.min.replace(tzinfo=UTC)

    # -- for the services -----------------------------------------------------------------------

    async def open(self) -> Opening:
        """Begins a session, and takes over every open workflow if nobody else may; `run` is next.

        What others may have is claimed bit by bit: see `session.py`.
        """
        opening = await self._store.open()
        self._owner_epoch = opening.owner_epoch
        self._recovered = opening.recovered
        self._go_on_from(opening.next_intent, opening.intents_end)
        if not self._store.shared and opening.recovery is None:
            workflows = tuple(await self._store.load_open())
            epoch = opening.owner_epoch
            self._adopt(Claim(owner_epoch=epoch, workflows=workflows, floor=NOBODYS))
        return opening

    def adopt(self, claim: Claim) -> None:
        """Takes over workflows that belong to this coordinator now."""
        self._coming.append(claim)
        self._inbox.put_nowait(_Between(partial(self._adopt, claim)))

    def _adopt(self, claim: Claim) -> None:
        self._owner_epoch = max(self._owner_epoch, claim.owner_epoch)
        for stored in claim.workflows:
            workflow = stored.workflow
            self._highest_intent = max(self._highest_intent, _highest_intent(workflow))
            everything = range(len(workflow.nodes))
            self._committed[workflow.id] = self._decided[workflow.id] = workflow
            self._note_late(workflow, everything)
            self._watermarks.placed(workflow, _sends(workflow))
            for observer in self._observers:
                observer.opened(workflow)
            if self._agents is not None:  # else it looks for itself what there is
                self._agents.moved(workflow, frozenset(everything))
            changed = OwnerChanged(owner_epoch=claim.owner_epoch, hold=self._hold(workflow))
            self._put(_Item(workflow_id=workflow.id, what=changed))
        self._coming = [each for each in self._coming if each is not claim]
        self._line_up()

    def _hold(self, workflow: Workflow) -> Ask | None:
        """Returns who has it held for an operator: it was open in a store that went back in time.

        Once it is under the epoch of whoever has taken it over it is as it should be.
        """
        by = self._recovered
        if by is None or workflow.owner_epoch >= by.owner_epoch:
            return None
        return Ask(principal=by.principal, reason=by.reason, request_id="")

    def _go_on_from(self, first: int, end: int | None) -> None:
        """Takes up intents that nobody else has.

        Not those that come late, from two who asked at once: a floor that was told only rises.
        """
        if first < self._next_intent:
            return
        self._next_intent = first
        self._intents_end = end
        self._watermarks.go_on_from(first)

    def attach(self, agents: Agents) -> None:
        """Gives the loop what delivers its commands."""
        self._agents = agents

    def workflow(self, workflow_id: str) -> Workflow | None:
        """Returns an open workflow as committed."""
        return self._committed.get(workflow_id)

    def settled(self, workflow_id: str) -> Workflow | None:
        """Returns a workflow that settled a short while ago: those who waited for it ask now."""
        return self._settled.get(workflow_id)

    async def open_on(self, host_id: str) -> Sequence[Workflow]:
        """Returns open workflows that have, or may have, left something on a host, all of them.

        Raises:
            StoreError: Other coordinators may have some, and the store failed.
        """
        if self._store.shared:
            return await self._store.open_on(host_id)
        return [each for each in self.open_workflows() if has_been_on(each, host_id)]

    def redeliver(self, host_id: str) -> None:
        """Delivers again what open workflows still ask of a host."""
        assert self._agents is not None, "attach comes before run"
        for workflow, command in in_flight(self.open_workflows(), host_id):
            self._agents.deliver(Order(workflow=workflow, command=command, ask_first=True))

    def low_watermark(self, host_id: str) -> int:
        """Returns the intent below which nothing new will be sent to a host."""
        return min(self._watermarks.of(host_id), self._others_floor.of(host_id))

    def fence_low_watermark(self) -> int:
        """Returns the intent below which no attempt of any host will be fenced again."""
        return min(self._watermarks.lowest(), self._others_floor.fences)

    async def unsent_intent(self) -> int:
        """Returns a number above every intent that may have been sent so far, by anybody.

        Raises:
            StoreError: Other coordinators send, too, and the store failed.
        """
        if not self._store.shared:
            return self._watermarks.next_intent
        first, end = await self._store.take_intents()
        self.go_on_from(first, end)
        return first

    def go_on_from(self, first: int, end: int) -> None:
        """Hears of intents that were taken from the store, which are used from now on."""
        self._inbox.put_nowait(_Between(partial(self._go_on_from, first, end)))

    def floor(self) -> Floor:
        """Returns below which intents this coordinator sends nothing new."""
        floor = self._watermarks.floor()
        for claim in self._coming:
            floor = lower(floor, claim.floor)
        return floor

    def hear_floor(self, others: Floor) -> None:
        """Hears below which intents no other coordinator sends anything new, nor any to come."""
        self._others_floor = others

    @property
    def owner_epoch(self) -> int:
        """Returns the epoch of this life of the coordinator."""
        return self._owner_epoch

    def lock_view(self, workflow_id: str) -> tuple[LockView, ...]:
        """Returns how an open workflow stands with each of the images that it names."""
        return tuple(
            replace(view, holders=tuple(h for h in view.holders if h not in self._withheld))
            for view in self._locks.view(workflow_id)
        )

    @contextmanager
    def withheld(self, pool: str, image: str) -> Iterator[None]:
        """Keeps an image that nobody holds, nor waits for, from all workflows for a while.

        Raises:
            ImageBusy: Somebody does.
        """
        lock = Lock(pool=pool, image=image, exclusive=True)
        for held in self._locks.would_wait((lock,)):
            raise ImageBusy(pool=pool, image=image, holder=workflow_name(held.holders[0]))
        keeper = f"(a repair of {pool}/{image})"  # no workflow's id has such letters
        self._withheld[keeper] = lock
        self._locks.ask(keeper, (lock,))
        try:
            yield
        finally:
            del self._withheld[keeper]
            for workflow_id in self._locks.release(keeper):
                self._put(_Item(workflow_id=workflow_id, what=LocksGranted()))

    def refuse_busy(self, workflow_id: str, locks: tuple[Lock, ...]) -> None:
        """Raises ImageBusy for further images that an open workflow could not have now."""
        with suppress(_NotYetError):
            self._refuse_busy(self._locks.missing(workflow_id, locks))

    def forget_settled(self, before: datetime) -> None:
        """Forgets workflows that settled before a time: they are no longer stored."""
        for workflow_id, workflow in tuple(self._settled.items()):
            at_once = workflow.retention is Retention.AT_ONCE
            in_time = workflow.retention is Retention.IN_TIME
            ended = workflow.end_time
            if at_once or (in_time and ended is not None and ended < before):
                del self._settled[workflow_id]

    def forget_cleared(self, workflow_id: str) -> None:
        """Forgets a settled workflow: it is no longer stored."""
        self._settled.pop(workflow_id, None)

    def open_workflows(self) -> Sequence[Workflow]:
        """Returns every open workflow as committed."""
        return tuple(self._committed.values())

    def late_workflows(self) -> Sequence[Workflow]:
        """Returns every open workflow in which something is too late, as committed."""
        return tuple(self._committed[workflow_id] for workflow_id in sorted(self._late))

    async def ask(
        self, workflow_id: str, what: Event | Start, request: Request | None = None
    ) -> Decision:
        """Returns what was decided about a request, once it is durable.

        Raises:
            OverloadedError: Too many requests wait.
            StoreError: The store failed; nothing was decided.
            StoreConflictError: The workflow id or the request id is taken.
            ImageBusy: A workflow that does not wait names an image that another one holds or, of
                images that it is given later, waits for.
            KeyError: There is no such open workflow.
        """
        if self._inbox.qsize() >= INBOX_MAX:
            raise OverloadedError
        waiter: asyncio.Future[Decision] = asyncio.get_running_loop().create_future()
        self._put(_Item(workflow_id=workflow_id, what=what, request=request, waiter=waiter))
        return await waiter

    def hear(self, workflow_id: str, event: Event) -> None:
        """Takes a fact; returns at once."""
        self._put(_Item(workflow_id=workflow_id, what=event))

    @property
    def waiting(self) -> int:
        """Returns how many requests and facts have not been decided about."""
        return self._inbox.qsize()

    @property
    def oldest_s(self) -> float:
        """Returns how long the first of those at work has waited; 0 where nothing is at work."""
        if self._oldest is None:
            return 0.0
        return asyncio.get_running_loop().time() - self._oldest

    # -- the loop -------------------------------------------------------------------------------

    async def run(self) -> None:
        """Decides until cancelled."""
        while True:
            items = self._items_of(await self._inbox.get())
            while len(items) < BATCH_MAX and not self._inbox.empty():
                items += self._items_of(self._inbox.get_nowait())
            if not items:
                continue
            self._oldest = items[0].since  # while it is at work nothing else has waited longer
            await self._take(items)
            self._oldest = None

    def _items_of(self, what: _Item | _Between) -> list[_Item]:
        """Returns what is to be decided; what is to be done in between is done."""
        if isinstance(what, _Between):
            what.do()
            return []
        return [what]

    async def _take(self, items: list[_Item]) -> None:
        """Decides about some items and makes that durable; if the store refuses, one by one."""
        if not await self._has_intents():
            return await self._store_failed(items, StoreError("there are no intents to be had"))
        batch = self._decide(items)
        if not batch.changes:
            return None
        try:
            await self._commit(batch)
        except StoreFencedError:
            raise  # another coordinator is in charge: this one must not go on
        except ImagesHeldError as error:
            self._go_back(batch)
            if len(batch.items) == 1 and self._others.get(error.workflow_id) == error.standing:
                # It knew that: to be given further images a holder stands in no line.
                return _answer_error(batch.items[0], _busy(batch.decisions[0].workflow, error))
            self._stand_behind(error)
            for item in batch.items:  # each may learn of others that are in its way
                await self._take([item])
            waits = (w.id for w in self._committed.values() if not w.locked)
            self._hear_of_others({w: self._others[w] for w in waits if w in self._others})
        except (StoreConflictError, StoreRefusedError) as error:
            self._go_back(batch)
            if len(batch.items) > 1:
                for item in batch.items:
                    await self._take([item])
            else:
                await self._refused(batch.items[0], error)
        except StoreError as error:
            self._go_back(batch)
            await self._store_failed(batch.items, error)
        else:
            self._follow(batch)

    def _decide(self, items: Sequence[_Item]) -> _Batch:
        batch = _Batch()
        todo = deque(items)
        while todo:
            item = todo.popleft()
            before = self._decided.get(item.workflow_id)
            # Nobody is told what rests on a decision that may still be lost: asked again after it.
            is_durable = before is self._committed.get(item.workflow_id)
            try:
                decision = self._decide_one(item, before)
            except _NotYetError:
                self._put(item)
                continue
            except (KeyError, StoreConflictError, Bug, ImageBusy) as error:
                if is_durable:
                    _answer_error(item, error)  # settled meanwhile: what is heard of it is late
                else:
                    self._put(item)
                continue
            if decision.empty:
                if item.waiter and not is_durable:
                    self._put(item)
                elif item.waiter and not item.waiter.done():
                    item.waiter.set_result(decision)
                continue
            self._next_intent += decision.intents
            self._decided[item.workflow_id] = decision.workflow
            batch.items.append(item)
            batch.decisions.append(decision)
            batch.changes.append(_change(item, before, decision))
            for granted in self._pass_locks_on(decision.workflow, before):
                if len(batch.items) + len(todo) < BATCH_MAX:
                    todo.append(granted)  # in the transaction that lets go of them
                else:
                    self._put(granted)
        return batch

    def _decide_one(self, item: _Item, before: Workflow | None) -> Decision:
        now = Now(time=self._clock.now(), jitter=self._chance.jitter(), intent=self._next_intent)
        if isinstance(item.what, Start):
            if before is not None:
                raise StoreConflictError(item.workflow_id)
            return self._start(item.workflow_id, item.what, now)
        if before is None:
            raise KeyError(item.workflow_id)
        if before.state is WorkflowState.QUARANTINED:
            return Decision(workflow=before, refusal=_held(before))
        if isinstance(item.what, _Hold):
            return quarantine(before, now)
        if isinstance(item.what, LocksGranted) and not self._is_granted(before):
            return Decision(workflow=before)  # said before the store refused what it rested on
        try:
            decision = advance(before, item.what, now)
        except Exception:
            # One record that cannot be processed must not stop the others: it is held, visibly.
            name = workflow_name(item.workflow_id)
            log.exception("workflow.defect", extra={"workflow": name})
            decision = quarantine(before, now)
            return replace(decision, refusal=_held(decision.workflow))
        if _takes_more(before, decision.workflow):
            self._refuse_busy(self._locks.missing(before.id, decision.workflow.more_locks))
        return decision

    def _start(self, workflow_id: str, what: Start, now: Now) -> Decision:
        self._refuse_held(what.plan.terms)
        # Each is newer than those before, whatever the clock says: all stand in line by it.
        now = replace(now, time=max(now.time, self._last_create_time + _A_MOMENT))
        self._last_create_time = now.time
        try:
            return start(
                workflow_id=workflow_id,
                about=what.about,
                plan=what.plan,
                owner_epoch=self._owner_epoch,
                now=now,
                locked=not self._locks.would_wait(what.plan.terms.locks),
                retention=what.retention,
            )
        except Exception as error:
            log.exception("start.failed", extra={"workflow": workflow_name(workflow_id)})
            raise Bug(what=f"starting {workflow_id}: {error!r}") from error

    async def _has_intents(self) -> bool:
        """Returns whether there are enough for any batch, once more were taken if need be."""
        if self._intents_end is None or (
            self._highest_intent < self._next_intent <= self._intents_end - INTENTS_SPARE
        ):
            return True
        try:
            first, end = await self._store.take_intents()
        except StoreFencedError:
            raise
        except StoreError:
            return False
        self._go_on_from(first, end)
        return True

    # -- images ---------------------------------------------------------------------------------

    def _refuse_held(self, terms: Terms) -> None:
        """Raises for a workflow that does not want to wait, and would have to."""
        if terms.lock_refused:
            self._refuse_busy(self._locks.would_wait(terms.locks))

    def _refuse_busy(self, held: tuple[Held, ...]) -> None:
        """Raises for images that somebody who does not wait cannot have now."""
        for one in held:
            for holder in one.holders:
                if holder in self._withheld:
                    raise ImageBusy(pool=one.lock.pool, image=one.lock.image, holder=holder)
                is_others = any(holder == o.workflow_id for w in self._others.values() for o in w)
                if is_others or _names(self._committed.get(holder), one.lock):
                    raise ImageBusy(
                        pool=one.lock.pool, image=one.lock.image, holder=workflow_name(holder)
                    )
        if held:
            raise _NotYetError  # those in the way came a moment ago, and may still be lost

    def _pass_locks_on(self, workflow: Workflow, before: Workflow | None) -> Iterator[_Item]:
        """Keeps the lines as decided; yields what to tell those whose turn has come."""
        if stands_in_line(workflow):
            if before is None:
                granted = self._locks.ask(workflow.id, workflow.locks)
                assert granted is workflow.locked, workflow.id
            elif _takes_more(before, workflow):
                taken = self._locks.more(workflow.id, workflow.more_locks)
                assert taken, workflow.id
            return
        for workflow_id in self._locks.release(workflow.id):
            yield _Item(workflow_id=workflow_id, what=LocksGranted())

    def _is_granted(self, workflow: Workflow) -> bool:
        return not workflow.locked and self._locks.held(workflow.id)

    def _line_up(self) -> None:
        """Builds the lines anew from what is committed."""
        lined_up = line_up(self._committed.values(), self._withheld, self._others)
        self._locks = lined_up.lines
        for workflow_id in lined_up.clashing:
            log.error("locks.clash", extra={"workflow": workflow_name(workflow_id)})
        for workflow_id in lined_up.due:
            self._put(_Item(workflow_id=workflow_id, what=LocksGranted()))

    def _stand_behind(self, error: ImagesHeldError) -> None:
        """Puts other coordinators' workflows before an own one in whose way they are."""
        self._others[error.workflow_id] = error.standing
        self._line_up()

    async def look_at_others(self) -> None:
        """Hears who of other coordinators is still in the way, if somebody was.

        Raises:
            StoreError: The store failed; who was is taken to be still.
        """
        if not self._others:
            return
        waiting = [w.id for w in self._committed.values() if not w.locked and w.id in self._locks]
        others = dict(await self._store.standing(waiting))
        self._inbox.put_nowait(_Between(partial(self._hear_of_others, others)))

    def _hear_of_others(self, others: dict[str, tuple[Standing, ...]]) -> None:
        if others != self._others:
            self._others = others
            self._line_up()

    # -- durable --------------------------------------------------------------------------------

    async def _commit(self, batch: _Batch) -> None:
        self._crash(crash_points.BEFORE_COMMIT)
        time = asyncio.get_running_loop().time
        began = time()
        await self._store.commit(batch.changes)
        self._observe(batch.decisions, time() - began)
        self._crash(crash_points.AFTER_COMMIT)
        if any(isinstance(c, SendCompensation) for d in batch.decisions for c in d.commands):
            self._crash(crash_points.AFTER_COMPENSATION_COMMIT)
        if any(isinstance(item.what, LocksGranted) for item in batch.items):
            self._crash(crash_points.LOCKS_PASSED_ON)

    def _follow(self, batch: _Batch) -> None:
        """Does what follows from durable decisions: publish, deliver, answer."""
        for item, decision in zip(batch.items, batch.decisions, strict=True):
            workflow = decision.workflow
            if workflow.settled:
                self._committed.pop(workflow.id, None)
                self._settled[workflow.id] = workflow
                if len(self._settled) > SETTLED_MAX:
                    self._settled.popitem(last=False)
                if self._decided.get(workflow.id) is workflow:
                    del self._decided[workflow.id]
                self._timers.cancel(workflow.id)
            else:
                self._committed[workflow.id] = workflow
            self._note_late(workflow, decision.changed)
            sends = (c for c in decision.commands if isinstance(c, Delivery))
            self._watermarks.placed(workflow, sends)
            self._hints.committed(workflow.id, settled=workflow.settled)
            self._deliver(decision, ask_first=isinstance(item.what, OwnerChanged | FenceRefused))
            if item.waiter and not item.waiter.done():
                item.waiter.set_result(decision)

    def _observe(self, decisions: Sequence[Decision], took_s: float) -> None:
        for observer in self._observers:
            try:
                observer.committed(decisions, took_s)
            except Exception:
                # Whoever only looks on must not stop those who work.
                log.exception("observer.failed", extra={"observer": type(observer).__name__})

    def _note_late(self, workflow: Workflow, changed: Iterable[int]) -> None:
        """Keeps which workflows have something too late: few of many, and looked at often."""
        if workflow.settled:
            self._late.discard(workflow.id)
        elif any(_is_late(workflow.nodes[index]) for index in changed):
            self._late.add(workflow.id)
        elif workflow.id in self._late and not any(map(_is_late, workflow.nodes)):
            self._late.discard(workflow.id)

    def _deliver(self, decision: Decision, *, ask_first: bool) -> None:
        assert self._agents is not None, "attach comes before run"
        self._agents.moved(decision.workflow, decision.changed)
        for command in decision.commands:
            if isinstance(command, SetTimer):
                self._timers.set(decision.workflow.id, command)
                continue
            self._agents.deliver(
                Order(workflow=decision.workflow, command=command, ask_first=ask_first)
            )

    def _go_back(self, batch: _Batch) -> None:
        """Forgets decisions that did not become durable."""
        for item in batch.items:
            committed = self._committed.get(item.workflow_id)
            if committed is None:
                self._decided.pop(item.workflow_id, None)
            else:
                self._decided[item.workflow_id] = committed
        if any(change.workflow.locks for change in batch.changes):
            self._line_up()

    async def _refused(self, item: _Item, error: StoreConflictError | StoreRefusedError) -> None:
        """Answers a request that cannot become durable; a fact that cannot holds its workflow.

        Whoever reported the fact would report it for ever, and it would be refused for ever.
        """
        extra = {"workflow": workflow_name(item.workflow_id), "error": str(error)}
        if not isinstance(error, UsedIdError):  # that one is the caller's
            log.error("store.refused", extra=extra)
        is_fact = item.waiter is None and not isinstance(item.what, _Hold)
        if is_fact and isinstance(error, StoreRefusedError):
            await self._take([_Item(workflow_id=item.workflow_id, what=_Hold())])
        else:
            _answer_error(item, error)

    async def _store_failed(self, items: Sequence[_Item], error: StoreError) -> None:
        """Refuses requests and keeps facts: whoever reported one will not say it again."""
        log.error("store.failed", extra={"error": str(error), "items": len(items)})
        for observer in self._observers:
            observer.failed()
        for item in items:
            if item.waiter is not None:
                _answer_error(item, error)
            else:
                self._put(item)
        await asyncio.sleep(STORE_RETRY_S)

    def _put(self, item: _Item) -> None:
        item.since = item.since or asyncio.get_running_loop().time()
        self._inbox.put_nowait(item)


def in_flight(workflows: Iterable[Workflow], host_id: str) -> Iterator[tuple[Workflow, Delivery]]:
    """Yields what open workflows still ask of a host."""
    for workflow in workflows:
        for command in _sends(workflow):
            if command.host == host_id:
                yield workflow, command


def _sends(workflow: Workflow) -> Iterator[Delivery]:
    """Yields what a workflow still asks of hosts."""
    return (c for c in outstanding(workflow) if isinstance(c, Delivery))


def _highest_intent(workflow: Workflow) -> int:
    """Returns the highest intent that a workflow ever had."""
    return max((a.intent for _, task in workflow.tasks() for a in task.attempts), default=0)


def _is_late(node: Task | Group) -> bool:
    return isinstance(node, Task) and node.too_late is not None


def _takes_more(before: Workflow, after: Workflow) -> bool:
    """Returns whether a decision gave a workflow further images, which it still needs."""
    return after.more_locks != before.more_locks and not after.settled


def _names(workflow: Workflow | None, lock: Lock) -> bool:
    """Returns whether a workflow holds the image of a lock, or waits for it."""
    image = (lock.pool, lock.image)
    return workflow is not None and any((held.pool, held.image) == image for held in workflow.locks)


def _busy(workflow: Workflow, error: ImagesHeldError) -> ImageBusy:
    """Returns what whoever asked for images is told of other coordinators' workflows."""
    for other in error.standing:
        for lock in other.locks:
            if _names(workflow, lock):
                holder = workflow_name(other.workflow_id)
                return ImageBusy(pool=lock.pool, image=lock.image, holder=holder)
    raise AssertionError(error)


def _held(workflow: Workflow) -> Refusal:
    """Returns why a request about a quarantined workflow does nothing."""
    because = "its record could not be processed: see the coordinator's log"
    return Refusal(state=workflow.state, allowed=(WorkflowState.RUNNING,), because=because)


def _change(item: _Item, before: Workflow | None, decision: Decision) -> Change:
    return Change(
        workflow=decision.workflow,
        version_before=before.version if before else 0,
        history=decision.history,
        changed=decision.changed,
        submission=item.what.submission if isinstance(item.what, Start) else None,
        request=item.request,
    )


def _answer_error(item: _Item, error: Exception) -> None:
    if item.waiter and not item.waiter.done():
        item.waiter.set_exception(error)
