"""What our copies are compared with: other programs, and the same I/O without our stack.

Each leaves its target durable: what a program does not flush itself is flushed after it.
"""

from __future__ import annotations

import os
import queue
import shlex
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from agent.drivers.files import aligned_buffer
from agent.drivers.modes import RWF_DONTCACHE, Mode, probe

BLOCK_BYTES = 4 * 2**20
BUFFERS = 4

# Makes a target of a source.
Peer = Callable[[Path, Path], None]


def program(*arguments: str) -> Peer:
    """Returns a program that is given the source and the target last."""

    def run(source: Path, target: Path) -> None:
        subprocess.run([*arguments, str(source), str(target)], check=True, capture_output=True)
        flush(target)

    return run


def qemu_img(formats: Sequence[str], *options: str) -> Peer:
    """Returns qemu-img's conversion from one format into another, past the page cache."""
    of, to = formats
    cache = ("-t", "none", "-T", "none")
    return program("qemu-img", "convert", "-f", of, "-O", to, *cache, *options)


def nbdcopy_over_tls(certificates: Path) -> Peer:
    """Returns nbdcopy, from an NBD server that it reaches over mutual TLS."""

    def run(source: Path, target: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        address = f"nbds://localhost:{port}/?tls-certificates={certificates}"
        tls = ("--tls=require", f"--tls-certificates={certificates}", "--tls-verify-peer")
        copy = shlex.join(["nbdcopy", "--flush", address, str(target)])
        subprocess.run(
            ["nbdkit", *tls, "-i", "127.0.0.1", "-p", str(port), "--run", copy, "file", source],
            check=True,
            capture_output=True,
        )
        flush(target)

    return run


def bare_loop(source: Path, target: Path) -> None:
    """Reads in one thread and writes in another, in the best mode that the file system has."""
    flags = RWF_DONTCACHE if probe(target.parent) is Mode.UNCACHED else 0
    reader = os.open(source, os.O_RDONLY)
    writer = os.open(target, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    size = os.fstat(reader).st_size
    os.ftruncate(writer, size)  # as ours does: faster than moving the end with each write
    free: queue.SimpleQueue[memoryview] = queue.SimpleQueue()
    filled: queue.SimpleQueue[tuple[int, memoryview]] = queue.SimpleQueue()
    for _ in range(BUFFERS):
        free.put(aligned_buffer(BLOCK_BYTES))

    def read() -> None:
        for offset in range(0, size, BLOCK_BYTES):
            view = free.get()
            os.preadv(reader, [view[: size - offset]], offset, flags)
            filled.put((offset, view))

    thread = threading.Thread(target=read)
    thread.start()
    for _ in range(0, size, BLOCK_BYTES):
        offset, view = filled.get()
        os.pwritev(writer, [view[: size - offset]], offset, flags)
        free.put(view)
    thread.join()
    os.fdatasync(writer)
    os.close(reader)
    os.close(writer)


def flush(path: Path) -> None:
    """Returns once a file would survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fdatasync(handle)
    finally:
        os.close(handle)


def flushed_ms(folder: Path) -> float:
    """Returns how long it takes to make one page durable, as a journal does with each commit."""
    handle = os.open(folder / "flushed", os.O_RDWR | os.O_CREAT)
    try:
        os.pwrite(handle, os.urandom(4096), 0)
        began = time.perf_counter()
        os.fdatasync(handle)
        return (time.perf_counter() - began) * 1000
    finally:
        os.close(handle)
