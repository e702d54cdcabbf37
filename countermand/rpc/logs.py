"""Logging for the services: one JSON line per event, by the standard library.

    log.info("attempt.started", extra={"attempt": name, "host": host})

becomes `{"time": …, "level": "info", "event": "attempt.started", "attempt": …, "host": …}`. Values
that are not JSON become text. The trace id of the current call is added where there is one.
"""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import TextIO

from countermand.rpc.telemetry import CURRENT

# What every record has; anything else came by `extra`.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}

# A line longer than this is cut by journald; tracebacks are the only ones that come near.
TRACEBACK_CHARACTERS_MAX = 16_000


class JsonFormatter(logging.Formatter):
    """Writes a record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """Returns the line."""
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line: dict[str, object] = {
            "time": time.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            "logger": record.name,
        }
        trace = CURRENT.get()
        if trace is not None:
            line["trace_id"] = trace.trace_id
        line.update((key, value) for key, value in vars(record).items() if key not in _STANDARD)
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)[-TRACEBACK_CHARACTERS_MAX:]
        return json.dumps(line, default=str, ensure_ascii=False)


def configure(stream: TextIO, level: str = "info") -> None:
    """Sends everything at or above the level to the stream, and nowhere else."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
