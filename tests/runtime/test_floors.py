"""Below which intents nobody sends anything new: what several say comes to."""

from __future__ import annotations

from coordinator.runtime.floors import Floor, common, lower


def test_floors_together_are_what_each_with_each_would_come_to():
    floors = [
        Floor(next_intent=70, hosts={"a": 30, "b": 69}, fences=30),
        Floor(next_intent=60, hosts={"b": 50}, fences=50),
        Floor(next_intent=80, hosts={"a": 75}, fences=75),
    ]
    one, two, three = floors
    found, expected = common(floors), lower(lower(one, two), three)

    assert found.newest == 80
    assert found.lowest.next_intent == expected.next_intent
    assert found.lowest.fences == expected.fences
    assert all(found.lowest.of(host) == expected.of(host) for host in "abc")
