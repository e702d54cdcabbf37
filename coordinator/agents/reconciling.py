"""What follows when an agent's journal was lost: may its attempts be asked for again, or not.

That an agent does not have an attempt proves nothing once it has a new journal: the old one may
have had it, and it may have taken effect. What is left is the storage, where each effect carries
the tag of the attempt that made it. So a host may go on by itself if each of its pools is there and
is the same storage, and every open attempt can be settled by asking for it again:

- create, copy, clone, create snapshot: what exactly that attempt made is found and returned; else
  its half-made things are swept, and it is made now.
- revert: the image's label names the reverts that stand; one that took effect is found.
- resize: to a size and not by a difference, so that the second time changes nothing.
- delete image, delete snapshot: the workflow holds the image alone until it is settled, so that
  nobody else's can have its name; absent is a success.
- verify, no-op: nothing is changed.
- a plug-in's verb: only if it changes nothing. What it does a second time, its vendor knows.
- to make up for what has an opposite: exactly what that attempt made is removed, half-made things
  too; nothing is a success.
- to stop what has an opposite: "not received" proves nothing, so its compensation follows.
- to stop or to fence what has none: never. Nothing on the storage says whether it took effect, and
  only an operator can.

An agent's process ends with its journal, so that nothing of the old one is still at work.
"""

from __future__ import annotations

from collections.abc import Iterable

from coordinator.runtime.ports import Delivery, HostRecord
from coordinator.saga.commands import SendAction, SendCompensation, SendFence
from coordinator.saga.spec import IRREVERSIBLE
from coordinator.saga.workflow import Attempt, Workflow
from coordinator.wire.actions import action_of
from coordinator.wire.order import name_of
from countermand.v1.agent_pb2 import HostReport
from countermand.v1.annotation_pb2 import EFFECT_READ_ONLY

Pools = tuple[tuple[str, str], ...]

_REPEATABLE = frozenset(
    {
        "create_image",
        "copy_image",
        "clone_image",
        "create_snapshot",
        "revert_image",
        "resize_image",
        "delete_image",
        "delete_snapshot",
        "verify_image",
        "noop",
    }
)
# Their first effect moves on the generation that the second would be compared with.
_UNLESS_GENERATION_EXPECTED = frozenset({"resize_image", "delete_snapshot"})


def pools_of(report: HostReport, known: Pools | None = None) -> Pools:
    """Returns the identities of the pools in which a host may leave something, old and new ones."""
    there = {p.pool_id: p.identity for p in report.pools if p.identity or not p.read_only}
    return tuple(sorted({**dict(known or ()), **there}.items()))


def why_not(
    record: HostRecord,
    report: HostReport,
    *,
    in_flight: Iterable[tuple[Workflow, Delivery]],
    has_been_there: bool,
) -> str:
    """Returns why a host with a new journal may not go on by itself; empty if it may."""
    if not has_been_there:
        return ""  # no open workflow has, or may have, left anything there
    if problem := _pool_problem(record, report):
        return problem
    for workflow, command in in_flight:
        if not can_ask_again(workflow, command):
            return f"whether {name_of(workflow, command)} took effect cannot be found out"
    return ""


def _pool_problem(record: HostRecord, report: HostReport) -> str:
    if record.pools is None:
        return "which pools it had before is not known"
    there = {pool.pool_id: pool.identity for pool in report.pools}
    for pool_id, identity in record.pools:
        if pool_id not in there:
            return f"its pool {pool_id} is missing"
        if not identity:
            return f"its pool {pool_id} cannot be told from another"
        if there[pool_id] != identity:
            return f"its pool {pool_id} is another one than before"
    return ""


def can_ask_again(workflow: Workflow, command: Delivery) -> bool:
    """Returns whether an order settles its attempt, whatever became of it in a lost journal."""
    if isinstance(command, SendFence):
        return True  # the storage keeps the fence
    attempt = _attempt(workflow, command)
    if isinstance(command, SendAction) or attempt.overriding:
        action = action_of(workflow, command.task, attempt)
        verb = action.WhichOneof("verb") or ""
        arguments = getattr(action, verb)
        if verb in _UNLESS_GENERATION_EXPECTED and arguments.expected_generation:
            return False
        reads_only = action.custom.effect == EFFECT_READ_ONLY
        return verb in _REPEATABLE or reads_only
    return workflow.plan.task(command.task).effect not in IRREVERSIBLE


def is_in_doubt(record: HostRecord, workflow: Workflow, command: Delivery) -> bool:
    """Returns whether "not received" says nothing about an attempt, nor anything else would."""
    attempt = _attempt(workflow, command)
    if isinstance(command, SendCompensation) and not attempt.overriding:
        attempt = workflow.task(command.task).attempts[attempt.compensates - 1]
    may_be_lost = record.accepted_intent <= attempt.intent < record.lost_intent
    return may_be_lost and not can_ask_again(workflow, command)


def _attempt(workflow: Workflow, command: Delivery) -> Attempt:
    return workflow.task(command.task).attempts[command.number - 1]
