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


def test_a_line_hides_nothing_from_who_reads_it():
    said = "\x1b]0;pwn\a\x9b2J\u202etxet"
    record = logging.makeLogRecord({"msg": "task.failed", "error": said})
    batch = logging.makeLogRecord(
        {"msg": logs.Lines([(logging.INFO, f'{{"error": "{said[8:]}"}}')])}
    )

    assert logs.JsonFormatter().format(record).isprintable()
    assert formatted(record)["error"] == said
    assert formatted(batch) == {"error": said[8:]}
    assert logs.JsonFormatter().format(batch).isprintable()


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
