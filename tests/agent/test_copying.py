"""What a copy reads, writes, leaves out and remembers, and the digest it takes along."""

from __future__ import annotations

import errno
import os
import random
import threading
from pathlib import Path

import pytest

from agent.drivers.ahead import AHEAD_MAX, threaded
from agent.drivers.blocks import GRAIN_BYTES, Block, blocks, data_bytes
from agent.drivers.content import FileContent
from agent.drivers.copying import Copy, Offset, digest_content
from agent.drivers.digest import BLOCK_BYTES, LEAF_BYTES, Leaves, leaf_of
from agent.drivers.driver import Step, Steps
from agent.drivers.files import RealFiles
from agent.drivers.qemu import to_end
from agent.drivers.room import Room
from countermand.rpc import crash
from tests.agent.digests import digest

KIB, MIB = 2**10, 2**20
METADATA_BYTES = 8 * KIB  # of a file's extents, which count as its own


class Extents:
    """A content of zeros and ones, which is no file; remembers what was read of it."""

    identity = "extents"

    def __init__(self, size_bytes: int, *extents: tuple[int, int]) -> None:
        self.size_bytes = size_bytes
        self._extents = extents
        self.read: list[int] = []

    def next_data(self, offset: int) -> tuple[int, int] | None:
        return next(((max(b, offset), e) for b, e in self._extents if e > offset), None)

    def pread(self, buffer: memoryview, offset: int) -> int:
        self.read.append(offset)
        length = min(len(buffer), self.size_bytes - offset)
        buffer[:length] = bytes(b"x" * length)
        return length

    def content(self) -> bytes:
        content = bytearray(self.size_bytes)
        for begin, end in self._extents:
            content[begin:end] = b"x" * (end - begin)
        return bytes(content)


class Target:
    """A file to copy into, with its leaves beside it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "target"
        self.files = RealFiles()
        self.handle = self.files.open_to_write(self.path)
        self.leaves = self.files.open_to_write(folder / "leaves")

    def copy(self, source, note: str = "", **fields) -> Copy:
        return Copy(
            files=self.files,
            source=source,
            target=self.handle,
            offset=Offset.after(note, source=source.identity),
            room=Room(quota_bytes=None, bandwidth_bytes_per_s=None),
            folder="images/a",
            crash=crash.never,
            leaves=Leaves(self.files, self.leaves),
            **fields,
        )


@pytest.fixture
def target(tmp_path):
    target = Target(tmp_path)
    yield target
    target.files.close(target.handle)
    target.files.close(target.leaves)


# -- blocks -------------------------------------------------------------------------------------

B = BLOCK_BYTES
LAYOUTS = {
    "nothing": (0, (), []),
    "a hole": (3 * B, (), [Block(0, 3 * B, ())]),
    "a short one": (10, ((0, 10),), [Block(0, 10, ((0, 10),))]),
    "across a border": (
        2 * B,
        ((9, B + 5),),
        [Block(0, B, ((9, B),)), Block(B, 2 * B, ((B, B + 5),))],
    ),
    "scattered": (B, ((4, 8), (16, 20)), [Block(0, B, ((4, 8), (16, 20)))]),
    "holes around": (
        9 * B + 7,
        ((4 * B + 8, 4 * B + 9),),
        [
            Block(0, 4 * B, ()),
            Block(4 * B, 5 * B, ((4 * B + 8, 4 * B + 9),)),
            Block(5 * B, 9 * B + 7, ()),
        ],
    ),
    "grown meanwhile": (
        B + 1,
        ((0, 2 * B),),
        [Block(0, B, ((0, B),)), Block(B, B + 1, ((B, B + 1),))],
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_content_is_cut_into_blocks(layout):
    size, extents, expected = LAYOUTS[layout]
    content = Extents(size, *extents)
    assert list(blocks(content, 0)) == expected
    assert data_bytes(content) == sum(block.data_bytes for block in expected)


# -- digest -------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, B - 1, B, B + 1, 3 * B])
def test_the_digest_can_be_computed_by_others(size, tmp_path):
    content = os.urandom(size)
    (tmp_path / "file").write_bytes(content)
    files = RealFiles()
    handle = files.open_to_read(tmp_path / "file")
    found = to_end(
        digest_content(FileContent(files=files, handle=handle, size_bytes=size, identity=""))
    )
    files.close(handle)
    assert found == digest(content)


def test_of_a_hole_nothing_is_read_for_a_digest():
    content = Extents(40 * B + 5, (8 * B, 8 * B + 1))
    assert to_end(digest_content(content)) == digest(content.content())
    assert content.read == [8 * B]


def test_a_digest_tells_sizes_of_zeros_apart():
    assert to_end(digest_content(Extents(B))) != to_end(digest_content(Extents(B + 1)))


# -- copy ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
def test_a_copy_of_anything_is_the_same_with_its_digest(seed, target, tmp_path):
    """Whatever lies where: data, holes, and zeros that take room."""
    chance = random.Random(seed)
    size = chance.randrange(1, 12 * MIB)
    source = tmp_path / "source"
    with source.open("wb") as file:
        file.truncate(size)
        for _ in range(chance.randrange(40)):
            length = chance.choice([1, 512, 5 * KIB, GRAIN_BYTES, 300 * KIB])
            file.seek(chance.randrange(size))
            file.write(chance.choice([os.urandom(length), bytes(length)]))
        file.truncate(size)
    handle = target.files.open_to_read(source)
    content = FileContent(files=target.files, handle=handle, size_bytes=size, identity="")
    copy = target.copy(content)
    written = to_end(copy.run())
    target.files.close(handle)
    assert target.path.read_bytes() == source.read_bytes()
    assert copy.leaves.digest.of(size) == digest(source.read_bytes())
    assert written <= data_bytes_of(source)
    taken, given = target.path.stat().st_blocks * 512, source.stat().st_blocks * 512
    assert taken <= given + METADATA_BYTES


def data_bytes_of(path: Path) -> int:
    files = RealFiles()
    handle = files.open_to_read(path)
    size = path.stat().st_size
    found = data_bytes(FileContent(files=files, handle=handle, size_bytes=size, identity=""))
    files.close(handle)
    return found


def test_zeros_between_data_stay_holes(target):
    class Stripes(Extents):
        def pread(self, buffer: memoryview, offset: int) -> int:
            buffer[:] = bytes(len(buffer))
            for begin in range(0, len(buffer), 4 * GRAIN_BYTES):
                buffer[begin : begin + 1] = b"x"
            return len(buffer)

    assert to_end(target.copy(Stripes(B, (0, B))).run()) == B // 4
    assert target.path.stat().st_blocks * 512 <= B // 4 + METADATA_BYTES


def until(steps: Steps[int], end: int) -> Step:
    """Goes on until a step has come so far; returns the last one with a note."""
    noted = Step()
    for step in steps:
        noted = step if step.note else noted
        if step.done >= end:
            steps.close()
            return noted
    raise AssertionError(end)


def test_a_copy_that_goes_on_reads_only_what_is_not_durable(target):
    """S-V6: and its digest is of the whole all the same."""
    extents = ((0, 3 * B), (9 * B + 5, 9 * B + 6), (20 * B, 23 * B))
    source = Extents(24 * B + 7, *extents)
    noted = until(target.copy(source, flush_bytes=2 * B).run(), 21 * B)
    assert noted.done == 20 * B + B  # the fifth block of data is the second since the last note
    source.read.clear()
    copy = target.copy(source, noted.note)
    to_end(copy.run())
    assert source.read == [21 * B, 22 * B]
    assert target.path.read_bytes() == source.content()
    assert copy.leaves.digest.of(source.size_bytes) == digest(source.content())


def test_the_leaves_of_a_copy_take_next_to_no_room(target, tmp_path):
    source = Extents(2**20 * B, (0, B), (2**19 * B, 2**19 * B + 1))  # 4 TiB
    noted = until(target.copy(source, flush_bytes=1).run(), 2**19 * B + B)
    assert len(noted.note) < 200
    found = (tmp_path / "leaves").stat()
    assert found.st_size == (2**19 + 1) * LEAF_BYTES
    assert found.st_blocks * 512 <= 16 * KIB
    leaves = Leaves(target.files, target.leaves)
    assert leaves.load(2**19 + 1)
    assert leaves.digest.count == 2**19 + 1


def test_leaves_that_are_missing_begin_the_copy_again(target, tmp_path):
    source = Extents(6 * B, (0, 6 * B))
    noted = until(target.copy(source, flush_bytes=B).run(), 4 * B)
    os.truncate(tmp_path / "leaves", LEAF_BYTES)
    source.read.clear()
    copy = target.copy(source, noted.note)
    assert to_end(copy.run()) == 6 * B
    assert source.read == [0, B, 2 * B, 3 * B, 4 * B, 5 * B]
    assert copy.leaves.digest.of(6 * B) == digest(b"x" * 6 * B)


def test_stale_leaves_are_not_taken_for_zeros(target):
    """What an earlier life left beyond its note is not read as if it were of this one."""
    leaves = Leaves(target.files, target.leaves)
    for _ in range(4):
        leaves.add(leaf_of(b"x"))
    leaves.flush()
    source = Extents(4 * B)
    copy = target.copy(source)
    to_end(copy.run())
    assert copy.leaves.digest.of(4 * B) == digest(source.content())


def test_a_source_that_became_shorter_is_an_error(target):
    class Short(Extents):
        def pread(self, buffer: memoryview, offset: int) -> int:
            return len(buffer) - 1

    with pytest.raises(OSError, match="shorter") as raised:
        to_end(target.copy(Short(3 * B, (0, 3 * B))).run())
    assert raised.value.errno == errno.EIO


def test_what_is_no_file_is_asked_for_one_thing_at_a_time(target):
    class Alone(Extents):
        lock = threading.Lock()

        def _alone(self):
            assert self.lock.acquire(blocking=False)
            return self.lock

        def next_data(self, offset: int) -> tuple[int, int] | None:
            lock = self._alone()
            found = super().next_data(offset)
            lock.release()
            return found

        def pread(self, buffer: memoryview, offset: int) -> int:
            lock = self._alone()
            found = super().pread(buffer, offset)
            lock.release()
            return found

    extents = [(at, at + 4096) for at in range(0, 16 * B, B // 2)]
    source = Alone(16 * B, *extents)
    to_end(target.copy(source).run())
    assert target.path.read_bytes() == source.content()


# -- reading ahead ------------------------------------------------------------------------------


def test_results_come_in_order_and_not_too_far_ahead():
    begun: list[int] = []
    taken = 0

    def work(item: int) -> int:
        begun.append(item)
        assert item - taken <= AHEAD_MAX
        return item

    for item in threaded(work, range(100), threads=3):
        assert item == taken
        taken += 1
    assert sorted(begun) == list(range(100))


def test_whoever_stops_taking_leaves_no_thread():
    before = threading.active_count()
    steps = threaded(lambda item: item, range(100), threads=3)
    assert next(steps) == 0
    assert threading.active_count() > before
    steps.close()
    assert threading.active_count() == before


def test_an_error_comes_where_its_result_would():
    def work(item: int) -> int:
        if item == 2:
            raise OSError(errno.EIO, "gone")
        return item

    steps = threaded(work, range(9), threads=3)
    assert [next(steps), next(steps)] == [0, 1]
    with pytest.raises(OSError, match="gone"):
        next(steps)
