"""Logging for the services: one JSON line per event, by the standard library.

    log.info("attempt.started", extra={"attempt": name, "host": host})

becomes `{"time": …, "level": "info", "event": "attempt.started", "attempt": …, "host": …}`. Values
that are not JSON become text. The trace id of the current call is added where there is one.

Who has very many lines at once writes them as `Lines`: one record, already in their final form.

Where standard error is the journal of systemd, each line begins with its priority, which it takes
off again: `journalctl -p warning` then shows what needs somebody.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import warnings
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import TextIO

from countermand.rpc.telemetry import CURRENT
from countermand.rpc.visible import visible_json

# What every record has; anything else came by `extra`.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}

# A line longer than this is cut by journald; tracebacks are the only ones that come near.
TRACEBACK_CHARACTERS_MAX = 16_000


# As in syslog(3), which is what the journal knows.
PRIORITIES = {
    logging.DEBUG: "<7>",
    logging.INFO: "<6>",
    logging.WARNING: "<4>",
    logging.ERROR: "<3>",
    logging.CRITICAL: "<2>",
}
_LEVELS = {level: logging.getLevelName(level).lower() for level in PRIORITIES}


class Lines:
    """Lines of JSON with their levels, as the message of one record."""

    __slots__ = ("_lines", "level")

    def __init__(self, lines: Iterable[tuple[int, str]]) -> None:
        """Keeps them; the record is as urgent as the most urgent of them."""
        self._lines = list(lines)
        self.level = max((level for level, _ in self._lines), default=logging.NOTSET)

    def __len__(self) -> int:
        return len(self._lines)

    def __str__(self) -> str:
        return self.text(prioritised=False)

    def text(self, *, prioritised: bool) -> str:
        """Returns them as they are written."""
        if prioritised:
            return "\n".join(f"{PRIORITIES[level]}{line}" for level, line in self._lines)
        return "\n".join(line for _, line in self._lines)


def head(time: str, level: int, event: str) -> str:
    """Returns how a line begins; the rest is `, "key": value` and the closing brace."""
    return f'{{"time": "{time}", "level": "{_LEVELS[level]}", "event": "{event}"'


class JsonFormatter(logging.Formatter):
    """Writes a record as one line of JSON."""

    def __init__(self, *, prioritised: bool = False) -> None:
        """Puts a priority before each line, if it is asked to."""
        super().__init__()
        self._prioritised = prioritised

    def format(self, record: logging.LogRecord) -> str:
        """Returns the line, or the lines."""
        if isinstance(record.msg, Lines):
            return visible_json(record.msg.text(prioritised=self._prioritised))
        line = visible_json(self._line(record))
        return f"{PRIORITIES.get(record.levelno, '')}{line}" if self._prioritised else line

    def _line(self, record: logging.LogRecord) -> str:
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
    handler.setFormatter(JsonFormatter(prioritised=is_journal(stream, os.environ)))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.getLogger("grpc").setLevel(logging.INFO)  # at debug it says that it looks for the loop
    _take_over()


def _take_over() -> None:
    """Has what Python itself would write as plain text written as lines too."""
    log = logging.getLogger("python")

    def warned(message: Warning | str, *where: object, **_: object) -> None:
        category, file, line, *_rest = where
        about = {"said": str(message), "at": f"{file}:{line}", "category": str(category)}
        log.warning("python.warning", extra=about)

    def failed(level: int, error: BaseException | None, said: str) -> None:
        log.log(level, "python.failed", extra={"said": said}, exc_info=error)

    def ended(_: type[BaseException], error: BaseException, __: TracebackType | None) -> None:
        failed(logging.CRITICAL, error, "the process ends")

    warnings.showwarning = warned
    sys.unraisablehook = lambda it: failed(logging.ERROR, it.exc_value, it.err_msg or "ignored")
    threading.excepthook = lambda it: failed(logging.ERROR, it.exc_value, "a thread has ended")
    sys.excepthook = ended


def is_journal(stream: TextIO, environment: Mapping[str, str]) -> bool:
    """Returns whether systemd has connected a stream with its journal."""
    said = environment.get("JOURNAL_STREAM", "")
    try:
        found = os.fstat(stream.fileno())
    except (OSError, ValueError):  # it is no file at all
        return False
    return said == f"{found.st_dev}:{found.st_ino}"
