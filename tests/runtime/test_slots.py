"""The window of one host, as plain data."""

from __future__ import annotations

from coordinator.agents.slots import Slots


def test_what_matters_more_goes_first_and_what_was_asked_first_before_its_equals() -> None:
    slots = Slots(1)
    assert slots.take("out", priority=0, intent=1)
    for name, priority, intent in (("a", 0, 3), ("b", 0, 2), ("urgent", 5, 4), ("never", -5, 0)):
        assert not slots.take(name, priority=priority, intent=intent)
    order = []
    slots.free("out")
    while first := slots.next():
        assert slots.take(first, priority=0, intent=0)  # where it stands was settled when it came
        order.append(first)
        slots.free(first)
    assert order == ["urgent", "b", "a", "never"]


def test_places_are_counted_from_one() -> None:
    slots = Slots(1)
    for intent, name in enumerate(("out", "a", "b", "c")):
        slots.take(name, priority=0, intent=intent)
    assert [slots.position(name) for name in ("out", "a", "b", "c")] == [0, 1, 2, 3]
    slots.free("b")
    assert (slots.position("b"), slots.position("c"), slots.waiting) == (0, 2, 2)


def test_nobody_takes_a_slot_before_those_who_stand_before_it() -> None:
    slots = Slots(2)
    slots.take("one", priority=0, intent=1)
    slots.take("two", priority=0, intent=2)
    slots.take("first", priority=0, intent=3)
    slots.take("second", priority=0, intent=4)
    slots.free("one")
    assert not slots.take("second", priority=0, intent=4)
    assert slots.take("first", priority=0, intent=3)
    assert slots.next() is None


def test_what_is_out_anyway_takes_a_slot_beyond_the_window() -> None:
    slots = Slots(1)
    slots.occupy("one")
    slots.occupy("two")
    slots.take("three", priority=0, intent=3)
    slots.free("one")
    assert slots.next() is None, "the other is still out"
    slots.free("two")
    assert slots.next() == "three"
