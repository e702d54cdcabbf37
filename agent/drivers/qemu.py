"""Runs qemu-img: formats always explicit, progress read, killed when the work is stopped."""

from __future__ import annotations

import os
import re
import select
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from agent.drivers.driver import Format, Step, Steps
from countermand.rpc.errors import ImageDamaged, ToolFailed

TOOL = "qemu-img"
MISSING = "qemu-img is not installed on this host: install the package qemu-utils"

# The longest time between two looks at the cancel flag.
_POLL_S = 0.1
_STDERR_BYTES_MAX = 2000
# Exit codes of its check.
_DAMAGED = 2
_LEAKS = 3
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
) -> Steps[None]:
    """Writes an image's content into a new file of another format; flattens a chain.

    `each` is called while it runs, stops it by raising, and returns how much is written: the tool
    itself only tells each whole percent.
    """
    # Measured fastest and kindest to the page cache; not every file system has direct I/O.
    cache = "none" if _direct_io(target.parent) else "writeback"
    arguments = [TOOL, "convert", "-p", "-f", source_format.value, "-O", target_format.value]
    arguments += ["-t", cache, "-T", cache, "-W", "-m", "8", str(source), str(target)]
    yield from _run(arguments, image=source.parent.name, size_bytes=size_bytes, each=each)


def create(target: Path, *, image: str, size_bytes: int, preallocated: bool) -> Steps[None]:
    """Makes an empty qcow2 file."""
    options = f"preallocation={'falloc' if preallocated else 'off'}"
    arguments = [TOOL, "create", "-q", "-f", "qcow2", "-o", options, str(target), str(size_bytes)]
    yield from _run(arguments, image=image)


def create_overlay(
    target: Path, *, image: str, backing: str, backing_format: Format, size_bytes: int
) -> Steps[None]:
    """Makes a qcow2 file that reads what it lacks from another one.

    The name of that one is not looked at (-u): it only holds where the image will be published.
    """
    arguments = [TOOL, "create", "-q", "-u", "-f", "qcow2", "-F", backing_format.value]
    arguments += ["-b", backing, str(target), str(size_bytes)]
    yield from _run(arguments, image=image)


def check(path: Path, *, image: str, pool: str) -> Steps[None]:
    """Looks whether a qcow2 file's own tables are in order.

    Clusters that nobody refers to any more are fine: they only take room.

    Raises:
        ImageDamaged: They are not.
    """
    arguments = [TOOL, "check", "-q", "-f", "qcow2", str(path)]
    code = yield from _run(arguments, image=image, codes=frozenset({0, _DAMAGED, _LEAKS}))
    if code == _DAMAGED:
        raise ImageDamaged(image=image, pool=pool, why="qemu-img check finds errors in it")


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
            ended = False
            while not ended:
                ready, _, _ = select.select([process.stdout], [], [], _POLL_S)
                output = os.read(process.stdout.fileno(), 65536) if ready else b""
                ended = bool(ready) and not output
                written = each()
                percents = _PERCENT.findall(output)
                if percents and size_bytes:
                    done = int(float(percents[-1]) * size_bytes / 100)
                    yield Step(done=done, total=size_bytes, pulse=written)
                elif not ended:
                    yield Step(pulse=written)
            code = process.wait()
        finally:
            process.kill()
        if code not in codes:
            stderr.seek(0)
            words = stderr.read(_STDERR_BYTES_MAX).decode(errors="replace").strip()
            raise ToolFailed(tool=TOOL, image=image, stderr=words)
        return code


def _direct_io(folder: Path) -> bool:
    probe = folder / "direct-io-probe"
    try:
        os.close(os.open(probe, os.O_RDWR | os.O_CREAT | os.O_DIRECT, 0o600))
    except OSError:
        return False
    finally:
        probe.unlink(missing_ok=True)
    return True
