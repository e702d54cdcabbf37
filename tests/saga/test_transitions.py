"""Every row of the tables is fired by the stories; a row that never is, is not understood."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

from coordinator.saga import turn as core
from coordinator.saga.advance import quarantine
from coordinator.saga.commands import outstanding
from coordinator.saga.events import Now
from coordinator.saga.states import (
    COMPENSABLE,
    EFFECT_FREE,
    GROUP_TABLE,
    IN_FLIGHT,
    LATE,
    SETTLED,
    TASK_TABLE,
    WORKFLOW_TABLE,
    WorkflowState,
)
from tests.saga import (
    test_compensation_decisions,
    test_endings,
    test_external,
    test_fan_out,
    test_nesting,
    test_pause,
    test_pivots,
    test_policies,
    test_rerun,
    test_sequences,
    test_skip,
)
from tests.saga.language import EPOCH, Play, play, report, script, tree

STORIES = (
    *test_sequences.ROWS,
    *test_pause.ROWS,
    *test_rerun.ROWS,
    *test_fan_out.ROWS,
    *test_nesting.ROWS,
    *test_skip.ROWS,
    *test_policies.ROWS,
    *test_pivots.ROWS,
    *test_compensation_decisions.ROWS,
    *test_endings.ROWS,
    *test_external.ROWS,
)

# Workflows held back for an operator, each in the state in which its record was found unsound.
HELD = {
    WorkflowState.RUNNING: ("a; b", "a:hang"),
    WorkflowState.PAUSING: ("a; b", "a:hang pause@do:a"),
    WorkflowState.PAUSED: ("a; b:before", ""),
    WorkflowState.COMPENSATING: ("a; b", "b:fail undo-a:hang"),
    WorkflowState.BLOCKED: ("(a | b); c", "c:fail undo-a:fail,hang"),
    WorkflowState.ENDING: ("a => s", "s:hang"),
}


class Recorded(dict[Any, Any]):
    """A table that remembers which rows were asked for."""

    def __init__(self, rows):
        super().__init__(rows)
        self.fired = set()

    def get(self, key, default=None):
        if key in self:
            self.fired.add(key)
        return super().get(key, default)

    def __getitem__(self, key):
        self.fired.add(key)
        return super().__getitem__(key)


class RecordedSet(frozenset[Any]):
    """A set that remembers what was found in it."""

    fired: set[Any]

    def __contains__(self, key):
        found = super().__contains__(key)
        if found:
            self.fired.add(key)
        return found


@dataclass
class Fired:
    """The rows that stories fired, by table."""

    tasks: set[Any]
    workflows: set[Any]
    groups: set[Any]
    late: set[Any]


@pytest.fixture(scope="module")
def fired():
    """Plays all stories and returns the rows that they fired."""
    tasks, workflows, groups = (Recorded(t) for t in (TASK_TABLE, WORKFLOW_TABLE, GROUP_TABLE))
    late = RecordedSet(LATE)
    late.fired = set()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(core, "TASK_TABLE", tasks)
        patch.setattr(core, "WORKFLOW_TABLE", workflows)
        patch.setattr(core, "GROUP_TABLE", groups)
        patch.setattr(core, "LATE", late)
        for row in STORIES:
            if not row.defect:
                play(row.tree, row.setup, newest_first=row.newest_first)
        for text, setup in HELD.values():
            told = play(text, setup)
            quarantine(told.workflow, told.now())
    return Fired(tasks.fired, workflows.fired, groups.fired, late.fired)


def test_every_row_of_the_task_table_is_fired(fired):
    assert sorted(TASK_TABLE.keys() - fired.tasks) == []


def test_every_row_of_the_workflow_table_is_fired(fired):
    assert sorted(WORKFLOW_TABLE.keys() - fired.workflows) == []


def test_every_row_of_the_group_table_is_fired(fired):
    assert sorted(GROUP_TABLE.keys() - fired.groups) == []


def test_everything_that_may_come_late_does(fired):
    assert sorted(LATE - fired.late) == []


def test_a_pair_is_either_a_row_or_late():
    assert not LATE & TASK_TABLE.keys()


def test_nothing_leads_out_of_a_settled_state():
    assert not {state for state, _ in WORKFLOW_TABLE} & SETTLED


def test_what_has_an_effect_or_may_have_one_is_not_free_of_it():
    assert not EFFECT_FREE & (COMPENSABLE | IN_FLIGHT)
    resting = set(TASK_TABLE.values()) - {before for before, _ in TASK_TABLE}
    assert resting <= EFFECT_FREE


@pytest.mark.parametrize("state", HELD)
def test_a_quarantined_workflow_keeps_its_tasks_as_they_are(state):
    """S-Z17: it is held, its record is not touched."""
    told = play(*HELD[state])
    assert told.workflow.state is state
    decision = quarantine(told.workflow, told.now())
    assert decision.workflow.state is WorkflowState.QUARANTINED
    assert decision.workflow.nodes == told.workflow.nodes
    assert not decision.changed
    assert not decision.commands


def test_a_quarantined_workflow_asks_for_nothing():
    told = play("a; b", "a:hang")
    held = quarantine(told.workflow, told.now()).workflow
    assert list(outstanding(held)) == []


@pytest.mark.parametrize(
    ("text", "setup"),
    [("a", ""), ("a; b", "b:fail")],
    ids=["succeeded", "compensated"],
)
def test_a_settled_workflow_cannot_be_quarantined(text, setup):
    told = play(text, setup)
    decision = quarantine(told.workflow, told.now())
    assert decision.empty
    assert decision.workflow == told.workflow


@pytest.mark.parametrize("step", ["ok", "fail", "lost", "missing", "run", "cancelled"])
@pytest.mark.parametrize("number", [-1, 0, 2, 99])
@pytest.mark.parametrize("task", ["a", "b"])
def test_a_report_about_an_attempt_that_never_was_changes_nothing(step, number, task):
    """S-Z32: whoever makes one up can neither move a workflow nor have it quarantined."""
    told = play("a; b", "a:hang")
    index = told.workflow.plan.by_name[task]
    assert told.perform(report(step, index, number)).empty


def test_waits_grow_are_capped_and_never_overflow():
    """S-V13: a compensation that fails for years is still retried."""
    told = Play(script=script(" ".join(["b:fail", "undo-a:" + ",".join(["retriable"] * 80)])))
    told.begin(tree("a; b"))
    told.run()
    assert told.workflow.state is WorkflowState.COMPENSATED
    retry = told.workflow.plan.task(1).policy.compensation_retry
    waits = [retry.wait(failures, 0.0) for failures in (1, 2, 3, 7, 80, 10_000)]
    assert waits == [timedelta(seconds=s) for s in (1, 2, 4, 60, 60, 60)]
    assert retry.wait(1, 0.5) == timedelta(seconds=0.75)


def test_time_comes_only_from_outside():
    """I14: what a decision writes down carries the time that came with its event."""
    told = play("a", "a:hang")
    decision = quarantine(told.workflow, Now(time=EPOCH, jitter=0.0, intent=1))
    assert {entry.time for entry in decision.history} == {EPOCH}
