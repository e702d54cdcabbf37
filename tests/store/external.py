"""Walks of workflows with external tasks: one of an engine's, and one of a vendor's own."""

from __future__ import annotations

from random import Random
from typing import Any

from coordinator.runtime.ports import ProgressRecord
from coordinator.saga import events
from coordinator.saga.external import MAIN
from coordinator.saga.plan import Growth
from coordinator.saga.workflow import Failure
from coordinator.wire.external import added_problems, added_task, place_of
from countermand.client.spec import parallel, workflow_spec
from countermand.v1 import annotation_pb2
from countermand.v1.external_task_pb2 import AddExternalTaskRequest
from countermand.v1.workflow_spec_pb2 import Node, Policy, WorkflowSpec
from tests.store.walks import Walk, ask

ENDED = Failure(reason="ENDED", message="As asked.")


def own() -> WorkflowSpec:
    """Returns a vendor's own workflow."""
    main = Node.ExternalTask(
        owner_id="acme", kind="rebalance", effect=annotation_pb2.EFFECT_READ_ONLY
    )
    spec = workflow_spec("rebalance", parallel("root", Node(name=MAIN, external_task=main)))
    spec.root.open = True
    spec.policy.on_failure = Policy.ON_FAILURE_STOP
    return spec


def add(walk: Walk, task_id: str, parent: str = "", **fields: Any) -> events.AddRequested:
    """Returns a vendor's wish to add a task, under the root unless something else is said."""
    said = {"owner_id": "acme", "kind": "part", "effect": annotation_pb2.EFFECT_REVERSIBLE}
    workflow = f"workflows/{walk.workflow.id}"
    request = AddExternalTaskRequest(
        parent=f"{workflow}/tasks/{parent}" if parent else workflow,
        task_id=task_id,
        **{**said, **fields},
    )
    plan = walk.workflow.plan
    assert place_of(plan.by_name, request.parent) is not None, parent
    assert list(added_problems(plan, request)) == []
    spec, group, under = added_task(Growth(plan), request)
    return events.AddRequested(ask=ask(), spec=spec, parent=group, under=under)


def end_all(*, force: bool = False, failure: Failure | None = None) -> events.EndAllRequested:
    """Returns a vendor's wish to end the whole of its workflow."""
    return events.EndAllRequested(ask=ask(), failure=failure, force=force)


def accept(walk: Walk, task_id: str = MAIN) -> events.AttemptAccepted:
    """Returns that a task's newest attempt is taken on."""
    index = walk.workflow.plan.by_name[task_id]
    return events.AttemptAccepted(task=index, number=len(walk.workflow.task(index).attempts))


def progress(walk: Walk, random: Random, task: int = 1, number: int = 1) -> ProgressRecord:
    """Returns what an owner reports."""
    return ProgressRecord(
        workflow_id=walk.workflow.id,
        task=task,
        number=number,
        done=random.randrange(2**62),
        total=random.choice((0, 5, 2**63 - 1)),
        unit=random.choice(("bytes", "Blöcke", "")),
        message=random.choice(("", "half of it", "é\x00'\"")),
    )


def anything(walk: Walk, random: Random) -> events.Event | None:
    """Returns something that a vendor may ask of its own workflow; None: nothing just now."""
    workflow = walk.workflow
    chance = random.random()
    if workflow.settled or not workflow.locked or len(workflow.plan.nodes) > 20:
        return None
    if chance < 0.6:
        owned = [n for n in workflow.plan.nodes if n.task is not None and n.task.external]
        names = [n.name for n in owned]
        members = [n.name for n in owned if n.under < 0]  # a part is of no group
        under = random.choice(("", "", *names))
        effect = random.choice((1, 2))
        name = f"added-{len(workflow.plan.nodes)}"
        after = [random.choice(members)] if not under and random.random() < 0.3 else []
        more = {"operator_checklist": "Do it."} if effect == 2 and random.random() < 0.2 else {}
        weight = random.randrange(5)
        return add(walk, name, under, effect=effect, weight=weight, after=after, **more)
    if chance < 0.63:
        return end_all(force=random.random() < 0.7, failure=random.choice((None, ENDED)))
    return None
