"""What would happen to a workflow's tasks if it were cancelled, as far as they show it. Pure.

The rules are the saga's; this only reads off the tasks what they come to, to be told beforehand.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from countermand.drawing.phrases import count, listing, on
from countermand.drawing.tasks import GROUPS, IN_FLIGHT, task_id
from countermand.v1.annotation_pb2 import Effect
from countermand.v1.task_pb2 import Task

NAMED_MAX: Final = 12  # things in a list that somebody reads before a decision

ACTING: Final = IN_FLIGHT - {Task.STATE_COMPENSATING}  # an attempt at the action is out
TO_COME: Final = frozenset({Task.STATE_PENDING, Task.STATE_READY, Task.STATE_RETRY_WAIT})
BEING_MADE_UP_FOR: Final = frozenset({Task.STATE_COMPENSATING, Task.STATE_COMPENSATION_BLOCKED})
IRREVERSIBLE: Final = frozenset({Effect.EFFECT_PIVOT, Effect.EFFECT_FORWARD_ONLY})
# Of what is made up for and of what is stopped, as many are read: of thousands, that they are on
# some hosts says enough, and how many there are is known without.
LOOKED_AT_MAX: Final = 200
MADE: Final = (Task.STATE_SUCCEEDED, *sorted(BEING_MADE_UP_FOR))


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """What would become of which task."""

    compensated: Sequence[Task]  # made up for
    stopped: Sequence[Task]  # at work; made up for too, if they took effect
    irreversible: Sequence[Task]  # took effect, or may have, and cannot be made up for
    to_come: int  # never started
    # How many there are of the first two, where not all were looked at.
    made: int = 0
    at_work: int = 0


def outlook(
    tasks: Sequence[Task], counts: Mapping[Task.State.ValueType, int], *, is_all: bool = True
) -> Outlook:
    """Returns what a cancel would do, given tasks that have begun, and how many are how."""
    leaves = [task for task in tasks if task.kind not in GROUPS and not task.end_action]
    begun = [t for t in leaves if t.state == Task.STATE_SUCCEEDED or t.state in ACTING]
    irreversible = [task for task in begun if task.effect in IRREVERSIBLE]
    return Outlook(
        compensated=[
            task
            for task in leaves
            if (task.state == Task.STATE_SUCCEEDED and task.effect == Effect.EFFECT_REVERSIBLE)
            or task.state in BEING_MADE_UP_FOR
        ],
        stopped=[t for t in leaves if t.state in ACTING and t.effect not in IRREVERSIBLE],
        irreversible=irreversible,
        to_come=_sum(counts, TO_COME),
        made=0 if is_all else _sum(counts, MADE),
        at_work=0 if is_all else _sum(counts, ACTING),
    )


def _sum(counts: Mapping[Task.State.ValueType, int], states: Iterable[Task.State.ValueType]) -> int:
    return sum(counts.get(state, 0) for state in states)


def sentences(seen: Outlook) -> list[str]:
    """Returns what will happen, for somebody who is about to want it."""
    said = []
    if seen.made:
        some = f", such as those {places(seen.compensated)}" if seen.compensated else ""
        number = count(seen.made, "task")
        said.append(f"{number} took effect: what they made will be compensated{some}.")
    elif seen.compensated:
        number = count(len(seen.compensated), "task")
        said.append(f"{number} will be compensated {places(seen.compensated)}.")
    else:
        said.append("Nothing has taken effect, so nothing has to be compensated.")
    if seen.stopped:
        at_work = seen.at_work or len(seen.stopped)
        number = count(at_work, "task")
        them = "it is" if at_work == 1 else "each is"
        said.append(
            f"{number} at work {places(seen.stopped)} will be stopped; {them} compensated"
            " if it took effect meanwhile."
        )
    if seen.to_come:
        noun = "task that has" if seen.to_come == 1 else "tasks that have"
        said.append(f"{seen.to_come} {noun} not begun never will.")
    return said


def items(seen: Outlook) -> list[str]:
    """Returns what will be made up for, a line each, and by what."""
    return lines(seen.compensated, seen.made)


def lines(tasks: Sequence[Task], number: int = 0) -> list[str]:
    """Returns a line for each of some tasks: which, where, and what makes up for it."""
    listed = [_line(task) for task in tasks[:NAMED_MAX]]
    more = max(len(tasks), number) - NAMED_MAX
    return [*listed, *([f"and {more} more"] if more > 0 else [])]


def forbidden(seen: Outlook) -> str:
    """Returns why nothing can be cancelled any more, if so."""
    if not seen.irreversible:
        return ""
    named = listing([f"{task_id(t.name)}{place(t)}" for t in seen.irreversible[:NAMED_MAX]])
    took = "took effect" if len(seen.irreversible) == 1 else "took effect, or may have"
    state = seen.irreversible[0].state
    if state in ACTING and len(seen.irreversible) == 1:
        took = "may have taken effect"
    return f"{named} {took} and cannot be made up for: from there it only goes forward."


def place(task: Task) -> str:
    """Returns where a task is, as the end of some words."""
    return on(task.owner_id or task.host_id, is_owner=bool(task.owner_id))


def places(tasks: Sequence[Task]) -> str:
    """Returns on which hosts and with which owners tasks are: "on host-a, host-b with acme"."""
    hosts = sorted({task.host_id for task in tasks if task.host_id and not task.owner_id})
    owners = sorted({task.owner_id for task in tasks if task.owner_id})
    parts = [f"on {_some(hosts)}"] if hosts else []
    parts += [f"with {_some(owners)}"] if owners else []
    return " and ".join(parts)


def _some(names: Sequence[str]) -> str:
    more = len(names) - NAMED_MAX
    return ", ".join(names[:NAMED_MAX]) + (f" and {more} more" if more > 0 else "")


def _line(task: Task) -> str:
    by = f": {task.opposite}" if task.opposite else ""
    return f"{task_id(task.name)}{place(task)}{by}"
