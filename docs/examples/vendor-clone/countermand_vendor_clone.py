"""A vendor's program: does the external tasks "clone-file", and makes up for them.

It clones a file of one folder into another, by reflink where both are on one file system that can,
else by copying. It may be killed at any moment: started again, it is given what it was doing, and
goes on. Everything that it makes bears the name of the attempt it was made for:

    <to>/.attempts/<attempt>.part    being written; an earlier life's is begun anew
    <to>/.attempts/<attempt>         whole and durable; not to be seen yet, or
    <to>/<target>                    a second name of the same file: seen, and certainly ours

So the way back is plain too: a target is ours if it is the same file, and nothing else is touched.
"""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import os
import signal
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from countermand.client.external import BlockingTask, Handler, Owner, TaskFailed
from countermand.rpc import logs

KIND = "clone-file"
PIECE_BYTES = 256 * 1024  # between two looks at whether to stop
FICLONE = 0x40049409  # of linux/fs.h: shares the blocks of another file


@dataclass(frozen=True, kw_only=True)
class Clones:
    """Clones files of one folder into another."""

    source: Path
    target: Path
    pause_s: float = 0.0  # after each piece: a slow array, to look at

    def start(self, task: BlockingTask) -> Mapping[str, object]:
        """Makes the clone; finds it if an earlier life has made it."""
        source = _inside(self.source, task.arguments, "source")
        target = _inside(self.target, task.arguments, "target")
        made = self._made(task.action)
        if not made.exists():
            how = self._write(task, source, made)
            task.report(made.stat().st_size, made.stat().st_size, message=how)
        with suppress(FileExistsError):  # it may be ours; if it is not, it is not touched
            os.link(made, target)
            _sync_folder(self.target)
        if not target.samefile(made):
            message = f"{target.name} exists, and was not made by this task: choose another name."
            raise TaskFailed("TARGET_EXISTS", message)
        return {"file": target.name, "size_bytes": made.stat().st_size}

    def compensate(self, task: BlockingTask) -> None:
        """Removes what that attempt has made, and nothing else; nothing is fine."""
        made = self._made(task.action)
        if made.exists():
            target = _inside(self.target, task.arguments, "target")
            if target.exists() and target.samefile(made):
                target.unlink()
                _sync_folder(self.target)  # before the proof that it was ours goes
            made.unlink()
        _part(made).unlink(missing_ok=True)
        if made.parent.exists():
            _sync_folder(made.parent)

    def _made(self, attempt: str) -> Path:
        return self.target / ".attempts" / attempt.replace("/", "@")

    def _write(self, task: BlockingTask, source: Path, made: Path) -> str:
        """Leaves a durable clone; returns how it was made."""
        made.parent.mkdir(exist_ok=True)
        part = _part(made)
        try:
            with source.open("rb") as reading, part.open("wb") as writing:
                how = "by reflink" if _reflinked(reading, writing) else "by copy"
                if how == "by copy":
                    self._copy(task, reading, writing)
                os.fsync(writing.fileno())
        except FileNotFoundError as error:
            raise TaskFailed("SOURCE_MISSING", f"There is no {source.name} here.") from error
        part.rename(made)
        _sync_folder(made.parent)
        return how

    def _copy(self, task: BlockingTask, reading: BinaryIO, writing: BinaryIO) -> None:
        total = os.fstat(reading.fileno()).st_size
        done = 0
        while piece := reading.read(PIECE_BYTES):
            writing.write(piece)
            done += len(piece)
            task.report(done, total)  # raises TaskStopped when it is to stop
            time.sleep(self.pause_s)


def _inside(folder: Path, arguments: Mapping[str, str], name: str) -> Path:
    """Returns the file of a folder that an argument names."""
    said = arguments.get(name, "")
    if not said or said.startswith(".") or "/" in said:
        raise TaskFailed("ARGUMENT_INVALID", f"{name} must be the name of a file, not {said!r}.")
    return folder / said


def _part(made: Path) -> Path:
    return made.with_name(f"{made.name}.part")


def _reflinked(reading: BinaryIO, writing: BinaryIO) -> bool:
    try:
        fcntl.ioctl(writing.fileno(), FICLONE, reading.fileno())
    except OSError:  # another file system, or one that cannot
        return False
    return True


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


async def serve(address: str, owner_id: str, clones: Clones) -> None:
    """Does what waits until it is told to go."""
    async with Owner(address, owner_id) as owner:
        handler = Handler(start=clones.start, compensate=clones.compensate)
        serving = asyncio.create_task(owner.serve({KIND: handler}))
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, serving.cancel)
        with suppress(asyncio.CancelledError):
            await serving


def main() -> None:
    """Reads the command line, and serves."""
    parser = argparse.ArgumentParser(prog="vendor-clone", description="Does clone-file tasks.")
    parser.add_argument("--coordinator", default="127.0.0.1:7700", help="its host:port")
    parser.add_argument("--owner", default="acme", help="whose tasks these are")
    parser.add_argument("--from", dest="source", type=Path, required=True, help="a folder")
    parser.add_argument("--to", dest="target", type=Path, required=True, help="a folder")
    parser.add_argument("--pause", type=float, default=0.0, help="seconds after each 256 KiB")
    said = parser.parse_args()
    logs.configure(sys.stderr)  # with the names of what each line is about
    clones = Clones(source=said.source, target=said.target, pause_s=said.pause)
    asyncio.run(serve(said.coordinator, said.owner, clones))


if __name__ == "__main__":
    main()
