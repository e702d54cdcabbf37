"""The state machines of workflows, tasks and attempts, as tables.

Everything that changes a state is decided by a row here; `advance.py` only looks rows up. A pair
that has no row is either late (`LATE`: recorded, changes nothing) or a bug. The diagrams in the
documentation are drawn from these tables. What is *not* here: who asks, when, and what follows from
a change; those are the rules in `advance.py`.
"""

from __future__ import annotations

from enum import StrEnum


class WorkflowState(StrEnum):
    """Where a workflow is."""

    RUNNING = "RUNNING"  # going forward
    PAUSING = "PAUSING"  # starts nothing new; attempts in flight end by themselves
    PAUSED = "PAUSED"  # at rest until resumed
    COMPENSATING = "COMPENSATING"  # making up for what took effect
    BLOCKED = "BLOCKED"  # needs an operator, says what for
    ENDING = "ENDING"  # end actions run
    SUCCEEDED = "SUCCEEDED"  # settled: every declared task succeeded, or was skipped or optional
    COMPENSATED = "COMPENSATED"  # settled: failed, every effect made up for
    FAILED = "FAILED"  # settled: failed, effects kept or abandoned, each listed
    QUARANTINED = "QUARANTINED"  # its own record cannot be processed


SETTLED = frozenset({WorkflowState.SUCCEEDED, WorkflowState.COMPENSATED, WorkflowState.FAILED})


class WorkflowChange(StrEnum):
    """What moves a workflow: found by the rules, never sent by anybody."""

    FAIL = "a task failed for good, or a cancel was accepted"
    COMPLETE = "every task is at rest and the root has succeeded"
    BLOCK = "a compensation used up its budget"
    UNBLOCK = "no compensation is over its budget any more"
    COMPENSATION_COMPLETE = "nothing is left to make up for"
    QUARANTINE = "its own record could not be processed"


W = WorkflowState
WORKFLOW_TABLE: dict[tuple[WorkflowState, WorkflowChange], WorkflowState] = {
    (W.RUNNING, WorkflowChange.COMPLETE): W.SUCCEEDED,
    (W.RUNNING, WorkflowChange.FAIL): W.COMPENSATING,
    (W.COMPENSATING, WorkflowChange.BLOCK): W.BLOCKED,
    (W.BLOCKED, WorkflowChange.UNBLOCK): W.COMPENSATING,
    (W.COMPENSATING, WorkflowChange.COMPENSATION_COMPLETE): W.COMPENSATED,
    (W.RUNNING, WorkflowChange.QUARANTINE): W.QUARANTINED,
    (W.COMPENSATING, WorkflowChange.QUARANTINE): W.QUARANTINED,
    (W.BLOCKED, WorkflowChange.QUARANTINE): W.QUARANTINED,
}


class TaskState(StrEnum):
    """Where a task is."""

    PENDING = "PENDING"  # waits for those before it
    READY = "READY"  # waits for a slot, a lock or a delay
    STARTING = "STARTING"  # the intent is committed, the request may be out
    RUNNING = "RUNNING"  # the agent works on it
    UNKNOWN = "UNKNOWN"  # the outcome is being asked for
    RETRY_WAIT = "RETRY_WAIT"  # waits before its next attempt
    CANCELLING = "CANCELLING"  # asked to stop
    SUCCEEDED = "SUCCEEDED"  # took effect
    FAILED = "FAILED"  # failed for good; certain: no effect is left
    CANCELLED = "CANCELLED"  # stopped, or never started; certain: no effect is left
    SKIPPED = "SKIPPED"  # not done, by condition or by an operator
    COMPENSATING = "COMPENSATING"  # being made up for
    COMPENSATED = "COMPENSATED"  # made up for: no effect is left
    COMPENSATION_BLOCKED = "COMPENSATION_BLOCKED"  # over its budget; retried slowly
    ABANDONED = "ABANDONED"  # given up by an operator; the effect is a leftover


class TaskChange(StrEnum):
    """What moves a task: a fact about its current attempt, or a rule of the saga."""

    START = "those before it are at rest"
    ACCEPTED = "the agent journalled the attempt"
    SUCCEEDED = "the attempt took effect"
    FAILED = "the attempt failed, certainly"
    RETRIABLE = "the attempt failed, certainly, and another is allowed"
    CANCELLED = "the attempt stopped as asked"
    LOST = "nobody knows what became of the attempt"
    MISSING = "the agent has never seen the attempt"
    RETRY = "the wait before the next attempt is over"
    STOP = "the workflow failed: stop, or never start"
    COMPENSATE = "its turn to be made up for has come"
    COMPENSATED = "the compensation took effect"
    COMPENSATION_FAILED = "the compensation failed within its budget"
    OVER_BUDGET = "the compensation failed and its budget is used up"


T = TaskState
C = TaskChange
TASK_TABLE: dict[tuple[TaskState, TaskChange], TaskState] = {
    (T.PENDING, C.START): T.STARTING,
    (T.PENDING, C.STOP): T.CANCELLED,
    (T.STARTING, C.ACCEPTED): T.RUNNING,
    (T.STARTING, C.SUCCEEDED): T.SUCCEEDED,  # an outcome may overtake the acceptance
    (T.STARTING, C.FAILED): T.FAILED,
    (T.STARTING, C.RETRIABLE): T.RETRY_WAIT,
    (T.STARTING, C.LOST): T.UNKNOWN,
    (T.STARTING, C.STOP): T.CANCELLING,
    (T.RUNNING, C.SUCCEEDED): T.SUCCEEDED,
    (T.RUNNING, C.FAILED): T.FAILED,
    (T.RUNNING, C.RETRIABLE): T.RETRY_WAIT,
    (T.RUNNING, C.LOST): T.UNKNOWN,
    (T.RUNNING, C.STOP): T.CANCELLING,
    (T.UNKNOWN, C.ACCEPTED): T.RUNNING,
    (T.UNKNOWN, C.SUCCEEDED): T.SUCCEEDED,
    (T.UNKNOWN, C.FAILED): T.FAILED,
    (T.UNKNOWN, C.RETRIABLE): T.RETRY_WAIT,
    (T.UNKNOWN, C.STOP): T.CANCELLING,
    (T.RETRY_WAIT, C.RETRY): T.STARTING,
    (T.RETRY_WAIT, C.STOP): T.FAILED,  # its last attempt failed, certainly
    (T.CANCELLING, C.SUCCEEDED): T.SUCCEEDED,  # the cancel lost the race
    (T.CANCELLING, C.FAILED): T.FAILED,
    (T.CANCELLING, C.CANCELLED): T.CANCELLED,
    (T.CANCELLING, C.MISSING): T.UNKNOWN,  # it may still be on its way: only a tombstone settles it
    (T.SUCCEEDED, C.COMPENSATE): T.COMPENSATING,
    (T.UNKNOWN, C.COMPENSATE): T.COMPENSATING,
    (T.COMPENSATING, C.COMPENSATED): T.COMPENSATED,
    (T.COMPENSATING, C.COMPENSATION_FAILED): T.COMPENSATING,
    (T.COMPENSATING, C.OVER_BUDGET): T.COMPENSATION_BLOCKED,
    (T.COMPENSATION_BLOCKED, C.COMPENSATED): T.COMPENSATED,
    (T.COMPENSATION_BLOCKED, C.OVER_BUDGET): T.COMPENSATION_BLOCKED,
}

# Facts that may come when they no longer matter: the state stays. Anything else without a row is a
# bug. A repeat of what is known, a loss heard of after the outcome, a cancel's echo.
LATE: frozenset[tuple[TaskState, TaskChange]] = frozenset(
    {
        (T.RUNNING, C.ACCEPTED),
        (T.CANCELLING, C.ACCEPTED),
        (T.CANCELLING, C.LOST),  # it stays asked to stop, and is asked again
        (T.STARTING, C.MISSING),  # the intent stands: it is sent again
        (T.RUNNING, C.MISSING),
        (T.UNKNOWN, C.MISSING),
        (T.UNKNOWN, C.LOST),
    },
)

# Leaves whose attempt may be at work on a host.
IN_FLIGHT = frozenset({T.STARTING, T.RUNNING, T.UNKNOWN, T.CANCELLING})
# Leaves that have, or may have, an effect to make up for.
COMPENSABLE = frozenset({T.SUCCEEDED, T.UNKNOWN})
# Leaves whose compensation has begun and not ended.
BEING_COMPENSATED = frozenset({T.COMPENSATING, T.COMPENSATION_BLOCKED})
# Leaves with nothing left to make up for.
EFFECT_FREE = frozenset({T.PENDING, T.FAILED, T.CANCELLED, T.SKIPPED, T.COMPENSATED, T.ABANDONED})
# Leaves behind which a sequence goes on.
PASSED = frozenset({T.SUCCEEDED, T.SKIPPED})


class AttemptKind(StrEnum):
    """What an attempt tries."""

    ACTION = "ACTION"
    COMPENSATION = "COMPENSATION"


class AttemptState(StrEnum):
    """Where an attempt is; the last four are outcomes."""

    STARTING = "STARTING"
    RUNNING = "RUNNING"
    CANCELLING = "CANCELLING"
    UNKNOWN = "UNKNOWN"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


OUTCOMES = frozenset({AttemptState.SUCCEEDED, AttemptState.FAILED, AttemptState.CANCELLED})


class Effect(StrEnum):
    """What a verb does to the world."""

    READ_ONLY = "READ_ONLY"
    REVERSIBLE = "REVERSIBLE"
    PIVOT = "PIVOT"
    FORWARD_ONLY = "FORWARD_ONLY"
