"""What is counted as it moves is what a new life would count that loads it: nothing drifts."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from coordinator.metrics.counting import MOVING, Counting, verb_of
from coordinator.runtime.ports import Change
from coordinator.saga.events import CancelRequested, LocksGranted, PauseRequested
from coordinator.saga.history import AttemptEnded, LeftBehind
from coordinator.saga.leftovers import leftovers
from coordinator.saga.spec import Lock, Terms
from coordinator.saga.states import SETTLED, AttemptState, WorkflowState
from coordinator.saga.turn import Decision
from coordinator.saga.workflow import BYTES
from tests.saga import test_external
from tests.saga.language import ASK, EPOCH, Play, failure, script, terms, tree
from tests.saga.rows import each
from tests.store.walks import Walk

SEEDS = range(40)
STEPS_MAX = 150


def decision(change: Change) -> Decision:
    return Decision(workflow=change.workflow, history=change.history, changed=change.changed)


def standing(counting: Counting) -> dict[str, object]:
    """Returns what is as it is now, and not since a beginning."""
    return {
        "workflows": {
            state: count
            for state, count in counting.workflows.items()
            if count and state not in SETTLED
        },
        "tasks": {s: count for s, count in counting.tasks.items() if count and s in MOVING},
        "attention": counting.needing.workflows,
        "tasks in need": counting.needing.tasks,
        "silent": dict(counting.needing.silent),
        "in line": counting.in_line,
    }


def loaded(*walks: Walk | Play) -> dict[str, object]:
    """Returns the same as a new life would count it."""
    counting = Counting()
    for walk in walks:
        if not walk.workflow.settled:
            counting.opened(walk.workflow)
    return standing(counting)


@pytest.mark.parametrize("seed", SEEDS)
def test_each_step_is_counted_as_a_new_life_would(seed):
    walks = [Walk(f"w{number}", seed=seed) for number in range(2)]
    counting = Counting()
    for walk in walks:
        counting.committed([decision(walk.change)], 0.001)
    for _ in range(STEPS_MAX):
        for walk in walks:
            if not walk.workflow.settled and walk.step() is not None:
                counting.committed([decision(walk.change)], 0.001)
        assert standing(counting) == loaded(*walks)
    settled = [walk.workflow for walk in walks if walk.workflow.settled]
    assert {w.id for w in settled if next(leftovers(w), None)} == set(counting.left_by)
    assert counting.started == len(walks)
    assert sum(counting.workflows[state] for state in SETTLED) == len(settled)


def test_a_workflow_that_is_held_needs_somebody():
    walk, counting = Walk("w"), Counting()
    counting.committed([decision(walk.change)], 0.001)
    counting.committed([decision(walk.quarantine())], 0.001)
    assert counting.needing.workflows == 1
    assert counting.workflows[WorkflowState.QUARANTINED] == 1


def test_walks_pass_through_what_is_counted():
    """A comparison of nothing with nothing would hold as well."""
    seen: set[str] = set()
    ended = 0
    for seed in SEEDS:
        walk, counting = Walk("w0", seed=seed), Counting()
        changes = [walk.change]
        while len(changes) < STEPS_MAX and not walk.workflow.settled:
            if walk.step() is not None:
                changes.append(walk.change)
        for change in changes:
            counting.committed([decision(change)], 0.001)
            seen |= {state for state, count in counting.tasks.items() if count}
            seen |= {f"workflow {state}" for state, count in counting.workflows.items() if count}
            seen |= {"attention"} if counting.needing.workflows else set()
            seen |= {"left"} if counting.left_by else set()
        facts = [entry.fact for change in changes for entry in change.history]
        outcomes = [fact for fact in facts if isinstance(fact, AttemptEnded)]
        ended += len(outcomes)
        assert counting.attempts.total() == len(outcomes)
        assert counting.left == sum(isinstance(fact, LeftBehind) for fact in facts)
        known = [fact for fact in outcomes if fact.state is not AttemptState.UNKNOWN]
        assert sum(sum(h.counts) for h in counting.durations.values()) == len(known)
        assert counting.done_bytes.total() == sum(f.done for f in known if f.unit == BYTES)
        verbs = {verb_of(node.task) for node in walk.workflow.plan.leaves if node.task}
        assert {verb for (verb, _, _), count in counting.attempts.items() if count} <= verbs
    assert ended > len(SEEDS)
    assert seen >= MOVING | {f"workflow {state}" for state in WorkflowState} - {
        "workflow QUARANTINED"
    } | {"attention", "left"}


class Counted(Play):
    """A play of which every step is counted."""

    def begin(self, *args, **kwargs):
        self.counting, self.silent = Counting(), 0
        super().begin(*args, **kwargs)

    def take(self, decision):
        super().take(decision)
        self.counting.committed([decision], 0.001)
        self.silent = max(self.silent, self.counting.needing.silent.total())
        assert standing(self.counting) == loaded(self)


def counted(text: str, setup: str) -> Counted:
    """Returns a play that was counted to its end."""
    told = Counted(script=script(setup))
    told.begin(tree(text), {"size": 7, "no": False}, beside=terms(text))
    told.run()
    return told


@pytest.mark.parametrize("row", each(test_external.ROWS))
def test_stories_of_owners_and_operators_are_counted_as_a_new_life_would(row):
    assert counted(row.tree, row.setup).log


@pytest.mark.parametrize(
    ("setup", "silent"),
    [
        ("a:run+lost+run+ok", 1),
        ("a:run+ok b:fail undo-a:silent+run+ok", 1),
        ("a:run+ok b:fail undo-a:run+retriable,run+ok", 0),
    ],
)
def test_an_owner_is_silent_for_as_long_as_nobody_knows(setup, silent):
    told = counted("a:ext; b", setup)
    assert told.silent == silent
    assert not told.counting.needing.silent  # it was heard again


def test_a_commit_is_counted_with_its_size_and_its_time():
    counting = Counting()
    walks = [Walk(f"w{number}") for number in range(3)]
    counting.committed([decision(walk.change) for walk in walks], timedelta(seconds=2).seconds)
    assert counting.batches.cumulated()[1] == ("2.0", 0)
    assert counting.batches.cumulated()[2] == ("4.0", 1)
    assert counting.commits.cumulated()[-2:] == [("5.0", 1), ("+Inf", 1)]


LOCKS = (Lock(pool="p", image="i", exclusive=True),)


def in_line() -> Counted:
    """Returns a play that waits in line for its images."""
    told = Counted(script=script(""))
    told.begin(tree("a; b"), beside=Terms(locks=LOCKS), locked=False)
    assert told.counting.in_line == {"w": EPOCH + timedelta(seconds=1)}
    return told


@pytest.mark.parametrize(
    "event",
    [LocksGranted(), CancelRequested(ask=ASK, failure=failure("CANCELLED"))],
    ids=["its turn", "cancelled"],
)
def test_a_workflow_waits_in_line_until_it_has_its_images_or_wants_none(event):
    told = in_line()
    told.perform(event)
    assert not told.counting.in_line


def waits_since(told: Counted) -> tuple[datetime | None, datetime | None]:
    """Returns since when somebody is needed, as it was seen and as a new life would find it."""
    second = Counting()
    second.opened(told.workflow)
    return told.counting.needing.since, second.needing.since


def test_a_pause_waits_from_its_moment_on():
    told = Counted(script=script(""))
    told.begin(tree("a; b"))
    told.perform(PauseRequested(ask=ASK))
    told.run()
    assert told.workflow.state is WorkflowState.PAUSED
    seen, found = waits_since(told)
    assert seen == told.time
    assert told.workflow.pause is not None
    assert found == told.workflow.pause.time


def test_who_is_tried_on_has_waited_since_the_first_failure_and_not_since_the_last():
    """Else a coordinator that is restarted, or a slow retry, would begin the wait anew."""
    told = Counted(script=script("a:ok b:fail undo-a:fail,fail,fail,ok"))
    told.begin(tree("a; b"))
    waits: list[tuple[datetime | None, datetime | None]] = []
    while told.step():
        if told.workflow.state is WorkflowState.BLOCKED:
            waits.append(waits_since(told))
    assert len(waits) > 3
    assert len(set(waits)) == 1
    [(seen, found)] = set(waits)
    assert found is not None
    assert seen is not None
    assert timedelta(0) <= seen - found < timedelta(seconds=10)
    assert waits_since(told)[0] is None
