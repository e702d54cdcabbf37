"""The agent's durable record of its attempts: SQLite, flushed on each commit.

`Journal` is the synchronous core: one connection, `transact` runs plain functions in one
transaction. `ThreadJournal` puts a writer thread before it, which commits whatever has gathered
while the last commit was being flushed; `InlineJournal` runs on the caller's thread, for the
simulation. Nothing here knows what an attempt means: `attempts` decides, the runner calls.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from agent.attempts import AttemptRecord, Header, JournalFacts
from agent.rows import (
    ADDED,
    FORGET_EPOCHS,
    FORGET_MARKED,
    FORGET_NAMED,
    HEARD,
    IS_OPEN,
    IS_SEEN_TO,
    KEPT,
    MARK_FORGETTABLE,
    PUT,
    SCHEMA,
    SELECT,
    TEACH,
    to_record,
    to_row,
)

log = logging.getLogger(__name__)

T = TypeVar("T")

# Beyond this a batch only makes those wait who came first.
BATCH_MAX = 256


_MODE = 0o600

# A transaction that drops more would make those wait who come meanwhile.
FORGOTTEN_MAX = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Forgotten:
    """What one transaction has dropped."""

    attempts: int
    done: bool  # or else there is more of the same
    kept: tuple[str, ...] = ()  # the named workflows of which something stays, once it is done


@dataclass(frozen=True, slots=True)
class Heard:
    """The highest that a journal has heard of from coordinators, also of what was forgotten since.

    Of epochs whoever taught them; of intents those of attempts that were in the journal, and of
    another host's attempts that were fenced.
    """

    owner_epoch: int = 0
    intent_sequence: int = 0


class Transaction:
    """What a function inside a transaction may read and write."""

    def __init__(
        self, connection: sqlite3.Connection, sequence: int = 0, heard: Heard | None = None
    ) -> None:
        """Continues the journal's sequence, and what it has heard of."""
        self._connection = connection
        self.sequence = sequence
        self.heard = heard or Heard()
        self.changed: list[AttemptRecord] = []

    def meta(self, key: str) -> str:
        """Returns a fact of the journal itself, empty when there is none."""
        row = self._connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return str(row[0]) if row else ""

    def set_meta(self, key: str, value: str) -> None:
        """Keeps a fact of the journal itself."""
        self._connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    def facts(self, header: Header) -> JournalFacts:
        """Returns what bears on a request."""
        return JournalFacts(
            cluster_id=self.meta("cluster_id"),
            incarnation=self.meta("incarnation"),
            highest_epoch=self.highest_epoch(header.workflow),
            low_watermark=self.low_watermark,
            fence_low_watermark=int(self.meta("fence_low_watermark") or 0),
            attempt=self.get(header.attempt),
        )

    @property
    def low_watermark(self) -> int:
        """Returns the intent below which nothing new comes."""
        return int(self.meta("low_watermark") or 0)

    def highest_epoch(self, workflow: str) -> int:
        """Returns the highest owner epoch seen for a workflow."""
        row = self._connection.execute(
            "SELECT highest FROM epochs WHERE workflow = ?", (workflow,)
        ).fetchone()
        return int(row[0]) if row else 0

    def remember_owner(
        self,
        *,
        workflow: str,
        owner_epoch: int,
        cluster_id: str,
        intent: int = 0,
        fenced: int = 0,
    ) -> None:
        """Remembers who is in charge; the first coordinator decides the cluster for good.

        With the intent that says so, of what leaves no attempt here, or of another host's attempt
        that is fenced: by a Forget that is not above it the epoch is not forgotten.
        """
        if owner_epoch > self.highest_epoch(workflow):
            self._connection.execute(
                "INSERT OR REPLACE INTO epochs VALUES (?, ?)", (workflow, owner_epoch)
            )
        self._hear(owner_epoch, fenced)
        if intent or fenced:
            self._connection.execute(TEACH, (workflow, intent, fenced))
        if not self.meta("cluster_id"):
            self.set_meta("cluster_id", cluster_id)

    def get(self, name: str) -> AttemptRecord | None:
        """Returns one attempt."""
        row = self._connection.execute(f"{SELECT} WHERE name = ?", (name,)).fetchone()
        return to_record(row) if row else None

    def put(self, record: AttemptRecord) -> AttemptRecord:
        """Writes one attempt under the next sequence."""
        self.sequence += 1
        self._hear(0, record.intent_sequence)  # its epoch was remembered with its owner
        row = to_row(record, self.sequence)
        self._connection.execute(PUT, row)
        written = to_record(row)
        self.changed.append(written)
        return written

    def keep_note(self, name: str, note: str) -> None:
        """Keeps a verb's note; no change of the attempt, hence no sequence."""
        self._connection.execute("UPDATE attempts SET note = ? WHERE name = ?", (note, name))

    def keep_source_access(self, name: str, access: bytes) -> None:
        """Keeps how an attempt reaches its source; what it was given before is worth no more."""
        self._connection.execute(
            "INSERT OR REPLACE INTO source_access VALUES (?, ?)", (name, access)
        )

    def source_access(self, name: str) -> bytes:
        """Returns how an attempt reaches its source; empty when nobody has said."""
        row = self._connection.execute(
            "SELECT access FROM source_access WHERE attempt = ?", (name,)
        ).fetchone()
        return bytes(row[0]) if row else b""

    def unsettled(self) -> list[AttemptRecord]:
        """Returns the attempts whose outcome is yet to be found, in the order of their intents."""
        return self._query(f"{SELECT} WHERE {IS_SEEN_TO} ORDER BY intent_sequence, name")

    def is_made_up_for_now(self, name: str) -> bool:
        """Returns whether a compensation of an attempt has no outcome yet."""
        query = f"SELECT 1 FROM attempts WHERE {IS_OPEN} AND compensates = ?"  # noqa: S608 - constants
        return self._connection.execute(query, (name,)).fetchone() is not None

    def changes(self, after_sequence: int, count_max: int) -> list[AttemptRecord]:
        """Returns what changed after a sequence, each attempt once and as it is now."""
        return self._query(
            f"{SELECT} WHERE sequence > ? ORDER BY sequence LIMIT ?", after_sequence, count_max
        )

    def page(
        self, prefix: str, *, after: str, count_max: int, open_only: bool
    ) -> list[AttemptRecord]:
        """Returns attempts in order of their names."""
        query = f"{SELECT} WHERE name > ? AND name >= ? AND substr(name, 1, ?) = ?"
        query += f" AND {IS_OPEN}" if open_only else ""
        query += " ORDER BY name LIMIT ?"
        return self._query(query, after, prefix, len(prefix), prefix, count_max)

    def forget(
        self,
        workflows: Sequence[str],
        low_watermark: int,
        fence_low_watermark: int = 0,
        *,
        rows_max: int = FORGOTTEN_MAX,
    ) -> Forgotten:
        """Drops what settled workflows have left in the journal, at most so many rows.

        Only below the caller's own watermark: whatever could still arrive of it is EXPIRED from now
        on. A higher one that another call has brought does not count, since this call may be a late
        one, and a coordinator whose store was restored may have given the id again. What this agent
        still sees to is marked, and goes with a later call, once it has come to an end; until then
        its workflow is among those of which something is kept.
        """
        execute = self._connection.execute
        for key, value in (
            ("low_watermark", low_watermark),
            ("fence_low_watermark", fence_low_watermark),
            # What it is known from may go now.
            ("heard_owner_epoch", self.heard.owner_epoch),
            ("heard_intent_sequence", self.heard.intent_sequence),
        ):
            self.set_meta(key, str(max(value, int(self.meta(key) or 0))))
        named = json.dumps(list(workflows))
        left = [row[0] for row in execute(FORGET_NAMED, (named, low_watermark, rows_max))]
        if done := len(left) < rows_max:
            execute(MARK_FORGETTABLE, (named, low_watermark))
            left += [row[0] for row in execute(FORGET_MARKED, (rows_max - len(left),))]
        of = json.dumps([*workflows, *left])
        execute(FORGET_EPOCHS, (of, low_watermark, max(1, fence_low_watermark)))
        kept = tuple(row[0] for row in execute(KEPT, (named,))) if done else ()
        return Forgotten(attempts=len(left), done=done, kept=kept)

    def hear_all(self) -> None:
        """Finds the highest heard of: what Forget has noted, and what is there, of any version."""
        epoch, intent, fenced = self._connection.execute(HEARD).fetchone()
        self._hear(epoch or 0, max(intent or 0, fenced or 0))
        noted = (self.meta("heard_owner_epoch"), self.meta("heard_intent_sequence"))
        self._hear(*(int(value or 0) for value in noted))

    def _hear(self, owner_epoch: int, intent_sequence: int) -> None:
        heard = self.heard
        if owner_epoch > heard.owner_epoch or intent_sequence > heard.intent_sequence:
            self.heard = Heard(
                max(owner_epoch, heard.owner_epoch), max(intent_sequence, heard.intent_sequence)
            )

    def _query(self, query: str, *arguments: object) -> list[AttemptRecord]:
        return [to_record(row) for row in self._connection.execute(query, arguments)]


class Journal:
    """The synchronous core."""

    def __init__(self, connection: sqlite3.Connection, *, new_id: Callable[[], str]) -> None:
        """Takes a connection in autocommit mode; an empty file begins a new incarnation."""
        self._connection = connection
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")  # a commit survives a power cut
        connection.executescript(SCHEMA)
        connection.execute("BEGIN IMMEDIATE")
        _add_columns(connection)
        tx = Transaction(connection)
        if not tx.meta("incarnation"):
            tx.set_meta("incarnation", new_id())
        self.incarnation = tx.meta("incarnation")
        self.sequence = int(tx.meta("sequence") or 0)
        tx.hear_all()
        self._heard = tx.heard
        connection.execute("COMMIT")

    def transact(self, function: Callable[[Transaction], T]) -> tuple[T, list[AttemptRecord]]:
        """Runs one function in a transaction; returns its value and what it changed."""
        [(value, error)], changed = self.transact_many([function])
        if error is not None:
            raise error
        return value, changed

    def transact_many(
        self, functions: Sequence[Callable[[Transaction], Any]]
    ) -> tuple[list[tuple[Any, Exception | None]], list[AttemptRecord]]:
        """Runs functions in one transaction; one that raises takes back only its own part."""
        connection = self._connection
        results: list[tuple[Any, Exception | None]] = []
        tx = Transaction(connection, self.sequence, self._heard)
        connection.execute("BEGIN")  # not IMMEDIATE: a full disk still lets us read
        try:
            for function in functions:
                sequence, heard, changes = tx.sequence, tx.heard, len(tx.changed)
                connection.execute("SAVEPOINT one")
                try:
                    results.append((function(tx), None))
                except Exception as error:  # noqa: BLE001 - it is handed to whoever asked
                    connection.execute("ROLLBACK TO one")
                    tx.sequence, tx.heard = sequence, heard
                    del tx.changed[changes:]
                    results.append((None, error))
                connection.execute("RELEASE one")
            if tx.sequence != self.sequence:
                tx.set_meta("sequence", str(tx.sequence))
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        self.sequence, self._heard = tx.sequence, tx.heard
        return results, tx.changed

    def close(self) -> None:
        """Closes the file."""
        self._connection.close()


def _add_columns(connection: sqlite3.Connection) -> None:
    """Adds what a journal of an earlier version lacks; that version can still read it."""
    known = {row[1] for row in connection.execute("PRAGMA table_info(attempts)")}
    for column, statement in ADDED.items():
        if column not in known:
            connection.execute(statement)


OnCommit = Callable[[list[AttemptRecord]], None]


class Transacts(Protocol):
    """Runs transactions."""

    async def transact(self, function: Callable[[Transaction], T]) -> T:
        """Runs a plain function in a durable transaction."""
        ...


class Transactor(Transacts, Protocol):
    """How the runner reaches the journal."""

    incarnation: str
    # Called on the loop with what was committed, before those who asked go on.
    on_commit: OnCommit

    async def close(self) -> None:
        """Ends what is queued, then closes the journal."""
        ...


class InlineJournal:
    """Commits on the caller's thread, one at a time: deterministic."""

    def __init__(self, journal: Journal) -> None:
        """Owns the journal from here on."""
        self._journal = journal
        self.incarnation = journal.incarnation
        self.on_commit: OnCommit = lambda _changed: None

    async def transact(self, function: Callable[[Transaction], T]) -> T:
        """Runs a plain function in a durable transaction."""
        value, changed = self._journal.transact(function)
        if changed:
            self.on_commit(changed)
        return value

    async def close(self) -> None:
        """Closes the journal."""
        self._journal.close()


@dataclass(frozen=True, slots=True)
class _Order:
    function: Callable[[Transaction], Any]
    future: asyncio.Future[Any]


class JournalDied(sqlite3.Error):
    """The journal's thread has died; the process is about to."""


class ThreadJournal:
    """Commits in a thread of its own, in groups: the event loop never waits for a disk."""

    def __init__(self, open_journal: Callable[[], Journal], *, fatal: Callable[[], None]) -> None:
        """Opens the journal in the thread that will use it; returns once it is open.

        `fatal` is called when the thread dies of a bug: it must end the process, whose next life
        finds everything that was promised in the file.
        """
        self._fatal = fatal
        self._dead = False
        self._loop = asyncio.get_running_loop()
        self._orders: queue.SimpleQueue[_Order | None] = queue.SimpleQueue()
        opened: queue.SimpleQueue[str | Exception] = queue.SimpleQueue()
        self._thread = threading.Thread(
            target=self._write, args=(open_journal, opened), name="journal", daemon=True
        )
        self._thread.start()
        incarnation = opened.get()
        if isinstance(incarnation, Exception):
            raise incarnation
        self.incarnation = incarnation
        self.on_commit: OnCommit = lambda _changed: None
        self.on_flush: Callable[[float], None] = lambda _took_s: None  # called in the thread

    async def transact(self, function: Callable[[Transaction], T]) -> T:
        """Runs a plain function in a durable transaction."""
        if self._dead:
            raise JournalDied
        future: asyncio.Future[T] = self._loop.create_future()
        self._orders.put(_Order(function, future))
        return await future

    async def close(self) -> None:
        """Ends what is queued, then closes the journal."""
        self._orders.put(None)
        await asyncio.to_thread(self._thread.join)

    def _write(
        self,
        open_journal: Callable[[], Journal],
        opened: queue.SimpleQueue[str | Exception],
    ) -> None:
        try:
            journal = open_journal()
        except Exception as error:  # noqa: BLE001 - raised again by whoever opens
            opened.put(error)
            return
        opened.put(journal.incarnation)
        batch: list[_Order] = []
        try:
            while batch := self._gather():
                self._commit(journal, batch)
            journal.close()
        except BaseException:
            log.critical("journal.died", exc_info=True)
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                self._loop.call_soon_threadsafe(self._die, batch)
            self._fatal()

    def _commit(self, journal: Journal, batch: list[_Order]) -> None:
        began = time.monotonic()
        try:
            results, changed = journal.transact_many([order.function for order in batch])
        except sqlite3.Error as error:  # a full or failing disk: nobody is told it was written
            results, changed = [(None, error)] * len(batch), []
        self.on_flush(time.monotonic() - began)
        self._loop.call_soon_threadsafe(self._deliver, batch, results, changed)

    def _die(self, batch: list[_Order]) -> None:
        """Lets nobody wait for a thread that is dead."""
        self._dead = True
        while not self._orders.empty():
            if order := self._orders.get():
                batch.append(order)
        self._deliver(batch, [(None, JournalDied())] * len(batch), [])

    def _gather(self) -> list[_Order]:
        first = self._orders.get()
        batch: list[_Order] = []
        while first is not None:
            batch.append(first)
            if len(batch) == BATCH_MAX or self._orders.empty():
                return batch
            first = self._orders.get()
        if batch:
            self._orders.put(None)  # end after this batch
        return batch

    def _deliver(
        self,
        batch: list[_Order],
        results: list[tuple[Any, Exception | None]],
        changed: list[AttemptRecord],
    ) -> None:
        if changed:
            self.on_commit(changed)
        # In order: a compensation admitted after an action wakes after it, and finds it launched.
        for order, (value, error) in zip(batch, results, strict=True):
            if order.future.done():
                continue  # whoever asked has gone; the change stands all the same
            if error is not None:
                order.future.set_exception(error)
            else:
                order.future.set_result(value)


def open_connection(path: Path) -> sqlite3.Connection:
    """Opens the journal's file, for use by one thread only.

    Nobody else may read it: it holds the key of the tickets. SQLite gives what it makes beside it
    the same mode, whatever the umask; what an agent of an earlier version has left may have more.
    """
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _MODE))
    for file in (path, *(path.with_name(path.name + end) for end in ("-wal", "-shm"))):
        with suppress(FileNotFoundError):
            file.chmod(_MODE)
    return sqlite3.connect(path, isolation_level=None, cached_statements=64)
