"""What is only in memory of an open attempt, and the slots in which attempts run."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from typing import NamedTuple

from agent.attempts import AttemptRecord, Kind, Place
from agent.drivers.driver import ProcessEnds, Step
from agent.executors import Interrupted
from countermand.rpc.errors import CountermandError, Stalled
from countermand.v1.attempt_pb2 import Progress

# The rate is over the last seconds: two samples would jump, a minute would hide a stall.
RATE_SAMPLES = 20
RATE_SAMPLE_INTERVAL_S = 0.25

# Who needs two pools might wait for ever while others keep one or the other of them full; once so
# many have passed it, both are kept free for it.
PASSED_MAX = 64


class WorkDone:
    """How much all attempts have done, counted on their threads as they do it."""

    def __init__(self) -> None:
        """Begins with nothing."""
        self.count = 0
        self._turn = threading.Lock()

    def add(self, count: int) -> None:
        """Counts some more."""
        with self._turn:
            self.count += count


class Running:
    """One open attempt: its flag, its progress, and its end. The guard of its work."""

    def __init__(
        self,
        record: AttemptRecord,
        *,
        monotonic: Callable[[], float],
        keep_note: KeepNote,
        resumed: bool = False,
        work: WorkDone | None = None,
    ) -> None:
        """Begins with the progress of an earlier life."""
        self.record = record
        self.resumed = resumed  # an earlier life may have come to its effect
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.stopping = asyncio.Event()  # asked to stop, or the agent is stopping
        self.stop_error: CountermandError | None = None
        self._interrupted = False
        # Past the last step: it can't be stopped any more, and its effect is about to be seen.
        self.committed = False
        self._turn = threading.Lock()
        self._done = record.done_bytes
        self._total = record.total_bytes
        self._samples: deque[tuple[float, int]] = deque(maxlen=RATE_SAMPLES)
        self._monotonic = monotonic
        self._work = work or WorkDone()
        self._mark = (0, 0)  # how far the work says it is in this life: it may begin again
        self._moved = monotonic()
        self._keep_note = keep_note

    def stop(self, error: CountermandError) -> None:
        """Asks it to stop with an error; the first one counts."""
        with self._turn:
            if self.stop_error is None:
                self.stop_error = error
        self.stopping.set()

    def interrupt(self) -> None:
        """Leaves it as it is, for the next start."""
        self._interrupted = True
        self.stopping.set()

    @property
    def interrupted(self) -> bool:
        """Returns whether it was left as it is."""
        return self._interrupted

    def check(self, step: Step) -> None:
        """Takes note of a step; raises to stop the work. Called on the work's thread."""
        now = self._monotonic()
        mark = (step.done, step.pulse)
        if any(mark) and mark != self._mark:
            self._mark, self._moved = mark, now
        if step.wait_s:  # as it was told to
            self._moved = now
        if step.total:
            done = max(self._done, step.done)
            self._work.add(done - self._done)
            self._done, self._total = done, step.total
            if not self._samples or now - self._samples[-1][0] >= RATE_SAMPLE_INTERVAL_S:
                self._samples.append((now, self._done))
        if self._interrupted:
            raise Interrupted
        with self._turn:
            if self.stop_error is not None:
                raise self.stop_error
            self.committed = self.committed or step.last

    def check_between(self) -> None:
        """Raises to stop the work, within a step that waits long. Called on the work's threads."""
        if self._interrupted:
            raise ProcessEnds
        with self._turn:
            if self.stop_error is not None:
                raise self.stop_error

    async def stop_when_still(self, stall_timeout: timedelta) -> None:
        """Stops it once its work has not moved for so long, counted from now on."""
        self._moved = self._monotonic()
        while True:
            left_s = self._moved + stall_timeout.total_seconds() - self._monotonic()
            if left_s <= 0:
                break
            await asyncio.sleep(left_s)
        self.stop(Stalled(stall_timeout_s=stall_timeout.total_seconds()))

    async def keep(self, step: Step) -> None:
        """Returns once the step's note is durable, or need not be."""
        await self._keep_note(self, step)

    @property
    def done_and_total(self) -> tuple[int, int]:
        """Returns how far it is."""
        return self._done, self._total

    def progress(self) -> Progress | None:
        """Returns how far it is and how fast, or None before it can tell."""
        done, total = self._done, self._total
        if not total:
            return None
        samples = list(self._samples)
        rate = 0
        if len(samples) > 1 and samples[-1][0] > samples[0][0]:
            rate = int((samples[-1][1] - samples[0][1]) / (samples[-1][0] - samples[0][0]))
        return Progress(done=done, total=total, unit="bytes", rate=rate)


KeepNote = Callable[[Running, Step], Awaitable[None]]


class Lane(NamedTuple):
    """Attempts that take turns with each other, and with nobody else.

    No copy ever holds up what makes up for one, and neither what touches no storage.
    """

    kind: Kind
    touches_storage: bool


class Ticket:
    """A place in a slot or in the queue before it."""

    def __init__(self, slots: Slots, pools: frozenset[str]) -> None:
        """Begins in the queue."""
        self.pools = pools  # that the attempt reads or writes
        self.passed = 0  # how many came later and had their turn before
        self._slots = slots
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def place(self) -> Place:
        """Returns where it is."""
        return Place.SLOT if self.ready.done() else Place.QUEUE

    def leave(self) -> None:
        """Gives the place back."""
        self._slots.leave(self)


class Slots:
    """So many run, so many wait, first come first served.

    A pool may have a limit of its own. Whoever waits for one lets others pass that do not need that
    pool, so a slow one never holds the slots of another; but not for ever.
    """

    def __init__(
        self, *, running_max: int, waiting_max: int, pools_max: Mapping[str, int] | None = None
    ) -> None:
        """Begins empty; a pool without a limit takes as many as there are slots."""
        self.running_in: Counter[str] = Counter()  # by pool
        self._free = running_max
        self._waiting_max = waiting_max
        self._pools_max = pools_max or {}
        self._waiting: deque[Ticket] = deque()

    def take(self, pools: frozenset[str] = frozenset()) -> Ticket | None:
        """Returns a place, or None when all are taken."""
        ticket = self.retake(pools)
        if ticket.ready.done() or len(self._waiting) <= self._waiting_max:
            return ticket
        self._waiting.remove(ticket)
        return None

    def retake(self, pools: frozenset[str] = frozenset()) -> Ticket:
        """Returns a place to what had one before a restart, however many there are now."""
        ticket = Ticket(self, pools)
        self._waiting.append(ticket)
        self._serve()
        return ticket

    def leave(self, ticket: Ticket) -> None:
        """Takes a place back; whoever waited longest and fits gets it."""
        if ticket.ready.done():
            self._free += 1
            self.running_in.subtract(ticket.pools)
        else:
            self._waiting.remove(ticket)
        self._serve()

    def waiting_in(self, pool_id: str) -> int:
        """Returns how many wait that read or write a pool."""
        return sum(pool_id in ticket.pools for ticket in self._waiting)

    def _serve(self) -> None:
        """Gives slots to those who wait, in the order of their coming."""
        passed: list[Ticket] = []
        kept_free: set[str] = set()
        for ticket in tuple(self._waiting):
            if self._free == 0:
                break
            if self._is_full(ticket.pools) or ticket.pools & kept_free:
                passed.append(ticket)
                if ticket.passed >= PASSED_MAX:
                    kept_free |= ticket.pools
                continue
            self._waiting.remove(ticket)
            self._free -= 1
            self.running_in.update(ticket.pools)
            ticket.ready.set_result(None)
            for earlier in passed:
                earlier.passed += 1

    def _is_full(self, pools: frozenset[str]) -> bool:
        limits = self._pools_max
        return any(pool in limits and self.running_in[pool] >= limits[pool] for pool in pools)
