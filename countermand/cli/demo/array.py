r"""The demo's vendor: the plug-in of a storage array, a program of its own.

It knows Countermand by `countermand.client.external` only, as any vendor would, and what it does it
does to real files. Two controllers of the array clone half of a volume's extents each; then the
array presents the volume to hosts. How far each controller is lies on the array's own disk, written
after the extent that it counts, so the next life of this process goes on exactly there.

    python -m countermand.cli.demo.array --coordinator 127.0.0.1:7700 --own ./acme \
        --reads array=./pools/array --presents clones=./pools/clones

Two of its options make it misbehave, for the sake of the story.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final

import click

from countermand.client.external import AcceptedTask, Handler, Owner, TaskFailed

OWNER: Final = "acme"
KIND: Final = "clone-volume"
CONTROLLERS: Final = ("east", "west")
PRESENT: Final = "present"
EXTENT_BYTES: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Volume:
    """One volume of the array: a folder with its content, whose it is, and how far it has come."""

    folder: Path

    @property
    def name(self) -> str:
        """Returns its name."""
        return self.folder.name

    @property
    def content(self) -> Path:
        """Returns the file with its bytes."""
        return self.folder / "content"

    @property
    def made_by(self) -> str:
        """Returns the attempt that made it."""
        return (self.folder / "made-by").read_text(encoding="utf-8")

    def make(self, size_bytes: int, made_by: str, work: Path) -> None:
        """Makes it, in a folder of the attempt's; one that it has made before is left as it is.

        Raises:
            TaskFailed: There is one of somebody else's.
        """
        if not self.folder.exists():
            shutil.rmtree(work, ignore_errors=True)  # an earlier life got no further
            work.mkdir()
            with (work / "content").open("wb") as file:
                file.truncate(size_bytes)
            (work / "made-by").write_text(made_by, encoding="utf-8")
            work.rename(self.folder)
        elif self.made_by != made_by:
            why = f"Volume {self.name} is there already: choose another name."
            raise TaskFailed("VOLUME_EXISTS", why)

    def done(self, controller: str) -> int:
        """Returns how many of its extents a controller has cloned."""
        with contextlib.suppress(FileNotFoundError):
            return int((self.folder / controller).read_text(encoding="utf-8"))
        return 0

    @property
    def is_half_done(self) -> bool:
        """Returns whether half of all its extents are cloned."""
        done = sum(map(self.done, CONTROLLERS))
        return 2 * done * EXTENT_BYTES >= self.content.stat().st_size

    def clone_extent(self, source: Path, extent: int) -> None:
        """Clones one extent, durably; holes stay holes."""
        with source.open("rb") as reads, self.content.open("r+b") as writes:
            reads.seek(extent * EXTENT_BYTES)
            data = reads.read(EXTENT_BYTES)
            if data.count(0) != len(data):
                writes.seek(extent * EXTENT_BYTES)
                writes.write(data)
                writes.flush()
                os.fdatasync(writes.fileno())

    def note(self, controller: str, done: int) -> None:
        """Notes how far a controller is, in one rename."""
        new = self.folder / f".{controller}"
        new.write_text(str(done), encoding="utf-8")
        new.rename(self.folder / controller)

    def flip_bit(self) -> None:
        """Changes one bit in the middle of what it holds: what a disk does once in a lifetime."""
        with self.content.open("r+b") as file:
            place = os.lseek(file.fileno(), 0, os.SEEK_DATA) + EXTENT_BYTES // 2
            byte = os.pread(file.fileno(), 1, place)[0]
            os.pwrite(file.fileno(), bytes([byte ^ 1]), place)


@dataclass(slots=True, kw_only=True)
class Array:
    """The array: where it keeps its volumes, which pools it reaches, how fast it is."""

    own: Path
    reads: tuple[str, Path]
    presents: tuple[str, Path]
    extents_per_s: int
    flips_bit_of: str = ""
    dies_half_way_through: str = ""
    cloned: int = 0  # extents, in this life

    # -- what it does ---------------------------------------------------------------------------

    async def clone(self, task: AcceptedTask) -> None:
        """Clones a volume, and presents it: every step is safe to repeat."""
        source = self._source(task.arguments["pool"], task.arguments["image"])
        volume = Volume(self.own / "volumes" / task.arguments["volume"])
        volume.make(source.stat().st_size, task.action, self._work(task))
        before = self.cloned
        halves = _halves(source.stat().st_size // EXTENT_BYTES)
        async with asyncio.TaskGroup() as controllers:
            for controller, extents in zip(CONTROLLERS, halves, strict=True):
                controllers.create_task(self._half(task, volume, controller, source, extents))
        if volume.name == self.flips_bit_of:
            volume.flip_bit()
        async with task.part(PRESENT, heartbeat_timeout=_patience(task)) as presenting:
            if not presenting.done:
                await self._present(volume)
                presenting.report(1, 1, unit="volume")
        task.outputs["pool"], task.outputs["image"] = self.presents[0], volume.name
        say("array.cloned", volume=volume.name, extents=self.cloned - before)

    async def _half(
        self, task: AcceptedTask, volume: Volume, controller: str, source: Path, extents: range
    ) -> None:
        """Has a controller clone its half: a task of its own, added under the clone."""
        part = task.part(controller, heartbeat_timeout=_patience(task), weight=len(extents))
        async with part as half:
            if half.done:
                return  # an earlier life has
            for done in range(volume.done(controller), len(extents)):
                half.report(done, len(extents), unit="extents")
                pace = asyncio.sleep(len(CONTROLLERS) / self.extents_per_s)
                clone = asyncio.to_thread(volume.clone_extent, source, extents[done])
                await asyncio.gather(clone, pace)
                volume.note(controller, done + 1)
                self.cloned += 1
                if volume.name == self.dies_half_way_through and volume.is_half_done:
                    os.kill(os.getpid(), signal.SIGKILL)
            half.report(len(extents), len(extents), unit="extents")

    async def remove(self, task: AcceptedTask) -> None:
        """Takes back what an attempt has made, and nothing else: also what is half made, or gone.

        First out of the hosts' sight, then out of the array's: each is one rename.
        """
        gone = self._work(task)
        async with self._alone():
            for volume in self._volumes():
                if volume.made_by == task.action:
                    gone.mkdir(exist_ok=True)
                    with contextlib.suppress(FileNotFoundError):
                        (self.presents[1] / "images" / volume.name).rename(gone / "shown")
                    volume.folder.rename(gone / "volume")
                    say("array.removed", volume=volume.name)
        await asyncio.to_thread(shutil.rmtree, gone, ignore_errors=True)

    # -- what it reaches ------------------------------------------------------------------------

    def _source(self, pool_id: str, image_id: str) -> Path:
        """Returns the file with an image's bytes: which one it is, the image's label says."""
        known, folder = self.reads
        label = folder / "images" / image_id / "image.json"
        if pool_id != known or not label.is_file():
            why = f"The array reaches no {pool_id}/{image_id}: it reads pool {known}."
            raise TaskFailed("SOURCE_NOT_FOUND", why)
        said = json.loads(label.read_text(encoding="utf-8"))
        content = f".{said['content']}" if said.get("content") else ""
        return label.with_name(f"data{content}.{said['format']}")

    def _volumes(self) -> Iterator[Volume]:
        return map(Volume, sorted((self.own / "volumes").iterdir()))

    def _work(self, task: AcceptedTask) -> Path:
        """Returns the folder for what an attempt has half made, or half removed."""
        return self.own / task.action.replace("/", "@")

    async def _present(self, volume: Volume) -> None:
        """Shows a volume to the hosts as an image of a pool."""
        pool_id, folder = self.presents
        pool, image = f"{pool_id}={folder}", ("--image", volume.name, "--format", "raw")
        command = [sys.executable, "-m", "agent", "import", "--pool", pool, *image]
        async with self._alone() as lock:
            if (folder / "images" / volume.name).is_dir():
                return  # an earlier life has
            process = await asyncio.create_subprocess_exec(
                *command, str(volume.content), stdout=asyncio.subprocess.DEVNULL, pass_fds=(lock,)
            )
            try:
                code = await process.wait()
            finally:
                if process.returncode is None:  # this life is asked to end
                    process.kill()
            if code:
                why = f"Volume {volume.name} could not be shown in pool {pool_id}: code {code}."
                raise TaskFailed("NOT_PRESENTED", why, retriable=True)

    @contextlib.asynccontextmanager
    async def _alone(self) -> AsyncIterator[int]:
        """Waits until nobody else changes what hosts see: also no import of an earlier life's.

        A process that is killed does not take its children along. They hold the lock with it.
        """
        lock = os.open(self.own / "volumes", os.O_RDONLY)
        try:
            await asyncio.to_thread(fcntl.flock, lock, fcntl.LOCK_EX)
            yield lock
        finally:
            os.close(lock)


def _halves(extents: int) -> tuple[range, range]:
    return range(extents // 2), range(extents // 2, extents)


def _patience(task: AcceptedTask) -> timedelta:
    """Returns how long a task may be silent: its parts are bound to the same."""
    return task.request.heartbeat_timeout.ToTimedelta()


# -- the program ----------------------------------------------------------------------------------


def say(event: str, **fields: object) -> None:
    """Says one thing, as a line of JSON."""
    click.echo(json.dumps({"event": event, **fields}))


def _pool(_: click.Context, __: click.Parameter, said: str) -> tuple[str, Path]:
    pool_id, _equals, path = said.partition("=")
    return pool_id, Path(path)


@click.command()
@click.option("--coordinator", "address", required=True)
@click.option("--own", type=click.Path(path_type=Path), required=True, help="The array's disk.")
@click.option("--reads", callback=_pool, required=True, help="ID=PATH: where sources are.")
@click.option("--presents", callback=_pool, required=True, help="ID=PATH: where hosts see clones.")
@click.option("--extents-per-s", type=int, default=32, help="How fast it is, of 1 MiB each.")
@click.option("--flips-bit-of", default="", help="A volume in which one bit comes out wrong.")
@click.option("--dies-half-way-through", default="", help="A volume at which SIGKILL strikes.")
def main(address: str, **options: object) -> None:
    """Serves as the plug-in of an array, until SIGTERM."""
    with contextlib.suppress(asyncio.CancelledError):
        asyncio.run(_serve(address, Array(**options)))  # type: ignore[arg-type] # as click says


async def _serve(address: str, array: Array) -> None:
    serving = asyncio.current_task()
    assert serving is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, serving.cancel)
    (array.own / "volumes").mkdir(parents=True, exist_ok=True)
    async with Owner(address, OWNER) as owner:
        say("array.ready", owner=OWNER, process=os.getpid())
        await owner.serve({KIND: Handler(start=array.clone, compensate=array.remove)})


if __name__ == "__main__":
    main()
