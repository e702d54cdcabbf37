"""Small file systems of every kind, mounted for as long as a test needs them, and never longer.

They need root, a loop device and the tools that make them; without these a test skips, and says
what is missing. A process of its own unmounts each of them: also when the tests are killed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.guard import unmarked

MIB = 2**20

# In memory, where a flush costs nothing: what is tested here is never a disk's speed.
MEMORY = Path("/dev/shm")

# Ends when whoever started it closes its input, or dies; what is still in use goes when it is not.
UNMOUNT = """
read -r _
mountpoint -q "$1" || exit 0
umount "$1" 2>/dev/null && exit
umount -l "$1"
exit 3
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind of file system, and how it is made in a file; without a tool it needs none."""

    make: tuple[str, ...] = ()
    options: str = "loop"
    package: str = ""
    size_bytes: int


KINDS: Mapping[str, Kind] = {
    "btrfs": Kind(
        make=("mkfs.btrfs", "--quiet", "--mixed"), package="btrfs-progs", size_bytes=256 * MIB
    ),
    # The smallest that its tool makes; the file is sparse.
    "xfs": Kind(
        make=("mkfs.xfs", "-q", "-m", "reflink=1"), package="xfsprogs", size_bytes=320 * MIB
    ),
    "ext4": Kind(make=("mkfs.ext4", "-q", "-F"), package="e2fsprogs", size_bytes=128 * MIB),
    "tmpfs": Kind(options="", size_bytes=64 * MIB),
}

# Makes a file system of a kind at a folder, of a size if its own is not wanted.
Mount = Callable[..., Path]


@contextlib.contextmanager
def mounted(
    kind: str, folder: Path, *, size_bytes: int = 0, image: Path | None = None
) -> Iterator[Path]:
    """Yields a folder with an empty file system of a kind; skips the test where there can be none.

    btrfs and xfs have a smallest size, 16 MiB and 300 MiB. A file that is named holds it, and what
    that held before is still there.
    """
    about = KINDS[kind]
    size_bytes = size_bytes or about.size_bytes
    _need(about, kind)
    folder.mkdir(parents=True)
    options = about.options or f"size={size_bytes}"
    with _unmounted_in_the_end(folder):
        with _held(about, folder, size_bytes, image) as source:
            command = ["mount", "-t", kind, "-o", options, source, str(folder)]
            mounting = subprocess.run(command, check=False, capture_output=True, text=True)
        if mounting.returncode:
            pytest.skip(f"no {kind} can be mounted here: {mounting.stderr.strip()}")
        yield folder


@contextlib.contextmanager
def _unmounted_in_the_end(folder: Path) -> Iterator[None]:
    """Unmounts what is mounted meanwhile, if anything is; begun first, it misses nothing."""
    keeper = subprocess.Popen(
        ["sh", "-c", UNMOUNT, "unmount", folder],
        stdin=subprocess.PIPE,
        env=unmarked(),  # it outlives tests that are killed
        start_new_session=True,  # an interrupt at the keyboard is not for it
    )
    try:
        yield
    finally:
        keeper.communicate()
        assert keeper.returncode == 0, f"something was still using {folder}"


@contextlib.contextmanager
def _held(about: Kind, folder: Path, size_bytes: int, image: Path | None) -> Iterator[str]:
    """Yields what a file system is in; without a name it goes with the loop device that has it."""
    if not about.make:
        yield "tmpfs"
    elif image is not None:
        if not image.exists():
            _make(about, image, size_bytes)
        yield str(image)
    else:
        with tempfile.TemporaryDirectory(dir=_room(folder, size_bytes)) as room:
            image = Path(room) / "image"
            _make(about, image, size_bytes)
            yield str(image)


def _make(about: Kind, image: Path, size_bytes: int) -> None:
    with image.open("wb") as file:
        file.truncate(size_bytes)
    subprocess.run([*about.make, image], check=True, stdout=subprocess.DEVNULL)


def _room(folder: Path, size_bytes: int) -> Path:
    """Returns where a file of this size may be."""
    has_memory = MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > size_bytes
    return MEMORY if has_memory else folder.parent


def _need(about: Kind, kind: str) -> None:
    if os.geteuid() != 0:
        pytest.skip(f"mounting {kind} needs root")
    if about.make and shutil.which(about.make[0]) is None:
        pytest.skip(f"{about.make[0]} is not installed: apt install {about.package}")


@pytest.fixture
def mount(tmp_path) -> Iterator[Mount]:
    """Yields a function that mounts a small file system for one test: mount("tmpfs")."""
    with contextlib.ExitStack() as stack:

        def make(kind: str, *, name: str = "", size_bytes: int = 0) -> Path:
            folder = tmp_path / (name or kind)
            return stack.enter_context(mounted(kind, folder, size_bytes=size_bytes))

        yield make


def _for_session(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with mounted(kind, tmp_path_factory.mktemp("mounts") / kind) as folder:
        yield folder


@pytest.fixture(scope="session")
def btrfs_mount(tmp_path_factory) -> Iterator[Path]:
    """Yields a btrfs that all tests share: each makes a folder of its own in it."""
    yield from _for_session("btrfs", tmp_path_factory)


@pytest.fixture(scope="session")
def xfs_mount(tmp_path_factory) -> Iterator[Path]:
    """Yields an xfs with reflinks that all tests share, likewise."""
    yield from _for_session("xfs", tmp_path_factory)


@pytest.fixture(scope="session")
def ext4_mount(tmp_path_factory) -> Iterator[Path]:
    """Yields an ext4, which has no reflinks, that all tests share, likewise."""
    yield from _for_session("ext4", tmp_path_factory)


@pytest.fixture(scope="session")
def tmpfs_mount(tmp_path_factory) -> Iterator[Path]:
    """Yields a tmpfs, which knows no uncached I/O, that all tests share, likewise."""
    yield from _for_session("tmpfs", tmp_path_factory)
