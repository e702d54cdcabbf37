"""Stories of external tasks: owners who accept, are silent, come late; what vendors add and end.

Rows in the mini-language of `language.py`, each played by a coordinator that dies after every
decision as well.
"""

from __future__ import annotations

import pytest

from coordinator.saga.leftovers import leftovers
from coordinator.saga.states import TaskState, WorkflowState
from coordinator.saga.workflow import Group, Retention
from countermand.rpc.names import attempt_name
from tests.saga.language import play
from tests.saga.rows import Row, each, tells, tells_the_same_under_new_owners

ROWS = (
    # Stopping and making up.
    Row(
        "never accepted: cancelled without asking",
        "a:ext | b",
        "a:hang/cancelled b:fail",
        "do:a do:b fail:b turn cancel:a stopped:a = COMPENSATED",
    ),
    Row(
        "accepted, stops as asked",
        "a:ext | b",
        "a:run+hang/cancelled b:wait+fail",
        "do:a do:b run:a fail:b turn cancel:a stopped:a = COMPENSATED",
    ),
    Row(
        "accepted, silent when stopped, compensation silent, late accept",
        "a:ext | b",
        "a:run+hang/silent b:wait+fail undo-a:silent+run+ok",
        (
            "do:a do:b run:a fail:b turn cancel:a lost:a undo:a stuck:a BLOCKED un-run:a "
            "freed undone:a = COMPENSATED"
        ),
    ),
    Row(
        "accepted, silent, compensated",
        "a:ext | b",
        "a:run+hang/silent b:wait+fail undo-a:run+ok",
        "do:a do:b run:a fail:b turn cancel:a lost:a undo:a un-run:a undone:a = COMPENSATED",
    ),
    Row(
        "silent for ever: an operator",
        "a:ext | b",
        "a:run+hang/silent b:wait+fail undo-a:silent+hang done-a@BLOCKED",
        (
            "do:a do:b run:a fail:b turn cancel:a lost:a undo:a stuck:a BLOCKED asked "
            "undone:a freed = COMPENSATED"
        ),
    ),
    Row(
        "checklist",
        "a:ext:list; b",
        "b:fail undo-a:silent+hang done-a@BLOCKED",
        "do:a ok:a do:b fail:b turn undo:a stuck:a BLOCKED asked undone:a freed = COMPENSATED",
    ),
    Row(
        "checklist abandoned",
        "a:ext:list; b",
        "b:fail undo-a:silent+hang abandon-a@BLOCKED",
        "do:a ok:a do:b fail:b turn undo:a stuck:a BLOCKED asked abandoned:a freed = FAILED",
    ),
    Row(
        "compensation fails then done",
        "a:ext; b",
        "b:fail undo-a:run+retriable,run+ok",
        (
            "do:a ok:a do:b fail:b turn undo:a un-run:a un-fail:a undo:a un-run:a undone:a = "
            "COMPENSATED"
        ),
    ),
    Row(
        "accepted compensation lapses into silence again",
        "a:ext; b",
        "b:fail undo-a:run+silent+run+silent+run+ok",
        (
            "do:a ok:a do:b fail:b turn undo:a un-run:a stuck:a BLOCKED un-run:a freed "
            "stuck:a BLOCKED un-run:a freed undone:a = COMPENSATED"
        ),
    ),
    # Times and signs of life.
    Row(
        "run timeout",
        "a:ext:runs=9; b",
        "a:run+hang/cancelled",
        "do:a run:a cancel:a fail:a turn = COMPENSATED",
    ),
    Row(
        "run timeout, retried",
        "a:ext:runs=9:retry=2; b",
        "a:run+hang/cancelled,run+ok",
        "do:a run:a cancel:a retry:a do:a run:a ok:a do:b ok:b = SUCCEEDED",
    ),
    Row(
        "run timeout, too late to succeed",
        "a:ext:runs=9; b",
        "a:run+hang/ok",
        "do:a run:a cancel:a ok:a do:b ok:b = SUCCEEDED",
    ),
    Row(
        "run timeout, silent",
        "a:ext:runs=9; b",
        "a:run+hang/silent undo-a:silent+run+ok",
        (
            "do:a run:a cancel:a lost:a undo:a stuck:a BLOCKED un-run:a freed fail:a turn = "
            "COMPENSATED"
        ),
    ),
    Row(
        "S-V29 heartbeat lapses, comes back",
        "a:ext; b",
        "a:run+lost+run+ok",
        "do:a run:a lost:a run:a ok:a do:b ok:b = SUCCEEDED",
    ),
    Row(
        "S-V29 heartbeat lapses, ends",
        "a:ext; b",
        "a:run+lost+ok",
        "do:a run:a lost:a ok:a do:b ok:b = SUCCEEDED",
    ),
    Row(
        "S-V29 heartbeat lapses, fails",
        "a:ext; b",
        "a:run+lost+fail",
        "do:a run:a lost:a fail:a turn = COMPENSATED",
    ),
    # Pausing.
    Row(
        "pause recalls",
        "a:ext; b",
        "a:line,run+ok pause@do:a resume@PAUSED",
        "do:a asked pausing wait:a PAUSED asked resumed do:a run:a ok:a do:b ok:b = SUCCEEDED",
    ),
    Row(
        "pause leaves accepted",
        "a:ext; b",
        "a:run+wait+ok pause@run:a resume@PAUSED",
        "do:a run:a asked pausing ok:a PAUSED asked resumed do:b ok:b = SUCCEEDED",
    ),
    # Adding.
    Row(
        "add to begun",
        "g(a:ext):open; b",
        "a:run+wait+ok add-g-x@run:a",
        "do:a run:a added:x do:x ok:x ok:a do:b ok:b = SUCCEEDED",
    ),
    Row(
        "add to not begun",
        "b; g(a:ext):open",
        "add-g-x@do:b",
        "do:b added:x ok:b do:a do:x ok:a ok:x = SUCCEEDED",
    ),
    Row(
        "add to passed",
        "g(a:ext):open; b",
        "add-g-x@do:b",
        "do:a ok:a do:b refused ok:b = SUCCEEDED",
    ),
    Row(
        "add empty passes",
        "g():open; b",
        "add-g-x@do:b",
        "do:b refused ok:b = SUCCEEDED",
    ),
    Row(
        "add to failed",
        "g(a:ext):open; b",
        "b:fail add-g-x@turn",
        "do:a ok:a do:b fail:b turn undo:a refused undone:a = COMPENSATED",
    ),
    Row(
        "add after sibling",
        "g(a:ext):open",
        "a:run+wait+ok add-g-x<a@run:a",
        "do:a run:a added:x ok:a do:x ok:x = SUCCEEDED",
    ),
    Row(
        "add after done",
        "g(a:ext | c):open",
        "a:ok c:run+wait+ok add-g-x<a@ok:a",
        "do:a do:c ok:a added:x do:x run:c ok:x ok:c = SUCCEEDED",
    ),
    Row(
        "add after failed",
        "g(a:ext | c | d:ignore):open:group",
        "a:ok d:fail c:run+wait+ok add-g-x<d@fail:d",
        "do:a do:c do:d ok:a run:c fail:d added:x do:x ok:x ok:c = SUCCEEDED",
    ),
    Row(
        "add bounded",
        "g(a:ext | c):open:max=1",
        "a:run+wait+ok add-g-x@run:a",
        "do:a run:a added:x ok:a do:c ok:c do:x ok:x = SUCCEEDED",
    ),
    Row(
        "add min",
        "g(a:ext | c):open:min=2; d",
        "a:run+wait+ok c:run+wait+ok add-g-x@run:a x:run+hang",
        "do:a do:c run:a added:x do:x run:c run:x ok:a ok:c do:d ok:d = RUNNING",
    ),
    Row(
        "add min, x first",
        "g(a:ext | c):open:min=2; d",
        "a:run+wait+ok c:run+hang x:ok add-g-x@run:a say-c.1-ok@end",
        "do:a do:c run:a added:x do:x run:c ok:x ok:a do:d ok:d ok:c = SUCCEEDED",
    ),
    Row(
        "add recovery",
        "g(a:ext | c){r}:open:recover; d",
        "c:wait+fail a:ok add-g-x@ok:a",
        (
            "do:a do:c ok:a added:x do:x ok:x fail:c recovering:g do:r ok:r recovered:g do:d "
            "ok:d = SUCCEEDED"
        ),
    ),
    Row(
        "add recovering",
        "g(a:ext | c){r}:open:recover; d",
        "c:fail r:run+wait+ok add-g-x@run:r",
        (
            "do:a do:c ok:a fail:c recovering:g do:r run:r refused ok:r recovered:g do:d ok:d "
            "= SUCCEEDED"
        ),
    ),
    Row(
        "add rounds",
        "g(a:ext | c):open:rounds=2; d",
        "c:run+wait+fail,ok a:ok,ok add-g-x@run:c",
        (
            "do:a do:c ok:a run:c added:x do:x ok:x fail:c compensating:g undo:a undo:x "
            "undone:a undone:x forward:g again:a again:c again:x do:a do:c do:x ok:a ok:c "
            "ok:x do:d ok:d = SUCCEEDED"
        ),
    ),
    Row(
        "add while made up for",
        "g(a:ext | c):open:rounds=2; d",
        "c:run+wait+fail,ok a:ok undo-a:run+wait+ok add-g-x@undo:a",
        (
            "do:a do:c ok:a run:c fail:c compensating:g undo:a refused un-run:a undone:a "
            "forward:g again:a again:c do:a do:c ok:a ok:c do:d ok:d = SUCCEEDED"
        ),
    ),
    Row(
        "add after a group",
        "g((b; c) | a:ext):open",
        "a:ok b:run+wait+ok add-g-x<g1@run:b",
        "do:a do:b ok:a run:b added:x ok:b do:c ok:c do:x ok:x = SUCCEEDED",
    ),
    # Adding under a task.
    Row(
        "add under task in sequence",
        "a:ext; b",
        "a:run+wait+ok x:ok add-a-x@run:a",
        "do:a run:a added:x do:x ok:x ok:a do:b ok:b = SUCCEEDED",
    ),
    Row(
        "add under in parallel",
        "(a:ext | c); b",
        "a:run+wait+ok c:ok x:run+ok add-a-x@run:a",
        "do:a do:c run:a added:x do:x ok:c run:x ok:x ok:a do:b ok:b = SUCCEEDED",
    ),
    Row(
        "add under not accepted",
        "a:ext; b",
        "a:hang+wait+ok add-a-x@do:a",
        "do:a refused ok:a do:b ok:b = SUCCEEDED",
    ),
    Row(
        "under bounded",
        "g(a:ext | c):max=1; b",
        "a:run+wait+ok x:run+ok add-a-x@run:a",
        "do:a run:a added:x do:x run:x ok:x ok:a do:c ok:c do:b ok:b = SUCCEEDED",
    ),
    Row(
        "add under unknown",
        "a:ext; b",
        "a:run+lost+wait+ok add-a-x@lost:a",
        "do:a run:a lost:a added:x do:x ok:x ok:a do:b ok:b = SUCCEEDED",
    ),
    # Ending a task.
    Row(
        "end refused",
        "a:ext; b",
        "a:run+hang x:run+wait+ok add-a-x@run:a end-a.1-ok@run:x end-a.1-ok@ok:x",
        "do:a run:a added:x do:x run:x refused ok:x ok:a do:b ok:b = SUCCEEDED",
    ),
    Row(
        "end forced",
        "a:ext; b",
        "a:run+hang x:run+hang add-a-x:ro@run:a close-a.1-ok@run:x",
        "do:a run:a added:x do:x run:x asked cancel:x stopped:x ok:a do:b ok:b = SUCCEEDED",
    ),
    Row(
        "end forced leftover",
        "a:ext; b",
        "a:run+hang x:run+hang add-a-x@run:a close-a.1-ok@run:x",
        "do:a run:a added:x do:x run:x asked abandoned:x ok:a do:b ok:b = SUCCEEDED",
    ),
    Row(
        "end forced unaccepted",
        "a:ext; b",
        "a:run+hang x:hang add-a-x@run:a close-a.1-ok@do:x",
        "do:a run:a added:x do:x asked cancel:x stopped:x ok:a do:b ok:b = SUCCEEDED",
    ),
    Row(
        "S-V27 end failed with open parts",
        "a:ext; b",
        "a:run+hang x:run+hang/cancelled add-a-x@run:a end-a.1-fail@run:x",
        "do:a run:a added:x do:x run:x fail:a turn cancel:x stopped:x = COMPENSATED",
    ),
    # Adding while it is held.
    Row(
        "duplicate",
        "g(a:ext):open",
        "a:run+wait+ok add-g-a@run:a",
        "do:a run:a refused ok:a = SUCCEEDED",
    ),
    Row(
        "add paused",
        "g(a:ext):open; b",
        "a:run+hang pause@run:a add-g-x@pausing say-a.1-ok@added:x resume@PAUSED x:run+ok",
        (
            "do:a run:a asked pausing added:x ok:a PAUSED asked resumed do:x run:x ok:x do:b "
            "ok:b = SUCCEEDED"
        ),
    ),
    Row(
        "add paused not begun",
        "c; g(a:ext):open; b",
        "pause@do:c add-g-x@PAUSED resume@added:x",
        (
            "do:c asked pausing ok:c PAUSED added:x asked resumed do:a do:x ok:a ok:x do:b "
            "ok:b = SUCCEEDED"
        ),
    ),
    Row(
        "add paused bounded",
        "g(a:ext):open:max=1; b",
        "a:run+hang pause@run:a add-g-x@pausing say-a.1-ok@added:x resume@PAUSED x:run+ok",
        (
            "do:a run:a asked pausing added:x ok:a PAUSED asked resumed do:x run:x ok:x do:b "
            "ok:b = SUCCEEDED"
        ),
    ),
    Row(
        "add paused passed",
        "g(a:ext):open; b",
        "a:run+wait+ok pause@run:a add-g-x@PAUSED resume@added:x",
        "do:a run:a asked pausing ok:a PAUSED refused = PAUSED",
    ),
    # Ending a whole workflow of a vendor's own.
    Row(
        "S-V26 finish",
        "g(main:ext:ro:stop):open",
        "main:run+hang finish@run:main",
        "do:main run:main asked ok:main = SUCCEEDED",
    ),
    Row(
        "finish refused",
        "g(main:ext:ro:stop):open",
        "main:run+hang add-g-x:stop@run:main x:run+wait+ok finish@run:x finish@ok:x",
        "do:main run:main added:x do:x run:x refused ok:x asked ok:main = SUCCEEDED",
    ),
    Row(
        "S-V28 finish force",
        "g(main:ext:ro:stop):open",
        "main:run+hang add-g-x:stop@run:main x:run+hang finish-force@run:x",
        "do:main run:main added:x do:x run:x asked asked abandoned:x ok:main = SUCCEEDED",
    ),
    Row(
        "S-V28 finish force ro",
        "g(main:ext:ro:stop):open",
        "main:run+hang add-g-x:ro:stop@run:main x:run+hang finish-force@run:x",
        ("do:main run:main added:x do:x run:x asked asked cancel:x stopped:x ok:main = SUCCEEDED"),
    ),
    Row(
        "finish fail",
        "g(main:ext:ro:stop):open",
        "main:run+hang add-g-x:stop@run:main x:ok finish-fail@ok:x",
        "do:main run:main added:x do:x ok:x asked ending cancel:main fail:main = FAILED",
    ),
    Row(
        "finish fail force",
        "g(main:ext:ro:stop):open",
        "main:run+hang add-g-x:stop@run:main x:run+hang finish-fail-force@run:x",
        (
            "do:main run:main added:x do:x run:x asked asked abandoned:x ending cancel:main "
            "fail:main = FAILED"
        ),
    ),
    Row(
        "finish never accepted",
        "g(main:ext:ro:stop):open",
        "main:hang finish@do:main",
        "do:main asked ok:main = SUCCEEDED",
    ),
    Row(
        "finish paused force",
        "g(main:ext:ro:stop):open",
        "main:run+hang pause@run:main finish-force@pausing",
        "do:main run:main asked pausing asked resumed ok:main = SUCCEEDED",
    ),
    Row(
        "finish paused",
        "g(main:ext:ro:stop):open",
        "main:run+hang pause@run:main finish@pausing resume@PAUSED",
        "do:main run:main asked pausing asked ok:main PAUSED asked resumed = SUCCEEDED",
    ),
    Row(
        "finish paused recalled force",
        "g(main:ext:ro:stop):open",
        "main:line pause@do:main finish-force@PAUSED",
        "do:main asked pausing wait:main PAUSED asked resumed asked stopped:main = SUCCEEDED",
    ),
    Row(
        "finish paused recalled",
        "g(main:ext:ro:stop):open",
        "main:line pause@do:main finish@PAUSED resume@asked#2",
        (
            "do:main asked pausing wait:main PAUSED asked asked stopped:main asked resumed = "
            "SUCCEEDED"
        ),
    ),
    Row(
        "finish open failure force",
        "g(main:ext:ro:stop):open",
        "main:run+hang add-g-x:pause@run:main x:run+fail finish-force@pausing",
        (
            "do:main run:main added:x do:x run:x fail:x pausing asked resumed asked ok:main = "
            "SUCCEEDED"
        ),
    ),
    Row(
        "finish after stop",
        "g(main:ext:ro:stop):open",
        (
            "main:run+hang add-g-x:stop@run:main x:run+fail main:run+hang/hang finish@ending "
            "finish-fail@ending#1 say-main.1-cancelled@end"
        ),
        (
            "do:main run:main added:x do:x run:x fail:x ending cancel:main refused asked "
            "fail:main late:main = FAILED"
        ),
    ),
    Row(
        "finish after stop force",
        "g(main:ext:ro:stop):open",
        (
            "main:run+hang/hang add-g-x:stop@run:main add-g-y:stop@added:x y:run+hang/hang "
            "x:run+wait+fail finish-fail-force@ending"
        ),
        (
            "do:main run:main added:x do:x added:y do:y run:x run:y fail:x ending cancel:main "
            "cancel:y asked asked abandoned:y fail:main = FAILED"
        ),
    ),
    Row(
        "finish going back",
        "g(main:ext:ro:stop):open",
        "main:run+hang cancel@run:main finish@turn",
        "do:main run:main asked turn cancel:main refused stopped:main = COMPENSATED",
    ),
    Row(
        "finish retry wait force",
        "g(main:ext:ro:stop):open",
        "main:run+hang add-g-x:retry=3:stop@run:main x:run+retriable finish-force@retry:x",
        "do:main run:main added:x do:x run:x retry:x asked asked fail:x ok:main = SUCCEEDED",
    ),
    Row(
        "finish pending force",
        "g(main:ext:ro:stop):open",
        (
            "main:run+hang add-g-x:stop@run:main add-g-y<x:stop@added:x x:run+hang "
            "finish-force@run:x"
        ),
        ("do:main run:main added:x do:x added:y run:x asked asked abandoned:x ok:main = SUCCEEDED"),
    ),
    Row(
        "finish bounded force",
        "g(main:ext:ro:stop):open:max=1",
        "main:run+hang add-g-x:stop@run:main add-main-y:ro:stop@added:x finish-force@end",
        "do:main run:main added:x added:y do:y ok:y asked asked ok:main = SUCCEEDED",
    ),
    Row(
        "finish success end actions",
        "g(main:ext:ro:stop):open => s",
        "main:run+hang finish@run:main",
        "do:main run:main asked ok:main ending do:s ok:s = SUCCEEDED",
    ),
)


@pytest.mark.parametrize("row", each(ROWS))
def test_stories(row: Row) -> None:
    tells(row)


@pytest.mark.parametrize("row", each(ROWS))
def test_stories_under_new_owners(row: Row) -> None:
    """S-H3, S-V29."""
    tells_the_same_under_new_owners(row)


OWN = "g(main:ext:ro:stop):open"  # as a vendor's own workflow is


def test_what_an_owner_closes_by_force_and_may_have_left_is_a_leftover() -> None:
    """S-V28: what was accepted and has an effect; not what its owner had not begun."""
    told = play(
        OWN,
        "main:run+hang add-g-x:stop@run:main add-g-y:stop@added:x x:run+hang y:hang "
        "finish-force@run:x",
    )
    by_name = told.workflow.plan.by_name
    assert told.workflow.state is WorkflowState.SUCCEEDED
    assert told.workflow.task(by_name["x"]).state is TaskState.ABANDONED
    assert told.workflow.task(by_name["y"]).state is TaskState.CANCELLED
    assert [each.task for each in leftovers(told.workflow)] == [by_name["x"]]


@pytest.mark.parametrize(
    ("verb", "retention"),
    [("finish", Retention.IN_TIME), ("finish-force", Retention.AT_ONCE)],
)
def test_only_what_is_ended_by_force_is_removed_at_once(verb: str, retention: Retention) -> None:
    """S-V28."""
    told = play(OWN, f"main:run+hang {verb}@run:main")
    assert told.workflow.state is WorkflowState.SUCCEEDED
    assert told.workflow.retention is retention


def test_a_failed_round_is_forgotten_by_groups_inside_once_another_begins() -> None:
    """What an inner group failed of in an earlier round is not what a later one fails of."""
    told = play(
        "g(i(a; b):rounds=2; c):rounds=2",
        "b:fail,ok,ok c:fail,ok",
    )
    inner = told.workflow.nodes[told.workflow.plan.by_name["i"]]
    assert isinstance(inner, Group)
    assert told.workflow.state is WorkflowState.SUCCEEDED
    assert (inner.round, inner.failure) == (1, None)


def test_what_stops_uninvited_or_is_too_late_names_its_attempt():
    """Whoever is told of it finds the task; the words are those for people."""
    stopped = play("a:ext", "a:run+cancelled").workflow.cause
    late = play("a:ext:runs=90", "a:run+hang/cancelled").workflow.cause
    assert stopped is not None
    assert late is not None
    assert stopped.message == "It was stopped, and nobody here asked for that."
    assert late.message == "It ran longer than 90 s with acme and was stopped."
    assert stopped.attempt == late.attempt == attempt_name("w", "a", 1)
