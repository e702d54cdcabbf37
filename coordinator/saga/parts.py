"""Parts: what an owner adds under an external task of its own that is at work, the whole.

A part belongs to the attempt of its whole within which it was added, and so do parts of parts:

- While that attempt is at work, the failure of a part decides nothing: the owner hears of it, and
  says what comes of it by how it ends the whole.
- Once the whole has SUCCEEDED, a part that failed counts as a failure of the whole's place in the
  tree, unless it is optional.
- Once the attempt is over in any other way, nothing of it is left behind: parts that are open are
  stopped, those that took effect are made up for, before the whole itself is, and before anything
  else comes of it: another attempt, or going on without it. That its parts failed is history then.
- Of parts the newest is made up for first, but those together that were at work at the same time:
  what was added once another had ended may rest on it.

So to all others a whole and its parts are one task, which is at rest once all of them are. Nothing
is stored of this: which parts are to be made up for, is found from their states.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from coordinator.saga.plan import Plan, outermost, wholes
from coordinator.saga.states import AT_REST, IN_FLIGHT, AttemptState, Effect, TaskState
from coordinator.saga.workflow import CLOSE, Task


class Record(Protocol):
    """A workflow as it was committed, or as it now stands in a turn."""

    @property
    def plan(self) -> Plan:
        """Returns its plan."""
        ...

    @property
    def holding(self) -> bool:
        """Returns whether it is paused, or about to be."""
        ...

    def task(self, index: int) -> Task:
        """Returns a leaf."""
        ...


def is_given_up(task: Task) -> bool:
    """Returns whether an attempt that does not stop is to be made up for, once its parts are."""
    return task.state is TaskState.CANCELLING and task.last.state is AttemptState.UNKNOWN


def is_over(task: Task) -> bool:
    """Returns whether nothing that was done within the newest attempt of a task may stay."""
    if task.state in IN_FLIGHT:
        return is_given_up(task)
    closed = task.decided is not None and task.decided.verb == CLOSE  # what is finished stays
    return task.compensation_due or not (closed or task.state is TaskState.SUCCEEDED)


def are_at_work(record: Record, index: int) -> bool:
    """Returns whether everything that a part belongs to lets it go forward."""
    return all(
        record.task(whole).state in _LETS_GO and not record.task(whole).compensation_due
        for whole in wholes(record.plan, record.plan.nodes[index].under)
    )


_LETS_GO = frozenset({TaskState.RUNNING, TaskState.UNKNOWN, TaskState.SUCCEEDED})


def is_held(record: Record, index: int) -> bool:
    """Returns whether a pause keeps a node from going forward.

    End actions go on; and parts of what is at work, since a pause waits until that has ended.
    """
    if not record.holding or record.plan.is_end_action(index):
        return False
    whole = outermost(record.plan, index)
    return whole == index or record.task(whole).state not in IN_FLIGHT


def has_effect(record: Record, index: int) -> bool:
    """Returns whether a part left something that may have to be made up for."""
    took_effect = record.task(index).state is TaskState.SUCCEEDED
    return took_effect and record.plan.task(index).effect is not Effect.READ_ONLY


def settled(record: Record, whole: int, *, over: bool = False) -> bool:
    """Returns whether nothing is to come of the parts of a task any more, as things stand.

    Args:
        record: What is known of the workflow.
        whole: The task; it may have no parts.
        over: Whether it is itself a part of something that is over.
    """
    if whole not in record.plan.parts:
        return True
    return next(unsettled(record, whole, over=over), None) is None


def unsettled(record: Record, whole: int, *, over: bool = False) -> Iterator[int]:
    """Yields the parts of a task of which something is to come, or of what was added under them."""
    over = over or is_over(record.task(whole))
    # The newest first, as they are made up for. Mostly the first that is looked at is the answer.
    for part in reversed(record.plan.parts.get(whole, ())):
        if not _is_settled(record, part, over=over):
            yield part


def _is_settled(record: Record, part: int, *, over: bool) -> bool:
    task = record.task(part)
    if task.state not in AT_REST or task.needs_decision or task.due_time is not None:
        return False
    return not (over and has_effect(record, part)) and settled(record, part, over=over)


def failed(record: Record, whole: int) -> Iterator[int]:
    """Yields the parts of a task's newest attempt that failed."""
    action = record.task(whole).action
    for part in record.plan.parts.get(whole, ()):
        task = record.task(part)
        if action is None or not task.attempts or task.attempts[0].intent < action.intent:
            continue  # of an earlier attempt: that is history
        if task.state is TaskState.SUCCEEDED:
            yield from failed(record, part)
        elif task.state is TaskState.FAILED:
            yield part
