"""Compensations that a spec puts in the place of a verb's own opposite, on real agents."""

from __future__ import annotations

from countermand.v1 import workflow_pb2
from tests.api.calls import quick, state
from tests.endtoend.checks import labels


async def test_a_compensation_of_ones_own_is_run_and_shown_as_itself(cluster, stubs):
    """Its output is another verb's than the task's."""
    spec = quick("own")
    undo = spec.root.members[0].group.members[0].task.compensation
    undo.action.delete_image.target.pool_id = "pool-a"
    undo.bindings.add(field="target.image_id", source="tasks.one.output.image.image_id")
    last = spec.root.members.add(name="last").task
    last.host_id, last.action.noop.failure_message = "a", "a test"
    await stubs.start("own", spec)
    settled = await stubs.wait("own")
    assert (state(settled), settled.cause.reason) == ("COMPENSATED", "DRILL")
    shown = await stubs.workflows.GetTask(
        workflow_pb2.GetTaskRequest(name="workflows/own/tasks/one")
    )
    made_up_for = shown.task.attempts[1]
    assert made_up_for.compensates == "workflows/own/tasks/one/attempts/1"
    assert made_up_for.action.delete_image.target.image_id == "own-one"
    assert made_up_for.output.delete_image.existed
    assert "pool-a/own-one" not in labels(cluster)
