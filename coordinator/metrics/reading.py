"""Takes all numbers at one moment, on the loop: what was counted, and how hosts and others stand.

It copies and adds nothing up that there may be many of. What has to be asked of the store is asked
before; a store that has no time keeps nobody from the rest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

from coordinator.metrics import table
from coordinator.metrics.counting import MOVING, Counting
from coordinator.metrics.leftovers import Leftovers
from coordinator.runtime.ports import (
    Hosts,
    HostState,
    HostView,
    Recovery,
    SessionState,
    SessionView,
)
from coordinator.runtime.webhooks import Webhooks, WebhookView
from coordinator.saga.states import SETTLED, WorkflowState
from countermand.rpc.errors import CountermandError
from countermand.rpc.metrics import Histogram, Reading, bounded, note_everywhere
from countermand.v1.agent_pb2 import HostReport


class Line(Protocol):
    """What is asked of the loop."""

    @property
    def waiting(self) -> int:
        """Returns how much has not been decided about."""

    @property
    def oldest_s(self) -> float:
        """Returns how long the first of those at work has waited."""


class Kept(Protocol):
    """What is asked of the store."""

    async def sessions(self) -> list[SessionView]:
        """Returns all sessions; of a store that is not shared the own one."""

    async def recovery(self) -> Recovery | None:
        """Returns why nothing is to be decided; None if all is well."""

    async def position(self) -> int:
        """Returns the highest position ever given, 0 if there was none."""


class Keeping(Protocol):
    """What is asked of whatever keeps the session alive."""

    claimed: int
    takeovers: int
    seen_ended: int

    def expires_s(self) -> float:
        """Returns how long others still wait for this coordinator."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What the numbers are of."""

    counting: Counting
    leftovers: Leftovers
    loop: Line
    delays: Histogram  # of the event loop, in seconds
    store: Kept
    session: Keeping | None  # None: there can be no others
    files: tuple[Path, ...]  # of the store; none where a server keeps it, who tells its size
    hosts: Hosts
    waiting_for_owners: Callable[[], Mapping[str, int]]
    webhooks: Webhooks
    now: Callable[[], datetime]
    traces: Callable[[], int | None]  # how far the collector has been told, where there is one


async def read(subject: Subject) -> Reading:
    """Returns every number as it is now."""
    webhooks: Mapping[str, WebhookView] = {}
    position: int | None = None
    sessions: Sequence[SessionView] = ()
    is_behind: bool | None = None
    try:
        position = await subject.store.position()
        sessions = await subject.store.sessions()
        is_behind = await subject.store.recovery() is not None
        webhooks = await subject.webhooks.all()
    except CountermandError:
        pass  # the store has no time, or fails: other numbers say so
    reading = Reading()
    _workflows(reading, subject.counting, subject.leftovers)
    _waits(reading, subject.counting, subject.now())
    _loop(reading, subject.counting, subject.loop)
    reading.one(table.DELAYS, subject.delays.copy())
    _hosts(reading, subject.hosts.all())
    _owners(reading, subject.waiting_for_owners(), subject.counting)
    _webhooks(reading, webhooks)
    _others(reading, sessions, subject.session)
    if is_behind is not None:
        reading.one(table.RECOVERY_REQUIRED, is_behind)
    if position is not None:
        reading.one(table.STORE_POSITION, position)
        told = subject.traces()
        if told is not None:
            reading.one(table.TRACES_BEHIND, max(0, position - told))
    if subject.files:
        reading.one(table.STORE_BYTES, sum(map(_size, subject.files)))
    note_everywhere(reading)
    return reading


def _workflows(reading: Reading, counting: Counting, leftovers: Leftovers) -> None:
    workflows = counting.workflows
    reading.by(
        table.WORKFLOWS, {s.lower(): workflows[s] for s in WorkflowState if s not in SETTLED}
    )
    reading.by(table.SETTLED, {s.lower(): workflows[s] for s in sorted(SETTLED)})
    reading.one(table.STARTED, counting.started)
    if leftovers.complete:  # a number that grows while it is looked for would be no news
        reading.one(table.WITH_LEFTOVERS, len(counting.left_by))
    reading.one(table.LEFTOVERS, counting.left)
    reading.by(table.TASKS, {s.lower(): counting.tasks[s] for s in sorted(MOVING)})
    reading.many(
        table.ATTEMPTS,
        (
            ((verb, kind.lower(), outcome.lower()), count)
            for (verb, kind, outcome), count in sorted(counting.attempts.items())
        ),
    )
    reading.many(
        table.DURATIONS,
        (
            ((verb, kind.lower()), found.copy())
            for (verb, kind), found in sorted(counting.durations.items())
        ),
    )
    reading.by(table.DONE, counting.done_bytes)


def _waits(reading: Reading, counting: Counting, now: datetime) -> None:
    needing, in_line = counting.needing, counting.in_line
    reading.one(table.ATTENTION, needing.workflows)
    reading.one(table.TASKS_ATTENTION, needing.tasks)
    reading.one(table.ATTENTION_OLDEST, _age_s(needing.since, now))
    reading.one(table.IN_LINE, len(in_line))
    reading.one(table.IN_LINE_OLDEST, _age_s(min(in_line.values(), default=None), now))


def _age_s(since: datetime | None, now: datetime) -> float:
    return max(0.0, (now - since).total_seconds()) if since else 0.0


def _loop(reading: Reading, counting: Counting, loop: Line) -> None:
    reading.one(table.COMMITS, counting.commits.copy())
    reading.one(table.BATCHES, counting.batches.copy())
    reading.one(table.COMMIT_FAILURES, counting.failures)
    reading.one(table.WAITING, loop.waiting)
    reading.one(table.OLDEST, loop.oldest_s)


def _hosts(reading: Reading, hosts: Mapping[str, HostView]) -> None:
    is_up = {name: view.state is HostState.READY for name, view in hosts.items()}
    reading.by(table.HOST_UP, is_up)
    reading.many(
        table.HOST_STATE,
        (
            ((name, state.lower()), view.state is state)
            for name, view in hosts.items()
            for state in HostState
        ),
    )
    reading.by(
        table.HOST_SILENT, {n: 0 if is_up[n] else view.silent_s for n, view in hosts.items()}
    )
    reading.by(table.HOST_OPEN, {name: view.open_attempts for name, view in hosts.items()})
    reading.by(table.HOST_WAITING, {name: view.waiting for name, view in hosts.items()})
    reading.by(table.HOST_WINDOW, {name: view.window for name, view in hosts.items()})
    reading.by(table.HOST_DRAINING, {name: view.record.draining for name, view in hosts.items()})
    pools = [
        ((name, pool.pool_id), pool)
        for name, view in hosts.items()
        if isinstance(view.report, HostReport)
        for pool in view.report.pools
    ]
    reading.many(table.POOL_CAPACITY, ((labels, pool.capacity_bytes) for labels, pool in pools))
    reading.many(table.POOL_USED, ((labels, pool.used_bytes) for labels, pool in pools))
    reading.many(
        table.POOL_FREE,
        ((labels, pool.free_bytes) for labels, pool in pools if not pool.read_only),
    )
    reading.many(table.POOL_UP, ((labels, not pool.HasField("problem")) for labels, pool in pools))


def _owners(reading: Reading, waiting: Mapping[str, int], counting: Counting) -> None:
    reading.by(table.OWNER_WAITING, bounded(waiting, table.OWNERS_MAX))
    reading.by(table.OWNER_SILENT, bounded(counting.needing.silent, table.OWNERS_MAX))


def _webhooks(reading: Reading, webhooks: Mapping[str, WebhookView]) -> None:
    progress = {name: view.record.progress for name, view in webhooks.items()}
    reading.by(table.WEBHOOK_BEHIND, {name: view.behind for name, view in webhooks.items()})
    reading.by(table.WEBHOOK_FAILURES, {name: each.failures for name, each in progress.items()})
    reading.by(table.WEBHOOK_DISABLED, {name: each.disabled for name, each in progress.items()})


def _others(reading: Reading, sessions: Sequence[SessionView], session: Keeping | None) -> None:
    if sessions:
        states = Counter(each.state for each in sessions)
        reading.by(table.COORDINATORS, {state.lower(): states[state] for state in SessionState})
        reading.one(table.KEEPS_HOUSE, any(each.own and each.keeps_house for each in sessions))
        gone = (each.workflows for each in sessions if each.state is SessionState.ENDED)
        reading.one(table.ORPHANED, sum(gone))
    own = () if session is None else (session,)
    reading.many(table.SESSION_EXPIRES, (((), each.expires_s()) for each in own))
    reading.many(table.SESSIONS_ENDED, (((), each.seen_ended) for each in own))
    reading.many(table.CLAIMED, (((), each.claimed) for each in own))
    reading.many(table.TAKEOVERS, (((), each.takeovers) for each in own))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # what is beside the database comes and goes
        return 0
