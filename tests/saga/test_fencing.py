"""Stories of attempts whose host is lost, and of other hosts that settle them."""

from __future__ import annotations

import pytest

from coordinator.saga.states import AttemptKind
from tests.saga.language import OTHER, play
from tests.saga.rows import Row, each, tells, tells_the_same_under_new_owners

ROWS = [
    Row(
        "S-V8 fenced, and tried again; late, it changes nothing",
        "a:retry=2",
        "a:run+hang fence-a:fenced fence-a@run:a say-a.1-ok@do:a#2",
        "do:a run:a asked fence:a retry:a do:a late:a ok:a = SUCCEEDED",
    ),
    Row(
        "S-V9 it had come to its effect",
        "a",
        "a:run+hang fence-a:ok fence-a@run:a",
        "do:a run:a asked fence:a ok:a = SUCCEEDED",
    ),
    Row(
        "S-V5 lost, fenced, and made up for what came before",
        "a; b",
        "b:lost+hang fence-b:fenced fence-b@lost:b",
        "do:a ok:a do:b lost:b asked fence:b fail:b turn undo:a undone:a = COMPENSATED",
    ),
    Row(
        "lost, found, and made up for where it was found",
        "a; b",
        "a:lost+hang fence-a:ok fence-a@lost:a b:fail",
        "do:a lost:a asked fence:a ok:a do:b fail:b turn undo:a undone:a = COMPENSATED",
    ),
    Row(
        "it cannot be fenced there: its own host is asked again",
        "a",
        "a:lost+hang fence-a:refused fence-a@lost:a say-a.1-ok@unfenced:a",
        "do:a lost:a asked fence:a unfenced:a ok:a = SUCCEEDED",
    ),
    Row(
        "cancelled and silent, then fenced",
        "a; b",
        "b:run+hang/hang cancel@run:b fence-b:fenced fence-b@turn",
        "do:a ok:a do:b run:b asked turn cancel:b asked fence:b fail:b undo:a undone:a"
        " = COMPENSATED",
    ),
    Row(
        "cancelled and silent, then found to have succeeded",
        "a; b",
        "b:run+hang/hang cancel@run:b fence-b:ok fence-b@turn",
        "do:a ok:a do:b run:b asked turn cancel:b asked fence:b ok:b undo:b undone:b"
        " undo:a undone:a = COMPENSATED",
    ),
    Row(
        "cancelled while it is fenced: nobody else is asked to stop it",
        "a; b",
        "a:hang fence-a:hang fence-a@do:a cancel@fence:a say-a.1-fenced@turn",
        "do:a asked fence:a asked turn cancel:a fail:a = COMPENSATED",
    ),
    Row(
        "S-V21 too late, stopped, fenced, and only then timed out",
        "a:late=9",
        "a:hang/hang fence-a:fenced fence-a@end",
        "do:a cancel:a asked fence:a fail:a turn = COMPENSATED",
    ),
    Row(
        "S-V21 too late, stopped, fenced, and only then retried",
        "a:late=9:retry=2",
        "a:hang/hang,ok fence-a:fenced fence-a@end",
        "do:a cancel:a asked fence:a retry:a do:a ok:a = SUCCEEDED",
    ),
    Row(
        "S-V21 its run is over and its host silent: stopped, fenced, and only then timed out",
        "a:runs=9:retry=2",
        "a:run+lost+hang/hang,ok fence-a:fenced fence-a@cancel:a",
        "do:a run:a lost:a cancel:a asked fence:a retry:a do:a ok:a = SUCCEEDED",
    ),
    Row(
        "S-V21 its run is over, and its host comes back with its outcome",
        "a:runs=9",
        "a:run+lost+hang/ok",
        "do:a run:a lost:a cancel:a ok:a = SUCCEEDED",
    ),
    Row(
        "S-V21 its host answers in time: its agent sees to its run",
        "a:runs=9",
        "a:run+lost+run+ok",
        "do:a run:a lost:a run:a ok:a = SUCCEEDED",
    ),
    Row(
        "S-V5 nobody knows whether the pivot took effect: it never will",
        "a:pivot",
        "a:lost+hang fence-a:fenced fence-a@lost:a",
        "do:a lost:a asked fence:a fail:a turn = COMPENSATED",
    ),
    Row(
        "nobody knows what came after the pivot: it is done",
        "a:pivot; b:forward",
        "b:lost+hang fence-b:ok fence-b@lost:b",
        "do:a ok:a do:b lost:b asked fence:b ok:b = SUCCEEDED",
    ),
    Row(
        "nothing is fenced whose outcome is known",
        "a; b",
        "fence-a@ok:a",
        "do:a ok:a do:b refused ok:b = SUCCEEDED",
    ),
    Row(
        "nothing is fenced that was never sent",
        "a; b",
        "fence-b@do:a",
        "do:a refused ok:a do:b ok:b = SUCCEEDED",
    ),
]


@pytest.mark.parametrize("row", each(ROWS))
def test_story(row):
    tells(row)


@pytest.mark.parametrize("row", each(ROWS))
def test_story_under_new_owners(row):
    tells_the_same_under_new_owners(row)


def test_what_was_fenced_too_late_is_made_up_for_by_who_fenced_it():
    """Its own host is lost, and would be asked for ever."""
    told = play("a; b", "a:lost+hang fence-a:ok fence-a@lost:a b:fail")
    hosts = {each.kind: each.host for each in told.workflow.task(1).attempts}
    assert hosts == {AttemptKind.ACTION: "host-a", AttemptKind.COMPENSATION: OTHER}


def test_what_was_fenced_for_being_late_says_so():
    """S-V21: not that it was fenced, which is how, but why."""
    started = play("a:late=9", "a:hang/hang fence-a:fenced fence-a@end").workflow
    ran = play("a:runs=9", "a:run+lost+hang/hang fence-a:fenced fence-a@cancel:a").workflow
    reasons = [each.cause and each.cause.reason for each in (started, ran)]
    assert reasons == ["START_TIMEOUT", "RUN_TIMEOUT"]


def test_a_fenced_attempt_failed_on_its_own_host_and_says_who_settled_it():
    told = play("a", "a:lost+hang fence-a:fenced fence-a@lost:a").workflow
    assert told.cause is not None
    assert told.cause.host == "host-a"
    assert dict(told.cause.metadata) == {"settled_by": OTHER}
    assert told.cause.message == f"attempt_fenced; {OTHER} settled it in the place of host-a."
