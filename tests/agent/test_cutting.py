"""What is cut off an image's end, while another host makes the same image longer.

Two hosts share a pool on real files. Host A makes up for a growth and is held just before it cuts,
as a machine is that stops for a while; host B goes on.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from agent.drivers import qemu
from agent.drivers.driver import Format, PoolConfig, Resized, Steps, Work
from agent.drivers.file import FileDriver
from agent.drivers.files import RealFiles
from agent.drivers.layout import Mark
from countermand.rpc import crash
from countermand.rpc.errors import AttemptFenced, CountermandError, ImageBusy
from tests.agent.requests import CLUSTER, attempt_name
from tests.agent.rig import NOW

SIZE, MORE, MOST = 2**20, 2 * 2**20, 3 * 2**20
GROW, BACK, LATER = (attempt_name(task) for task in ("grow", "back", "later"))


class Held:
    """Where a host is held: it says that it is there, and waits."""

    def __init__(self) -> None:
        self.there, self._may_go = threading.Event(), threading.Event()

    def __call__(self) -> None:
        self.there.set()
        assert self._may_go.wait(60)

    def let_go(self) -> None:
        self._may_go.set()


class HeldFiles(RealFiles):
    """A host's way to its files; something happens before one of them gets another size."""

    def __init__(self) -> None:
        super().__init__()
        self.before_cut: Callable[[], None] = lambda: None
        self.before_growth: Callable[[], None] = lambda: None

    def truncate(self, handle: int, size_bytes: int) -> None:
        if size_bytes:  # else it is a label, about to be written
            self.before_cut()
        super().truncate(handle, size_bytes)

    def extend(self, handle: int, size_bytes: int) -> None:
        self.before_growth()
        super().extend(handle, size_bytes)


class NoLocks(HeldFiles):
    """Files on a storage that keeps no locks."""

    def lock(self, path: Path, place: int, *, alone: bool) -> int | None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))


def work(attempt: str) -> Work:
    return Work(attempt=attempt, cluster_id=CLUSTER, note="", now=lambda: NOW, crash=crash.never)


def drive(steps: Steps[Any]) -> Any:
    while True:
        try:
            next(steps)
        except StopIteration as ended:
            return ended.value


class Hosts:
    """Two hosts, and an image that both reach."""

    def __init__(self, folder: Path, image_format: Format, files: type[HeldFiles]) -> None:
        pool = PoolConfig(pool_id="fast", path=folder, shared=True)
        (folder / "pool.json").write_bytes(Mark(pool_id="fast", identity="id").encode())
        self.a_files, self.b_files = files(), files()
        self.a, self.b = (FileDriver(pool, each, "id") for each in (self.a_files, self.b_files))
        made = self.a.create(
            work(attempt_name("base")),
            "base",
            image_format=image_format,
            size_bytes=SIZE,
            preallocated=False,
        )
        drive(made)

    def grow(self, host: FileDriver, attempt: str, size_bytes: int) -> Resized:
        steps = host.resize(work(attempt), "base", size_bytes=size_bytes, shrink_allowed=False)
        found: Resized = drive(steps)
        return found

    def back(self, host: FileDriver, attempt: str) -> None:
        drive(host.make_up_for_resize(work(attempt), "base", made_by=GROW))

    def sizes(self) -> tuple[int, int]:
        """Returns what the label says, and what there is."""
        label = self.b.layout.label("base")
        path, found = self.b.layout.data("base", label)
        if label.format is Format.RAW:
            return label.virtual_size_bytes, found.size_bytes
        return label.virtual_size_bytes, self.b.layout.virtual_size(path, label.format, "base")


@contextmanager
def going_on(does: Callable[[], object], held: Held) -> Iterator[list[CountermandError]]:
    """Does something in a thread of its own, up to where it is held; lets it end at the end."""
    raised: list[CountermandError] = []

    def run() -> None:
        try:
            does()
        except CountermandError as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        assert held.there.wait(60)
        yield raised
    finally:
        held.let_go()
        thread.join()


@pytest.fixture(params=[Format.RAW, Format.QCOW2])
def image_format(request):
    if request.param is Format.QCOW2 and not qemu.is_installed():
        pytest.skip("qemu-img is not installed: apt install qemu-utils")
    return request.param


@pytest.fixture
def held(monkeypatch):
    """Returns where host A is held: before it cuts a raw image, or has qemu-img do so."""
    held, shrink = Held(), qemu.shrink

    def shrink_late(*arguments: Any, **fields: Any) -> None:
        held()
        shrink(*arguments, **fields)

    monkeypatch.setattr(qemu, "shrink", shrink_late)
    return held


def test_nobody_grows_what_another_host_is_about_to_cut(tmp_path, image_format, held):
    hosts = Hosts(tmp_path, image_format, HeldFiles)
    hosts.grow(hosts.a, GROW, MORE)
    hosts.a_files.before_cut = held
    with going_on(lambda: hosts.back(hosts.a, BACK), held) as raised, pytest.raises(ImageBusy):
        hosts.grow(hosts.b, LATER, MOST)
    assert not raised
    assert hosts.sizes() == (SIZE, SIZE)
    hosts.grow(hosts.b, LATER, MOST)
    assert hosts.sizes() == (MOST, MOST)


def test_nothing_is_cut_where_another_host_is_about_to_grow(tmp_path):
    """Its zeros stay, and nobody reads them; whoever is held up cuts them off himself."""
    hosts, held = Hosts(tmp_path, Format.RAW, HeldFiles), Held()
    hosts.a_files.before_growth = held
    with going_on(lambda: hosts.grow(hosts.a, GROW, MORE), held) as raised:
        hosts.b.fence(GROW)
        hosts.grow(hosts.b, LATER, MOST)  # growths are in nobody's way
        drive(hosts.b.make_up_for_resize(work(BACK), "base", made_by=LATER))
        assert hosts.sizes() == (SIZE, MOST)
    assert [type(error) for error in raised] == [AttemptFenced]
    assert hosts.sizes() == (SIZE, SIZE)


def test_where_no_locks_are_kept_nothing_is_cut_that_makes_up_for_a_growth(tmp_path):
    hosts = Hosts(tmp_path, Format.RAW, NoLocks)
    hosts.grow(hosts.a, GROW, MORE)
    hosts.back(hosts.a, BACK)
    assert hosts.sizes() == (SIZE, MORE)
    hosts.grow(hosts.b, LATER, MOST)
    assert hosts.sizes() == (MOST, MOST)


def test_a_lock_ends_with_its_host(tmp_path):
    """The descriptor goes with the process, and the lock with it."""
    files = RealFiles()
    path = tmp_path / "pool.json"
    path.write_bytes(b"{}")
    alone = files.lock(path, 7, alone=True)
    assert alone is not None
    assert files.lock(path, 7, alone=True) is files.lock(path, 7, alone=False) is None
    other = files.lock(path, 8, alone=True)
    assert other is not None
    files.close(alone)
    first, second = (files.lock(path, 7, alone=False) for _ in range(2))
    assert first is not None
    assert second is not None
    assert files.lock(path, 7, alone=True) is None
    for handle in (first, second, other):
        files.close(handle)
