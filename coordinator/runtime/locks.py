"""The lines of workflows before images: who holds which, and who waits for whom.

A workflow asks for all its images at once, and takes its place in the line of each. It is granted
when, in each of those lines, everybody before it can share the image with it; then it holds them
all until it is settled. Since everybody stands in the same order in every line, nobody overtakes
and nobody waits in a circle. Only values, no I/O: the loop keeps one `Lines` for what is decided,
and builds it anew from the workflows' records when it has to.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice, takewhile
from types import MappingProxyType

from coordinator.saga.spec import Lock, united
from coordinator.saga.states import WorkflowState
from coordinator.saga.workflow import Workflow

Image = tuple[str, str]  # pool and image id
NOTHING: Mapping[str, Lock] = MappingProxyType({})

HOLDERS_SHOWN_MAX = 16  # of a template that thousands read at once, nobody reads all the names


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How another coordinator's open workflow stands with images."""

    workflow_id: str
    locks: tuple[Lock, ...]  # all that it names
    held: bool  # or else it waits in line


NOBODY: Mapping[str, tuple[Standing, ...]] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class LockView:
    """How one workflow stands with one of its images."""

    lock: Lock
    held: bool
    position: int  # how many stand before it in line; 0 when it is held
    holders: tuple[str, ...]  # the workflows that hold it meanwhile, or some of them


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """An image that cannot be had now, and those who are in the way."""

    lock: Lock
    holders: tuple[str, ...]


@dataclass(slots=True)
class _Line:
    """Those who hold one image or wait for it, in the order in which they asked."""

    places: dict[str, bool] = field(default_factory=dict)  # workflow id → whether exclusive
    waiting: list[tuple[int, str]] = field(default_factory=list)  # of those: who is not granted
    exclusive: int = 0  # of all places

    def before(self, workflow_id: str) -> Iterator[str]:
        """Yields those who stand before a workflow; everybody, if it stands nowhere."""
        return takewhile(lambda other: other != workflow_id, self.places)

    def in_the_way(self, workflow_id: str, *, exclusive: bool) -> Iterator[str]:
        """Yields those who stand before a workflow and cannot share with it."""
        if exclusive:
            return self.before(workflow_id)
        if not self.exclusive:  # thousands may read one template: nobody is looked at
            return iter(())
        return (other for other in self.before(workflow_id) if self.places[other])


class Lines:
    """The lines of all images that somebody holds or waits for."""

    def __init__(self) -> None:
        """Begins without any."""
        self._lines: dict[Image, _Line] = {}
        self._asked: dict[str, tuple[int, tuple[Lock, ...]]] = {}  # by workflow: when, and what
        self._granted: set[str] = set()
        self._count = 0

    def __contains__(self, workflow_id: str) -> bool:
        """Returns whether a workflow stands in any line."""
        return workflow_id in self._asked

    def ask(self, workflow_id: str, locks: tuple[Lock, ...]) -> bool:
        """Takes a place in the line of each image; returns whether all are held at once."""
        assert workflow_id not in self._asked, workflow_id
        if not locks:
            return True  # whoever needs nothing stands nowhere
        self._count += 1
        self._asked[workflow_id] = (self._count, locks)
        for lock in locks:
            line = self._lines.setdefault((lock.pool, lock.image), _Line())
            line.places[workflow_id] = lock.exclusive
            line.exclusive += lock.exclusive
            insort(line.waiting, (self._count, workflow_id))
        return self._grant_if_free(workflow_id)

    def missing(self, workflow_id: str, locks: Iterable[Lock]) -> tuple[Held, ...]:
        """Returns the further images that a holder could not have at once, and who is in the way.

        Whoever waits is in the way as well: it would be overtaken.
        """
        found = []
        for lock in locks:
            line = self._lines.get((lock.pool, lock.image))
            if line is None or not (lock.exclusive or line.exclusive):
                continue
            others = (
                other
                for other, exclusive in line.places.items()
                if other != workflow_id and (lock.exclusive or exclusive)
            )
            if holders := tuple(islice(others, HOLDERS_SHOWN_MAX)):
                found.append(Held(lock=lock, holders=holders))
        return tuple(found)

    def more(self, workflow_id: str, locks: tuple[Lock, ...]) -> bool:
        """Has a holder hold further images, all or none; it never waits for them.

        Holders that waited for each other would wait for ever.
        """
        assert self.held(workflow_id), workflow_id
        if self.missing(workflow_id, locks):
            return False
        order, held = self._asked.get(workflow_id, (0, ()))
        if not order:
            self._count += 1
            order = self._count
        self._asked[workflow_id] = (order, united(held, locks))
        self._granted.add(workflow_id)
        for lock in locks:
            line = self._lines.setdefault((lock.pool, lock.image), _Line())
            before = line.places.get(workflow_id, False)
            line.places[workflow_id] = before or lock.exclusive
            line.exclusive += line.places[workflow_id] - before
        return True

    def release(self, workflow_id: str) -> tuple[str, ...]:
        """Leaves every line; returns the workflows whose turn has come, in order of asking."""
        order, locks = self._asked.pop(workflow_id, (0, ()))
        self._granted.discard(workflow_id)
        behind: set[tuple[int, str]] = set()
        for lock in locks:
            image = (lock.pool, lock.image)
            line = self._lines[image]
            line.exclusive -= line.places.pop(workflow_id)
            if (order, workflow_id) in line.waiting:
                line.waiting.remove((order, workflow_id))
            behind.update(self._next_of(line))
            if not line.places:
                del self._lines[image]
        return tuple(other for _, other in sorted(behind) if self._grant_if_free(other))

    def held(self, workflow_id: str) -> bool:
        """Returns whether a workflow holds everything that it asked for."""
        return workflow_id not in self._asked or workflow_id in self._granted

    def would_wait(self, locks: Iterable[Lock]) -> tuple[Held, ...]:
        """Returns the images that somebody new could not have at once, and who is in the way."""
        found = []
        for lock in locks:
            if line := self._lines.get((lock.pool, lock.image)):
                others = line.in_the_way("", exclusive=lock.exclusive)
                if holders := tuple(islice(others, HOLDERS_SHOWN_MAX)):
                    found.append(Held(lock=lock, holders=holders))
        return tuple(found)

    def view(self, workflow_id: str) -> tuple[LockView, ...]:
        """Returns how a workflow stands with each of its images."""
        _, locks = self._asked.get(workflow_id, (0, ()))
        return tuple(self._view(workflow_id, lock) for lock in locks)

    def _view(self, workflow_id: str, lock: Lock) -> LockView:
        if workflow_id in self._granted:
            return LockView(lock=lock, held=True, position=0, holders=())
        before = tuple(self._lines[lock.pool, lock.image].before(workflow_id))
        holders = tuple(islice((o for o in before if o in self._granted), HOLDERS_SHOWN_MAX))
        return LockView(lock=lock, held=False, position=len(before), holders=holders)

    def _next_of(self, line: _Line) -> Iterator[tuple[int, str]]:
        """Yields those of a line whom nobody in it keeps waiting."""
        for place in line.waiting:
            exclusive = line.places[place[1]]
            if next(line.in_the_way(place[1], exclusive=exclusive), None) is not None:
                return  # nor can anybody behind it share with it, or with whom it waits for
            yield place

    def _grant_if_free(self, workflow_id: str) -> bool:
        """Has a workflow hold its images if nobody is in its way in any line."""
        order, locks = self._asked[workflow_id]
        lines = [(self._lines[lock.pool, lock.image], lock.exclusive) for lock in locks]
        for line, exclusive in lines:
            if next(line.in_the_way(workflow_id, exclusive=exclusive), None) is not None:
                return False
        self._granted.add(workflow_id)
        for line, _ in lines:
            line.waiting.remove((order, workflow_id))
        return True


def stands_in_line(workflow: Workflow) -> bool:
    """Returns whether a workflow holds images or waits for them.

    One that is quarantined keeps what it holds; if it has not begun, it keeps nobody waiting.
    """
    if workflow.settled or not workflow.locks:
        return False
    return workflow.locked or workflow.state is not WorkflowState.QUARANTINED


@dataclass(frozen=True, slots=True, kw_only=True)
class LinedUp:
    """The lines as the records of workflows say."""

    lines: Lines
    due: tuple[str, ...]  # their turn has come, and their records do not say so yet
    clashing: tuple[str, ...]  # they hold what another one holds: a defect of ours


def line_up(
    workflows: Iterable[Workflow],
    withheld: Mapping[str, Lock] = NOTHING,
    others: Mapping[str, tuple[Standing, ...]] = NOBODY,
) -> LinedUp:
    """Returns the lines of workflows: holders first, then those who wait, the oldest first.

    Before these come images that nobody is to have for a while, by who keeps them; and before each
    come other coordinators' workflows that are in its way, by its id. All coordinators go by the
    same order, so that nobody waits in a circle.
    """
    lines = Lines()
    standing = [workflow for workflow in workflows if stands_in_line(workflow)]
    holding = [workflow for workflow in standing if workflow.locked]
    waiting = [workflow for workflow in standing if not workflow.locked]
    waiting.sort(key=lambda workflow: (workflow.create_time, workflow.id))
    # Whoever comes after two that clash waits for both of them.
    clashing = [w.id for w in holding if not lines.ask(w.id, w.locks)]
    for keeper, lock in withheld.items():
        lines.ask(keeper, (lock,))
    due = []
    for workflow in waiting:
        _stand(lines, others.get(workflow.id, ()))
        # The holder settled, and the process stopped before the next in line was told.
        if lines.ask(workflow.id, workflow.locks):
            due.append(workflow.id)
    for ways in others.values():  # of what does not stand here yet
        _stand(lines, ways)
    return LinedUp(lines=lines, due=tuple(due), clashing=tuple(clashing))


def _stand(lines: Lines, ways: Iterable[Standing]) -> None:
    for each in ways:
        if each.workflow_id not in lines:
            lines.ask(each.workflow_id, each.locks)
