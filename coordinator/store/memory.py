"""The store in memory: the fake that the simulator uses and the model that `SqlStore` is held to.

`Kept` is what a disk would hold; it outlives the `MemoryStore` of one life of a coordinator, so a
simulated crash throws the store away and opens another on the same `Kept`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from coordinator.runtime.ports import (
    Change,
    HostRecord,
    Opening,
    Request,
    StoreConflictError,
    Stored,
    StoredEntry,
    Submission,
    WorkflowPage,
    WorkflowQuery,
)
from coordinator.saga.spec import TaskSpec
from coordinator.saga.workflow import Task, Workflow, fresh_nodes
from coordinator.store.batch import Merged, merge, request_conflict, version_conflict
from coordinator.store.rows import counted
from coordinator.store.tokens import key_from
from coordinator.wire.history import event_to_proto
from countermand.rpc.crash import Crash, never


@dataclass(slots=True, kw_only=True)
class _Record:
    """One workflow as kept: of its nodes only the tasks count."""

    key: int
    workflow: Workflow
    submission: Submission

    def stored(self) -> Stored:
        return Stored(workflow=counted(self.workflow), submission=self.submission)


@dataclass(slots=True)
class Kept:
    """What survives a crash."""

    cluster_id: str = ""
    owner_epoch: int = 0
    next_intent: int = 1
    records: dict[str, _Record] = field(default_factory=dict)  # in order of creation
    events: list[StoredEntry] = field(default_factory=list)
    requests: dict[str, tuple[Request, str]] = field(default_factory=dict)
    hosts: dict[str, HostRecord] = field(default_factory=dict)


class MemoryStore:
    """The store in memory."""

    def __init__(self, kept: Kept, *, new_id: Callable[[], str], crash: Crash = never) -> None:
        self._kept = kept
        self._new_id = new_id
        self._crash = crash
        self._epoch = 0

    async def open(self) -> Opening:
        """Takes a new epoch, and returns what a coordinator needs to begin."""
        kept = self._kept
        kept.cluster_id = kept.cluster_id or self._new_id()
        kept.owner_epoch += 1
        self._epoch = kept.owner_epoch
        return Opening(
            cluster_id=kept.cluster_id,
            owner_epoch=kept.owner_epoch,
            next_intent=kept.next_intent,
        )

    async def commit(self, changes: Sequence[Change]) -> None:
        """Makes changes durable, all or none."""
        if not changes:
            return
        merged = merge(changes)
        self._check(merged, changes)
        self._crash("store.before_commit")
        for each in merged.values():
            self._keep(each)
        for change in changes:
            if change.request:
                self._kept.requests[change.request.request_id] = (
                    change.request,
                    change.workflow.id,
                )
        self._crash("store.after_commit")

    def _check(self, merged: dict[str, Merged], changes: Sequence[Change]) -> None:
        """Raises before anything is touched."""
        kept = self._kept
        if kept.owner_epoch != self._epoch:
            raise StoreConflictError(
                f"another coordinator has opened this store: epoch {kept.owner_epoch}"
            )
        for workflow_id, each in merged.items():
            record = kept.records.get(workflow_id)
            version = record.workflow.version if record else 0
            if version != each.version_before:
                raise version_conflict(workflow_id, each.version_before, version)
            if record and record.workflow.owner_epoch > each.workflow.owner_epoch:
                epoch = record.workflow.owner_epoch
                raise StoreConflictError(f"workflow {workflow_id!r} is owned by epoch {epoch}")
        for change in changes:
            if change.request and change.request.request_id in kept.requests:
                raise request_conflict(change.request)

    def _keep(self, each: Merged) -> None:
        """Keeps one workflow: of an old one only the leaves that are said to have changed."""
        kept, new = self._kept, each.workflow
        record = kept.records.get(new.id)
        if record is None:
            assert each.submission is not None, new.id
            record = _Record(key=len(kept.records) + 1, workflow=new, submission=each.submission)
            kept.records[new.id] = record
        old = record.workflow
        nodes = tuple(
            replace(
                now if i in each.changed or old is new else then,
                compensation_due=False,
                made_up_for=False,
            )
            if isinstance(then, Task) and isinstance(now, Task)
            else fresh
            for i, (then, now, fresh) in enumerate(
                zip(old.nodes, new.nodes, fresh_nodes(new.plan), strict=True)
            )
        )
        record.workflow = replace(new, nodes=nodes)
        intents = (a.intent + 1 for i in each.changed for a in new.task(i).attempts[-2:])
        kept.next_intent = max(kept.next_intent, *intents, 0)
        for entry in each.history:
            kept.events.append(
                StoredEntry(
                    workflow_id=new.id,
                    sequence=entry.sequence,
                    position=len(kept.events) + 1,
                    payload=event_to_proto(new.id, new.plan, entry).SerializeToString(),
                )
            )

    async def load_open(self) -> list[Stored]:
        """Returns every workflow that is not settled."""
        return [r.stored() for r in self._kept.records.values() if not r.workflow.settled]

    async def load(self, workflow_id: str) -> Stored | None:
        """Returns one workflow, settled or not; None if there is none."""
        record = self._kept.records.get(workflow_id)
        return record.stored() if record else None

    async def query(self, query: WorkflowQuery) -> WorkflowPage:
        """Returns one page of workflows."""
        below = key_from(query.after) if query.after else len(self._kept.records) + 1
        found = [
            record
            for record in reversed(self._kept.records.values())
            if record.key < below and _matches(record.workflow, query)
        ]
        shown = found[: query.limit]
        return WorkflowPage(
            workflows=tuple(record.stored().workflow for record in shown),
            next=str(shown[-1].key) if len(found) > len(shown) else "",
        )

    async def history(self, workflow_id: str, *, after: int, limit: int) -> list[StoredEntry]:
        """Returns a workflow's entries after a sequence, in order."""
        mine = [e for e in self._kept.events if e.workflow_id == workflow_id and e.sequence > after]
        return mine[:limit]

    async def events(self, *, after: int, limit: int) -> list[StoredEntry]:
        """Returns entries of all workflows after a position, in order."""
        return self._kept.events[after : after + limit]

    async def position(self) -> int:
        """Returns the highest position, 0 if there is none."""
        return len(self._kept.events)

    async def request(self, request_id: str) -> tuple[Request, str] | None:
        """Returns a remembered request and the id of the workflow it changed."""
        return self._kept.requests.get(request_id)

    async def hosts(self) -> list[HostRecord]:
        """Returns every host, in order of their ids."""
        return [host for _, host in sorted(self._kept.hosts.items())]

    async def put_host(self, host: HostRecord) -> None:
        """Adds or replaces a host."""
        self._kept.hosts[host.id] = host

    async def remove_host(self, host_id: str) -> None:
        """Removes a host; an absent one is a success."""
        self._kept.hosts.pop(host_id, None)

    async def close(self) -> None:
        """Releases everything; nothing is written any more."""


def _matches(workflow: Workflow, query: WorkflowQuery) -> bool:
    """Returns whether a workflow is one of those asked for."""
    created_before = query.created_before
    return (
        (not query.states or workflow.state in query.states)
        and set(query.labels) <= set(workflow.about.labels)
        and (not query.host or any(query.host == t.host for t in _specs(workflow)))
        and (not query.kind or workflow.about.kind == query.kind)
        and (created_before is None or workflow.create_time < created_before)
    )


def _specs(workflow: Workflow) -> list[TaskSpec]:
    return [node.task for node in workflow.plan.leaves if node.task]
