"""Letters between sessions where something is in their way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from itertools import count

import pytest

from coordinator.api import letters
from coordinator.api.deciding import ElsewhereError
from coordinator.api.letters import Inbox, Post
from coordinator.runtime.ports import LETTERS_LAST, Letter, LetterAnswer, StoreError
from coordinator.store.memory import Kept, MemoryStore
from countermand.rpc.errors import Busy, StoreUnavailable
from tests.runtime.rig import until


class Shaky(MemoryStore):
    """A store that fails as often as it is told to."""

    failures = 0

    def _fail(self) -> None:
        if self.failures:
            self.failures -= 1
            raise StoreError("as the test wants it")

    async def post(self, letters: Sequence[Letter]) -> None:
        self._fail()
        await super().post(letters)

    async def letters(self, limit: int) -> list[Letter]:
        self._fail()
        return await super().letters(limit)

    async def answer(self, answers: Sequence[LetterAnswer]) -> None:
        self._fail()
        await super().answer(answers)

    async def answers(self, letter_ids: Sequence[str]) -> list[LetterAnswer]:
        self._fail()
        return await super().answers(letter_ids)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks more often: what is waited for is the same."""
    for name in ("LOOK_S", "LOOK_IDLE_S", "STORE_AGAIN_S"):
        monkeypatch.setattr(letters, name, 0.01)
    monkeypatch.setattr(letters, "OWNERS_S", 3600.0)  # what is asked about is open nowhere here


async def opened(kept: Kept) -> Shaky:
    store = Shaky(kept, new_id=lambda: "cluster", shared=True, now=lambda: datetime.now(UTC))
    await store.open()
    return store


@asynccontextmanager
async def running(*works: Post | Inbox) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(work.run()) for work in works]
    yield
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def posting(store: Shaky) -> Post:
    numbers = count(1)
    return Post(store=store, new_id=lambda: f"letter-{next(numbers)}")


async def echo(letter: Letter) -> LetterAnswer:
    return LetterAnswer(letter=letter.id, answer=letter.request)


def ask(post: Post, session: int, request: bytes = b"what") -> asyncio.Future[bytes]:
    return asyncio.ensure_future(post.ask(session, "method", request, (), about=["gone"]))


async def test_a_store_that_fails_for_a_while_delays_an_answer_and_no_more():
    kept = Kept()
    here, there = await opened(kept), await opened(kept)
    post, inbox = posting(here), Inbox(store=there, answer=echo)
    async with running(post):
        asked = ask(post, 2)
        await until(lambda: kept.letters)
        here.failures = there.failures = 2
        async with running(inbox):
            assert await asked == b"what"
        await until(lambda: not kept.letters)


async def test_what_could_not_be_posted_is_the_callers_to_ask_again():
    kept = Kept()
    here = await opened(kept)
    post = posting(here)
    here.failures = 1
    async with running(post):
        with pytest.raises(StoreUnavailable):
            await ask(post, 2)
        await until(lambda: not post.under_way)


async def test_more_letters_than_are_allowed_are_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(letters, "POSTED_MAX", 1)
    kept = Kept()
    post = posting(await opened(kept))
    async with running(post):
        first = ask(post, 2)
        await until(lambda: kept.letters)
        with pytest.raises(Busy):
            await ask(post, 2)
        first.cancel()
        await until(lambda: not kept.letters)


async def test_more_letters_than_are_worked_on_wait_for_their_turn(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(letters, "AT_WORK_MAX", 3)
    kept = Kept()
    here, there = await opened(kept), await opened(kept)
    at_work, most = 0, 0

    async def slow(letter: Letter) -> LetterAnswer:
        nonlocal at_work, most
        at_work += 1
        most = max(most, at_work)
        await asyncio.sleep(0)
        at_work -= 1
        return await echo(letter)

    post = posting(here)
    async with running(post, Inbox(store=there, answer=slow)):
        requests = [str(number).encode() for number in range(50)]
        assert await asyncio.gather(*(ask(post, 2, each) for each in requests)) == requests
    assert 0 < most <= 3


async def test_nobody_waits_for_the_answer_about_what_is_over(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(letters, "OWNERS_S", 0.01)
    post = posting(await opened(Kept()))
    async with running(post):
        with pytest.raises(ElsewhereError):
            await ask(post, 2)


async def test_letters_of_those_who_have_gone_are_removed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(letters, "SWEEP_S", 0.01)
    kept = Kept()
    store = await opened(kept)
    await store.post([Letter(id="old", session=9, method="m", request=b"")])
    kept.letters["old"].time -= 2 * LETTERS_LAST
    await store.post([Letter(id="new", session=9, method="m", request=b"")])
    async with running(posting(store)):
        await until(lambda: list(kept.letters) == ["new"])


class Late(Shaky):
    """A store whose second look into an inbox ends when what it saw has been answered meanwhile."""

    def __init__(self, kept: Kept) -> None:
        super().__init__(kept, new_id=lambda: "cluster", shared=True, now=lambda: datetime.now(UTC))
        self.looks = 0
        self.seen_again = asyncio.Event()
        self.done: Callable[[], bool] = lambda: False

    async def letters(self, limit: int) -> list[Letter]:
        found = await super().letters(limit)
        self.looks += bool(found)
        if found and self.looks > 1:
            self.seen_again.set()
            await until(self.done)
        return found


async def test_a_letter_that_is_answered_while_somebody_looks_is_not_taken_again():
    kept = Kept()
    here, there = await opened(kept), Late(kept)
    await there.open()
    taken: list[str] = []

    async def slow(letter: Letter) -> LetterAnswer:
        taken.append(letter.id)
        await there.seen_again.wait()
        return await echo(letter)

    post, inbox = posting(here), Inbox(store=there, answer=slow)
    there.done = lambda: not inbox.at_work
    async with running(post, inbox):
        assert await ask(post, 2) == b"what"
        await until(lambda: not kept.letters)
        assert await ask(post, 2) == b"what"
    assert taken == ["letter-1", "letter-2"]
