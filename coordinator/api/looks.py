"""What was worked out of a workflow, kept until it changes: pages ask for the same all along.

A workflow is a value, so what was found in one stays true of it. Kept for the few large ones that
somebody looks at now: of a small one, working it out costs about as much as finding it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from functools import cached_property

from coordinator.saga.states import TaskState
from coordinator.saga.workflow import Group, Workflow
from coordinator.wire import groups, view
from countermand.v1 import workflow_pb2 as pb
from countermand.v1.task_pb2 import Task

LARGE = 500  # nodes; from there on a look at each of them takes a millisecond
GROUP_LARGE = 100  # of the nodes below a group, and of its members
# Of all that are kept, two of the largest: a look holds its workflow, which may be of yesterday.
NODES_MAX = 20_000


def is_large(workflow: Workflow) -> bool:
    """Returns whether what is worked out of a workflow is worth keeping."""
    return len(workflow.nodes) >= LARGE


class Look:
    """One workflow as it is now; nothing of it is worked out twice."""

    def __init__(self, workflow: Workflow) -> None:
        """Keeps whom it is about."""
        self.workflow = workflow
        self._groups: dict[int, Task] = {}

    @cached_property
    def basic(self) -> pb.Workflow:
        """Returns its BASIC view, as long as no progress is heard of."""
        return view.workflow_to_proto(self.workflow, {})

    @cached_property
    def order(self) -> Sequence[int]:
        """Returns its nodes in the order of the tree."""
        return view.in_order(self.workflow.plan)

    @cached_property
    def states(self) -> Sequence[TaskState]:
        """Returns the state of each node."""
        return groups.states_of(self.workflow)

    def task(self, index: int, progress: view.ProgressKnown, *, full: bool) -> Task:
        """Returns one node; that of a large group is kept, and not to be changed by who asks."""
        if not isinstance(self.workflow.nodes[index], Group):
            return view.task_to_proto(self.workflow, index, progress, full=full)
        if not progress and index in self._groups:
            return self._groups[index]
        shown = view.task_to_proto(self.workflow, index, progress, states=self.states)
        node = self.workflow.plan.nodes[index]
        if not progress and node.end - index + len(node.members) >= GROUP_LARGE:
            self._groups[index] = shown
        return shown


class Looks:
    """The looks at those that are large, the last few."""

    def __init__(self) -> None:
        """Knows none yet."""
        self._kept: OrderedDict[str, Look] = OrderedDict()

    def at(self, workflow: Workflow) -> Look:
        """Returns a look at a workflow; a new one, unless it is just the one that is kept."""
        kept = self._kept.get(workflow.id)
        if kept is not None and kept.workflow is workflow:
            self._kept.move_to_end(workflow.id)
            return kept
        look = Look(workflow)
        if is_large(workflow):
            self._kept[workflow.id] = look
            self._kept.move_to_end(workflow.id)
            self._forget()
        return look

    def _forget(self) -> None:
        """Forgets those that nobody has looked at for longest, while there are too many."""
        nodes = sum(len(look.workflow.nodes) for look in self._kept.values())
        while nodes > NODES_MAX and len(self._kept) > 1:
            _, look = self._kept.popitem(last=False)
            nodes -= len(look.workflow.nodes)
