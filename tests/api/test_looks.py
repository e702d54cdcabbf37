"""What is worked out of a large workflow: once, until it changes. Looks at nodes are counted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest

from coordinator.api import looks
from coordinator.api.looks import Looks
from coordinator.saga.workflow import Group, Workflow
from coordinator.saga.workflow import Task as TaskRecord
from countermand.v1.attempt_pb2 import Progress
from countermand.v1.task_pb2 import Task
from countermand.v1.workflow_pb2 import Workflow as Shown
from tests.api.test_shown import Told, noop

MEMBERS = 600


class Counted(Sequence[TaskRecord | Group]):
    """Nodes that count how many of them are looked at."""

    def __init__(self, nodes: Sequence[TaskRecord | Group]) -> None:
        self.nodes, self.seen = nodes, 0

    def __len__(self) -> int:
        return len(self.nodes)

    def __getitem__(self, at):
        found = self.nodes[at]
        self.seen += len(found) if isinstance(at, slice) else 1
        return found

    def __iter__(self) -> Iterator[TaskRecord | Group]:
        self.seen += len(self.nodes)
        return iter(self.nodes)


@pytest.fixture
def large() -> Workflow:
    told = Told(*(noop(f"t{number:03}") for number in range(MEMBERS)))
    told.done("t000")
    return replace(told.workflow, nodes=Counted(told.workflow.nodes))


def seen(workflow: Workflow) -> int:
    assert isinstance(workflow.nodes, Counted)
    return workflow.nodes.seen


def look(all_: Looks, workflow: Workflow) -> tuple[Shown, Task]:
    """Returns what a page asks for: the workflow, and its group."""
    found = all_.at(workflow)
    return found.basic, found.task(0, {}, full=False)


def test_each_node_is_looked_at_a_few_times_and_then_no_more(large) -> None:
    all_ = Looks()
    first = look(all_, large)
    spent = seen(large)
    assert spent < 10 * MEMBERS
    assert look(all_, large) == first
    assert seen(large) - spent < 10


def test_what_has_changed_is_looked_at_anew(large) -> None:
    all_ = Looks()
    before, _ = look(all_, large)
    after, _ = look(all_, replace(large, version=large.version + 1))
    assert (before.etag, after.etag) == (str(large.version), str(large.version + 1))


def test_an_imagined_change_is_not_taken_for_one_that_came_later(large) -> None:
    """Both have the same version: what a resume would change is shown, and then something else."""
    all_ = Looks()
    imagined = replace(large, version=large.version + 1, owner_epoch=7)
    committed = replace(large, version=large.version + 1, owner_epoch=8)
    assert look(all_, imagined)[0].owner_epoch == 7
    assert look(all_, committed)[0].owner_epoch == 8


def test_progress_is_never_of_an_earlier_look() -> None:
    told = Told(*(noop(f"t{number:03}") for number in range(MEMBERS)))
    found = Looks().at(told.workflow)
    done = {"workflows/w/tasks/t000/attempts/1": Progress(done=1, total=4, unit="bytes")}
    assert not found.task(0, {}, full=False).HasField("progress")
    assert found.task(0, done, full=False).progress.total == 4
    assert not found.task(0, {}, full=False).HasField("progress")


def test_only_so_many_nodes_are_kept(large, monkeypatch) -> None:
    monkeypatch.setattr(looks, "NODES_MAX", 3 * MEMBERS)
    all_ = Looks()
    first = all_.at(large)
    others = [all_.at(replace(large, id=f"w-{number}")) for number in range(2)]
    assert all_.at(others[-1].workflow) is others[-1]
    assert all_.at(large) is not first
