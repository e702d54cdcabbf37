"""How several coordinators are shown."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from click import unstyle

from countermand.cli.coordinator import HEADS, _lapses, _row
from countermand.v1.coordinator_pb2 import Coordinator


def made(state: Coordinator.State.ValueType, **said) -> Coordinator:
    found = Coordinator(name="coordinators/7", state=state, version="1.0", **said)
    found.start_time.FromDatetime(datetime.now(UTC) - timedelta(hours=3))
    return found


def cells(found: Coordinator) -> list[str]:
    return [unstyle(str(cell)) for cell in _row(found)]


def test_the_one_that_keeps_the_house_and_answers_is_told_apart():
    found = made(
        Coordinator.STATE_ALIVE, keeps_house=True, answers=True, open_workflows=12, place="a:7700"
    )
    assert len(cells(found)) == len(HEADS)
    assert [cells(found)[0], *cells(found)[2:3], *cells(found)[4:]] == [
        "7",
        "12",
        "1.0",
        "keeps the house, answers here",
        "a:7700",
    ]
    assert "alive" in str(_row(found)[1])


def test_one_that_has_ended_does_nothing():
    found = made(Coordinator.STATE_ENDED, place="b\x1b[31m:1")
    assert cells(found)[5] == "-"
    assert "\x1b" not in cells(found)[6]
    assert _lapses(found) == "-"
    found.expire_time.FromDatetime(datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))
    assert _lapses(found) == "2026-01-02 03:04:05Z"
