"""The action that an attempt runs on its host, bindings resolved."""

from __future__ import annotations

from coordinator.saga.workflow import Attempt, Workflow
from coordinator.wire.values import fill
from countermand.v1.verb_pb2 import Action


def action_of(workflow: Workflow, task: int, attempt: Attempt) -> Action:
    """Returns the action of an attempt as it is sent.

    Of a compensation by another verb: that one; of one by the verb's own opposite, which the agent
    knows itself, the task's action without its values.
    """
    spec = workflow.plan.task(task)
    data = spec.action
    if attempt.overriding:
        if attempt.replacement:
            return Action.FromString(attempt.replacement)  # complete as it was given
        assert spec.opposite is not None, spec.name
        data = spec.opposite.action
    action = Action.FromString(data)
    fill(action, attempt.inbound)
    return action
