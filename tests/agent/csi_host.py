"""A running CSI plug-in of the tests: started, made to misbehave, killed, looked into."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

PATIENCE_S = "60"  # longer than a plug-in takes to start on a busy machine


@dataclass(slots=True)
class CsiHost:
    """The plug-in's folder and process; started on it any number of times."""

    folder: Path
    words: tuple[str, ...] = ()  # of its command line, besides
    node: str = "here"
    process: subprocess.Popen[str] | None = field(default=None, init=False)

    @property
    def socket(self) -> Path:
        """Returns where it listens; the path of a socket is short."""
        return self.folder / f"s-{self.node}"

    def start(self) -> None:
        """Starts it, and returns once it answers."""
        store = self.folder / "store"
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "tests.agent.csi_plugin",
                f"--socket={self.socket}",
                f"--folder={store}",
                f"--node={self.node}",
                *self.words,
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"

    def kill(self) -> None:
        """Kills it, as a power cut would."""
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.wait()

    def wait(self) -> None:
        """Returns once it has ended."""
        assert self.process is not None
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()
        self.process = None

    @contextmanager
    def on_another_host(self, node: str = "there") -> Iterator[CsiHost]:
        """Yields the same plug-in as another host has it: with the same volumes."""
        other = CsiHost(self.folder, words=self.words, node=node)
        other.start()
        try:
            yield other
        finally:
            other.kill()

    @contextmanager
    def started_again(self) -> Iterator[None]:
        """Starts it once more when it dies meanwhile, as whoever supervises it would."""

        def keep() -> None:
            self.wait()
            self.start()

        keeper = threading.Thread(target=keep)
        keeper.start()
        yield
        keeper.join()

    def misbehave(self, call: str, *faults: str) -> None:
        """Says what the next calls of a name do wrong."""
        (self.folder / "store/faults" / call).write_text("\n".join(faults))

    def calls(self) -> list[str]:
        """Returns the calls that came so far."""
        log = self.folder / "store/calls.log"
        return log.read_text().split() if log.exists() else []

    def ids(self, kind: str = "volumes") -> set[str]:
        """Returns the ids of what is there."""
        return {path.stem for path in (self.folder / "store" / kind).glob("*.json")}

    def nodes(self) -> set[str]:
        """Returns the nodes that have any volume."""
        found = (self.folder / "store/shown").glob("*.json")
        return set().union(*(json.loads(path.read_text()) for path in found))

    def switched_off(self, node: str) -> None:
        """Forgets what a node had, as it does itself when it is switched off."""
        for path in (self.folder / "store/shown").glob("*.json"):
            left = {key: here for key, here in json.loads(path.read_text()).items() if key != node}
            path.write_text(json.dumps(left))
            if not left:
                path.unlink()

    @contextmanager
    def agreeing(self, folder: Path) -> Iterator[None]:
        """Makes sure that in the end there is what the labels below a folder name, and no more."""
        before = self.ids() | self.ids("snapshots")
        yield
        there = self.ids() | self.ids("snapshots")
        ours = set().union(*(named(mark.parent) for mark in folder.rglob("pool.json")))
        assert there == before | ours, (there - before - ours, before - there, ours - there)
        assert self.ids("shown") == set()
        for key in ours:  # the place goes, and they with it
            for path in (self.folder / "store").glob(f"*/{key}.*"):
                path.unlink()

    def locate(self, image: Path) -> Path:
        """Returns where the data of an image's folder is."""
        record = json.loads((image / "volume.json").read_text())
        [data] = (self.folder / "store").glob(f"*/{record['id']}.data")
        return data

    def config(self, pool: Path, **options: str) -> dict[str, Any]:
        """Returns how a pool is described whose labels are in a folder."""
        # Shown by a hard link: on the plug-in's own file system.
        place = f"{self.node} {pool}".encode()
        targets = self.folder / "targets" / hashlib.sha256(place).hexdigest()[:8]
        told = {"labels": str(pool), "targets": str(targets), "patience": PATIENCE_S, **options}
        return {"driver": "csi", "path": self.socket, "options": told}


def records(labels: Path) -> dict[str, dict[str, Any]]:
    """Returns what is written down of the volume of each image and snapshot."""
    found = sorted(labels.glob("images/*/volume.json"))
    return {path.parent.name: json.loads(path.read_text()) for path in found}


def named(labels: Path) -> set[str]:
    """Returns the ids of the volumes and snapshots that a pool's labels name."""
    return {record["id"] for record in records(labels).values()}


@contextmanager
def running(*words: str, node: str = "here") -> Iterator[CsiHost]:
    """Yields a plug-in that runs, with all that it has in memory, where flushing costs nothing."""
    memory = Path("/dev/shm")
    root = Path(tempfile.mkdtemp(prefix="csi-", dir=memory if memory.is_dir() else None))
    host = CsiHost(root, words=words, node=node)
    host.start()
    try:
        yield host
    finally:
        host.kill()
        shutil.rmtree(root)


@pytest.fixture(scope="session")
def csi_host() -> Iterator[CsiHost]:
    """Yields a plug-in for many pools, which makes volumes exactly as large as was asked for."""
    with running("--round-to=512") as host:
        yield host
