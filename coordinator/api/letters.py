"""Letters between sessions: what one coordinator asks another by way of the store.

`Post` posts them and waits for their answers, `Inbox` takes and answers them. Both look into the
store again and again, for all that is under way at once; a hint only has them look sooner. A letter
may be carried out more than once, or after whoever posted it has gone: everything that is asked so
can be asked again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Coroutine, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Generic, TypeVar

from google.rpc.status_pb2 import Status

from coordinator.api.deciding import ElsewhereError
from coordinator.runtime.ports import (
    LETTERS_LAST,
    Letter,
    LetterAnswer,
    Ownership,
    Store,
    StoreError,
    StoreFencedError,
)
from countermand.rpc.errors import Busy, CountermandError
from countermand.rpc.status import error_from_status

log = logging.getLogger(__name__)
T = TypeVar("T")

# Stands among ids of workflows, of which none is like it, for what only one session does for all.
HOUSE = "/house"

LOOK_S = 0.05  # between two looks for the answers of letters that are under way
LOOK_IDLE_S = 0.1  # between two looks into the own inbox
OWNERS_S = 1.0  # between two looks whether those who are to answer are still there
STORE_AGAIN_S = 0.5  # while it does not answer
POSTED_MAX = 2000  # under way at once; who comes then is told to come again
AT_WORK_MAX = 256  # of those for us: as many as the loop decides about in one transaction
RETRY_DELAY = timedelta(seconds=1)
SWEEP_S = LETTERS_LAST.total_seconds() / 10

ELSEWHERE = Status(code=14, message="elsewhere").SerializeToString()  # never shown to anybody


class Gathering(Generic[T]):
    """Writes many things at once: what has gathered while the last ones were written."""

    def __init__(self, write: Callable[[Sequence[T]], Awaitable[None]]) -> None:
        """Keeps how they are written."""
        self._write = write
        self._gathered: list[T] = []
        self._written: asyncio.Future[None] | None = None
        self._woken = asyncio.Event()

    async def write(self, item: T) -> None:
        """Returns once it is written.

        Raises:
            StoreError: It was not, or nobody knows.
        """
        self.add(item)
        if self._written is None:
            self._written = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._written)

    def add(self, item: T) -> None:
        """Has it written soon, unless the store fails."""
        self._gathered.append(item)
        self._woken.set()

    async def run(self) -> None:
        """Writes until cancelled.

        Raises:
            StoreFencedError: The own session has ended.
        """
        while True:
            await self._woken.wait()
            self._woken.clear()
            items, written = self._gathered, self._written
            self._gathered, self._written = [], None
            try:
                await self._write(items)
            except StoreError as error:
                log.warning("letters.not_written", extra={"error": str(error)})
                if written is not None and not written.done():
                    written.set_exception(error)
                    written.exception()  # those who wait take it; there may be none any more
                if isinstance(error, StoreFencedError):
                    raise
            else:
                if written is not None and not written.done():
                    written.set_result(None)


@dataclass(slots=True, kw_only=True, eq=False)
class _Posted:
    """A letter that is under way."""

    letter: Letter
    about: Collection[str]  # ids of workflows, or HOUSE, all of them that session's
    answer: asyncio.Future[LetterAnswer]
    over: int = 0  # how often in a row none of them was open

    def looks_lost(self, owners: dict[str, Ownership]) -> bool:
        """Returns whether the session that is to answer is not the one to ask, or no more."""
        if not self.about:  # about itself, which whoever asks does not wait for long
            return False
        found = [owners[each] for each in self.about if each in owners]
        # Once all have settled it may still answer: it gets the time from one look to the next.
        self.over = 0 if found else self.over + 1
        return self.over > 1 or any(
            each.ended or each.session != self.letter.session for each in found
        )


async def owners_of(store: Store, about: Collection[str]) -> dict[str, Ownership]:
    """Returns whose some open workflows are, and the house if it is among them."""
    found: dict[str, Ownership] = {}
    if workflow_ids := sorted(each for each in about if each != HOUSE):
        found.update(await store.owners_of(workflow_ids))
    if HOUSE in about:
        found[HOUSE] = await store.house()
    return found


class Post:
    """Asks other sessions."""

    def __init__(self, *, store: Store, new_id: Callable[[], str]) -> None:
        """Has nothing under way."""
        self._store = store
        self._new_id = new_id
        self._posted: dict[str, _Posted] = {}
        self._woken = asyncio.Event()
        self._posting: Gathering[Letter] = Gathering(store.post)
        self._removing: Gathering[str] = Gathering(store.remove_letters)

    @property
    def under_way(self) -> int:
        """Returns how many letters wait for their answers."""
        return len(self._posted)

    def hint(self) -> None:
        """Looks at once: somebody says that a letter was answered."""
        self._woken.set()

    async def ask(
        self,
        session: int,
        method: str,
        request: bytes,
        metadata: tuple[tuple[str, str], ...],
        *,
        about: Collection[str],
    ) -> bytes:
        """Returns the answer of another session to a call about some workflows, or the house.

        Raises:
            CountermandError: Its own answer is that.
            Busy: Too many letters are under way.
            ElsewhereError: It does not own one of them, or has ended: look who does.
        """
        if len(self._posted) >= POSTED_MAX:
            raise Busy(retry_delay=RETRY_DELAY)
        letter = Letter(
            id=self._new_id(), session=session, method=method, request=request, metadata=metadata
        )
        answer: asyncio.Future[LetterAnswer] = asyncio.get_running_loop().create_future()
        self._posted[letter.id] = _Posted(letter=letter, about=about, answer=answer)
        try:
            await self._posting.write(letter)
            self._woken.set()
            return _opened(await answer)
        finally:
            # Nobody waits for it any more: what has not been taken need not be carried out.
            del self._posted[letter.id]
            self._removing.add(letter.id)

    async def run(self) -> None:
        """Goes on until cancelled.

        Raises:
            StoreFencedError: The own session has ended.
        """
        await together(
            self._posting.run(),
            self._removing.run(),
            self._look_for_ever(),
            self._sweep_for_ever(),
        )

    async def _look_for_ever(self) -> None:
        clock = asyncio.get_running_loop()
        owners_due = clock.time() + OWNERS_S
        while True:
            self._woken.clear()
            try:
                await self._look()
                if clock.time() >= owners_due:
                    await self._look_at_owners()
                    owners_due = clock.time() + OWNERS_S
            except StoreFencedError:
                raise
            except StoreError as error:
                log.warning("answers.not_read", extra={"error": str(error)})
                await asyncio.sleep(STORE_AGAIN_S)
            await wait(self._woken, LOOK_S if self._posted else None)

    async def _look(self) -> None:
        if not self._posted:
            return
        for answer in await self._store.answers(list(self._posted)):
            posted = self._posted.get(answer.letter)
            if posted is not None and not posted.answer.done():
                posted.answer.set_result(answer)

    async def _look_at_owners(self) -> None:
        about = {each for posted in self._posted.values() for each in posted.about}
        owners = await owners_of(self._store, about)
        for posted in self._posted.values():
            # What was posted while the store was asked is not judged by what it said.
            is_asked = about.issuperset(posted.about)
            if is_asked and posted.looks_lost(owners) and not posted.answer.done():
                posted.answer.set_exception(ElsewhereError())

    async def _sweep_for_ever(self) -> None:
        while True:
            try:
                await self._store.remove_old_letters()
            except StoreFencedError:
                raise
            except StoreError as error:
                log.warning("letters.not_swept", extra={"error": str(error)})
            await asyncio.sleep(SWEEP_S)


class Inbox:
    """Answers what other sessions ask."""

    def __init__(
        self, *, store: Store, answer: Callable[[Letter], Awaitable[LetterAnswer]]
    ) -> None:
        """Keeps who knows the answers."""
        self._store = store
        self._answer = answer
        self._at_work: dict[str, asyncio.Task[None]] = {}
        self._answered: set[str] = set()  # since the last look began, which may not know of it
        self._full = False  # as many as may be were at work, when it was last looked
        self._woken = asyncio.Event()
        self._answering: Gathering[LetterAnswer] = Gathering(store.answer)

    @property
    def at_work(self) -> int:
        """Returns how many letters are being answered."""
        return len(self._at_work)

    def hint(self) -> None:
        """Looks at once: somebody says that there is a letter."""
        self._woken.set()

    async def run(self) -> None:
        """Goes on until cancelled.

        Raises:
            StoreFencedError: The own session has ended.
        """
        try:
            await together(self._answering.run(), self._look_for_ever())
        finally:
            # If the process stops here, whoever asked finds that this session has ended.
            for work in self._at_work.values():
                work.cancel()

    async def _look_for_ever(self) -> None:
        while True:
            self._woken.clear()
            self._answered.clear()
            try:
                letters = await self._store.letters(AT_WORK_MAX)
            except StoreFencedError:
                raise
            except StoreError as error:
                log.warning("letters.not_read", extra={"error": str(error)})
                await asyncio.sleep(STORE_AGAIN_S)
                continue
            for letter in letters:
                if letter.id in self._at_work or letter.id in self._answered:
                    continue
                if len(self._at_work) < AT_WORK_MAX:
                    self._at_work[letter.id] = asyncio.create_task(self._see_to(letter))
            self._full = len(self._at_work) == AT_WORK_MAX  # there may be more: see `_see_to`
            await wait(self._woken, LOOK_IDLE_S)

    async def _see_to(self, letter: Letter) -> None:
        try:
            answer = await self._answer(letter)
            await self._answering.write(answer)
            self._answered.add(letter.id)
        except StoreError as error:  # it is read again, and done again
            log.warning("letter.not_answered", extra={"letter": letter.id, "error": str(error)})
        finally:
            del self._at_work[letter.id]
            if self._full and len(self._at_work) <= AT_WORK_MAX // 2:
                self._woken.set()


def _opened(answer: LetterAnswer) -> bytes:
    """Returns what was answered; raises what was refused."""
    if answer.status == ELSEWHERE:
        raise ElsewhereError
    if answer.status:
        error: CountermandError = error_from_status(Status.FromString(answer.status))
        raise error
    return answer.answer


async def together(*works: Coroutine[None, None, None]) -> None:
    """Does several things until cancelled, or until one of them fails."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)  # several may fail of the same


async def wait(woken: asyncio.Event, timeout_s: float | None) -> None:
    """Waits until woken, or the time is over."""
    try:
        async with asyncio.timeout(timeout_s):
            await woken.wait()
    except TimeoutError:
        pass
