"""Stories of workflows, one row each, in the mini-language of `language.py`.

A row is a tree, what the world answers, and the whole history that must come of it. Every row is
also played by a coordinator that dies after every decision (S-H3): the history must be the same.
Ids name the promises of the acceptance scenarios.
"""

from __future__ import annotations

from datetime import timedelta

import pytest

from tests.saga.language import play
from tests.saga.rows import Row, each, tells, tells_the_same_under_new_owners

ROWS = (
    Row(
        "S-H9 a report that comes before the answer to its request is not lost",
        "a; b",
        "a:ok+run",
        "do:a ok:a do:b ok:b = SUCCEEDED",
    ),
    # Going forward.
    Row(
        "S-V18 a chain goes in order",
        "a; b; c",
        "a:run+ok",
        "do:a run:a ok:a do:b ok:b do:c ok:c = SUCCEEDED",
    ),
    Row(
        "irreversible last",
        "a; b; c:forward",
        "",
        "do:a ok:a do:b ok:b do:c ok:c = SUCCEEDED",
    ),
    Row(
        "S-F1 retried until it succeeds",
        "a; b:retry=3; c",
        "b:retriable,retriable,ok",
        "do:a ok:a do:b retry:b do:b retry:b do:b ok:b do:c ok:c = SUCCEEDED",
    ),
    Row(
        "S-F1 retries used up",
        "a; b:retry=3; c",
        "b:retriable,retriable,retriable",
        "do:a ok:a do:b retry:b do:b retry:b do:b fail:b turn undo:a undone:a = COMPENSATED",
    ),
    Row(
        "fails for good before its retries are used up",
        "a; b:retry=3",
        "b:retriable,fail",
        "do:a ok:a do:b retry:b do:b fail:b turn undo:a undone:a = COMPENSATED",
    ),
    Row(
        "irreversible may be retried",
        "a; b:pivot:retry=2",
        "b:retriable,ok",
        "do:a ok:a do:b retry:b do:b ok:b = SUCCEEDED",
    ),
    Row(
        "stopped by somebody else: retried",
        "a; b:retry=2",
        "b:cancelled,ok",
        "do:a ok:a do:b retry:b do:b ok:b = SUCCEEDED",
    ),
    # Turning round.
    Row(
        "S-V1 exactly the finished siblings are made up for",
        "a | b | c",
        "a:ok b:wait+fail c:ok",
        "do:a do:b do:c ok:a ok:c fail:b turn undo:a undo:c undone:a undone:c = COMPENSATED",
    ),
    Row(
        "S-V15 serial chain",
        "s1; s2; s3; s4",
        "s3:fail",
        (
            "do:s1 ok:s1 do:s2 ok:s2 do:s3 fail:s3 turn undo:s2 undone:s2 undo:s1 undone:s1 "
            "= COMPENSATED"
        ),
    ),
    Row(
        "S-G1 newest first",
        "a; b; c; d",
        "c:fail",
        "do:a ok:a do:b ok:b do:c fail:c turn undo:b undone:b undo:a undone:a = COMPENSATED",
    ),
    Row(
        "S-G2 diamond, after",
        "(a | b<a | c<a | d<b,c)",
        "d:fail",
        (
            "do:a ok:a do:b do:c ok:b ok:c do:d fail:d turn undo:b undo:c undone:b undone:c "
            "undo:a undone:a = COMPENSATED"
        ),
    ),
    Row(
        "S-G2 diamond, nested",
        "a; (b | c); d; e",
        "e:fail",
        (
            "do:a ok:a do:b do:c ok:b ok:c do:d ok:d do:e fail:e turn undo:d undone:d undo:b "
            "undo:c undone:b undone:c undo:a undone:a = COMPENSATED"
        ),
    ),
    Row(
        "read-only is not made up for",
        "a:ro; b; c:ro; d",
        "d:fail",
        "do:a ok:a do:b ok:b do:c ok:c do:d fail:d turn undo:b undone:b = COMPENSATED",
    ),
    Row(
        "irreversible last fails",
        "a; b:pivot",
        "b:fail",
        "do:a ok:a do:b fail:b turn undo:a undone:a = COMPENSATED",
    ),
    Row(
        "inner failure turns all round",
        "a; (b; (c | (d; e))); f",
        "e:fail c:run+wait+ok",
        (
            "do:a ok:a do:b ok:b do:c do:d run:c ok:d do:e fail:e turn cancel:c undo:d "
            "stopped:c undone:d undo:b undone:b undo:a undone:a = COMPENSATED"
        ),
    ),
    Row(
        "nested groups backwards",
        "a; (b; (c | (d; e))); f",
        "f:fail",
        (
            "do:a ok:a do:b ok:b do:c do:d ok:c ok:d do:e ok:e do:f fail:f turn undo:c "
            "undo:e undone:c undone:e undo:d undone:d undo:b undone:b undo:a undone:a = "
            "COMPENSATED"
        ),
    ),
    Row(
        "parallel in parallel",
        "(a | (b | c)) ; d",
        "d:fail",
        (
            "do:a do:b do:c ok:a ok:b ok:c do:d fail:d turn undo:a undo:b undo:c undone:a "
            "undone:b undone:c = COMPENSATED"
        ),
    ),
    Row(
        "parallel in parallel, inner failure",
        "a | (b | (c | d))",
        "c:run+fail d:hang",
        (
            "do:a do:b do:c do:d ok:a ok:b run:c fail:c turn cancel:d undo:a undo:b "
            "stopped:d undone:a undone:b = COMPENSATED"
        ),
    ),
    Row(
        "after between groups",
        "x(a; b) | y(c | d)<x | z(e; f)<y | g<x",
        "f:fail g:run+wait+ok",
        (
            "do:a ok:a do:b ok:b do:g do:c do:d run:g ok:c ok:d do:e ok:e do:f fail:f turn "
            "cancel:g undo:e stopped:g undone:e undo:c undo:d undone:c undone:d undo:b "
            "undone:b undo:a undone:a = COMPENSATED"
        ),
    ),
    Row(
        "a waiting retry stops",
        "a | b:retry=3",
        "a:wait+fail b:retriable,ok",
        "do:a do:b retry:b fail:a turn fail:b = COMPENSATED",
    ),
    Row(
        "read-only tasks do not end it while a sibling runs",
        "a:ro | b<a:ro | c<a:ro | d<b,c | e",
        "d:fail e:hang/wait+ok",
        (
            "do:a do:e ok:a do:b do:c ok:b ok:c do:d fail:d turn cancel:e ok:e undo:e "
            "undone:e = COMPENSATED"
        ),
    ),
    # Siblings that still run: CANCEL.
    Row(
        "S-V2 cancelled, then made up for",
        "a | b | c",
        "a:ok b:fail c:hang/cancelled",
        "do:a do:b do:c ok:a fail:b turn cancel:c undo:a stopped:c undone:a = COMPENSATED",
    ),
    Row(
        "S-Z15 the cancel loses",
        "a | b",
        "a:run+fail b:hang/run+ok",
        "do:a do:b run:a fail:a turn cancel:b ok:b undo:b undone:b = COMPENSATED",
    ),
    Row(
        "it fails while cancelling",
        "a | b",
        "a:run+fail b:hang/fail",
        "do:a do:b run:a fail:a turn cancel:b fail:b = COMPENSATED",
    ),
    Row(
        "lost while cancelling: asked again",
        "a | b",
        "a:run+fail b:hang/lost+lost+cancelled",
        "do:a do:b run:a fail:a turn cancel:b stopped:b = COMPENSATED",
    ),
    Row(
        "S-Z3 missing while cancelling: a tombstone",
        "a | b",
        "a:run+fail b:hang/missing",
        "do:a do:b run:a fail:a turn cancel:b lost:b undo:b undone:b = COMPENSATED",
    ),
    Row(
        "missing and read-only: a tombstone too",
        "a | b:ro",
        "a:run+fail b:hang/missing",
        "do:a do:b run:a fail:a turn cancel:b lost:b undo:b undone:b = COMPENSATED",
    ),
    Row(
        "S-Z2 late success after the tombstone",
        "a | b",
        "a:run+fail b:hang/missing+wait+ok",
        "do:a do:b run:a fail:a turn cancel:b lost:b undo:b undone:b late:b = COMPENSATED",
    ),
    Row(
        "late failure while its tombstone is written",
        "a | b",
        "a:run+fail b:hang/missing+wait+fail undo-b:run+wait+wait+ok",
        "do:a do:b run:a fail:a turn cancel:b lost:b undo:b undone:b late:b = COMPENSATED",
    ),
    Row(
        "S-V5 lost, then cancelled",
        "a | b",
        "a:lost+wait+hang/lost+ok b:run+fail",
        "do:a do:b lost:a run:b fail:b turn cancel:a ok:a undo:a undone:a = COMPENSATED",
    ),
    # Siblings that still run: AWAIT.
    Row(
        "S-V2 S-G4 awaited",
        "a | b | c:await",
        "b:fail c:run+wait+ok",
        (
            "do:a do:b do:c ok:a fail:b turn undo:a run:c undone:a ok:c undo:c undone:c = "
            "COMPENSATED"
        ),
    ),
    Row(
        "awaited, newest first",
        "a | b | c:await",
        "b:fail c:run+wait+ok",
        ("do:a do:b do:c run:c fail:b turn cancel:a stopped:a ok:c undo:c undone:c = COMPENSATED"),
        newest_first=True,
    ),
    Row(
        "awaited, fails too",
        "a | b:await | c",
        "a:run+fail b:run+wait+fail c:ok",
        "do:a do:b do:c run:a fail:a turn cancel:c run:b stopped:c fail:b = COMPENSATED",
    ),
    Row(
        "awaited, stopped by somebody else",
        "a | b:await",
        "a:fail b:run+wait+cancelled",
        "do:a do:b fail:a turn run:b fail:b = COMPENSATED",
    ),
    Row(
        "awaited, fails while another is blocked",
        "a; (b | c:await | d)",
        "b:run+wait+fail d:ok undo-d:fail,ok c:run+wait+wait+wait+wait+wait+wait+fail",
        (
            "do:a ok:a do:b do:c do:d run:b run:c ok:d fail:b turn undo:d un-fail:d stuck:d "
            "BLOCKED fail:c undo:d undone:d undo:a freed undone:a = COMPENSATED"
        ),
    ),
    Row(
        "S-V5 awaited, lost before the failure",
        "a | b:await | c",
        "a:run+wait+fail b:lost+wait+wait+ok c:run+wait+wait+wait+ok",
        (
            "do:a do:b do:c run:a lost:b run:c ok:c fail:a turn undo:c undone:c ok:b undo:b "
            "undone:b = COMPENSATED"
        ),
    ),
    Row(
        "S-V5 awaited, lost after the failure",
        "a | b:await",
        "a:fail b:wait+lost+wait+ok",
        "do:a do:b fail:a turn lost:b ok:b undo:b undone:b = COMPENSATED",
    ),
    Row(
        "S-V5 awaited, lost and missing",
        "a | b:await",
        "a:fail b:wait+lost+missing+fail",
        "do:a do:b fail:a turn lost:b fail:b = COMPENSATED",
    ),
    # Compensations that fail.
    Row(
        "S-V12 three times, then succeeds",
        "a; b",
        "b:fail undo-a:retriable,retriable,retriable,ok",
        (
            "do:a ok:a do:b fail:b turn undo:a un-fail:a undo:a un-fail:a undo:a un-fail:a "
            "undo:a undone:a = COMPENSATED"
        ),
    ),
    Row(
        "over budget: BLOCKED, then freed",
        "a:budget=2; b",
        "b:fail undo-a:retriable,retriable,retriable,ok",
        (
            "do:a ok:a do:b fail:b turn undo:a un-fail:a undo:a un-fail:a stuck:a BLOCKED "
            "undo:a un-fail:a undo:a undone:a freed = COMPENSATED"
        ),
    ),
    Row(
        "S-V13 not retriable: BLOCKED at once, others go on",
        "(a | b | c); d",
        "d:fail undo-b:fail,ok",
        (
            "do:a do:b do:c ok:a ok:b ok:c do:d fail:d turn undo:a undo:b undo:c undone:a "
            "un-fail:b stuck:b BLOCKED undone:c undo:b undone:b freed = COMPENSATED"
        ),
    ),
    Row(
        "two blocked: freed by the last",
        "(a | b); d",
        "d:fail undo-a:fail,ok undo-b:fail,fail,ok",
        (
            "do:a do:b ok:a ok:b do:d fail:d turn undo:a undo:b un-fail:a stuck:a BLOCKED "
            "un-fail:b stuck:b undo:a undone:a undo:b un-fail:b undo:b undone:b freed = "
            "COMPENSATED"
        ),
    ),
    Row(
        "its outcome lost",
        "a; b",
        "b:fail undo-a:run+lost+lost+missing+run+ok",
        "do:a ok:a do:b fail:b turn undo:a un-lost:a undone:a = COMPENSATED",
    ),
    Row(
        "stopped by somebody else: retried (compensation)",
        "a; b",
        "b:fail undo-a:cancelled,ok",
        "do:a ok:a do:b fail:b turn undo:a un-fail:a undo:a undone:a = COMPENSATED",
    ),
    # Outcomes unknown.
    Row(
        "S-V5 lost, found succeeded",
        "a; b",
        "a:lost+wait+ok",
        "do:a lost:a ok:a do:b ok:b = SUCCEEDED",
    ),
    Row(
        "S-V5 lost, found running",
        "a; b",
        "a:lost+lost+run+ok",
        "do:a lost:a run:a ok:a do:b ok:b = SUCCEEDED",
    ),
    Row(
        "S-V5 lost, found failed",
        "a; b",
        "b:lost+fail",
        "do:a ok:a do:b lost:b fail:b turn undo:a undone:a = COMPENSATED",
    ),
    Row(
        "missing: the intent stands",
        "a",
        "a:missing+run+missing+lost+missing+ok",
        "do:a run:a lost:a ok:a = SUCCEEDED",
    ),
    # Requests to cancel.
    Row(
        "S-V19 in the middle",
        "a; (b | c); d",
        "c:hang cancel@ok:b",
        (
            "do:a ok:a do:b do:c ok:b asked turn cancel:c undo:b stopped:c undone:b undo:a "
            "undone:a = COMPENSATED"
        ),
    ),
    Row(
        "S-V19 first task at work",
        "a; b",
        "a:run+wait+ok cancel@run:a",
        "do:a run:a asked turn cancel:a stopped:a = COMPENSATED",
    ),
    Row(
        "while a retry waits",
        "a; b:retry=2",
        "b:retriable,ok cancel@retry:b",
        "do:a ok:a do:b retry:b asked turn fail:b undo:a undone:a = COMPENSATED",
    ),
    Row(
        "before the pivot",
        "a; b:pivot",
        "a:run+wait+ok cancel@run:a",
        "do:a run:a asked turn cancel:a stopped:a = COMPENSATED",
    ),
    Row(
        "while the pivot waits for a retry: it has no effect",
        "a; b:pivot:retry=2",
        "b:retriable,ok cancel@retry:b",
        "do:a ok:a do:b retry:b asked turn fail:b undo:a undone:a = COMPENSATED",
    ),
    Row(
        "past return: refused",
        "a; b:pivot",
        "b:run+wait+ok cancel@run:b",
        "do:a ok:a do:b run:b refused ok:b = SUCCEEDED",
    ),
    Row(
        "past return, outcome unknown: refused",
        "a; b:pivot",
        "b:lost+wait+ok cancel@lost:b",
        "do:a ok:a do:b lost:b refused ok:b = SUCCEEDED",
    ),
    Row(
        "S-A11 S-V19 succeeded: refused",
        "a",
        "cancel@end",
        "do:a ok:a refused = SUCCEEDED",
    ),
    Row(
        "S-A11 compensated: refused",
        "a; b",
        "b:fail cancel@end",
        "do:a ok:a do:b fail:b turn undo:a undone:a refused = COMPENSATED",
    ),
    Row(
        "S-A11 compensating: refused",
        "a; b",
        "b:fail cancel@turn",
        "do:a ok:a do:b fail:b turn undo:a refused undone:a = COMPENSATED",
    ),
    Row(
        "S-A11 blocked: refused",
        "a; b",
        "b:fail undo-a:fail,ok cancel@BLOCKED",
        (
            "do:a ok:a do:b fail:b turn undo:a un-fail:a stuck:a BLOCKED refused undo:a "
            "undone:a freed = COMPENSATED"
        ),
    ),
    # Late, doubled and stale.
    Row(
        "S-B14 duplicate reports",
        "a; b",
        "a:run+run+ok+ok+run+lost b:ok+ok",
        "do:a run:a ok:a do:b ok:b = SUCCEEDED",
    ),
    Row(
        "S-B14 contradicting reports",
        "a; b",
        "a:ok+fail+cancelled b:ok+fail",
        "do:a ok:a do:b late:a late:a ok:b late:b = SUCCEEDED",
    ),
    Row(
        "S-Z32 about an earlier attempt",
        "a:retry=2; b",
        "a:retriable,ok say-a.1-ok@do:b",
        "do:a retry:a do:a ok:a do:b late:a ok:b = SUCCEEDED",
    ),
    Row(
        "S-Z32 about a settled workflow",
        "a",
        "say-a.1-fail@end",
        "do:a ok:a late:a = SUCCEEDED",
    ),
    Row(
        "about an earlier compensation",
        "a; b",
        "b:fail undo-a:retriable,ok say-a.2-ok@undone:a",
        "do:a ok:a do:b fail:b turn undo:a un-fail:a undo:a undone:a late:a = COMPENSATED",
    ),
    Row(
        "stale timers of an action",
        "a:retry=2; b",
        "a:retriable,ok due-a.2@ok:a due-a.3@ok:a due-b.1@do:b",
        "do:a retry:a do:a ok:a do:b ok:b = SUCCEEDED",
    ),
    Row(
        "stale timer of a stopped retry",
        "a | b:retry=2",
        "a:wait+fail b:retriable due-b.2@end",
        "do:a do:b retry:b fail:a turn fail:b = COMPENSATED",
    ),
    Row(
        "S-H8 stale timers of a compensation",
        "a; b",
        "b:fail undo-a:retriable,ok due-a.2@un-fail:a due-a.3@undone:a",
        "do:a ok:a do:b fail:b turn undo:a un-fail:a undo:a undone:a = COMPENSATED",
    ),
    # Owners.
    Row(
        "S-V14 S-H2 finished compensations are not repeated",
        "a; b; c; d",
        "d:fail owner@undone:c",
        (
            "do:a ok:a do:b ok:b do:c ok:c do:d fail:d turn undo:c undone:c undo:b owner "
            "undone:b undo:a undone:a = COMPENSATED"
        ),
    ),
    Row(
        "S-V14 while blocked",
        "a; b",
        "b:fail undo-a:fail,ok owner@BLOCKED",
        (
            "do:a ok:a do:b fail:b turn undo:a un-fail:a stuck:a BLOCKED owner undo:a "
            "undone:a freed = COMPENSATED"
        ),
    ),
)


@pytest.mark.parametrize("row", each(ROWS))
def test_story(row: Row):
    tells(row)


@pytest.mark.parametrize("row", each(ROWS))
def test_a_coordinator_that_dies_after_every_decision_changes_nothing(row: Row):
    tells_the_same_under_new_owners(row)


def test_a_request_to_cancel_also_stops_tasks_that_await_their_siblings():
    """S-V19: `on_sibling_failure` is about siblings; a cancel means all that is at work."""
    told = play("a | b:await", "a:run+hang b:run+hang cancel@run:b")
    assert told.story() == (
        "do:a do:b run:a run:b asked turn cancel:a cancel:b stopped:a stopped:b = COMPENSATED"
    )


def test_an_attempt_that_was_lost_keeps_the_time_it_started():
    told = play("a; b", "a:run+hang b:hang say-a.1-lost@run:a say-a.1-run@lost:a")
    attempt = told.workflow.task(1).last
    assert told.log == ["do:a", "run:a", "lost:a", "run:a"]
    assert attempt.start_time == attempt.create_time + timedelta(seconds=1)
