"""One event, one line of JSON."""

import json
import logging
from io import StringIO

from countermand.rpc import logs, telemetry


def formatted(record: logging.LogRecord) -> dict[str, object]:
    line = logs.JsonFormatter().format(record)
    assert "\n" not in line
    loaded: dict[str, object] = json.loads(line)
    return loaded


def test_an_event_and_its_fields_are_one_line():
    record = logging.makeLogRecord(
        {
            "msg": "attempt.started",
            "levelname": "INFO",
            "created": 0,
            "name": "root",
            "attempt": "w/1",
            "at": {1},
        }
    )

    assert formatted(record) == {
        "time": "1970-01-01T00:00:00.000Z",
        "level": "info",
        "event": "attempt.started",
        "logger": "root",
        "attempt": "w/1",
        "at": "{1}",
    }


def test_a_line_carries_the_trace_and_the_traceback():
    telemetry.CURRENT.set(trace := telemetry.new_trace())
    stream = StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logs.JsonFormatter())
    log = logging.Logger("test")  # noqa: LOG001  # must not outlive the test
    log.addHandler(handler)

    try:
        json.loads("broken\nin two")
    except ValueError:
        log.exception("journal.corrupt")

    line = json.loads(stream.getvalue())
    assert line["trace_id"] == trace.trace_id
    assert "JSONDecodeError" in line["traceback"]
    telemetry.CURRENT.set(None)
