"""What every driver owes, told as stories that any driver can be put through.

Needs no test framework and no agent, so that whoever writes a driver can run it beside his own:

    for name in stories(kind.verbs):
        tell(name, fresh)

`fresh` makes empty storage and takes it away again: a context manager whose value opens a driver on
it, and is called once for each life. A story raises AssertionError, and says what was expected.

    once      an action takes effect once however often it is sent, and is made up for once
    stopped   at each step in turn: nothing is left, or all of it is there
    died      at each step and each crash point in turn: the next life finishes, or makes up for it
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import NamedTuple

from agent.drivers.cases import CASES, Case, Sent
from agent.drivers.driver import Driver, Format, ImageFound, Made, Step, Steps, Work
from agent.drivers.plugins import check_abilities
from countermand.rpc.crash import Crash, never
from countermand.rpc.errors import (
    AttemptCancelled,
    CallUnsupported,
    FieldUnsupported,
    VerbUnsupported,
)

# Opens a driver on the same storage, as a host that starts again does.
Open = Callable[[], Driver]
# Makes empty storage for one story.
Fresh = Callable[[], AbstractContextManager[Open]]

CLUSTER = "conformance"
DO = "workflows/conformance/tasks/do/attempts/1"
UNDO = "workflows/conformance/tasks/do/attempts/2"
OTHER = "workflows/conformance/tasks/other/attempts/1"

STEPS_MAX = 200  # of one action: beyond it, it never ends

_UNREADABLE = (CallUnsupported, FieldUnsupported, VerbUnsupported)


class DiedError(BaseException):
    """Passes everything that catches errors, as the end of a process would."""


class Seen(NamedTuple):
    """What a driver says of one image."""

    size_bytes: int
    content: str  # its digest; empty where the driver reads none
    snapshots: tuple[str, ...]


def stories(verbs: frozenset[str]) -> list[str]:
    """Returns the names of the stories that a driver with these verbs can be put through."""
    told = [name for name, case in CASES.items() if case.needs <= verbs]
    return [f"{name}: {kind}" for name in told for kind in KINDS]


def tell(name: str, fresh: Fresh) -> None:
    """Puts a driver through one story.

    Raises:
        AssertionError: It does not keep what is promised; says how.
    """
    case, _, kind = name.partition(": ")
    KINDS[kind](CASES[case], fresh)


@dataclass(kw_only=True)
class Host:
    """A driver on one storage, through several lives, with what its journal keeps."""

    open: Open
    notes: dict[str, str] = field(default_factory=dict)
    resumed: bool = False
    driver: Driver = field(init=False)

    def __post_init__(self) -> None:
        """Begins the first life."""
        self.driver = self.open()
        check_abilities(self.driver)

    def start_again(self) -> None:
        """Begins another life; nothing of the last one runs."""
        self.driver = self.open()
        self.resumed = True

    def work(self, attempt: str, crash: Crash = never) -> Work:
        """Returns what the driver is to know of an attempt."""
        return Work(
            attempt=attempt,
            cluster_id=CLUSTER,
            note=self.notes.get(attempt, ""),
            resumed=self.resumed,
            now=lambda: datetime(2030, 1, 1, tzinfo=UTC),
            crash=crash,
        )

    def send(self, sent: Sent, attempt: str = DO, *, stop: Stop | None = None) -> object:
        """Runs something to its end, or until it is stopped; returns what it says it made."""
        stop = stop or Stop()
        return stop.drive(sent(self.driver, self.work(attempt, stop)), self.notes, attempt)

    def seen(self) -> dict[str, Seen]:
        """Returns what there is; what is listed and what is found must agree."""
        listed = self.driver.list_images(after="", count_max=1000)
        ids = [image.image_id for image in listed]
        assert ids == sorted(ids), f"list_images must be in order of ids, not {ids}"
        for image in listed:
            found = self.driver.find(image.image_id)
            assert found == image, f"find says {found}, list_images says {image}"
        assert self.driver.list_images(after=max(ids, default=""), count_max=1) == []
        return {image.image_id: self._seen(image) for image in listed}

    def _seen(self, image: ImageFound) -> Seen:
        snapshots = tuple(sorted(snapshot.snapshot_id for snapshot in image.snapshots))
        return Seen(image.virtual_size_bytes, self._content(image.image_id), snapshots)

    def _content(self, image_id: str) -> str:
        try:
            with self.driver.reading(image_id, Format.RAW) as content:
                buffer = bytearray(content.size_bytes)
                count = content.pread(memoryview(buffer), 0)
                assert count == content.size_bytes, f"{image_id}: read {count} bytes of it"
        except _UNREADABLE:
            return ""
        return _digest(buffer)

    def sweep(self) -> None:
        """Removes what is half-made, as an agent does when it starts."""
        for attempt in self.driver.staged():
            self.driver.discard(attempt)
        self.is_clean()

    def is_clean(self) -> None:
        """Makes sure that nothing half-made is left."""
        left = self.driver.staged()
        assert left == [], f"half-made and left behind: {left}"


@dataclass(kw_only=True)
class Stop:
    """Lets work run, and stops it at a step or a crash point; counts both."""

    at_step: int = 0
    at_point: tuple[str, int] | None = None
    dies: bool = True  # at the step; else it is cancelled there
    steps: int = 0
    points: Counter[str] = field(default_factory=Counter)
    done: bool = False

    def __call__(self, point: str) -> None:
        """Is passed at each crash point."""
        self.points[point] += 1
        if (point, self.points[point]) == self.at_point:
            self.done = True
            raise DiedError(point)

    def drive(self, steps: Steps[object], notes: dict[str, str], attempt: str) -> object:
        """Runs work to its end."""
        try:
            step = next(steps)
            while True:
                if step.note:
                    notes[attempt] = step.note
                step = self._pass(steps)
                assert self.steps < STEPS_MAX, f"after {STEPS_MAX} steps there is no end"
        except StopIteration as end:
            return end.value

    def _pass(self, steps: Steps[object]) -> Step:
        self.steps += 1
        if self.steps != self.at_step:
            return next(steps)
        self.done = True
        if not self.dies:
            return steps.throw(AttemptCancelled())
        steps.close()
        raise DiedError


# -- the stories ---------------------------------------------------------------------------------


@contextmanager
def prepared(case: Case, fresh: Fresh) -> Iterator[tuple[Host, dict[str, Seen]]]:
    """Yields a host with what a case needs, and what there is."""
    with fresh() as opening:
        host = Host(open=opening)
        for number, sent in enumerate(case.before, start=1):
            host.send(sent, f"workflows/before/tasks/prepare/attempts/{number}")
        yield host, host.seen()


def once(case: Case, fresh: Fresh) -> None:
    """Takes effect once, and is made up for once."""
    with prepared(case, fresh) as (host, before):
        report = host.driver.report()
        assert report.verbs == host.driver.verbs, "report must tell of the verbs that there are"
        made = host.send(case.act)
        after = host.seen()
        assert sorted(after) == sorted(case.images), f"there are {sorted(after)}"
        assert case.snapshots is None or after["base"].snapshots == case.snapshots, after
        _owned(case, host)
        _holds(case, after)
        host.start_again()
        again = host.send(case.act)
        assert _same(again, made), f"the first time {made}, the second time {again}"
        assert host.seen() == after, f"there was {after}, and after a repeat {host.seen()}"
        host.is_clean()
        if case.make_up is None:
            return
        host.send(_by(case, OTHER), UNDO)
        assert host.seen() == after, "what makes up for another attempt has touched this one's"
        for _ in range(2):
            host.send(_by(case, DO), UNDO)
            assert host.seen() == before, f"there was {before}, and there is {host.seen()}"
            host.is_clean()
    if case.make_up is not None:
        with prepared(case, fresh) as (host, before):
            host.send(_by(case, DO), UNDO)  # it never ran
            assert host.seen() == before, "what never ran was made up for with an effect"
            host.is_clean()


def stopped(case: Case, fresh: Fresh) -> None:
    """Leaves nothing when it is cancelled at a step, or all of it."""
    for at_step in range(1, STEPS_MAX):
        with prepared(case, fresh) as (host, before):
            stop = Stop(at_step=at_step, dies=False)
            try:
                host.send(case.act, stop=stop)
            except AttemptCancelled:
                assert host.seen() == before, f"cancelled at step {at_step}: {host.seen()}"
            else:
                assert not stop.done, f"cancelled at step {at_step}, it went on"
            host.is_clean()
            if not stop.done:
                return


def died(case: Case, fresh: Fresh) -> None:
    """Is finished by the next life wherever it died, and can be made up for there."""
    calm = Stop()
    with prepared(case, fresh) as (host, _):
        host.send(case.act, stop=calm)
        after = host.seen()
    for stop in _stops(calm):
        with prepared(case, fresh) as (host, before):
            _die(host, case.act, stop)
            host.send(case.act)
            assert host.seen() == after, f"died at {_place(stop)}: {host.seen()}, not {after}"
            host.is_clean()
        if case.make_up is None:
            continue
        with prepared(case, fresh) as (host, before):
            _die(host, case.act, replace(stop, steps=0, points=Counter(), done=False))
            host.sweep()
            host.send(_by(case, DO), UNDO)
            assert host.seen() == before, f"died at {_place(stop)}: {host.seen()}, not {before}"
            host.is_clean()
    if case.make_up is not None:
        _dies_making_up(case, fresh)


def _dies_making_up(case: Case, fresh: Fresh) -> None:
    calm = Stop()
    with prepared(case, fresh) as (host, _):
        host.send(case.act)
        host.send(_by(case, DO), UNDO, stop=calm)
    for stop in _stops(calm):
        with prepared(case, fresh) as (host, before):
            host.send(case.act)
            _die(host, _by(case, DO), stop, UNDO)
            host.send(_by(case, DO), UNDO)
            assert host.seen() == before, f"died at {_place(stop)}: {host.seen()}, not {before}"
            host.is_clean()


KINDS: Mapping[str, Callable[[Case, Fresh], None]] = {
    "once": once,
    "stopped": stopped,
    "died": died,
}


# -- helpers -------------------------------------------------------------------------------------


def _stops(calm: Stop) -> Iterator[Stop]:
    """Yields every place where an undisturbed run may die."""
    yield from (Stop(at_step=step) for step in range(1, calm.steps + 1))
    for point, count in calm.points.items():
        yield from (Stop(at_point=(point, number)) for number in range(1, count + 1))


def _die(host: Host, sent: Sent, stop: Stop, attempt: str = DO) -> None:
    with suppress(DiedError):
        host.send(sent, attempt, stop=stop)
    assert stop.done, f"it did not come to {_place(stop)} again: work must take the same steps"
    host.start_again()


def _place(stop: Stop) -> str:
    return f"{stop.at_point}" if stop.at_point else f"step {stop.at_step}"


def _by(case: Case, made_by: str) -> Sent:
    """Returns what makes up for an attempt."""
    make_up = case.make_up
    assert make_up is not None
    return lambda driver, work: make_up(driver, work, made_by)


def _owned(case: Case, host: Host) -> None:
    """Makes sure that what was made says whose it is."""
    for image_id in set(case.images) - {"base"}:
        found = host.driver.find(image_id)
        owner = found.cluster_id, found.attempt
        assert owner == (CLUSTER, DO), f"{image_id} must carry its owner's tag, not {owner}"
        assert found.generation > 0, f"{image_id} must have a generation"


def _holds(case: Case, after: Mapping[str, Seen]) -> None:
    """Makes sure that what was made, or changed, holds what it should."""
    image_id = "made" if "made" in after else "base"
    if case.holds is None or not after[image_id].content:
        return
    size = after[image_id].size_bytes
    assert size == len(case.holds), f"{image_id} must have {len(case.holds)} bytes, not {size}"
    assert after[image_id].content == _digest(case.holds), f"{image_id} holds something else"


def _digest(data: bytes | bytearray) -> str:
    return f"{zlib.crc32(data):08x}"  # nobody wants to deceive us, and it is read a thousand times


def _same(one: object, other: object) -> bool:
    """Returns whether two lives say the same; how much was written may be told once only."""
    if isinstance(one, Made) and isinstance(other, Made):
        return replace(one, written_bytes=0) == replace(other, written_bytes=0)
    return one == other
