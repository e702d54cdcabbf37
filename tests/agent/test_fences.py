"""Fences: of a lost attempt and whoever fences it exactly one wins, wherever they meet.

Two hosts, A and B, work on one simulated disk. A stops at one of its calls to it, B fences A's
attempt and is stopped at one of its own; A goes on to its end, then B. Each pair of such places is
one test, for everything that A may have been doing (S-V8, S-V9).
"""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from agent.drivers import copying
from agent.drivers.driver import OutcomeUnknown, PoolConfig
from agent.drivers.file import FileDriver
from agent.drivers.files import RealFiles
from countermand.rpc.errors import AttemptFenced, CountermandError, StorageFailed
from tests.agent.test_power_cuts import (
    BEFORE,
    BLOCK,
    CASES,
    DO,
    Case,
    Host,
    PowerCutError,
    prepared,
)
from tests.simulation.disk import Disk, LiveFiles

OWN = DO.replace("/", "@")
# Where a folder of A's is after a fence, for whoever has walked to it before.
MOVED = {f"/pool/staging/{OWN}/image": f"/pool/staging/{OWN}@aside/image"}


class MeetingFiles(LiveFiles):
    """A host's way to a disk; at one of its changes of names something else happens first.

    What it reads in between it may have read as well just before that. A rename has walked its
    paths by then, as in a kernel: it acts on the folders that it found, even if they are called
    something else meanwhile.
    """

    def __init__(self, disk: Disk, meet: Callable[[], None]) -> None:
        super().__init__(disk, lambda: None, lambda _source, _target: None)
        self.changes = 0
        self.meet_at = 0
        self._meet = meet

    def _change(self) -> None:
        self.changes += 1
        if self.changes == self.meet_at:
            self._meet()

    def open_to_write(self, path: Path) -> int:
        self._change()
        return super().open_to_write(path)

    def make_folder(self, path: Path) -> None:
        self._change()
        super().make_folder(path)

    def remove_file(self, path: Path) -> None:
        self._change()
        super().remove_file(path)

    def remove_folder(self, path: Path) -> None:
        self._change()
        super().remove_folder(path)

    def rename(self, source: Path, target: Path) -> None:
        self._change()
        super().rename(self._walked(source), self._walked(target))

    def _walked(self, path: Path) -> Path:
        parent = str(path.parent)
        moved = MOVED.get(parent, parent)
        is_folder = self._disk.names.get(moved, path) is None
        return Path(moved) / path.name if is_folder else path

    def share(self, source: int, target: int) -> bool:
        return False


class Meeting:
    """Host A at work, host B that fences it, and where they meet."""

    def __init__(self, case: Case, *, a_at: int, b_at: int) -> None:
        self.case = case
        self.host = prepared()
        self.b_changes = 0  # until its fence stood
        self.a_waits, self.a_may_go = threading.Event(), threading.Event()
        self.a_files = MeetingFiles(self.host.disk, self._a_meets)
        self.b_files = MeetingFiles(self.host.disk, self.let_a_go_on)
        pool = PoolConfig(pool_id="fast", path=Path("/pool"), flush_bytes=BLOCK, shared=True)
        self.a, self.b = FileDriver(pool, self.a_files), FileDriver(pool, self.b_files)
        self.a_files.changes = self.b_files.changes = 0
        self.a_files.meet_at, self.b_files.meet_at = a_at, b_at
        self.a_ended = ""
        self._thread = threading.Thread(target=self._a_works)

    def run(self) -> str:
        """Returns how B says that the attempt ended."""
        self._thread.start()
        self.a_waits.wait()
        try:
            self.b.fence(DO)
            self.b_changes = self.b_files.changes
            self.let_a_go_on()  # if B was not stopped at all
            return self.act(self.b)
        finally:
            self.let_a_go_on()

    def let_a_go_on(self) -> None:
        self.a_may_go.set()
        self._thread.join()

    def _a_meets(self) -> None:
        self.a_waits.set()
        self.a_may_go.wait()

    def _a_works(self) -> None:
        self.a_ended = self.act(self.a, resumed=False)
        self.a_waits.set()

    def act(self, driver: FileDriver, *, resumed: bool = True) -> str:
        """Does the verb's own work, and says how it ended."""
        try:
            self.host.drive(DO, self.case.act(driver, self.host.work(DO, resumed=resumed)))
        except OutcomeUnknown:
            return "UNKNOWN"
        except CountermandError as error:
            return error.reason
        return "SUCCEEDED"

    def check(self, verdict: str) -> None:
        """Holds the verdict against the disk, and against what A says."""
        label = self.host.driver.layout.label
        # What a resize has added counts only once the label says so: whoever is next cuts it off.
        held = {
            name: data[: label(name).virtual_size_bytes]
            for name, data in self.host.held(staged=[OWN]).items()
        }
        assert verdict in {"SUCCEEDED", "ATTEMPT_FENCED"}, verdict
        assert held == (self.case.after if verdict == "SUCCEEDED" else BEFORE), verdict
        # Its folder may go a moment before the fence stands: then it failed, just as certainly.
        certain = {"ATTEMPT_FENCED", "STORAGE_FAILED"}
        assert self.a_ended in (certain if verdict == "ATTEMPT_FENCED" else {"SUCCEEDED"})


@pytest.fixture(params=CASES)
def case(request, monkeypatch):
    monkeypatch.setattr(copying, "CHUNK_BYTES", BLOCK)
    return CASES[request.param]


def test_job_or_fence_and_never_both(case):
    """S-V9, S-V8, I2: at each change of the one and each of the other."""
    alone = Meeting(case, a_at=0, b_at=0)
    assert alone.act(alone.a, resumed=False) == "SUCCEEDED"
    verdicts = set()
    for a_at in range(1, alone.a_files.changes + 2):
        b_at = 0
        while True:
            b_at += 1
            meeting = Meeting(case, a_at=a_at, b_at=b_at)
            verdict = meeting.run()
            meeting.check(verdict)
            verdicts.add(verdict)
            if meeting.b_changes < b_at:
                break
    assert verdicts == {"SUCCEEDED", "ATTEMPT_FENCED"}


def half_done(case: Case) -> Host:
    """Returns a host whose work is held where its effect would follow at once."""
    host = prepared()
    steps = case.act(host.driver, host.work(DO))
    while not next(steps).last:
        pass
    steps.close()
    return host


def test_a_late_start_is_refused_for_as_long_as_the_fence_stands(case):
    """S-V8: in the next life of its agent too, which sweeps first."""
    host = half_done(case)
    host.driver.fence(DO)
    host.boot()
    assert host.driver.staged() == []
    host.driver.discard(DO)
    for resumed in (False, True):
        with pytest.raises(AttemptFenced):
            host.do(case, resumed=resumed)
        assert host.held(staged=[OWN]) == BEFORE
    host.driver.fence(DO)  # again
    host.driver.remove_fence(DO)
    host.driver.remove_fence(DO)
    host.do(case)
    assert host.held() == case.after


def test_what_came_before_its_fence_is_made_up_for_all_the_same(case):
    if case.make_up is None:
        return
    host = prepared()
    host.do(case)
    host.driver.fence(DO)
    assert host.held(staged=[OWN]) == case.after
    for number in (2, 3):
        host.undo(case, number=number)
        assert host.held(staged=[OWN]) == BEFORE


def test_a_fence_outlives_every_power_cut_once_it_is_believed(case):
    """And whoever fences again, after one that was not believed, finds no less."""
    calm = half_done(case)
    calm.boot()
    calm.driver.fence(DO)
    for cut_at in range(1, calm.files.calls + 2):
        host = half_done(case)
        host.disk.flush_names()
        host.boot(cut_at=cut_at)
        believed = False
        with suppress(PowerCutError):
            host.driver.fence(DO)
            believed = True
            host.files.stat(Path("/pool"))
        host.disk.cut_power(random.Random(cut_at))
        host.boot()
        if not believed:
            host.driver.fence(DO)
        with pytest.raises(AttemptFenced):
            host.do(case, resumed=True)
        assert host.held(staged=[OWN]) == BEFORE


def test_two_hosts_fence_at_once_and_one_of_them_dies(case):
    pool = PoolConfig(pool_id="fast", path=Path("/pool"), flush_bytes=BLOCK, shared=True)

    def die() -> None:
        raise PowerCutError

    def other_dies(at: int) -> Callable[[], None]:
        def fence() -> None:
            files = MeetingFiles(host.disk, die)
            other = FileDriver(pool, files)
            files.changes, files.meet_at = 0, at
            with suppress(PowerCutError):
                other.fence(DO)

        return fence

    for other_at, at in itertools.product(range(1, 12), range(1, 8)):
        host = half_done(case)
        files = MeetingFiles(host.disk, other_dies(other_at))
        driver = FileDriver(pool, files)
        files.changes, files.meet_at = 0, at
        driver.fence(DO)
        assert host.held(staged=[OWN]) == BEFORE


def test_nothing_but_a_folder_or_a_fence_is_touched(tmp_path):
    """A link in the place of an attempt is none of ours: nobody follows it."""
    driver = FileDriver(PoolConfig(pool_id="fast", path=tmp_path, shared=True), RealFiles())
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "staging" / OWN).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StorageFailed):
        driver.fence(DO)
    assert (tmp_path / "staging" / OWN).is_symlink()
