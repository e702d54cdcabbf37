"""The journal's tables, and how a record becomes a row and back: the only place that knows both."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from agent.attempts import OPEN, AttemptRecord, Kind, State

SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (
  key   TEXT PRIMARY KEY,   -- cluster_id, incarnation, sequence, the two low-watermarks, and what
                            -- was the highest heard of when something was last forgotten
  value TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS epochs (
  workflow TEXT PRIMARY KEY,
  highest  INTEGER NOT NULL  -- never decreases
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS taught (
  workflow TEXT PRIMARY KEY,
  intent   INTEGER NOT NULL,  -- the highest that has taught its epoch and left no attempt here
  fenced   INTEGER NOT NULL   -- the highest of another host's attempt that was fenced here
) WITHOUT ROWID;
CREATE TRIGGER IF NOT EXISTS taught_goes AFTER DELETE ON epochs BEGIN
  DELETE FROM taught WHERE workflow = OLD.workflow;
END;
CREATE TABLE IF NOT EXISTS attempts (
  name            TEXT PRIMARY KEY,
  workflow        TEXT NOT NULL,
  kind            TEXT NOT NULL,
  compensates     TEXT NOT NULL,
  request         BLOB NOT NULL,
  request_hash    BLOB NOT NULL,     -- empty: never received, known by its tombstone
  state           TEXT NOT NULL,
  output          BLOB NOT NULL,
  failure         BLOB NOT NULL,
  note            TEXT NOT NULL,
  done_bytes      INTEGER NOT NULL,
  total_bytes     INTEGER NOT NULL,
  tombstoned      INTEGER NOT NULL,  -- 1: may never start
  received        INTEGER NOT NULL,
  owner_epoch     INTEGER NOT NULL,
  intent_sequence INTEGER NOT NULL,
  run_timeout_us  INTEGER,
  traceparent     TEXT NOT NULL,
  tracestate      TEXT NOT NULL,
  create_time_us  INTEGER NOT NULL,
  start_time_us   INTEGER,
  end_time_us     INTEGER,
  sequence        INTEGER NOT NULL,  -- of the last change
  forgettable     INTEGER NOT NULL DEFAULT 0,  -- 1: its workflow is settled
  stall_timeout_us INTEGER
) WITHOUT ROWID;
CREATE UNIQUE INDEX IF NOT EXISTS attempts_by_sequence ON attempts (sequence);
CREATE INDEX IF NOT EXISTS attempts_by_workflow ON attempts (workflow);
CREATE INDEX IF NOT EXISTS attempts_open ON attempts (name)
  WHERE state IN ('ACCEPTED', 'RUNNING', 'CANCELLING');
CREATE TABLE IF NOT EXISTS source_access (
  attempt TEXT PRIMARY KEY,
  access  BLOB NOT NULL  -- how it reaches a source on another host: the latest one it was given
) WITHOUT ROWID;
CREATE TRIGGER IF NOT EXISTS source_access_goes AFTER DELETE ON attempts BEGIN
  DELETE FROM source_access WHERE attempt = OLD.name;
END;
CREATE INDEX IF NOT EXISTS attempts_forgettable ON attempts (name) WHERE forgettable = 1;
"""

# Columns that a journal of an earlier version lacks, and how they are added.
ADDED = {"stall_timeout_us": "ALTER TABLE attempts ADD COLUMN stall_timeout_us INTEGER"}

COLUMNS = (
    "name, workflow, kind, compensates, request, request_hash, state, output, failure, note,"
    " done_bytes, total_bytes, tombstoned, received, owner_epoch, intent_sequence,"
    " run_timeout_us, traceparent, tracestate, create_time_us, start_time_us, end_time_us,"
    " sequence, stall_timeout_us"
)
PUT = (
    f"INSERT INTO attempts ({COLUMNS}) VALUES ({', '.join('?' * 24)})"  # noqa: S608 - constants
    " ON CONFLICT (name) DO UPDATE SET state = excluded.state, output = excluded.output,"
    " failure = excluded.failure, note = excluded.note, done_bytes = excluded.done_bytes,"
    " total_bytes = excluded.total_bytes, tombstoned = excluded.tombstoned,"
    " start_time_us = excluded.start_time_us, end_time_us = excluded.end_time_us,"
    " sequence = excluded.sequence"
)
SELECT = f"SELECT {COLUMNS} FROM attempts"  # noqa: S608 - constants
IS_OPEN = "state IN ('ACCEPTED', 'RUNNING', 'CANCELLING')"
# What this agent sees to by itself, whoever asks for it or not.
IS_SEEN_TO = f"({IS_OPEN} OR (state = 'UNKNOWN' AND tombstoned = 0))"
assert {state.value for state in OPEN} == {"ACCEPTED", "RUNNING", "CANCELLING"}

# What settled workflows have left. The file does not shrink; what is written next takes its place.
_NAMED = "workflow IN (SELECT value FROM json_each(?)) AND intent_sequence < ?"
FORGET_NAMED = (
    "DELETE FROM attempts WHERE name IN"  # noqa: S608 - constants
    f" (SELECT name FROM attempts WHERE {_NAMED} AND NOT {IS_SEEN_TO} LIMIT ?) RETURNING workflow"
)
MARK_FORGETTABLE = f"UPDATE attempts SET forgettable = 1 WHERE {_NAMED}"  # noqa: S608 - constants
FORGET_MARKED = (
    "DELETE FROM attempts WHERE name IN"  # noqa: S608 - constants
    f" (SELECT name FROM attempts WHERE forgettable = 1 AND NOT {IS_SEEN_TO} LIMIT ?)"
    " RETURNING workflow"
)
KEPT = (
    "SELECT value FROM json_each(?) WHERE EXISTS (SELECT 1 FROM epochs WHERE workflow = value)"
    " OR EXISTS (SELECT 1 FROM attempts WHERE workflow = value) ORDER BY value"
)
# A look at every attempt, as the start takes another one for what is unsettled: an index would cost
# each admission something, and be of use once in a life.
HEARD = (
    "SELECT (SELECT max(highest) FROM epochs), (SELECT max(intent_sequence) FROM attempts),"
    " (SELECT max(fenced) FROM taught)"
)
TEACH = (
    "INSERT INTO taught VALUES (?, ?, ?) ON CONFLICT (workflow) DO UPDATE"
    " SET intent = max(intent, excluded.intent), fenced = max(fenced, excluded.fenced)"
)
FORGET_EPOCHS = (
    "DELETE FROM epochs WHERE workflow IN (SELECT value FROM json_each(?)) AND NOT EXISTS"
    " (SELECT 1 FROM attempts WHERE attempts.workflow = epochs.workflow) AND NOT EXISTS"
    " (SELECT 1 FROM taught WHERE taught.workflow = epochs.workflow"
    " AND (intent >= ? OR fenced >= ?))"
)


def _microseconds(time: datetime | None) -> int | None:
    if time is None:
        return None
    return (time - _EPOCH) // timedelta(microseconds=1)


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _time(microseconds: int | None) -> datetime | None:
    return None if microseconds is None else _EPOCH + timedelta(microseconds=microseconds)


def _span_microseconds(span: timedelta | None) -> int | None:
    return None if span is None else span // timedelta(microseconds=1)


def _span(microseconds: int | None) -> timedelta | None:
    return None if microseconds is None else timedelta(microseconds=microseconds)


def to_row(record: AttemptRecord, sequence: int) -> tuple[Any, ...]:
    """Returns the row of a record under a sequence."""
    return (
        record.name,
        record.workflow,
        record.kind.value,
        record.compensates,
        record.request,
        record.request_hash,
        record.state.value,
        record.output,
        record.failure,
        record.note,
        record.done_bytes,
        record.total_bytes,
        int(record.tombstoned),
        int(record.received),
        record.owner_epoch,
        record.intent_sequence,
        _span_microseconds(record.run_timeout),
        record.traceparent,
        record.tracestate,
        _microseconds(record.create_time),
        _microseconds(record.start_time),
        _microseconds(record.end_time),
        sequence,
        _span_microseconds(record.stall_timeout),
    )


def to_record(row: tuple[Any, ...]) -> AttemptRecord:
    """Returns the record of a row."""
    create_time = _time(row[19])
    assert create_time is not None, row[0]
    return AttemptRecord(
        name=row[0],
        kind=Kind(row[2]),
        compensates=row[3],
        request=row[4],
        request_hash=row[5],
        state=State(row[6]),
        output=row[7],
        failure=row[8],
        note=row[9],
        done_bytes=row[10],
        total_bytes=row[11],
        tombstoned=bool(row[12]),
        received=bool(row[13]),
        owner_epoch=row[14],
        intent_sequence=row[15],
        run_timeout=_span(row[16]),
        traceparent=row[17],
        tracestate=row[18],
        create_time=create_time,
        start_time=_time(row[20]),
        end_time=_time(row[21]),
        sequence=row[22],
        stall_timeout=_span(row[23]),
    )
