"""What an agent counts: work as it is done, turns that are waited for, outcomes once each."""

from __future__ import annotations

import json
import logging
import socket
from dataclasses import replace
from io import StringIO

import pytest

from agent.attempts import Kind, State
from agent.drivers.driver import Step
from agent.log_lines import LogLines
from agent.metrics import Counting, Server
from agent.runner import _is_news
from agent.running import Running, Slots, WorkDone
from countermand.rpc import logs
from countermand.rpc.names import parse_attempt
from countermand.rpc.server import ListenRefused
from countermand.v1.agent_pb2 import CompensateRequest
from countermand.v1.failure_pb2 import Failure
from countermand.v1.verb_pb2 import Action, CopyImage
from tests.agent.rig import NOW
from tests.agent.test_running import RECORD, keep_note

COPY = replace(RECORD, request=Action(copy_image=CopyImage()).SerializeToString())
SUCCEEDED = replace(COPY, state=State.SUCCEEDED)


async def test_only_what_is_done_in_this_life_counts():
    work = WorkDone()
    record = replace(RECORD, done_bytes=50, total_bytes=100)
    running = Running(record, monotonic=lambda: 0.0, keep_note=keep_note, work=work)
    for done, counted in ((50, 0), (10, 0), (60, 10), (60, 10), (100, 50)):
        running.check(Step(done=done, total=100))
        assert work.count == counted


async def test_who_waits_for_two_pools_waits_in_both():
    slots = Slots(running_max=1, waiting_max=5)
    slots.take(frozenset({"a"}))
    slots.take(frozenset({"a", "b"}))
    slots.take()
    assert [slots.waiting_in(pool) for pool in ("a", "b", "c")] == [1, 1, 0]


@pytest.mark.parametrize(
    ("before", "after", "news"),
    [
        (None, COPY, True),
        (COPY, SUCCEEDED, True),
        (COPY, replace(COPY, tombstoned=True), False),  # asked to stop: it works on
        (None, replace(SUCCEEDED, tombstoned=True), False),  # long at rest, and made up for now
        (None, SUCCEEDED, True),  # found to have come to its effect in an earlier life
    ],
)
def test_a_record_that_is_only_marked_is_no_news(before, after, news):
    assert _is_news(after, before) == news


def test_an_outcome_is_counted_by_its_verb_and_told():
    action = Action(copy_image=CopyImage())
    request = CompensateRequest(action=action).SerializeToString()
    undo = replace(RECORD, kind=Kind.COMPENSATION, request=request, state=State.FAILED)
    failure = Failure(reason="NO_SPACE", message='"full"').SerializeToString()
    undo = replace(undo, failure=failure, traceparent="00-0af7-b7ad-01")
    counting = Counting()
    counting.committed([COPY, SUCCEEDED, undo])
    assert +counting.attempts == {
        ("copy_image", "ACTION", "SUCCEEDED"): 1,
        ("copy_image", "COMPENSATION", "FAILED"): 1,
    }

    root, stream = logging.getLogger(), StringIO()
    handlers, level = root.handlers[:], root.level
    try:
        logs.configure(stream, "info")
        lines = LogLines("h1", lambda: NOW)
        lines.committed([COPY, SUCCEEDED, undo])
        lines.resumed(COPY)
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
    running, succeeded, failed, resumed = map(json.loads, stream.getvalue().splitlines())
    name = parse_attempt(RECORD.name)
    assert name is not None
    for line in (running, succeeded, failed, resumed):
        about = (line["workflow"], line["task"], line["attempt"])
        assert about == (name.workflow, name.task, RECORD.name)
    assert (resumed["event"], resumed["state"]) == ("attempt.resumed", "RUNNING")
    assert running["event"] == "attempt.running"
    assert (succeeded["event"], succeeded["attempt"]) == ("attempt.succeeded", RECORD.name)
    assert (
        failed.items()
        >= {
            "event": "attempt.failed",
            "host": "h1",
            "kind": "compensation",
            "reason": "NO_SPACE",
            "error": '"full"',
            "trace_id": "0af7",
        }.items()
    )


def test_an_address_that_is_taken_or_not_ours_is_refused():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ListenRefused, match="Choose another"):
            Server(f"127.0.0.1:{port}")
    with pytest.raises(ListenRefused, match="not loopback"):
        Server("192.0.2.1:80")
