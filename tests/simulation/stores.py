"""The stores that a simulated coordinator may have: a model that is fast, and the real one.

Each is what outlives the coordinator's process, with a way to open it for a new life.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from coordinator.runtime.ports import Store, StoredEntry
from coordinator.saga.workflow import Workflow
from coordinator.store.database import sqlite
from coordinator.store.memory import Kept, MemoryStore
from coordinator.store.run import Inline
from coordinator.store.sql import SqlStore

NewId = Callable[[], str]


class Storage(Protocol):
    """What is durable, and how a new life of the coordinator opens it."""

    def open(self, new_id: NewId, name: str = "") -> Store:
        """Returns a store on what is there, for a coordinator of a name."""

    def died(self) -> None:
        """Hears that the process which had it open is gone."""

    def workflow(self, workflow_id: str) -> Workflow | None:
        """Returns a workflow as committed."""

    def workflows(self) -> list[Workflow]:
        """Returns every workflow as committed."""

    def events(self) -> list[StoredEntry]:
        """Returns the whole history."""

    def evidence(self) -> list[tuple[str, str]]:
        """Returns what hosts are still to be told to forget: host and workflow."""

    def close(self) -> None:
        """Throws everything away."""


class Model:
    """Keeps everything in memory."""

    def __init__(self, now: Callable[[], datetime] | None = None) -> None:
        """Begins empty; with a clock of its own it is shared."""
        self.kept = Kept()
        self._now = now

    def open(self, new_id: NewId, name: str = "") -> Store:
        """Returns a store on what is there."""
        if self._now is None:
            return MemoryStore(self.kept, new_id=new_id)
        return MemoryStore(self.kept, new_id=new_id, shared=True, now=self._now, name=name)

    def died(self) -> None:
        """Has nothing to let go of."""

    def workflow(self, workflow_id: str) -> Workflow | None:
        """Returns a workflow as committed."""
        record = self.kept.records.get(workflow_id)
        return record.workflow if record else None

    def workflows(self) -> list[Workflow]:
        """Returns every workflow as committed."""
        return [record.workflow for record in self.kept.records.values()]

    def events(self) -> list[StoredEntry]:
        """Returns the whole history."""
        return self.kept.events

    def evidence(self) -> list[tuple[str, str]]:
        """Returns what hosts are still to be told to forget."""
        return [(host, workflow) for workflow, host in self.kept.evidence]

    def close(self) -> None:
        """Has nothing to throw away."""


class Sqlite:
    """Keeps everything in a real SQLite database, on one thread."""

    def __init__(self) -> None:
        """Begins with an empty file."""
        self._folder = tempfile.TemporaryDirectory(prefix="countermand-simulation-")
        self._path = Path(self._folder.name) / "coordinator.sqlite"
        self._store: SqlStore | None = None

    def open(self, new_id: NewId, name: str = "") -> Store:
        """Returns a store on what is there."""
        self._store = SqlStore(sqlite(self._path), Inline(), new_id=new_id)
        return self._store

    def died(self) -> None:
        """Lets go of the file and its lock, as the kernel does for a dead process."""
        if self._store is not None:
            _now(self._store.close())
            self._store = None

    def workflow(self, workflow_id: str) -> Workflow | None:
        """Returns a workflow as committed."""
        stored = _now(self._reading().load(workflow_id))
        return stored.workflow if stored else None

    def workflows(self) -> list[Workflow]:
        """Returns every workflow as committed."""
        ids = {entry.workflow_id for entry in self.events()}
        found = (self.workflow(workflow_id) for workflow_id in sorted(ids))
        return [workflow for workflow in found if workflow is not None]

    def events(self) -> list[StoredEntry]:
        """Returns the whole history."""
        entries: list[StoredEntry] = []
        while page := _now(
            self._reading().events(after=entries[-1].position if entries else 0, limit=1000)
        ):
            entries += page
        return entries

    def evidence(self) -> list[tuple[str, str]]:
        """Returns what hosts are still to be told to forget."""
        store = self._reading()
        every = {"below": 1 << 60, "limit": 1_000}
        hosts = [record.id for record in _now(store.hosts())]
        return [(host, name) for host in hosts for name in _now(store.evidence(host, **every))]

    def close(self) -> None:
        """Throws the file away."""
        self.died()
        self._folder.cleanup()

    def _reading(self) -> SqlStore:
        assert self._store is not None, "asked only while the coordinator is up"
        return self._store


def _now(coroutine: Any) -> Any:
    """Returns what a coroutine that never waits returns."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    raise AssertionError("the inline store waited")


STORES: dict[str, Callable[[], Storage]] = {"model": Model, "sqlite": Sqlite}
