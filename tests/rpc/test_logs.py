"""One event, one line of JSON."""

import json
import logging
import subprocess
import sys
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


NOISE = """
import asyncio, sys, threading, warnings
import coordinator  # as a service is imported
from countermand.rpc import logs
import grpc.aio

logs.configure(sys.stderr)

class Falls:
    def __del__(self):
        raise ValueError("unraisable")

def ends():
    raise ValueError("in a thread")

async def asks_what_nobody_may():
    async with grpc.aio.insecure_channel("127.0.0.1:1") as channel:
        try:
            await channel.unary_unary("/a/b")(b"", metadata=[("traceparent", "\\u00ff")])
        except Exception:
            pass
    asyncio.get_running_loop().create_task(forgotten())
    await asyncio.sleep(0)

async def forgotten():
    raise ValueError("in a task")

warnings.warn("as before")
Falls()
thread = threading.Thread(target=ends)
thread.start()
thread.join()
asyncio.run(asks_what_nobody_may())
raise ValueError("the end")
"""


def test_what_others_say_is_a_line_too():
    done = subprocess.run(
        [sys.executable, "-c", NOISE], capture_output=True, text=True, check=False
    )
    said = [json.loads(line) for line in done.stderr.splitlines()]
    assert [(line["event"].split("\n")[0], line["level"]) for line in said] == [
        ("python.warning", "warning"),
        ("python.failed", "error"),
        ("python.failed", "error"),
        ("Task exception was never retrieved", "error"),
        ("python.failed", "critical"),
    ]
