"""How data is read and written: the best way that each file system has, right in all of them."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import pytest

from agent.drivers.files import RealFiles, aligned_buffer
from agent.drivers.modes import PAGE_BYTES, PIECE_BYTES, SHORT_BYTES, DataIO, Mode, probe

SIZE = 3 * SHORT_BYTES + 700  # ends within a page


class OneMode(RealFiles):
    """A file system that is read and written in one mode."""

    def __init__(self, mode: Mode, *, journals_beside: bool = False) -> None:
        super().__init__()
        self._data = DataIO(mode, journals_beside=journals_beside)


def refusing(*refused: str):
    """Returns what stands for a kernel that has no such flags."""

    def pwritev(handle, buffers, offset, flags=0):
        if flags and "uncached" in refused:
            raise OSError(95, "not supported")
        return os_pwritev(handle, buffers, offset, flags)

    def open_(path, flags, *mode, **fields):
        if flags & os.O_DIRECT and "direct" in refused:
            raise OSError(22, "invalid")
        return os_open(path, flags, *mode, **fields)

    os_pwritev, os_open = os.pwritev, os.open
    return pwritev, open_


@pytest.mark.parametrize(
    ("refused", "expected"),
    [
        (("uncached",), {Mode.DIRECT}),
        (("uncached", "direct"), {Mode.BUFFERED}),
        ((), {Mode.UNCACHED, Mode.DIRECT}),
    ],
    ids=["no-uncached", "neither", "all"],
)
def test_the_best_way_that_works_is_taken(refused, expected, ext4_mount, monkeypatch):
    pwritev, open_ = refusing(*refused)
    monkeypatch.setattr(os, "pwritev", pwritev)
    monkeypatch.setattr(os, "open", open_)
    assert probe(ext4_mount) in expected
    assert [path.name for path in ext4_mount.iterdir()] == ["lost+found"]


def test_where_nothing_may_be_written_a_sample_is_read(tmp_path):
    sample = tmp_path / "pool.json"
    sample.write_text("{}")
    before = sample.stat().st_mtime_ns
    assert probe(tmp_path, sample) is probe(tmp_path)
    assert (sample.stat().st_mtime_ns, list(tmp_path.iterdir())) == (before, [sample])
    assert probe(tmp_path, tmp_path / "missing") is Mode.BUFFERED
    assert probe(tmp_path / "missing") is Mode.BUFFERED


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs", "tmpfs"])
@pytest.mark.parametrize("mode", Mode)
def test_every_mode_reads_what_it_wrote(kind, mode, mount):
    """Also a mode that this file system has not: a file may come from elsewhere."""
    folder = mount(kind)
    files = OneMode(mode)
    content = os.urandom(SIZE)
    buffer = aligned_buffer(SIZE + PAGE_BYTES)
    for odd in (0, 512):  # where it lies in memory, and in the file
        view = buffer[odd : odd + SIZE]
        view[:] = content
        handle = files.open_to_write(folder / "file")
        for offset in range(odd, odd + 8 * SIZE, SIZE):
            files.pwrite(handle, view, offset)
        files.flush(handle)
        view[:] = bytes(SIZE)
        assert files.pread(handle, view, odd + 7 * SIZE) == SIZE
        assert bytes(view) == content
        assert files.pread(handle, view, odd + 8 * SIZE - 5) == 5
        files.close(handle)
        assert (folder / "file").read_bytes()[odd:] == 8 * content


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs", "tmpfs"])
@pytest.mark.parametrize("mode", Mode)
def test_several_files_beside_a_journal_are_read_and_written_in_short_pieces(kind, mode, mount):
    """Whoever flushes to the same disk waits for no more than these."""
    folder = mount(kind)
    files = OneMode(mode, journals_beside=True)
    contents = [os.urandom(2 * PIECE_BYTES + 700) for _ in range(3)]
    handles = [files.open_to_write(folder / str(number)) for number in range(3)]
    view = aligned_buffer(len(contents[0]))
    for handle, content in zip(handles, contents, strict=True):
        view[:] = content
        files.pwrite(handle, view, 0)
    assert files._data.write(handles[0], view, 0) == PIECE_BYTES
    view[:] = contents[0]
    files.pwrite(handles[0], view, 0)
    for handle, content in zip(handles, contents, strict=True):
        files.flush(handle)
        view[:] = bytes(len(view))
        assert files.pread(handle, view, 0) == len(view)
        assert bytes(view) == content
    assert files._data.read(handles[0], view, 0) == PIECE_BYTES
    for handle in handles[1:]:
        files.close(handle)
    assert files._data.read(handles[0], view, 0) > PIECE_BYTES
    assert files._data.write(handles[0], view, 0) > PIECE_BYTES
    files.close(handles[0])


@pytest.mark.parametrize("mode", Mode)
def test_where_no_journal_waits_several_files_are_read_and_written_whole(mode, mount):
    folder = mount("ext4")
    files = OneMode(mode)
    view = aligned_buffer(4 * PIECE_BYTES)
    handles = [files.open_to_write(folder / str(number)) for number in range(3)]
    for handle in handles:
        assert files._data.write(handle, view, 0) == len(view)
    for handle in handles:
        assert files._data.read(handle, view, 0) == len(view)
    directly = handles if mode is Mode.DIRECT else []  # and nothing else past the page cache
    assert sorted(files._data._direct) == directly
    for handle in handles:
        files.close(handle)


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_what_is_open_directly_is_closed_with_its_file(tmp_path):
    before = open_files()
    files = OneMode(Mode.DIRECT)
    handle = files.open_to_write(tmp_path / "file")
    files.pwrite(handle, memoryview(mmap.mmap(-1, 2 * SHORT_BYTES)), 0)
    assert open_files() == before + 2
    files.close(handle)
    assert open_files() == before
