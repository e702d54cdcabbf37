"""Writes what is committed into the log: a line for each change of an attempt, by its name.

That an attempt was accepted is told at debug: at info are its beginning and its end, and that it
goes on after a start.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from json.encoder import encode_basestring as quoted

from agent.attempts import AttemptRecord, State
from countermand.rpc.logs import Lines, head
from countermand.v1.failure_pb2 import Failure

log = logging.getLogger("agent")

LEVELS: Mapping[State, int] = {
    **dict.fromkeys(State, logging.INFO),
    State.ACCEPTED: logging.DEBUG,
    State.UNKNOWN: logging.WARNING,
}


class LogLines:
    """Writes the lines of each transaction at once."""

    def __init__(self, host_id: str, now: Callable[[], datetime]) -> None:
        """Says of which host they are."""
        self._host = f', "host": {quoted(host_id)}' if host_id else ""
        self._now = now

    def committed(self, changed: Sequence[AttemptRecord]) -> None:
        """Writes what one transaction has made durable."""
        lines = Lines(self._lines(changed, log.getEffectiveLevel()))
        if lines:
            log.log(lines.level, lines)

    def resumed(self, record: AttemptRecord) -> None:
        """Writes that an attempt which an earlier life left open goes on."""
        if log.isEnabledFor(logging.INFO):
            begun = head(self._time(), logging.INFO, "attempt.resumed")
            state = f', "state": "{record.state}"'
            lines = Lines([(logging.INFO, f"{begun}{self._about(record)}{state}}}")])
            log.log(lines.level, lines)

    def _lines(self, changed: Sequence[AttemptRecord], least: int) -> Iterator[tuple[int, str]]:
        time = self._time()
        for record in changed:
            level = LEVELS[record.state]
            if level < least:
                continue
            begun = head(time, level, f"attempt.{record.state.lower()}")
            yield level, f"{begun}{self._about(record)}{_why(record)}}}"

    def _time(self) -> str:
        return self._now().isoformat(timespec="milliseconds").replace("+00:00", "Z")

    def _about(self, record: AttemptRecord) -> str:
        task, _, _ = record.name.rpartition("/attempts/")
        workflow, _, _ = task.partition("/tasks/")
        names = f', "workflow": "{workflow}", "task": "{task}", "attempt": "{record.name}"'
        return f'{names}{self._host}, "kind": "{record.kind.lower()}"{_trace(record)}'


def _trace(record: AttemptRecord) -> str:
    """Returns the trace that it belongs to, where the coordinator has said so."""
    parts = record.traceparent.split("-")
    return f', "trace_id": {quoted(parts[1])}' if len(parts) > 1 else ""


def _why(record: AttemptRecord) -> str:
    if not record.failure:
        return ""
    failure = Failure.FromString(record.failure)
    return f', "reason": {quoted(failure.reason)}, "error": {quoted(failure.message)}'
