"""The rate of an attempt is told only while its host says something."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from coordinator.api.shown import Showing
from coordinator.runtime.ports import HostRecord, HostState, HostView
from coordinator.runtime.watch import Watches
from countermand.v1.attempt_pb2 import Progress
from tests.api.test_shown import Told, noop

NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Hosts:
    """One host, that was last heard of some time ago."""

    def __init__(self, state: HostState, silent_s: float) -> None:
        self.view = HostView(
            record=HostRecord(id="a", address="a:1", create_time=NOW),
            state=state,
            problem=None,
            report=None,
            open_attempts=1,
            waiting=0,
            window=1,
            seen_time=NOW,
            silent_s=silent_s,
        )

    def all(self) -> dict[str, HostView]:
        return {"a": self.view}

    def waiting_for_slot(self, *_: object) -> str:
        return ""


@pytest.mark.parametrize(
    ("state", "silent_s", "rate"),
    [
        (HostState.READY, 0.5, 7),
        (HostState.READY, 5.5, 7),  # a quiet agent says so every five seconds
        (HostState.READY, 6.5, 0),  # frozen: nothing is concluded yet, and no rate pretended
        (HostState.SUSPECT, 15.0, 0),
        (HostState.QUARANTINED, 0.5, 0),
    ],
)
def test_a_host_that_says_nothing_has_no_rate(state, silent_s, rate):
    """S-Z21."""
    told = Told(noop("one"))
    told.works("one")
    watches: Watches[Progress] = Watches()
    progress = Progress(done=1, total=9, rate=7, unit="bytes")
    watches.heard_progress("w", "workflows/w/tasks/one/attempts/1", progress)
    nobody: Any = None  # neither is asked for a workflow that is at hand
    hosts: Any = Hosts(state, silent_s)
    showing = Showing(loop=nobody, store=nobody, hosts=hosts, watches=watches, retention=None)
    shown = showing.task(told.workflow, told.index("one"))
    assert (shown.progress.rate, shown.progress.done) == (rate, 1)
