"""Attempts that are out of time on a silent host are fenced, where another host can (S-V21)."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from coordinator.runtime.overdue import fence_overdue
from coordinator.runtime.ports import HostRecord, HostState, HostView
from coordinator.saga.events import FenceRequested
from coordinator.saga.states import TaskState
from coordinator.saga.workflow import Workflow
from tests.saga.language import EPOCH, OTHER, play

LATE = "a:run+lost+hang/hang"


class Hosts:
    """Hosts that are as a test says; of them one other can fence, or none."""

    def __init__(self, state: HostState, other: str = OTHER) -> None:
        self.state, self.other = state, other

    def all(self) -> Mapping[str, HostView]:
        view = HostView(
            record=HostRecord(id="host-a", address="a:1", create_time=EPOCH),
            state=self.state,
            problem=None,
            report=None,
            open_attempts=1,
            waiting=0,
            window=1,
            seen_time=EPOCH,
            silent_s=20.0,
        )
        return {"host-a": view}

    def fencer(self, lost: str, pools: frozenset[str], wanted: str) -> tuple[str, str]:
        assert (lost, pools, wanted) == ("host-a", frozenset({"fast"}), "")
        return self.other, "" if self.other else "there is no other host"


class Loop:
    """A loop that keeps what it hears."""

    def __init__(self, workflow: Workflow) -> None:
        self.workflow = workflow
        self.heard: list[FenceRequested] = []

    def open_workflows(self) -> tuple[Workflow, ...]:
        return (self.workflow,)

    def hear(self, workflow_id: str, event: FenceRequested) -> None:
        assert workflow_id == self.workflow.id
        self.heard.append(event)


def heard(workflow: Workflow, hosts: Hosts) -> list[FenceRequested]:
    loop = Loop(workflow)
    fence_overdue(loop=loop, hosts=hosts, pools=lambda _w, _i: frozenset({"fast"}))
    return loop.heard


@pytest.mark.parametrize("state", [HostState.SUSPECT, HostState.UNREACHABLE])
def test_what_is_out_of_time_on_a_silent_host_is_fenced(state):
    workflow = play("a:runs=9", LATE).workflow
    assert workflow.task(1).state is TaskState.CANCELLING
    [asked] = heard(workflow, Hosts(state))
    assert (asked.task, asked.host) == (1, OTHER)
    assert (asked.ask.principal, asked.ask.version) == ("policy", workflow.version)


def test_nothing_else_is_fenced_by_itself():
    """Not where the host answers, nobody can, it is being done, or no policy wants it stopped."""
    late = play("a:runs=9", LATE).workflow
    fenced = play("a:runs=9", LATE + " fence-a:hang fence-a@cancel:a").workflow
    lost = play("a", "a:run+lost+hang").workflow
    cancelled = play("a", "a:run+lost+hang/hang cancel@lost:a").workflow
    silent = Hosts(HostState.UNREACHABLE)
    assert heard(late, Hosts(HostState.READY)) == []
    assert heard(late, Hosts(HostState.QUARANTINED)) == []
    assert heard(late, Hosts(HostState.UNREACHABLE, other="")) == []
    for workflow in (fenced, lost, cancelled):
        assert not workflow.settled
        assert heard(workflow, silent) == []
