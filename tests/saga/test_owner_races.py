"""What owners say in the moment in which something else is decided: nothing of it is lost."""

from __future__ import annotations

import pytest

from coordinator.saga import events
from coordinator.saga.commands import Recall
from tests.saga.language import play
from tests.saga.rows import Row, each, tells

ROWS = (
    Row(
        "accepted while a pause takes it back: it is at work, and ends by itself",
        "a:ext",
        "a:hang pause@start say-a.1-run@pausing say-a.1-recalled@run:a say-a.1-ok@end",
        "do:a asked pausing run:a ok:a PAUSED = PAUSED",
    ),
    Row(
        "accepted while a pause takes it back, and cancelled: its owner is asked",
        "a:ext",
        "a:hang/hang pause@start say-a.1-run@pausing cancel@run:a say-a.1-recalled@turn "
        "say-a.1-ok@end",
        "do:a asked pausing run:a asked turn cancel:a ok:a undo:a undone:a = COMPENSATED",
    ),
    Row(
        "a paused one ends as failed",
        "g(main:ext:ro:stop):open:stop",
        "main:line pause@do:main finish-fail@PAUSED",
        "do:main asked pausing wait:main PAUSED asked resumed ending stopped:main = FAILED",
    ),
    Row(
        "a paused one of which everything is done is ended by force",
        "g(main:ext:ro:stop):open:stop",
        "main:run+hang pause@run:main end-main.1-ok@pausing finish-force@PAUSED",
        "do:main run:main asked pausing ok:main PAUSED asked resumed = SUCCEEDED",
    ),
    Row(
        "a part that is added during a pause needs no place: the whole has one",
        "g(main:ext):open:max=1",
        "main:run+hang pause@run:main add-main-x:ro@pausing resume@added:x end-main.1-ok@ok:x",
        "do:main run:main asked pausing added:x do:x asked resumed ok:x ok:main = SUCCEEDED",
    ),
    Row(
        "a late end by force closes nothing",
        "g(main:ext:ro:stop:retry=2):open:stop",
        "main:run+hang,hang add-main-x:ro@run:main x:run+hang say-main.1-retriable@run:x "
        "close-main.1-ok@retry:main",
        "do:main run:main added:x do:x run:x retry:main cancel:x late:main stopped:x do:main "
        "= RUNNING",
    ),
)


@pytest.mark.parametrize("row", each(ROWS))
def test_story(row: Row):
    tells(row)


def test_tasks_that_are_added_at_the_same_time_do_not_make_it_too_large(
    monkeypatch: pytest.MonkeyPatch,
):
    """Each was checked against what was committed: then there was room for one more."""
    monkeypatch.setattr("coordinator.saga.external.NODES_MAX", 4)  # root, g, main, and one more
    told = play("g(main:ext:ro):open", "main:run+hang add-g-x:ro@run:main add-g-y:ro@run:main")
    assert told.log.count("refused") == 1
    assert len(told.workflow.plan.nodes) == 4


def test_a_new_coordinator_takes_back_what_the_last_one_could_not():
    """It died between the pause and the recall; the owner need not come first to end that pause."""
    told = play("a:ext | b", "a:hang b:hang pause@do:b")
    decision = told.perform(events.OwnerChanged(owner_epoch=2))
    recalls = [each for each in decision.commands if isinstance(each, Recall)]
    assert recalls == [Recall(task=told.workflow.plan.by_name["a"], number=1, host="owner:acme")]


def test_a_new_coordinator_takes_nothing_back_that_was_accepted():
    told = play("a:ext", "a:run+lost+hang pause@lost:a")
    decision = told.perform(events.OwnerChanged(owner_epoch=2))
    assert not any(isinstance(each, Recall) for each in decision.commands)
