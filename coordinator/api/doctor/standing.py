"""What the coordinator knows of an attempt: whether its effect is meant to be there.

Pure: a workflow as it is committed goes in, a word comes out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from coordinator.saga.states import AttemptKind, AttemptState, TaskState
from coordinator.saga.workflow import Attempt, Task, Workflow
from coordinator.wire.actions import action_of
from countermand.rpc.errors import Expired
from countermand.rpc.names import AttemptName, attempt_name
from countermand.v1.annotation_pb2 import EFFECT_READ_ONLY

# Their target is an image, or a snapshot of one, that their attempt makes.
_MAKES = frozenset({"create_image", "copy_image", "clone_image", "create_snapshot"})
_AWAY = frozenset({"delete_image", "delete_snapshot", "custom"})  # or may take away
AT = "@"  # between an image's id and its snapshot's


class Standing(StrEnum):
    """How an attempt stands with the coordinator."""

    NOT_OURS = "NOT_OURS"  # there is no such workflow, or no more
    NEVER = "NEVER"  # the workflow is here, and has no such attempt
    OPEN = "OPEN"  # nobody knows its outcome yet
    STANDS = "STANDS"  # its effect is meant to be there
    NO_EFFECT = "NO_EFFECT"  # it failed or was cancelled, for certain
    MADE_UP_FOR = "MADE_UP_FOR"  # its effect was undone


# Of these no effect may be left.
GONE = frozenset({Standing.NEVER, Standing.NO_EFFECT, Standing.MADE_UP_FOR})


class Place(NamedTuple):
    """An image, or a snapshot as "image@snapshot", in a pool."""

    pool_id: str
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What the coordinator knows of one attempt."""

    standing: Standing
    settled: bool = False  # whether its workflow is
    owner_epoch: int = 0  # of its workflow
    host: str = ""
    place: Place | None = None  # what it makes, if it makes an image or a snapshot
    state: AttemptState | None = None
    # Its agent was told to forget it before an older database was put back: it may have succeeded.
    in_doubt: bool = False


NOT_OURS = Known(standing=Standing.NOT_OURS)


def known(workflow: Workflow | None, name: AttemptName) -> Known:
    """Returns what a workflow, if there is one, says of an attempt."""
    if workflow is None:
        return NOT_OURS
    index = workflow.plan.by_name.get(name.task_id)
    node = workflow.nodes[index] if index is not None else None
    attempts = node.attempts if isinstance(node, Task) else ()
    attempt = next((a for a in attempts if a.number == name.number), None)
    if index is None or not isinstance(node, Task) or attempt is None:
        return Known(
            standing=Standing.NEVER, settled=workflow.settled, owner_epoch=workflow.owner_epoch
        )
    return Known(
        standing=_standing(node, attempt),
        settled=workflow.settled,
        owner_epoch=workflow.owner_epoch,
        host=attempt.host,
        place=_made(workflow, index, attempt),
        state=attempt.state,
        in_doubt=attempt.failure is not None and attempt.failure.reason == Expired.reason,
    )


def _made(workflow: Workflow, index: int, attempt: Attempt) -> Place | None:
    if attempt.kind is not AttemptKind.ACTION:
        return None
    verb, place = _target(workflow, index, attempt)
    return place if verb in _MAKES else None


def _standing(task: Task, attempt: Attempt) -> Standing:
    if attempt.open:
        is_over = _is_made_up_for(task, attempt)
        return Standing.MADE_UP_FOR if is_over else Standing.OPEN
    if attempt.state is not AttemptState.SUCCEEDED:
        return Standing.NO_EFFECT
    return Standing.MADE_UP_FOR if _is_made_up_for(task, attempt) else Standing.STANDS


def _is_made_up_for(task: Task, attempt: Attempt) -> bool:
    if attempt.kind is AttemptKind.COMPENSATION:
        return False
    if task.state is TaskState.COMPENSATED and task.action is attempt:
        return True  # also where an operator said so
    return any(
        other.compensates == attempt.number and other.state is AttemptState.SUCCEEDED
        for other in task.attempts
        if other.kind is AttemptKind.COMPENSATION
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """An image or snapshot that an open workflow relies on."""

    attempt: str
    host: str  # where it was made
    place: Place


def expected(workflow: Workflow) -> Iterator[Expected]:
    """Yields what a workflow's attempts have made, and nobody of it has taken away."""
    if workflow.settled:
        return
    made: list[Expected] = []
    taken: set[Place] = set()
    for index, task in workflow.tasks():
        action = task.action
        if action is None:
            continue
        verb, place = _target(workflow, index, action)
        if verb in _AWAY and place is not None:
            taken.add(place)  # also if nobody knows yet
        stands = _standing(task, action) is Standing.STANDS
        if verb in _MAKES and place is not None and stands:
            name = attempt_name(workflow.id, workflow.plan.nodes[index].name, action.number)
            made.append(Expected(attempt=name, host=action.host, place=place))
    for one in made:
        image = Place(one.place.pool_id, one.place.name.partition(AT)[0])
        if not {one.place, image} & taken:
            yield one


def _target(workflow: Workflow, index: int, attempt: Attempt) -> tuple[str, Place | None]:
    action = action_of(workflow, index, attempt)
    verb = action.WhichOneof("verb") or ""
    if verb not in _MAKES | _AWAY or action.custom.effect == EFFECT_READ_ONLY:
        return verb, None
    arguments = getattr(action, verb)
    name = arguments.target.image_id
    if "snapshot_id" in arguments.DESCRIPTOR.fields_by_name:
        name = f"{name}{AT}{arguments.snapshot_id}"
    return verb, Place(arguments.target.pool_id, name)


def open_attempts(workflow: Workflow, host: str) -> Iterator[str]:
    """Yields the attempts of which a host has said that it took them, and not how they ended."""
    for index, task in workflow.tasks():
        for attempt in task.attempts:
            if attempt.open and attempt.host == host and attempt.start_time is not None:
                yield attempt_name(workflow.id, workflow.plan.nodes[index].name, attempt.number)
