"""Power cuts at every single call to a disk that forgets what was not flushed.

The crash points of `test_conformance` lie where somebody thought of them, on a file system that
forgets nothing. Here the driver alone works on the simulation's disk, whose power is cut before
each of its calls in turn, and some prefix of the unflushed names is all that is left.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from agent.drivers import copying
from agent.drivers.driver import Format, LocalSource, PoolConfig, Steps, Work
from agent.drivers.file import FileDriver
from agent.drivers.label import Label
from countermand.rpc import crash
from countermand.rpc.errors import AttemptCancelled
from tests.agent.requests import CLUSTER, attempt_name
from tests.simulation.disk import Disk, LiveFiles

BLOCK = 512
OLD, NEW = (bytes([value]) * BLOCK * 3 for value in (1, 2))
DO = attempt_name("do")
SEEDS = 2  # ways in which one power cut may end


class PowerCutError(BaseException):
    """Passes everything that catches errors, as a power cut would."""


class Files(LiveFiles):
    """A disk without reflinks, whose power is cut before a chosen call."""

    def __init__(self, disk: Disk, *, cut_at: int = 0) -> None:
        super().__init__(disk, self._count, lambda _source, _target: None)
        self.calls = 0
        self._cut_at = cut_at

    def _count(self) -> None:
        self.calls += 1
        if self._cut_at and self.calls >= self._cut_at:
            raise PowerCutError

    def share(self, source: int, target: int) -> bool:
        self._count()
        return False


class Host:
    """A disk, one life's driver, and the notes that its journal kept."""

    def __init__(self) -> None:
        self.disk = Disk(1 << 20)
        self.disk.change("put", "/pool")
        self.disk.flush_names()
        self.notes: dict[str, str] = {}
        self.has_done = False  # and its journal says so
        self.files: Files
        self.driver: FileDriver

    def boot(self, *, cut_at: int = 0) -> None:
        """Begins a life; the power is not cut while it starts."""
        self.files = Files(self.disk)
        pool = PoolConfig(pool_id="fast", path=Path("/pool"), flush_bytes=BLOCK)
        self.driver = FileDriver(pool, self.files)
        self.files.calls, self.files._cut_at = 0, cut_at

    def work(self, attempt: str, *, resumed: bool = False) -> Work:
        return Work(
            attempt=attempt,
            cluster_id=CLUSTER,
            note=self.notes.get(attempt, ""),
            resumed=resumed,
            now=lambda: datetime(2030, 1, 1, tzinfo=UTC),
            crash=crash.never,
        )

    def drive(self, attempt: str, steps: Steps[object], *, stop: bool = False) -> None:
        """Does the work, or stops it at its first step."""
        try:
            step = next(steps)
            while True:
                if step.note:
                    self.notes[attempt] = step.note
                step = steps.throw(AttemptCancelled()) if stop else next(steps)
        except StopIteration:
            return

    def put(self, content: bytes) -> None:
        """Makes the base, or writes to it as a guest would."""
        path = Path("/pool/images/base/data.raw")
        handle = self.files.open_to_write(path)
        self.files.pwrite(handle, memoryview(content), 0)
        self.files.flush(handle)
        self.files.close(handle)

    def held(self, *, staged: Collection[str] = ()) -> dict[str, bytes]:
        """Returns what images and snapshots hold; nothing else may be there."""
        layout = self.driver.layout
        assert self.files.list_folder(layout.staging) == list(staged)
        found: dict[str, bytes] = {}
        for name in self.files.list_folder(layout.images):
            path, stat = layout.data(name, layout.label(name))
            assert self.files.list_folder(path.parent) == sorted([path.name, "image.json"])
            buffer = bytearray(stat.size_bytes)
            self.files.pread(self.files.open_to_read(path), memoryview(buffer), 0)
            found[name] = bytes(buffer)
        return found

    def label(self) -> Label:
        """Returns the base's label."""
        return self.driver.layout.label("base")

    def do(self, case: Case, *, resumed: bool = False, stop: bool = False) -> None:
        """Runs an action."""
        if self.has_done:
            return
        self.drive(DO, case.act(self.driver, self.work(DO, resumed=resumed)), stop=stop)
        self.has_done = True

    def undo(self, case: Case, *, number: int = 2) -> None:
        """Makes up for it."""
        assert case.make_up is not None
        name = attempt_name("do", number)
        self.drive(name, case.make_up(self.driver, self.work(name)))


def prepared() -> Host:
    """Returns a host with a base of newer content than its snapshot."""
    host = Host()
    host.boot()
    steps = host.driver.create(
        host.work("import/base"),
        "base",
        image_format=Format.RAW,
        size_bytes=len(NEW),
        preallocated=False,
    )
    host.drive("import/base", steps)
    host.put(OLD)
    name = attempt_name("old")
    host.drive(name, host.driver.create_snapshot(host.work(name), "base", "old"))
    host.put(NEW)
    host.disk.flush_names()
    assert host.held() == BEFORE
    return host


def copy(driver: FileDriver, work: Work) -> Steps[object]:
    return driver.copy(
        work,
        LocalSource(driver, "base"),
        "made",
        image_format=None,
        take_digest=False,
    )


def resize(driver: FileDriver, work: Work, size_bytes: int) -> Steps[object]:
    return driver.resize(work, "base", size_bytes=size_bytes, shrink_allowed=size_bytes < len(NEW))


BEFORE = {"base": NEW, "base@old": OLD}


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A verb, what makes up for it, and what there is after it."""

    act: Callable[[FileDriver, Work], Steps[object]]
    make_up: Callable[[FileDriver, Work], Steps[object]] | None = None
    after: dict[str, bytes]
    generation: int = 1


CASES = {
    "copy": Case(
        act=copy,
        make_up=lambda driver, work: driver.make_up_for(work, "made", made_by=DO),
        after={**BEFORE, "made": NEW},
    ),
    "create-snapshot": Case(
        act=lambda driver, work: driver.create_snapshot(work, "base", "made"),
        make_up=lambda driver, work: driver.make_up_for_snapshot(work, "base", "made", made_by=DO),
        after={**BEFORE, "base@made": NEW},
    ),
    "delete-snapshot": Case(
        act=lambda driver, work: driver.delete_snapshot(work, "base", "old"),
        after={"base": NEW},
    ),
    "revert": Case(
        act=lambda driver, work: driver.revert(work, "base", "old", safety_id=""),
        after={**BEFORE, "base": OLD},
        generation=2,
    ),
    "revert-safely": Case(
        act=lambda driver, work: driver.revert(work, "base", "old", safety_id="safe"),
        make_up=lambda driver, work: driver.make_up_for_revert(
            work, "base", safety_id="safe", made_by=DO
        ),
        after={"base": OLD, "base@old": OLD, "base@safe": NEW},
        generation=2,
    ),
    "grow": Case(
        act=lambda driver, work: resize(driver, work, 5 * BLOCK),
        make_up=lambda driver, work: driver.make_up_for_resize(work, "base", made_by=DO),
        after={**BEFORE, "base": NEW + bytes(2 * BLOCK)},
        generation=2,
    ),
    "shrink": Case(
        act=lambda driver, work: resize(driver, work, BLOCK),
        after={**BEFORE, "base": NEW[:BLOCK]},
        generation=2,
    ),
}


def cuts(*stories: Callable[[Host], None]) -> Iterator[Host]:
    """Yields a host after each power cut that the stories can suffer, started again."""
    calm = prepared()
    calm.boot()
    _tell(calm, stories)
    for cut_at in range(1, calm.files.calls + 1):
        for seed in range(SEEDS):
            host = prepared()
            host.boot(cut_at=cut_at)
            with pytest.raises(PowerCutError):
                _tell(host, stories)
            host.disk.cut_power(random.Random(seed * 1000 + cut_at))
            host.boot()
            yield host


def _tell(host: Host, stories: tuple[Callable[[Host], None], ...]) -> None:
    for story in stories:
        story(host)


@pytest.fixture(params=CASES)
def case(request, monkeypatch):
    monkeypatch.setattr(copying, "CHUNK_BYTES", BLOCK)
    return CASES[request.param]


def test_goes_on_after_every_power_cut(case):
    for host in cuts(lambda host: host.do(case)):
        host.do(case, resumed=True)
        assert host.held() == case.after
        assert host.label().generation == case.generation


@pytest.mark.parametrize("journal", ["kept", "lost"])
def test_is_made_up_for_after_every_power_cut(case, journal):
    if case.make_up is None:
        return
    for host in cuts(lambda host: host.do(case), lambda host: host.undo(case)):
        if journal == "kept":  # the runner sees to what was running first, and stops it
            with suppress(AttemptCancelled):
                host.do(case, resumed=True, stop=True)
        else:
            host.notes.clear()
            for attempt in host.driver.staged():
                host.driver.discard(attempt)
        host.undo(case)
        host.undo(case, number=3)
        assert host.held() == BEFORE
