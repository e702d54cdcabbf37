"""Every field of every record is kept: whoever adds one, and forgets to store it, is told here."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import MISSING, fields, replace
from datetime import timedelta

from coordinator.runtime.ports import Change, Store
from coordinator.saga import history
from coordinator.saga.spec import Lock
from coordinator.saga.states import (
    AttemptKind,
    AttemptState,
    GroupChange,
    GroupState,
    TaskState,
    WorkflowState,
)
from coordinator.saga.workflow import (
    PATCH,
    Attempt,
    Decided,
    Failure,
    Group,
    Inbound,
    Retention,
    Task,
    Workflow,
)
from countermand.client.spec import parallel, sequence, task, workflow_spec
from countermand.v1.verb_pb2 import Noop
from tests.store.conftest import commit
from tests.store.walks import BEGIN, INPUT, Walk, as_stored

LATER = BEGIN + timedelta(microseconds=1)
FAILURE = Failure(reason="BROKEN", message="é", metadata=(("a", "b"),), attempt="w/a", host="h")
DECIDED = Decided(verb="rerun", principal="eve", reason="because", time=LATER)
BOUND = tuple(Inbound(field=name, value=value, origin=name) for name, value in INPUT.items())
PATCHED = tuple(
    replace(each, origin=PATCH, principal="eve", time=LATER, previous=each.value) for each in BOUND
)
ACTION = Attempt(
    number=2,
    kind=AttemptKind.ACTION,
    state=AttemptState.SUCCEEDED,
    host="host-7",
    fence_host="host-8",
    intent=7,
    inbound=(*BOUND, *PATCHED),
    output=INPUT,
    failure=FAILURE,
    done=2**40,
    unit="volumes",
    create_time=BEGIN,
    start_time=LATER,
    end_time=LATER,
)
COMPENSATION = Attempt(
    number=3,
    kind=AttemptKind.COMPENSATION,
    state=AttemptState.RUNNING,
    host="host-7",
    intent=8,
    compensates=2,
    overriding=True,
    replacement=b"\x00\xff",
    create_time=LATER,
)
TASK = Task(
    state=TaskState.COMPENSATION_BLOCKED,
    failure=FAILURE,
    compensation_failure=replace(FAILURE, retriable=True),
    due_time=LATER,
    start_deadline=BEGIN,
    needs_decision=True,
    tried=1,
    too_late=FAILURE,
    patch=PATCHED,
    given=INPUT,
    replacement=b"\x00\xff",
    decided=DECIDED,
)
# Worked out when a workflow is loaded, or told elsewhere.
TASK_MARKS = {"attempts", "compensation_due", "made_up_for"}
GROUP_STORED = {"state", "round", "then", "failure"}
WORKFLOW_COUNTERS = {"end_time", "blocked"}


def at_default(record: Task | Group | Attempt | Inbound | Workflow) -> set[str]:
    """Returns the fields of a record in which nothing of its own stands."""
    found = set()
    for field in fields(record):
        default = field.default if field.default_factory is MISSING else field.default_factory()
        if getattr(record, field.name) == default:
            found.add(field.name)
    return found


def entries(walk: Walk, *facts: history.Fact, node: int) -> Iterable[history.Entry]:
    for number, fact in enumerate(facts, start=walk.workflow.sequence + 1):
        yield history.Entry(sequence=number, time=LATER, task=node, fact=fact)


def started(attempt: Attempt) -> history.Fact:
    return history.AttemptStarted(
        attempt=attempt.number, kind=attempt.kind, host=attempt.host, owner_epoch=1
    )


def grouped() -> Walk:
    """Returns a new workflow with a group that has a task."""
    inner = parallel("group", task("copy", host="host-1", action=Noop()))
    return Walk("a", spec=workflow_spec("grouped", sequence("root", inner)))


def written(walk: Walk) -> Change:
    """Returns a change in which nothing is as it was. It is held, so that nothing is worked out."""
    before = walk.workflow
    group, copy = before.plan.by_name["group"], before.plan.by_name["copy"]
    nodes = list(before.nodes)
    fresh = nodes[group]
    assert isinstance(fresh, Group)
    nodes[group] = replace(
        fresh,
        state=GroupState.COMPENSATING,
        round=3,
        then=GroupChange.AGAIN,
        failure=FAILURE,
    )
    nodes[copy] = replace(TASK, attempts=(before.task(copy).last, ACTION, COMPENSATION))
    workflow = replace(
        before,
        nodes=tuple(nodes),
        state=WorkflowState.QUARANTINED,
        version=before.version + 1,
        sequence=before.sequence + 2,
        owner_epoch=2,
        cause=FAILURE,
        verdict=WorkflowState.FAILED,
        locked=False,
        retention=Retention.KEPT,
        pause=DECIDED,
        compensation_held=True,
        input_patches=PATCHED,
        more_locks=(Lock(pool="pool", image="more", exclusive=True),),
        update_time=LATER,
    )
    return Change(
        workflow=workflow,
        version_before=before.version,
        history=tuple(entries(walk, started(ACTION), started(COMPENSATION), node=copy)),
        changed=frozenset({group, copy}),
    )


def test_no_field_of_the_records_below_is_at_its_default():
    walk = grouped()
    change = written(walk)

    assert at_default(TASK) == TASK_MARKS
    assert at_default(ACTION) & at_default(COMPENSATION) == set()
    assert at_default(PATCHED[0]) <= {"value", "previous"}
    assert not GROUP_STORED & at_default(change.workflow.nodes[1])
    assert at_default(change.workflow) == WORKFLOW_COUNTERS


async def test_every_field_is_kept(store: Store):
    walk = grouped()
    change = written(walk)

    await commit(store, walk.change)
    await commit(store, change)

    stored = await store.load("a")
    assert stored
    assert stored.workflow == as_stored(change.workflow)


async def test_what_is_at_its_default_again_is_kept_as_well(store: Store):
    """A group that is as good as new, a decision that was taken back."""
    walk = grouped()
    change = written(walk)
    await commit(store, walk.change)
    await commit(store, change)
    bare = replace(
        walk.workflow,
        version=change.workflow.version + 1,
        sequence=change.workflow.sequence,
        owner_epoch=2,
        state=WorkflowState.QUARANTINED,
        nodes=tuple(
            Task(attempts=change.workflow.task(i).attempts) if isinstance(node, Task) else node
            for i, node in enumerate(walk.workflow.nodes)
        ),
    )

    await commit(
        store,
        replace(
            change,
            workflow=bare,
            version_before=change.workflow.version,
            history=(),
        ),
    )

    stored = await store.load("a")
    assert stored
    assert stored.workflow == as_stored(bare)
