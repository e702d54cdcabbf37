"""The lines before images, as plain data: nobody overtakes, nobody waits in a circle."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest

from coordinator.runtime.locks import Lines
from coordinator.saga.spec import Lock, united


def exclusive(*images: str) -> tuple[Lock, ...]:
    return tuple(Lock(pool="p", image=image, exclusive=True) for image in images)


def shared(*images: str) -> tuple[Lock, ...]:
    return tuple(Lock(pool="p", image=image, exclusive=False) for image in images)


def test_readers_share_and_a_writer_waits_for_all_of_them() -> None:
    lines = Lines()
    assert lines.ask("one", shared("base"))
    assert lines.ask("two", shared("base"))
    assert not lines.ask("writer", exclusive("base"))
    assert lines.release("one") == ()
    assert lines.release("two") == ("writer",)
    assert lines.held("writer")


def test_nobody_overtakes_a_writer_that_waits() -> None:
    """S-V24: a reader that came later stands behind it, or the writer would wait for ever."""
    lines = Lines()
    lines.ask("reader", shared("base"))
    lines.ask("writer", exclusive("base"))
    assert not lines.ask("late", shared("base"))
    assert lines.release("reader") == ("writer",)
    assert lines.release("writer") == ("late",)


def test_everything_is_held_at_once_or_nothing() -> None:
    """Who waits for one image keeps its place before the others, and holds none of them."""
    lines = Lines()
    lines.ask("first", exclusive("a"))
    assert not lines.ask("both", exclusive("a", "b"))
    assert not lines.ask("late", exclusive("b"))
    [a, b] = lines.view("both")
    assert (a.held, a.position, a.holders) == (False, 1, ("first",))
    assert (b.held, b.position, b.holders) == (False, 0, ())
    [late] = lines.view("late")
    assert (late.position, late.holders) == (1, ())
    assert lines.release("first") == ("both",)
    assert [view.held for view in lines.view("both")] == [True, True]
    assert lines.release("both") == ("late",)


def test_a_release_lets_all_go_on_whose_turn_has_come() -> None:
    lines = Lines()
    lines.ask("writer", exclusive("a", "b"))
    for name, locks in (
        ("reader-1", shared("a")),
        ("reader-2", shared("a")),
        ("other", exclusive("b")),
        ("later", exclusive("a")),
    ):
        assert not lines.ask(name, locks)
    assert lines.release("writer") == ("reader-1", "reader-2", "other")


def test_who_gives_up_its_place_lets_those_behind_it_go_on() -> None:
    lines = Lines()
    lines.ask("reader", shared("a"))
    lines.ask("writer", exclusive("a"))
    lines.ask("late", shared("a"))
    assert lines.release("writer") == ("late",)
    assert lines.held("reader")


def test_who_would_wait_is_told_who_is_in_the_way() -> None:
    lines = Lines()
    lines.ask("reader", shared("a"))
    assert lines.would_wait(shared("a")) == ()
    [held] = lines.would_wait(exclusive("a", "b"))
    assert (held.lock.image, held.holders) == ("a", ("reader",))
    lines.ask("writer", exclusive("a"))
    assert lines.would_wait(shared("a"))[0].holders == ("writer",)


def test_who_names_no_image_stands_nowhere() -> None:
    lines = Lines()
    assert lines.ask("free", ())
    assert "free" not in lines
    assert lines.release("free") == ()
    assert lines.release("never heard of") == ()


def test_a_holder_takes_more_at_once_or_not_at_all() -> None:
    """S-V24: what an operator's decision brings; it never waits, or two could for each other."""
    lines = Lines()
    lines.ask("one", exclusive("a"))
    lines.ask("two", exclusive("b"))
    assert not lines.more("one", (*exclusive("c"), *shared("b")))
    [held] = lines.missing("one", (*exclusive("c"), *shared("b")))
    assert (held.lock.image, held.holders) == ("b", ("two",))
    assert lines.would_wait(exclusive("c")) == ()
    assert lines.more("one", exclusive("c"))
    assert [(view.lock.image, view.held) for view in lines.view("one")] == [
        ("a", True),
        ("c", True),
    ]
    assert not lines.ask("late", exclusive("c"))
    assert lines.release("one") == ("late",)
    assert lines.release("late") == ()
    assert lines.would_wait(exclusive("a", "c")) == ()


def test_what_is_shared_becomes_exclusive_if_nobody_else_stands_there() -> None:
    lines = Lines()
    lines.ask("one", shared("a"))
    lines.ask("two", shared("a"))
    assert not lines.more("one", exclusive("a"))
    lines.release("two")
    assert lines.more("one", exclusive("a"))
    assert lines.more("one", shared("a")), "it stays exclusive"
    assert [held.holders for held in lines.would_wait(shared("a"))] == [("one",)]
    lines.release("one")
    assert lines.ask("three", shared("a"))


def test_who_waits_is_not_overtaken_by_a_holder_that_wants_more() -> None:
    lines = Lines()
    lines.ask("holder", shared("a"))
    lines.ask("reader", shared("b"))
    assert not lines.ask("writer", exclusive("a", "b"))
    assert not lines.more("holder", shared("b"))
    assert not lines.more("holder", exclusive("a"))
    lines.release("holder")
    assert lines.release("reader") == ("writer",)


def test_who_had_no_image_may_be_given_one() -> None:
    lines = Lines()
    lines.ask("free", ())
    assert lines.more("free", exclusive("a"))
    assert not lines.ask("late", shared("a"))
    assert lines.release("free") == ("late",)


@dataclass
class Model:
    """What the lines promise, worked out the slow way."""

    asked: dict[str, tuple[Lock, ...]] = field(default_factory=dict)  # in order

    def give(self, name: str, more: Lock) -> None:
        """Has a holder hold more; it stands where it stood, before all who could be in its way."""
        self.asked[name] = united(self.asked[name], (more,))

    def may_hold(self, name: str) -> bool:
        mine = {(lock.pool, lock.image): lock.exclusive for lock in self.asked[name]}
        for other, locks in self.asked.items():
            if other == name:
                return True
            for lock in locks:
                is_mine = mine.get((lock.pool, lock.image))
                if is_mine is not None and (is_mine or lock.exclusive):
                    return False
        raise AssertionError(name)

    def may_have(self, name: str, more: Lock) -> bool:
        return not any(
            (lock.pool, lock.image) == (more.pool, more.image)
            and (lock.exclusive or more.exclusive)
            for other, locks in self.asked.items()
            if other != name
            for lock in locks
        )

    def holders(self) -> set[str]:
        return {name for name in self.asked if self.may_hold(name)}


@pytest.mark.parametrize("seed", range(40))
def test_random_walks_grant_what_the_slow_way_grants(seed: int) -> None:
    chance = random.Random(seed)
    lines, model = Lines(), Model()
    holding: set[str] = set()
    for step in range(200):
        if model.asked and chance.random() < 0.45:
            name = chance.choice(list(model.asked))
            del model.asked[name]
            holding.discard(name)
            granted = lines.release(name)
            assert not holding & set(granted), "told once"
            holding.update(granted)
        elif holding and chance.random() < 0.3:
            name = chance.choice(sorted(holding))
            more = Lock(pool="p", image=chance.choice("abcd"), exclusive=chance.random() < 0.5)
            free = model.may_have(name, more)
            assert lines.more(name, (more,)) is free
            if free:
                model.give(name, more)
        else:
            name = f"w{step}"
            images = chance.sample("abcd", chance.randint(1, 3))
            locks = tuple(
                Lock(pool="p", image=image, exclusive=chance.random() < 0.5)
                for image in sorted(images)
            )
            free = not lines.would_wait(locks)
            model.asked[name] = locks
            assert lines.ask(name, locks) is free
            if free:
                holding.add(name)
        assert holding == model.holders()
        assert {name for name in model.asked if lines.held(name)} == holding
    while model.asked:  # whoever is left gets its turn: nobody waits in a circle
        name = next(iter(holding))
        del model.asked[name]
        holding.discard(name)
        holding.update(lines.release(name))
    assert holding == set()
