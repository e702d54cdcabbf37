"""Z19: a store that went back in time decides nothing until somebody has looked, then far above."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import pytest
from sqlalchemy import event

from coordinator.runtime.floors import UNHEARD
from coordinator.runtime.ports import (
    SESSION_LASTS,
    STORE,
    Given,
    Store,
    StoreChange,
    StoreError,
    StoreFencedError,
    StoreRewoundError,
)
from coordinator.store import recovering
from coordinator.store.database import WRITERS, sqlite
from tests.postgres import Server
from tests.store.conftest import Life, begin, commit, postgres_lives, sqlite_lives
from tests.store.specs import three_tasks
from tests.store.walks import Walk


def started(epoch: int) -> Walk:
    return Walk("w", spec=three_tasks(), epoch=epoch)


async def test_what_was_given_is_above_every_intent_that_was_committed(live: Life):
    store = live()
    opening = await begin(store)
    before = await store.given()
    walk = started(opening.owner_epoch)
    await commit(store, walk.change)
    after = await store.given()

    assert before.owner_epoch == after.owner_epoch == opening.owner_epoch
    assert before.next_intent == 1
    highest = max(a.intent for _, task in walk.workflow.tasks() for a in task.attempts)
    assert after.next_intent == highest + 1
    await store.close()


async def test_nobody_decides_until_somebody_has_looked_and_then_above_all_that_was_given(
    live: Life,
):
    store = live()
    opening = await begin(store)
    walk = started(opening.owner_epoch)
    await commit(store, walk.change)
    given = await store.given()
    assert (opening.recovery, opening.recovered) == (None, None)
    assert await store.recover("admin", "nothing is wrong") is None

    assert await store.require_recovery("an agent is ahead")
    assert await store.require_recovery("another one, too")
    with pytest.raises(StoreFencedError):
        await commit(store, walk.succeed())
    await store.close()

    # Of lives that begin now, none is given anything.
    waiting = live()
    opening = await begin(waiting)
    assert opening.recovery
    assert opening.recovery == await waiting.recovery()
    assert opening.recovery.why == "an agent is ahead"
    if waiting.shared:
        [mine] = [each for each in await waiting.sessions() if each.own]
        assert mine.workflows == 0
    recovered = await waiting.recover("admin", "the backup of noon")
    assert recovered is not None
    with pytest.raises(StoreFencedError):
        await waiting.renew(SESSION_LASTS, UNHEARD) if waiting.shared else await commit(
            waiting, started(opening.owner_epoch).change
        )
    await waiting.close()

    store = live()
    opening = await store.open()
    assert (opening.recovery, opening.recovered) == (None, recovered)
    assert opening.owner_epoch > recovered.owner_epoch > given.owner_epoch + 1000
    # What agents have heard before proves nothing any more.
    assert (await store.given()).next_intent >= recovered.next_intent
    assert opening.next_intent >= recovered.next_intent > given.next_intent + 1000
    if claim := await store.claim(10):
        assert [each.workflow.id for each in claim.workflows] == ["w"]
        assert claim.owner_epoch > recovered.owner_epoch
    told = await store.audit(STORE, before=2**60, limit=10)
    assert [(each.change, each.reason, each.principal) for each in told] == [
        (StoreChange.RECOVERED, "the backup of noon", "admin"),
        (StoreChange.RECOVERY_REQUIRED, "an agent is ahead", "policy"),
    ]
    await store.close()


async def test_what_was_lost_is_told_from_what_is_sent_since(live: Life):
    """By the time that a host is greeted, others may have been sent higher intents."""
    before = live()
    opening = await begin(before)
    await commit(before, started(opening.owner_epoch).change)
    given = await before.given()
    await before.end_session()
    await before.close()

    for _ in range(2):  # of those that nobody uses no further ones are left out
        after = live()
        opening = await begin(after)
        left_out = (await after.given()).left_out
        assert left_out.start == given.next_intent
        assert left_out.stop <= opening.next_intent < left_out.stop + (1 << 30)
        assert len(left_out) > 1 << 39
        await after.end_session()
        await after.close()


async def test_a_backup_that_was_put_back_before_goes_on_above_what_that_gave(live: Life):
    store = live()
    await begin(store)
    await store.require_recovery("the same backup")
    heard = Given(owner_epoch=10**12, next_intent=10**15)
    recovered = await store.recover("admin", "again", heard)
    assert recovered is not None
    assert recovered.owner_epoch > heard.owner_epoch
    assert recovered.next_intent > heard.next_intent
    await store.close()


async def test_what_was_noticed_before_it_was_recovered_is_answered_by_that(live: Life):
    late = live()
    await begin(late)
    await late.require_recovery("an agent is ahead")
    await late.recover("admin", "looked at")
    assert not await late.require_recovery("an agent was ahead")
    assert await late.recovery() is None
    await late.close()


# -- noticed by who has it open -------------------------------------------------------------------


async def test_what_is_given_while_it_is_looked_at_is_not_missed(tmp_path: Path):
    """One connection is new, and by the other something is committed meanwhile."""
    store = sqlite_lives(tmp_path / "store.db")()
    await begin(store)
    remembered = recovering.Remembered(epoch=1, intents_end=1)
    database = sqlite(tmp_path / "store.db")

    def give(*_: object) -> None:
        remembered.epoch, remembered.intents_end, remembered.last = 2**40, 2**50, ("w", 1)

    with database.reader.begin() as connection:
        event.listen(database.reader, "after_cursor_execute", give)
        assert remembered.why_behind(connection) == ""
    assert remembered.epoch == 2**40
    database.close()
    await store.close()


Lost = Callable[[Store, Walk], Awaitable[object]]
LOST: dict[str, Lost] = {
    "a decision": lambda store, walk: store.commit([walk.change]),
    "a start": lambda store, _: store.commit([Walk("x", spec=three_tasks()).change]),
    "intents that were taken": lambda store, _: store.take_intents(),
}


@pytest.mark.parametrize("lost", [*LOST, "nothing"])
async def test_whoever_has_it_open_notices_that_its_own_is_missing(
    postgres_server: Server, lost: str
):
    """A standby that was behind has taken over, or a backup was put in place."""
    url = postgres_server.new_database(postgres_server.template)
    name = url.partition("@/")[2].partition("?")[0]
    live = postgres_lives(url)
    store = live()
    opening = await begin(store)
    walk = started(opening.owner_epoch)
    await commit(store, walk.change)

    backup = f"{name}_backup"
    cut = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
    postgres_server.execute(cut)
    postgres_server.execute(f"CREATE DATABASE {backup} TEMPLATE {name} STRATEGY file_copy")
    await until_answered(store)
    walk.succeed()
    if lost in LOST:
        await LOST[lost](store, walk)
    postgres_server.drop(url)
    postgres_server.execute(f"ALTER DATABASE {backup} RENAME TO {name}")

    why = await why_fenced(store)
    await store.close()
    next_one = live()
    opening = await begin(next_one)
    if lost == "nothing":
        assert (why, opening.recovery) == ("", None)
    else:
        assert opening.recovery is not None
        assert why == opening.recovery.why
    await next_one.close()
    postgres_server.drop(url)


async def until_answered(store: Store) -> None:
    """Returns once a store has heard of it that its connections were cut: one after the other."""
    for _ in range(WRITERS):
        with suppress(StoreError):
            await store.renew(SESSION_LASTS, UNHEARD)


async def why_fenced(store: Store) -> str:
    """Returns why a store is found to have gone back; empty if it is not."""
    cut = ""
    for _ in range(WRITERS + 1):
        try:
            await store.renew(SESSION_LASTS, UNHEARD)
        except StoreRewoundError as error:
            return str(error.metadata["why"])
        except StoreError as error:
            cut = str(error)
        else:
            return ""
    raise AssertionError(cut)
