"""I6, Z7: several coordinators on one store: sessions, what they own, and what they may hold."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from importlib.metadata import version

import pytest

from coordinator.runtime.floors import NOBODYS, UNHEARD, Floor
from coordinator.runtime.owners import waits_for
from coordinator.runtime.ports import (
    HostRecord,
    ImagesHeldError,
    Letter,
    LetterAnswer,
    Store,
    StoreConflictError,
    StoreFencedError,
)
from coordinator.saga import events
from coordinator.saga.states import UNSETTLED
from countermand.client.spec import image, sequence, task, workflow_spec
from countermand.v1.verb_pb2 import CopyImage
from countermand.v1.workflow_spec_pb2 import WorkflowSpec
from tests.store.conftest import Life, memory_lives, postgres_lives
from tests.store.external import anything, own
from tests.store.specs import three_tasks
from tests.store.walks import BEGIN, Walk, as_stored

LASTS = timedelta(seconds=15)
LAPSES = timedelta(microseconds=-1)
FLOOR = Floor(next_intent=7, hosts={"a": 3}, fences=2)


@pytest.fixture(params=["memory", "postgres"])
def live(request: pytest.FixtureRequest) -> Life:
    """Returns what opens the same store once more, for another coordinator."""
    if request.param == "memory":
        return memory_lives(shared=True)
    return postgres_lives(request.getfixturevalue("postgres_url"))


@pytest.fixture
async def three(live: Life) -> AsyncIterator[tuple[Store, Store, Store]]:
    """Returns a store as three coordinators have it open."""
    one, two, three = (live(name="") for _ in range(3))
    for store in (one, two, three):
        await store.open()
    yield one, two, three
    for store in (one, two, three):
        await store.close()


async def ids_of(store: Store, limit: int = 100) -> list[str]:
    """Returns what a coordinator claims."""
    claim = await store.claim(limit)
    return [each.workflow.id for each in claim.workflows] if claim else []


# -- sessions -------------------------------------------------------------------------------------


async def test_all_see_all_sessions_and_what_each_says(three):
    one, two, _ = three
    await one.renew(LASTS, FLOOR)
    sessions = await two.renew(LASTS, UNHEARD)

    assert [(each.id, each.ended) for each in sessions] == [(1, False), (2, False), (3, False)]
    common = await one.floors()
    assert common.lowest == UNHEARD
    assert common.newest > FLOOR.next_intent  # the third, which has not said anything so far


async def test_nobody_is_given_the_intents_of_another(live: Life):
    one, two = live(name=""), live(name="")
    openings = [await one.open(), await two.open()]
    taken = [(each.next_intent, each.intents_end) for each in openings]
    taken += [await one.take_intents(), await two.take_intents(), await one.take_intents()]

    ends = [end for _, end in taken]
    assert all(first < (end or 0) for first, end in taken)
    assert [first for first, _ in taken[1:]] == ends[:-1]
    await one.close()
    await two.close()


async def test_whose_session_has_ended_writes_nothing_and_it_never_comes_back(three):
    one, two, _ = three
    walk = Walk("a", spec=three_tasks())
    await one.commit([walk.change])
    await one.end_session()
    await one.end_session()

    host = HostRecord(id="h", address="h:1", create_time=BEGIN)
    for write in (
        one.commit([walk.succeed()]),
        one.commit([Walk("b").change]),
        one.renew(LASTS, FLOOR),
        one.claim(10),
        one.keep_house(),
        one.expire(before=BEGIN, limit=1),
        one.change_host("h", lambda record: record),
        one.put_host(host),
        one.note_position("somebody", 7),
        one.answer([LetterAnswer(letter="x")]),
        one.letters(10),
    ):
        with pytest.raises(StoreFencedError):
            await write
    assert await two.load("b") is None
    assert await two.hosts() == []


async def test_a_session_lapses_unless_it_is_renewed(three):
    one, two, three_ = three
    await one.commit([Walk("a").change])
    await two.commit([Walk("b").change])
    await one.renew(LAPSES, FLOOR)

    assert await ids_of(three_) == ["a"]
    with pytest.raises(StoreFencedError):
        await one.renew(LASTS, FLOOR)
    await two.renew(LASTS, FLOOR)


async def test_whoever_claims_with_a_lapsed_session_of_its_own_goes_on(three):
    one, two, _ = three
    await two.commit([Walk("b").change])
    for each in three:
        await each.renew(LAPSES, FLOOR)

    assert await ids_of(one) == ["b"]
    await one.renew(LASTS, FLOOR)


async def test_the_next_life_of_the_same_name_need_not_wait(live: Life):
    first, second = live(name="here:1"), live(name="here:1")
    await first.open()
    await first.commit([Walk("a").change])
    await second.open()

    assert await ids_of(second) == ["a"]
    with pytest.raises(StoreFencedError):
        await first.commit([Walk("b").change])
    await first.close()
    await second.close()


# -- claims ---------------------------------------------------------------------------------------


async def test_what_is_claimed_is_had_by_one_and_under_a_higher_epoch(three):
    one, two, other = three
    walks = [Walk(name, spec=three_tasks()) for name in ("a", "b", "c")]
    await one.commit([walk.change for walk in walks])
    await one.end_session()

    first, second = await two.claim(2), await other.claim(2)
    assert first
    assert second
    assert [each.workflow for each in first.workflows] == [
        as_stored(walk.workflow) for walk in walks[:2]
    ]
    assert [each.workflow.id for each in second.workflows] == ["c"]
    epochs = {first.owner_epoch, second.owner_epoch}
    assert len(epochs) == 2
    assert min(epochs) > walks[0].workflow.owner_epoch
    assert await ids_of(two) == await ids_of(other) == []


async def test_what_another_owns_cannot_be_written(three):
    one, two, _ = three
    walk = Walk("a", spec=three_tasks())
    await one.commit([walk.change])

    with pytest.raises(StoreFencedError, match="owned by session 1"):
        await two.commit([walk.succeed()])
    found = await two.load("a")
    assert found
    assert found.workflow.version == 1


async def test_a_workflow_that_was_claimed_goes_on_with_who_has_it(three):
    one, two, _ = three
    walk = Walk("a", spec=three_tasks())
    await one.commit([walk.change])
    await one.end_session()
    claim = await two.claim(1)
    assert claim
    change = walk.must(events.OwnerChanged(owner_epoch=claim.owner_epoch))
    await two.commit([change])

    found = await two.load("a")
    assert found
    assert found.workflow.owner_epoch == claim.owner_epoch


async def test_of_two_that_start_the_same_the_second_is_refused(three):
    one, two, _ = three
    await one.commit([Walk("a").change])
    with pytest.raises(StoreConflictError, match="workflow id 'a' is taken"):
        await two.commit([Walk("a").change])


async def test_an_ended_session_is_seen_until_nothing_of_it_is_left(three):
    one, two, _ = three
    await one.renew(LASTS, FLOOR)
    await one.commit([Walk("a").change])
    await one.end_session()
    assert [each.ended for each in await two.renew(LASTS, FLOOR)] == [True, False, False]

    assert await ids_of(two) == ["a"]
    assert await ids_of(two) == []
    assert [each.id for each in await two.renew(LASTS, FLOOR)] == [2, 3]


async def test_whoever_claims_gets_the_floor_of_those_who_had_it(three):
    one, two, other = three
    await one.renew(LASTS, FLOOR)
    await two.renew(LASTS, Floor(next_intent=900, hosts={"b": 5}, fences=900))
    await one.commit([Walk("a").change])
    await one.end_session()
    claim = await two.claim(1)

    assert claim
    assert claim.floor == FLOOR
    await other.renew(LASTS, NOBODYS)
    common = await other.floors()
    assert common.lowest == Floor(next_intent=7, hosts={"a": 3, "b": 5}, fences=2)


async def test_of_a_workflow_it_is_known_whose_it_is(three):
    one, two, _ = three
    walk = Walk("over", spec=three_tasks())
    await one.commit([Walk("a").change, walk.change, walk.succeed(), walk.succeed()])
    await one.commit([walk.succeed()])
    await two.commit([Walk("b").change])
    owners = await two.owners_of(["a", "b", "over", "never"])

    assert walk.workflow.settled
    assert {name: (o.session, o.own, o.ended) for name, o in owners.items()} == {
        "a": (1, False, False),
        "b": (2, True, False),
    }
    await one.end_session()
    assert (await two.owners_of(["a"]))["a"].ended


async def test_one_keeps_the_house_until_it_is_gone(three):
    one, two, other = three
    assert [await each.keep_house() for each in (two, one, other)] == [2, 2, 2]
    await two.end_session()
    assert [await each.keep_house() for each in (other, one)] == [3, 3]


async def test_everybody_sees_who_keeps_the_house(three):
    one, two, _ = three
    assert (await one.house()).ended
    await two.keep_house()
    assert [((o := await each.house()).session, o.own, o.ended) for each in (one, two)] == [
        (2, False, False),
        (2, True, False),
    ]
    await two.end_session()
    assert (await one.house()).ended


async def test_everybody_sees_all_sessions_and_what_each_owns(three):
    one, two, other = three
    await one.commit([Walk("a").change])
    await two.commit([Walk("b").change])
    await two.keep_house()
    await two.renew(LAPSES, FLOOR)
    await one.end_session()
    seen = await other.sessions()
    assert [(s.id, s.state, s.own, s.keeps_house, s.workflows) for s in seen] == [
        (1, "ENDED", False, False, 1),
        (2, "LAPSED", False, True, 1),
        (3, "ALIVE", True, False, 0),
    ]
    assert seen[1].expire_time
    assert seen[2].expire_time
    assert seen[1].expire_time < seen[2].expire_time
    assert {s.version for s in seen} == {version("countermand")}
    while await other.claim(10):
        pass
    assert [(s.id, s.workflows) for s in await other.sessions()] == [(3, 2)]


# -- images ---------------------------------------------------------------------------------------


def copies(source: str, target: str) -> WorkflowSpec:
    action = CopyImage(source=image(f"p/{source}"), target=image(f"p/{target}"))
    return workflow_spec("test", sequence("all", task("t", host="a", action=action)))


def at(seconds: int) -> datetime:
    return BEGIN + timedelta(seconds=seconds)


async def test_what_anothers_workflow_writes_cannot_be_held_and_what_it_reads_can_be_read(three):
    one, two, _ = three
    await one.commit([Walk("x", spec=copies("base", "vm")).change])
    await two.commit([Walk("reads", spec=copies("base", "new")).change])

    for name, spec in (("writes", copies("other", "vm")), ("overwrites", copies("new2", "base"))):
        with pytest.raises(ImagesHeldError) as raised:
            await two.commit([Walk(name, spec=spec).change])
        [way] = (each for each in raised.value.standing if each.workflow_id == "x")
        assert (raised.value.workflow_id, way.held) == (name, True)
        assert [lock.image for lock in way.locks] == ["base", "vm"]


async def test_who_waits_hears_who_is_in_its_way_and_then_nobody(three):
    one, two, _ = three
    first = Walk("first", spec=copies("base", "vm"))
    await one.commit([first.change])
    waits = Walk("waits", spec=copies("base", "vm"), locked=False, begin=at(1))
    await two.commit([waits.change])

    [way] = (await two.standing(["waits"]))["waits"]
    assert (way.workflow_id, way.held) == ("first", True)
    with pytest.raises(ImagesHeldError):
        await two.commit([waits.must(events.LocksGranted())])
    await one.commit([first.succeed()])
    assert first.workflow.settled
    assert await two.standing(["waits"]) == {}


async def test_what_was_just_claimed_keeps_its_images_although_nobody_knows_of_it_yet(three):
    """Its new owner's own lines do not have it before it has heard of its claim."""
    one, two, _ = three
    holder = Walk("holder", spec=copies("base", "vm"))
    await one.commit([holder.change])
    await one.end_session()
    waits = Walk("waits", spec=copies("base", "vm"), locked=False, begin=at(1))
    await two.commit([waits.change])
    assert await ids_of(two) == ["holder"]

    takes = waits.must(events.LocksGranted())
    for change in (takes, Walk("new", spec=copies("vm", "other"), begin=at(2)).change):
        with pytest.raises(ImagesHeldError, match="'holder' is in the way"):
            await two.commit([change])
    await two.commit([holder.succeed(), takes])


async def test_what_another_has_claimed_is_not_in_its_own_way(three):
    """Whoever had it asks once more before it hears that its session is over."""
    one, two, _ = three
    waits = Walk("waits", spec=copies("base", "vm"), locked=False)
    await one.commit([waits.change])
    await one.end_session()
    await ids_of(two)
    await two.commit([waits.must(events.LocksGranted())])
    assert await one.standing(["waits"]) == {}


async def test_who_was_there_before_comes_first_also_when_nobody_holds_it(three):
    one, two, other = three
    holder = Walk("holder", spec=copies("base", "vm"))
    early = Walk("early", spec=copies("base", "vm"), locked=False, begin=at(100_000))
    late = Walk("late", spec=copies("base", "vm"), locked=False, begin=at(900_000))
    await one.commit([holder.change])
    await other.commit([late.change])
    await two.commit([early.change])
    await one.commit([holder.succeed()])

    assert await two.standing(["early"]) == {}
    assert [way.workflow_id for way in (await other.standing(["late"]))["late"]] == ["early"]
    with pytest.raises(ImagesHeldError, match="'early' is in the way of 'late'"):
        await other.commit([late.must(events.LocksGranted())])
    await two.commit([early.must(events.LocksGranted())])


async def test_a_refused_batch_leaves_nothing(three):
    one, two, _ = three
    await one.commit([Walk("x", spec=copies("base", "vm")).change])
    with pytest.raises(ImagesHeldError):
        await two.commit([Walk("free").change, Walk("held", spec=copies("base", "vm")).change])
    assert await two.load("free") is None
    await two.commit([Walk("free").change])


# -- letters --------------------------------------------------------------------------------------


def letter(name: str, session: int = 1) -> Letter:
    return Letter(
        id=name, session=session, method="s/M", request=b"\x00?", metadata=(("who", "é"),)
    )


async def test_letters_are_read_until_they_are_answered_and_the_first_answer_stays(three):
    one, two, _ = three
    await two.post([letter("x"), letter("y"), letter("z", 3)])
    await two.post([letter("x")])

    assert await one.letters(10) == [letter("x"), letter("y")]
    assert await one.letters(1) == [letter("x")]
    await one.answer([LetterAnswer(letter="x", answer=b"a"), LetterAnswer(letter="gone")])
    await one.answer([LetterAnswer(letter="x", answer=b"b"), LetterAnswer(letter="y", status=b"s")])
    assert await one.letters(10) == []
    found = {each.letter: each for each in await two.answers(["x", "y", "z"])}
    assert found == {
        "x": LetterAnswer(letter="x", answer=b"a"),
        "y": LetterAnswer(letter="y", status=b"s"),
    }
    await two.remove_letters(["x", "y", "z", "x"])
    assert await two.answers(["x", "y"]) == []
    await two.remove_old_letters()


# -- following ------------------------------------------------------------------------------------


async def test_whose_entries_follow_a_position_is_told_in_order(three):
    one, two, _ = three
    a, b = Walk("a"), Walk("b")
    await one.commit([a.change])
    await two.commit([b.change])
    told = await one.moves(after=0, limit=100)

    assert [position for _, position in told] == list(range(1, len(told) + 1))
    assert [name for name, _ in told] == ["a"] * len(a.change.history) + ["b"] * len(
        b.change.history
    )
    assert await one.moves(after=told[0][1], limit=1) == told[1:2]


async def test_what_has_to_do_with_a_host_is_found_whosesoever_it_is(three):
    one, two, _ = three
    await one.commit([Walk("x", spec=copies("base", "vm")).change])
    await two.commit([Walk("y", spec=copies("base", "new")).change])

    assert [each.workflow.id for each in await two.open_naming(["a"])] == ["x", "y"]
    assert await two.open_naming(["elsewhere"]) == []
    assert {each.id for each in await two.open_on("a")} == {"x", "y"}


async def test_what_waits_for_owners_is_told_whosesoever_it_is(three):
    one, two, _ = three
    walks = [Walk(name, spec=own(), owner="acme", wishes=anything) for name in ("x", "y")]
    for store, walk in zip((one, two), walks, strict=True):
        await store.commit([walk.change])
        for _ in range(40):
            if not walk.workflow.settled and (change := walk.step()):
                await store.commit([change])
    told = await one.asked(limit=100)

    assert told == sorted(told, key=lambda each: each.intent)
    for walk in walks:
        mine = [each for each in told if each.workflow_id == walk.workflow.id]
        waiting = {i for i, _ in walk.workflow.tasks() if waits_for(walk.workflow, i)}
        assert {walk.workflow.plan.by_name[each.name.split("/")[3]] for each in mine} == waiting
        assert mine == await two.asked(limit=100, workflow_ids=[walk.workflow.id])
        assert all(each.owner and each.state in UNSETTLED for each in mine)


# -- hosts ----------------------------------------------------------------------------------------


async def test_a_host_is_changed_as_it_is_stored(three):
    one, two, _ = three
    host = HostRecord(id="h", address="h:1", create_time=datetime(2026, 1, 1, tzinfo=UTC))
    await one.put_host(host)

    def drain(record: HostRecord) -> HostRecord:
        return replace(record, draining=True)

    assert await one.change_host("h", drain) == (replace(host, draining=True), True)
    assert await two.change_host("h", drain) == (replace(host, draining=True), False)
    heard = replace(host, draining=True, heard_sequence=4)
    hear: Callable[[HostRecord], HostRecord] = lambda r: replace(r, heard_sequence=4)  # noqa: E731
    assert await two.change_host("h", hear) == (heard, True)
    assert await two.change_host("absent", drain) is None
    assert await one.hosts() == [heard]
