"""The state machines of workflows, tasks and attempts, as tables.

Everything that changes a state is decided by a row here; `turn.py` only looks rows up. A pair that
has no row is either late (`LATE`: recorded, changes nothing) or a bug. The diagrams in the
documentation are drawn from these tables. What is *not* here: who asks, when, and what follows from
a change; those are the rules that `advance.py` names.
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
    STOP = "a task failed for good, and what was done is kept"
    PAUSE = "somebody, a policy or an open failure wants it held"
    QUIET = "held, and nothing is in flight any more"
    RESUME = "everything that was needed to go on was given"
    RESUME_COMPENSATION = "a held compensation may go on"
    BLOCK = "a task used up its budget and needs an operator"
    UNBLOCK = "no compensation is over its budget any more"
    UNBLOCK_FORWARD = "going forward, no task is over its budget any more"
    END = "the verdict is known and its end actions run"
    COMPLETE = "every task is at rest and the root has succeeded"
    COMPENSATION_COMPLETE = "nothing is left to make up for"
    KEEP = "failed, and effects are kept: by policy, or given up by an operator"
    QUARANTINE = "its own record could not be processed"


W = WorkflowState
WORKFLOW_TABLE: dict[tuple[WorkflowState, WorkflowChange], WorkflowState] = {
    (W.RUNNING, WorkflowChange.COMPLETE): W.SUCCEEDED,
    (W.RUNNING, WorkflowChange.END): W.ENDING,
    (W.RUNNING, WorkflowChange.FAIL): W.COMPENSATING,
    (W.RUNNING, WorkflowChange.STOP): W.ENDING,
    (W.RUNNING, WorkflowChange.PAUSE): W.PAUSING,
    (W.RUNNING, WorkflowChange.BLOCK): W.BLOCKED,  # past a pivot, or in a group made up for
    (W.PAUSING, WorkflowChange.QUIET): W.PAUSED,
    (W.PAUSING, WorkflowChange.RESUME): W.RUNNING,
    (W.PAUSING, WorkflowChange.RESUME_COMPENSATION): W.COMPENSATING,
    (W.PAUSING, WorkflowChange.FAIL): W.COMPENSATING,
    (W.PAUSING, WorkflowChange.STOP): W.ENDING,
    (W.PAUSED, WorkflowChange.RESUME): W.RUNNING,
    (W.PAUSED, WorkflowChange.RESUME_COMPENSATION): W.COMPENSATING,
    (W.PAUSED, WorkflowChange.FAIL): W.COMPENSATING,
    (W.COMPENSATING, WorkflowChange.PAUSE): W.PAUSING,  # only if it says that it holds these
    (W.COMPENSATING, WorkflowChange.BLOCK): W.BLOCKED,
    (W.COMPENSATING, WorkflowChange.COMPENSATION_COMPLETE): W.COMPENSATED,
    (W.COMPENSATING, WorkflowChange.KEEP): W.FAILED,
    (W.COMPENSATING, WorkflowChange.END): W.ENDING,
    (W.BLOCKED, WorkflowChange.UNBLOCK): W.COMPENSATING,
    (W.BLOCKED, WorkflowChange.UNBLOCK_FORWARD): W.RUNNING,
    (W.BLOCKED, WorkflowChange.PAUSE): W.PAUSING,
    (W.BLOCKED, WorkflowChange.FAIL): W.COMPENSATING,
    (W.BLOCKED, WorkflowChange.STOP): W.ENDING,
    (W.ENDING, WorkflowChange.COMPLETE): W.SUCCEEDED,
    (W.ENDING, WorkflowChange.COMPENSATION_COMPLETE): W.COMPENSATED,
    (W.ENDING, WorkflowChange.KEEP): W.FAILED,
    **{
        (state, WorkflowChange.QUARANTINE): W.QUARANTINED
        for state in WorkflowState
        if state not in SETTLED and state is not W.QUARANTINED
    },
}
# Nothing new goes forward.
HOLDING = frozenset({W.PAUSING, W.PAUSED})


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

    WAIT = "those before it have passed; it waits for a delay or a host"
    START = "nothing is left to wait for"
    ACCEPTED = "the agent journalled the attempt"
    SUCCEEDED = "the attempt took effect"
    FAILED = "the attempt failed, certainly"
    RETRIABLE = "the attempt failed, certainly, and another is allowed"
    CANCELLED = "the attempt stopped as asked"
    LOST = "nobody knows what became of the attempt"
    MISSING = "the agent has never seen the attempt"
    RECALLED = "the attempt was taken back before it left"
    RETRY = "the wait before the next attempt is over"
    STOP = "the workflow failed: stop, or never start"
    COMPENSATE = "its turn to be made up for has come"
    COMPENSATED = "the compensation took effect"
    COMPENSATION_FAILED = "the compensation failed within its budget"
    OVER_BUDGET = "the compensation failed and its budget is used up"
    SKIP = "its condition does not hold, or an operator goes on without it"
    AGAIN = "an operator wants it run again, or its group begins another round"
    ABANDON = "an operator gives up what it did or may have done"


T = TaskState
C = TaskChange
TASK_TABLE: dict[tuple[TaskState, TaskChange], TaskState] = {
    (T.PENDING, C.START): T.STARTING,
    (T.PENDING, C.WAIT): T.READY,
    (T.PENDING, C.STOP): T.CANCELLED,
    (T.PENDING, C.SKIP): T.SKIPPED,
    (T.PENDING, C.FAILED): T.FAILED,  # nothing was sent: a value that it is bound to is missing
    (T.READY, C.START): T.STARTING,
    (T.READY, C.STOP): T.CANCELLED,
    (T.READY, C.SKIP): T.SKIPPED,
    (T.READY, C.FAILED): T.FAILED,  # nothing was sent
    (T.READY, C.RETRIABLE): T.RETRY_WAIT,
    (T.STARTING, C.ACCEPTED): T.RUNNING,
    (T.STARTING, C.SUCCEEDED): T.SUCCEEDED,  # an outcome may overtake the acceptance
    (T.STARTING, C.FAILED): T.FAILED,
    (T.STARTING, C.RETRIABLE): T.RETRY_WAIT,
    (T.STARTING, C.LOST): T.UNKNOWN,
    (T.STARTING, C.STOP): T.CANCELLING,
    (T.STARTING, C.RECALLED): T.READY,
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
    (T.UNKNOWN, C.RECALLED): T.READY,
    (T.RETRY_WAIT, C.RETRY): T.STARTING,
    (T.RETRY_WAIT, C.WAIT): T.READY,
    (T.RETRY_WAIT, C.STOP): T.FAILED,  # its last attempt failed, certainly
    (T.RETRY_WAIT, C.SKIP): T.SKIPPED,
    (T.RETRY_WAIT, C.FAILED): T.FAILED,
    (T.CANCELLING, C.SUCCEEDED): T.SUCCEEDED,  # the cancel lost the race
    (T.CANCELLING, C.FAILED): T.FAILED,
    (T.CANCELLING, C.RETRIABLE): T.RETRY_WAIT,  # it was late, and may try again
    (T.CANCELLING, C.CANCELLED): T.CANCELLED,
    (T.CANCELLING, C.MISSING): T.UNKNOWN,  # it may still be on its way: only a tombstone settles it
    (T.SUCCEEDED, C.COMPENSATE): T.COMPENSATING,
    (T.UNKNOWN, C.COMPENSATE): T.COMPENSATING,
    (T.COMPENSATING, C.COMPENSATED): T.COMPENSATED,
    (T.COMPENSATING, C.COMPENSATION_FAILED): T.COMPENSATING,
    (T.COMPENSATING, C.OVER_BUDGET): T.COMPENSATION_BLOCKED,
    (T.COMPENSATION_BLOCKED, C.COMPENSATED): T.COMPENSATED,
    (T.COMPENSATION_BLOCKED, C.OVER_BUDGET): T.COMPENSATION_BLOCKED,
    (T.COMPENSATION_BLOCKED, C.ACCEPTED): T.COMPENSATING,  # an owner that was silent does it now
    # An attempt that was too late is fenced by its compensation: then it failed, certainly.
    (T.COMPENSATING, C.FAILED): T.FAILED,
    (T.COMPENSATING, C.RETRIABLE): T.RETRY_WAIT,
    (T.COMPENSATION_BLOCKED, C.FAILED): T.FAILED,
    (T.COMPENSATION_BLOCKED, C.RETRIABLE): T.RETRY_WAIT,
    (T.READY, C.ABANDON): T.ABANDONED,  # these four: only end actions, and what an owner closes
    (T.STARTING, C.ABANDON): T.ABANDONED,
    (T.RUNNING, C.ABANDON): T.ABANDONED,
    (T.RETRY_WAIT, C.ABANDON): T.ABANDONED,
    (T.UNKNOWN, C.ABANDON): T.ABANDONED,
    (T.CANCELLING, C.ABANDON): T.ABANDONED,
    (T.COMPENSATING, C.ABANDON): T.ABANDONED,
    (T.COMPENSATION_BLOCKED, C.ABANDON): T.ABANDONED,
    (T.FAILED, C.SKIP): T.SKIPPED,
    (T.FAILED, C.AGAIN): T.PENDING,
    (T.CANCELLED, C.AGAIN): T.PENDING,
    (T.SKIPPED, C.AGAIN): T.PENDING,
    (T.COMPENSATED, C.AGAIN): T.PENDING,
    (T.SUCCEEDED, C.AGAIN): T.PENDING,  # READ_ONLY: there was nothing to make up for
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
# Leaves that are not at rest, going either way: their last attempt is still seen to.
UNSETTLED = IN_FLIGHT | BEING_COMPENSATED
# Leaves with nothing left to make up for.
EFFECT_FREE = frozenset({T.PENDING, T.READY, T.FAILED, T.CANCELLED, T.SKIPPED, T.COMPENSATED})
EFFECT_FREE |= {T.ABANDONED}
# Leaves behind which a sequence goes on; a failed one, too, when its policy closes the failure.
PASSED = frozenset({T.SUCCEEDED, T.SKIPPED})
# Leaves that go forward no more by themselves.
AT_REST = PASSED | {T.FAILED, T.CANCELLED, T.COMPENSATED, T.ABANDONED}


class GroupState(StrEnum):
    """What became of a group beside its members' own states."""

    FORWARD = "FORWARD"  # it is where its members are
    COMPENSATING = "COMPENSATING"  # its members are made up for, the workflow goes on beside it
    COMPENSATED = "COMPENSATED"  # made up for; its parent goes on
    FAILED = "FAILED"  # made up for; its parent goes on with the others
    RECOVERING = "RECOVERING"  # its recovery tasks run
    RECOVERED = "RECOVERED"  # they succeeded: the failure is closed, its parent goes on
    SKIPPED = "SKIPPED"  # its condition did not hold


class GroupChange(StrEnum):
    """What moves a group: found by the rules."""

    MAKE_UP = "a task in it failed for good, and only it is made up for; or a reset was asked for"
    CLOSE = "made up for: its parent goes on"
    DROP = "made up for: its parent goes on with the others"
    AGAIN = "made up for: it begins another round"
    RECOVER = "a task in it failed for good, and it has recovery tasks"
    RECOVERED = "its recovery tasks succeeded"
    OVERTAKEN = "a group around it, or the workflow, is made up for"
    SKIP = "its condition does not hold"


G = GroupState
GROUP_TABLE: dict[tuple[GroupState, GroupChange], GroupState] = {
    (G.FORWARD, GroupChange.MAKE_UP): G.COMPENSATING,
    (G.FORWARD, GroupChange.RECOVER): G.RECOVERING,
    (G.FORWARD, GroupChange.SKIP): G.SKIPPED,
    (G.COMPENSATING, GroupChange.CLOSE): G.COMPENSATED,
    (G.COMPENSATING, GroupChange.DROP): G.FAILED,
    (G.COMPENSATING, GroupChange.AGAIN): G.FORWARD,
    (G.COMPENSATING, GroupChange.OVERTAKEN): G.FORWARD,
    (G.RECOVERING, GroupChange.RECOVERED): G.RECOVERED,
    (G.RECOVERING, GroupChange.OVERTAKEN): G.FORWARD,
    # Another round of a group around it makes it as good as new.
    (G.COMPENSATED, GroupChange.AGAIN): G.FORWARD,
    (G.FAILED, GroupChange.AGAIN): G.FORWARD,
    (G.RECOVERED, GroupChange.AGAIN): G.FORWARD,
    (G.SKIPPED, GroupChange.AGAIN): G.FORWARD,
}
# Groups that are done with, whatever their members' counters say.
GROUP_PASSED = frozenset({G.COMPENSATED, G.RECOVERED, G.SKIPPED})


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
