"""What a workflow needs from somebody, in words."""

from __future__ import annotations

from coordinator.saga.states import WorkflowState
from coordinator.wire.needs import needs_of
from tests.saga.language import play


def test_a_workflow_that_was_stopped_says_which_compensation_it_waits_for():
    """It is ENDING until a group that was being made up for is at rest, and says what keeps it."""
    told = play(
        "g(a; b):group | s:stop",
        "b:fail undo-a:fail,hang s:wait+wait+fail",
    )
    assert told.workflow.state is WorkflowState.ENDING
    [need] = needs_of(told.workflow)
    assert (need.task, need.reason) == ("workflows/w/tasks/a", "COMPENSATION_BLOCKED")
