"""What a workflow needs from somebody, in words."""

from __future__ import annotations

from dataclasses import replace

import pytest

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


def test_a_silent_owner_is_told_whatever_else_goes_on_in_the_workflow():
    """Whoever looks finds it, and what can be done; a host that is silent is told of hosts."""
    told = play("a:ext | b", "a:lost b:lost")
    [need] = needs_of(told.workflow)
    assert (need.task, need.reason) == ("workflows/w/tasks/a", "OWNER_SILENT")
    assert "acme has been silent, so nobody knows how a stands" in need.message
    cancel = need.message.index("`countermand workflow cancel w --reason WHY`")
    end = need.message.index("`countermand external end w/a --failed REASON`")
    swears = "Only if you know that nothing of a is left, end it in its place"
    assert cancel < need.message.index(swears) < end  # or what is left would be nobody's
    [need] = needs_of(play("a:ext:ro", "a:lost").workflow)
    assert "If that will never be, end it in its place: `countermand external" in need.message

    told = play("main:ext | part:ext", "main:lost part:lost")
    own = replace(told.workflow, about=replace(told.workflow.about, owner="acme"))
    main, part = needs_of(own)
    assert "`countermand external end w/part --failed REASON`" in part.message
    assert "`countermand external finish w --force --failed REASON`" in main.message


def test_a_pause_that_waits_for_people_says_so():
    """What an owner does not make up for keeps a workflow PAUSING, until somebody has done it."""
    told = play(
        "a:ext:list:runs=9 | b", "a:run+hang/silent undo-a:silent+hang b:hang pause@BLOCKED"
    )
    assert told.workflow.state is WorkflowState.PAUSING
    [need] = needs_of(told.workflow)
    assert (need.task, need.reason) == ("workflows/w/tasks/a", "COMPENSATION_BLOCKED")
    assert "`countermand workflow compensation done w a --reason WHY`" in need.message


@pytest.mark.parametrize(
    ("tries", "said"),
    [
        ("fail,hang", "Its compensation has failed: broken."),
        ("fail,fail,fail,hang", "Its compensation has failed 3 times in a row: broken."),
    ],
)
def test_a_compensation_has_failed_as_often_as_it_has(tries, said):
    """One that is blocked by its first failure, since that is final, has not failed often."""
    told = play("a; b", f"b:fail undo-a:{tries}")
    [need] = needs_of(told.workflow)
    assert need.message.startswith(said)
