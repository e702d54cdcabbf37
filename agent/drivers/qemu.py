"""Runs qemu-img: formats always explicit, progress read, killed when the work is stopped."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import select
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, TypeVar

from agent.drivers.driver import Format, Step, Steps
from agent.drivers.room import Writer
from countermand.rpc.errors import ImageDamaged, ImageInUse, ToolFailed

T = TypeVar("T")

TOOL = "qemu-img"
MISSING = "qemu-img is not installed on this host: install the package qemu-utils"

# The longest time between two looks at the cancel flag.
_POLL_S = 0.1
_STDERR_BYTES_MAX = 2000
# Exit codes of its check.
_DAMAGED = 2
# A qcow2 file may have clusters of 512 bytes to 2 MiB.
_CLUSTER_BYTES_MAX = 2 * 1024 * 1024
_LEAKS = 3
# An empty one has four clusters, and a first table, of which each entry covers so much.
_EMPTY_BYTES = 4 * 64 * 1024
_BYTES_PER_L1_ENTRY = 512 * 1024 * 1024
_FINDS_ERRORS = "qemu-img check finds errors in it"
_NOT_OPENED = re.compile(r"qemu-img: Could not open '.+?': (.+)")
# Why a file may not be opened that is whole: by its file system, by a guest, for being too new.
_KEPT_OUT = (
    *(errno.EACCES, errno.EPERM, errno.ENOENT, errno.EIO, errno.ESTALE, errno.EROFS, errno.EBUSY),
    *(errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.EINTR, errno.ETIMEDOUT),
)
_LOCKED = '" lock'
_HOLDER = "a process that has its file open to write, such as a guest"
_NO_DAMAGE = (*map(os.strerror, _KEPT_OUT), _LOCKED, "Unsupported qcow2 feature")
# As `files` makes files: the tool itself would let everybody read them.
_MODE = 0o640
_PERCENT = re.compile(rb"\((\d+(?:\.\d+)?)/100%\)")


def is_installed() -> bool:
    """Returns whether qemu-img is on the PATH."""
    return shutil.which(TOOL) is not None


def convert(
    source: Path,
    source_format: Format,
    target: Path,
    target_format: Format,
    *,
    size_bytes: int,
    each: Callable[[], int],
    writer: Writer,
) -> Steps[None]:
    """Writes an image's content into a new file of another format; flattens a chain.

    `each` is called while it runs, stops it by raising, and returns how much is written: the tool
    itself only tells each whole percent. Where the bandwidth is limited it is held still whenever
    it is ahead of its share.
    """
    # Measured fastest and kindest to the page cache; not every file system has direct I/O.
    cache = "none" if _direct_io(target.parent) else "writeback"
    arguments = [TOOL, "convert", "-p", "-f", source_format.value, "-O", target_format.value]
    arguments += ["-t", cache, "-T", cache, "-W", "-m", "8"]
    if writer.limit is not None:  # so that it need not be held still while it is the only one
        arguments += ["-r", str(writer.limit)]
    arguments += [str(source), str(target)]
    _make(target)
    yield from _run(
        arguments, image=source.parent.name, size_bytes=size_bytes, each=each, writer=writer
    )


def measure(
    source: Path, source_format: Format, target_format: Format, *, size_bytes: int
) -> Steps[int]:
    """Returns how much an image will take in another format, its chain flattened."""
    # Of a raw one the tool only says how large it is; its data take what they take in qcow2.
    arguments = [TOOL, "measure", "--output=json", "-f", source_format.value, "-O", "qcow2"]
    output = io.BytesIO()
    yield from _run([*arguments, str(source)], image=source.parent.name, output=output)
    required = int(json.loads(output.getvalue())["required"])
    return min(required, size_bytes) if target_format is Format.RAW else required


def preallocated_bytes(size_bytes: int) -> Steps[int]:
    """Returns how much a preallocated qcow2 image takes."""
    arguments = [TOOL, "measure", "--output=json", "-O", "qcow2", "--size", str(size_bytes)]
    output = io.BytesIO()
    yield from _run(arguments, image="a new image", output=output)
    return int(json.loads(output.getvalue())["fully-allocated"])


def overlay_bytes(size_bytes: int) -> int:
    """Returns how much a qcow2 file without any data of its own takes."""
    entries = -(-size_bytes // _BYTES_PER_L1_ENTRY)
    return _EMPTY_BYTES + 8 * entries


def create(target: Path, *, image: str, size_bytes: int, preallocated: bool) -> Steps[None]:
    """Makes an empty qcow2 file."""
    options = f"preallocation={'falloc' if preallocated else 'off'}"
    arguments = [TOOL, "create", "-q", "-f", "qcow2", "-o", options, str(target), str(size_bytes)]
    _make(target)
    yield from _run(arguments, image=image)


def create_overlay(
    target: Path, *, image: str, backing: str, backing_format: Format, size_bytes: int
) -> Steps[None]:
    """Makes a qcow2 file that reads what it lacks from another one.

    The name of that one is not looked at (-u): it only holds where the image will be published.
    """
    arguments = [TOOL, "create", "-q", "-u", "-f", "qcow2", "-F", backing_format.value]
    arguments += ["-b", backing, str(target), str(size_bytes)]
    _make(target)
    yield from _run(arguments, image=image)


def check(path: Path, *, image: str, pool: str) -> Steps[None]:
    """Looks whether a qcow2 file's own tables are in order, and name nothing beyond its end.

    Only the tables are read, 1.3 MiB for 10 GiB of data. Clusters that nobody refers to any more
    are fine: they only take room.

    Raises:
        ImageDamaged: They are not, or it cannot even be opened for that.
        ImageInUse: Somebody has it open to write, and may be changing them.
    """
    arguments = [TOOL, "check", "-q", "-f", "qcow2", str(path)]
    try:
        code = yield from _run(arguments, image=image, codes=frozenset({0, _DAMAGED, _LEAKS}))
    except ToolFailed as error:
        if _LOCKED in error.metadata["stderr"]:
            raise ImageInUse(image=image, pool=pool, holder=_HOLDER) from error
        if why := _damage(error.metadata["stderr"]):
            raise ImageDamaged(image=image, pool=pool, why=why) from error
        raise
    if code == _DAMAGED:
        raise ImageDamaged(image=image, pool=pool, why=_FINDS_ERRORS)


def _damage(words: str) -> str:
    """Returns what is wrong with an image by what the tool says; empty if it may be whole.

    The tool ends alike where its tables make no sense and where it was kept from reading them.
    """
    if any(line.startswith("ERROR ") for line in words.splitlines()):
        return _FINDS_ERRORS
    told = _NOT_OPENED.match(words)
    why = told[1] if told else ""
    return "" if any(other in why for other in _NO_DAMAGE) else why


def grow(path: Path, *, image: str, size_bytes: int) -> None:
    """Makes a qcow2 file larger, at once: only its tables change. A smaller size is refused."""
    arguments = [TOOL, "resize", "-q", "-f", "qcow2", str(path), str(size_bytes)]
    to_end(_run(arguments, image=image))


def shrink(path: Path, *, image: str, size_bytes: int) -> None:
    """Makes a qcow2 file smaller, at once; what was beyond its new end is lost."""
    arguments = [TOOL, "resize", "-q", "-f", "qcow2", "--shrink", str(path), str(size_bytes)]
    to_end(_run(arguments, image=image))


def holds_data(path: Path, *, image: str, begin: int) -> bool:
    """Returns whether a guest reads anything but zeros of a qcow2 file from an offset on.

    What was written there counts as data from the next cluster on, even if it was zeros.
    """
    arguments = [TOOL, "map", "-f", "qcow2", "--output=json", f"--start-offset={begin}", str(path)]
    with tempfile.TemporaryFile() as found:
        to_end(_run(arguments, image=image, output=found))
        found.seek(0)
        extents = [extent for extent in json.load(found) if extent["data"] and not extent["zero"]]
    # Of a cluster that lies across the offset nothing tells which half was written.
    whole = -(-begin // _CLUSTER_BYTES_MAX) * _CLUSTER_BYTES_MAX
    if any(extent["start"] + extent["length"] > whole for extent in extents):
        return True
    if not extents:
        return False
    with tempfile.TemporaryDirectory() as folder:
        piece = Path(folder) / "piece"
        arguments = [TOOL, "dd", "-f", "qcow2", "-O", "raw", f"if={path}", f"of={piece}", "bs=512"]
        arguments += [f"skip={begin // 512}", f"count={whole // 512}"]  # as from the beginning
        to_end(_run(arguments, image=image))
        return any(piece.read_bytes())


def commit(
    path: Path, below: Path, *, image: str, size_bytes: int, each: Callable[[], int]
) -> Steps[None]:
    """Writes what a qcow2 file holds into the one below it, and leaves it as it is.

    What is read through it is the same at every moment, and however often this is begun again. It
    is refused once another file is below it: somebody else has merged them by then.
    """
    arguments = [TOOL, "commit", "-p", "-d", "-f", "qcow2", "-b", str(below), str(path)]
    yield from _run(arguments, image=image, size_bytes=size_bytes, each=each)


def rebase(
    path: Path,
    *,
    image: str,
    backing: str,
    backing_format: Format,
    size_bytes: int,
    each: Callable[[], int],
) -> Steps[None]:
    """Makes a qcow2 file read through another one, or none, having taken over what it lacks then.

    What is read through it is the same at every moment, and however often this is begun again.
    """
    arguments = [TOOL, "rebase", "-p", "-f", "qcow2", "-b", backing]
    arguments += ["-F", backing_format.value] if backing else []
    yield from _run([*arguments, str(path)], image=image, size_bytes=size_bytes, each=each)


def to_end(steps: Steps[T]) -> T:
    """Does at once what takes no time to speak of, and is not to be stopped."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            value: T = end.value
            return value


def _make(target: Path) -> None:
    """Makes an empty file for the tool to fill, which keeps its mode."""
    os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, _MODE))


def _nothing() -> int:
    """Lets the tool run on."""
    return 0


def _run(
    arguments: list[str],
    *,
    image: str,
    size_bytes: int = 0,
    each: Callable[[], int] = _nothing,
    codes: frozenset[int] = frozenset({0}),
    output: IO[bytes] | None = None,
    writer: Writer | None = None,
) -> Steps[int]:
    """Runs the tool; returns its exit code, which must be one of these."""
    if shutil.which("setpriv"):  # or an agent that is killed leaves it behind, still writing
        arguments = ["setpriv", "--pdeathsig", "KILL", "--", *arguments]
    with (
        tempfile.TemporaryFile() as stderr,
        subprocess.Popen(
            arguments, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stderr
        ) as process,
    ):
        try:
            assert process.stdout is not None
            ended, paid = False, 0
            while not ended:
                ready, _, _ = select.select([process.stdout], [], [], _POLL_S)
                told = os.read(process.stdout.fileno(), 65536) if ready else b""
                ended = bool(ready) and not told
                written = each()
                if output is not None:
                    output.write(told)
                percents = _PERCENT.findall(told)
                if percents and size_bytes:
                    done = int(float(percents[-1]) * size_bytes / 100)
                    yield Step(done=done, total=size_bytes, pulse=written)
                elif not ended:
                    yield Step(pulse=written)
                if writer is not None and written > paid and not ended:
                    yield from _hold(process, writer.waits(written - paid))
                    paid = written
            code = process.wait()
        finally:
            process.kill()
        if code not in codes:
            stderr.seek(0)
            words = stderr.read(_STDERR_BYTES_MAX).decode(errors="replace").strip()
            if os.strerror(errno.ENOSPC) in words:
                raise OSError(errno.ENOSPC, words)
            raise ToolFailed(tool=TOOL, image=image, stderr=words)
        return code


def _hold(process: subprocess.Popen[bytes], waits: list[float]) -> Steps[None]:
    """Holds the tool still for a while."""
    if waits:
        process.send_signal(signal.SIGSTOP)
        for wait_s in waits:
            yield Step(wait_s=wait_s)
        process.send_signal(signal.SIGCONT)


def _direct_io(folder: Path) -> bool:
    probe = folder / "direct-io-probe"
    try:
        os.close(os.open(probe, os.O_RDWR | os.O_CREAT | os.O_DIRECT, 0o600))
    except OSError:
        return False
    finally:
        probe.unlink(missing_ok=True)
    return True
