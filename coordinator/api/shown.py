"""Workflows as the services answer with them: found, and shown with what only the runtime knows.

The record says most of it (`coordinator.wire.view`). What is added here is not stored anywhere: how
far attempts are, which host is silent, who stands before whom in which line.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Iterator
from datetime import timedelta

from google.protobuf.struct_pb2 import Struct

from coordinator.api.fences import target_pools
from coordinator.api.looks import Look, Looks, is_large
from coordinator.api.summary import summary_to_proto
from coordinator.runtime.locks import LockView
from coordinator.runtime.loop import Loop
from coordinator.runtime.ports import Hosts, HostState, HostView, Store, Stored, WorkflowSummary
from coordinator.runtime.watch import Watches
from coordinator.saga.states import TaskState
from coordinator.saga.workflow import Retention, Workflow
from coordinator.saga.workflow import Task as TaskRecord
from coordinator.wire import view
from coordinator.wire.history import TASK_STATES
from coordinator.wire.waits import ITS_IMAGES
from countermand.rpc.errors import TaskNotFound, WorkflowNotFound
from countermand.rpc.names import task_name, workflow_name
from countermand.v1 import workflow_pb2 as pb
from countermand.v1.attempt_pb2 import Progress
from countermand.v1.image_pb2 import ImageAddress
from countermand.v1.task_pb2 import Task

HostOf = Callable[[str], HostView | None]

KEPT_MAX = 4  # as many as a few people look at; the largest have some MiB
A_HOST = "a host"  # whoever looks for it says why there is none
HOLDERS_NAMED_MAX = 3  # in words; the locks of a FULL view name more

# An agent that works says something every half second, and one that is quiet at least every five:
# of one that says nothing for longer no rate is known, although nothing else is concluded so soon.
RATE_S = 6.0
YIELD_EVERY = 100  # tasks between two looks at whoever else is due: some milliseconds
_SILENT = frozenset({HostState.SUSPECT, HostState.UNREACHABLE})
_AT_WORK = frozenset(
    {
        TaskState.STARTING,
        TaskState.RUNNING,
        TaskState.UNKNOWN,
        TaskState.CANCELLING,
        TaskState.COMPENSATING,
        TaskState.COMPENSATION_BLOCKED,
    }
)


class Showing:
    """Finds workflows and shows them."""

    def __init__(
        self,
        *,
        loop: Loop,
        store: Store,
        hosts: Hosts,
        watches: Watches[Progress],
        retention: timedelta | None,
    ) -> None:
        """Keeps what it asks."""
        self._loop = loop
        self._store = store
        self._hosts = hosts
        self._watches = watches
        self._retention = retention
        # Settled long ago, or another session's, and looked at now: a page asks for it many times.
        self._kept: OrderedDict[str, Workflow] = OrderedDict()
        self._looks = Looks()

    # -- finding --------------------------------------------------------------------------------

    async def find(self, workflow_id: str) -> Workflow:
        """Returns a workflow as committed; raises WorkflowNotFound."""
        if known := self._loop.workflow(workflow_id):
            return known
        settled = self._loop.settled(workflow_id)
        if settled is not None and not self._store.shared:
            return settled  # whoever removes it tells the loop
        kept = settled or self._kept.get(workflow_id)
        # With the same version it is the same; but it may have changed, or been removed.
        if kept is not None and await self._store.version(workflow_id) == kept.version:
            if settled is None:
                self._kept.move_to_end(workflow_id)
            return kept
        found = (await self.load(workflow_id)).workflow
        if found.settled or self._store.shared:
            self._kept[workflow_id] = found
            self._kept.move_to_end(workflow_id)
            if len(self._kept) > KEPT_MAX:
                self._kept.popitem(last=False)
        return found

    async def load(self, workflow_id: str) -> Stored:
        """Returns a workflow with what was submitted; raises WorkflowNotFound."""
        stored = await self._store.load(workflow_id)
        if stored is None:
            raise WorkflowNotFound(name=workflow_name(workflow_id))
        return stored

    async def newest(self, workflow_id: str) -> Workflow:
        """Returns a workflow as it is now; the store may know of a change before the loop does."""
        known = self._loop.workflow(workflow_id) or self._loop.settled(workflow_id)
        if known is not None and known.version == await self._store.version(workflow_id):
            return known  # to load one takes seconds if it is large
        stored = (await self.load(workflow_id)).workflow
        known = self._loop.workflow(workflow_id)
        return known if known and known.version > stored.version else stored

    def index_of(self, workflow: Workflow, task_id: str) -> int:
        """Returns the node with a name; raises TaskNotFound."""
        index = workflow.plan.by_name.get(task_id, 0)
        if index == 0:  # the root is the workflow itself
            raise TaskNotFound(name=task_name(workflow.id, task_id))
        return index

    # -- workflows ------------------------------------------------------------------------------

    def basic(self, workflow: Workflow) -> pb.Workflow:
        """Returns the BASIC view of a workflow."""
        progress = self._watches.progress(workflow.id)
        if progress or not is_large(workflow):
            shown = view.workflow_to_proto(workflow, progress)
        else:
            shown = pb.Workflow()
            shown.CopyFrom(self._looks.at(workflow).basic)
        if not workflow.locked and not workflow.settled:
            shown.waits_for = _line(self._locks(workflow))
        self._expires(shown, workflow.retention)
        return shown

    async def full(self, workflow_id: str) -> pb.Workflow:
        """Returns the FULL view of a workflow; raises WorkflowNotFound."""
        submission = await self._store.submission(workflow_id)
        if submission is None:
            raise WorkflowNotFound(name=workflow_name(workflow_id))
        workflow = await self.find(workflow_id)
        shown = self.basic(workflow)
        shown.spec.ParseFromString(submission.spec)
        shown.input.CopyFrom(Struct.FromString(submission.input))
        shown.locks.extend(self.locks(workflow))
        await asyncio.sleep(0)
        indices = view.in_order(workflow.plan)[1 : 1 + view.TASKS_MAX]
        async for task in self.tasks(workflow, indices):
            shown.tasks.append(task)
        return shown

    def locks(self, workflow: Workflow) -> list[pb.ImageLock]:
        """Returns how a workflow stands with its images."""
        return [_lock_to_proto(lock) for lock in self._locks(workflow)]

    def _locks(self, workflow: Workflow) -> tuple[LockView, ...]:
        """Returns how a workflow stands with its images: of another session's only what it says."""
        if workflow.settled or self._loop.workflow(workflow.id) is not None:
            return self._loop.lock_view(workflow.id)
        return tuple(
            LockView(lock=lock, held=workflow.locked, position=0, holders=())
            for lock in workflow.locks
        )

    def has_in_memory(self, workflow_id: str) -> bool:
        """Returns whether a list shows a workflow from memory."""
        return self._loop.workflow(workflow_id) is not None

    def listed(self, summary: WorkflowSummary) -> pb.Workflow:
        """Returns the BASIC view of a workflow in a list: from memory while it is open."""
        if known := self._loop.workflow(summary.id):
            return self.basic(known)
        # It has settled since it was read, when it was not counted: see `has_in_memory`.
        if not summary.settled and (known := self._loop.settled(summary.id)):
            return self.basic(known)
        shown = summary_to_proto(summary)
        self._expires(shown, summary.retention)
        return shown

    def _expires(self, shown: pb.Workflow, retention: Retention) -> None:
        if not shown.HasField("end_time"):
            return
        if retention is Retention.AT_ONCE:
            shown.expire_time.CopyFrom(shown.end_time)
        elif retention is Retention.IN_TIME and self._retention:
            shown.expire_time.FromDatetime(shown.end_time.ToDatetime() + self._retention)

    # -- tasks ----------------------------------------------------------------------------------

    async def tasks(
        self, workflow: Workflow, indices: Iterable[int], *, full: bool = False
    ) -> AsyncGenerator[Task]:
        """Yields tasks and groups; whoever else is due has its turns."""
        hosts, look = self._hosts.all(), self._looks.at(workflow)
        for number, index in enumerate(indices, start=1):
            yield self._task(look, index, hosts.get, full=full)
            if number % YIELD_EVERY == 0:
                await asyncio.sleep(0)

    def task(self, workflow: Workflow, index: int) -> Task:
        """Returns one task with its context."""
        return self._task(self._looks.at(workflow), index, self._hosts.all().get, full=True)

    def places(
        self, workflow: Workflow, states: Collection[Task.State.ValueType], first: int
    ) -> Iterator[tuple[int, int]]:
        """Yields tasks and groups in any of some states, or all, each with its place in the tree.

        To show a task costs a hundred times as much as to see that it is in another state.
        """
        look = self._looks.at(workflow)
        wanted = {state for state, number in TASK_STATES.items() if number in states}
        for place in range(first, len(look.order)):
            index = look.order[place]
            if not states or look.states[index] in wanted:
                yield place, index

    def _task(self, look: Look, index: int, host_of: HostOf, *, full: bool) -> Task:
        workflow = look.workflow
        progress = self._watches.progress(workflow.id)
        shown = look.task(index, progress, full=full)
        record = workflow.nodes[index]
        if workflow.settled or not isinstance(record, TaskRecord):
            return shown
        if record.state is TaskState.READY and not shown.waits_for:
            shown.waits_for = self._hosts.waiting_for_host(workflow.id, index) or A_HOST
        if record.state in _AT_WORK:
            self._at_work(shown, workflow, index, host_of(shown.host_id))
        return shown

    def _at_work(self, shown: Task, workflow: Workflow, index: int, host: HostView | None) -> None:
        """Says what keeps an attempt: its place in line, or its host, which pretends nothing."""
        if place := self._hosts.waiting_for_slot(workflow, index):
            shown.waits_for = place
        if host is not None and host.state is not HostState.READY:
            shown.waits_for = _silence(host)
        if host is not None and (host.state is not HostState.READY or host.silent_s >= RATE_S):
            shown.progress.rate = 0
        last = workflow.task(index).last
        if last.fence_host:
            shown.waits_for = f"{last.fence_host}, which settles it in the place of {last.host}"
        elif host is not None and host.state in _SILENT:
            shown.waits_for += self._settled_by_others(workflow, index)

    def _settled_by_others(self, workflow: Workflow, index: int) -> str:
        """Returns what an operator may do about a task whose host is silent."""
        task, name = workflow.task(index), workflow.plan.nodes[index].name
        if task.state not in (TaskState.UNKNOWN, TaskState.CANCELLING):
            return ""
        pools = target_pools(workflow, index)
        other, why = self._hosts.fencer(task.last.host, pools, "") if pools else ("", "")
        if other:
            fence = f"`countermand workflow fence {workflow.id} {name} --reason …`"
            return f"; {other} can settle it: {fence}"
        needed = f"; nobody else can settle it ({why})" if why else ""
        abandon = f"`countermand workflow compensation abandon {workflow.id} {name}`"
        return f"{needed}; if it never comes back: {abandon}"


def _silence(host: HostView) -> str:
    """Returns what a task on a host that does not answer waits for."""
    if host.state is HostState.QUARANTINED:
        why = host.problem.message if host.problem else "somebody has to look"
        return f"{host.record.id} is quarantined: {why}"
    return f"{host.record.id} has not answered for {host.silent_s:.0f} s"


# -- locks --------------------------------------------------------------------------------------


def _line(locks: Iterable[LockView]) -> str:
    """Returns in words which images a workflow waits for, behind whom."""
    waits = [
        f"{lock.lock.pool}/{lock.lock.image} ({_behind(lock)})" for lock in locks if lock.position
    ]
    return "images held by others: " + ", ".join(waits) if waits else ITS_IMAGES


def _behind(lock: LockView) -> str:
    named = [workflow_name(holder) for holder in lock.holders[:HOLDERS_NAMED_MAX]]
    if len(lock.holders) > HOLDERS_NAMED_MAX:
        named.append(f"{len(lock.holders) - HOLDERS_NAMED_MAX} more")
    held = f"held by {', '.join(named)}; " if named else ""
    return f"{held}{lock.position} before it in line"


def _lock_to_proto(lock: LockView) -> pb.ImageLock:
    return pb.ImageLock(
        image=ImageAddress(pool_id=lock.lock.pool, image_id=lock.lock.image),
        exclusive=lock.lock.exclusive,
        held=lock.held,
        position=lock.position,
        holders=map(workflow_name, lock.holders),
    )
