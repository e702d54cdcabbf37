"""Looks are drawn once, however many watch: drawn ones and sent ones are counted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest

from coordinator.web import frames
from coordinator.web.sharing import Look, Shared

HANG_S = 20.0


class Drawing:
    """Looks that are drawn when a test says so, and counted."""

    def __init__(self) -> None:
        self.drawn = 0
        self.begun = 0
        self.watched = asyncio.Event()
        self.ended = asyncio.Event()
        self._next: asyncio.Queue[Look | Exception] = asyncio.Queue()

    def show(self, text: str, sequence: int, *, is_last: bool = False) -> bytes:
        """Has one drawn; returns how it is sent."""
        self._next.put_nowait(Look(text=text, sequence=sequence, is_last=is_last))
        return frames.frame(text, sequence)

    def fail(self, error: Exception) -> None:
        self._next.put_nowait(error)

    async def looks(self) -> AsyncGenerator[Look]:
        self.begun += 1
        self.watched.set()
        try:
            while True:
                look = await self._next.get()
                if isinstance(look, Exception):
                    raise look
                self.drawn += 1
                yield look
        finally:
            self.ended.set()


@pytest.fixture
def stop() -> asyncio.Event:
    return asyncio.Event()


@pytest.fixture
def shared(stop) -> Shared:
    return Shared(stop)


@pytest.fixture
def drawing() -> Drawing:
    return Drawing()


async def sent(stream: AsyncGenerator[bytes]) -> bytes:
    """Returns what is sent next; "" when nothing more is."""
    async with asyncio.timeout(HANG_S):
        return await anext(stream, b"")


async def test_what_many_watch_is_drawn_once(shared, drawing) -> None:
    watching = [shared.watch("w", drawing.looks) for _ in range(5)]
    for number in range(1, 4):
        expected = drawing.show(f"look {number}", number)
        assert [await sent(each) for each in watching] == [expected] * 5
    assert (drawing.begun, drawing.drawn) == (1, 3)
    for each in watching:
        await each.aclose()


async def test_who_is_slow_is_sent_the_newest_and_nothing_older(shared, drawing) -> None:
    slow, quick = (shared.watch("w", drawing.looks) for _ in range(2))
    last = drawing.show("first", 1)
    assert [await sent(slow), await sent(quick)] == [last, last]
    for number in range(2, 6):
        last = drawing.show(f"look {number}", number)
        assert await sent(quick) == last
    assert await sent(slow) == last
    await slow.aclose()
    await quick.aclose()


async def test_who_comes_later_is_sent_the_last_look_unless_it_has_seen_it(shared, drawing) -> None:
    early = shared.watch("w", drawing.looks)
    last = drawing.show("at four", 4)
    assert await sent(early) == last
    new, behind = shared.watch("w", drawing.looks), shared.watch("w", drawing.looks, 3)
    assert [await sent(new), await sent(behind)] == [last, last]
    knows = shared.watch("w", drawing.looks, 4)
    waiting = asyncio.ensure_future(sent(knows))
    moved = drawing.show("only progress has moved", 4)
    assert await waiting == moved
    for each in (early, new, behind, knows):
        await each.aclose()
    assert drawing.drawn == 2


async def test_what_looks_the_same_is_sent_once(shared, drawing) -> None:
    stream = shared.watch("w", drawing.looks)
    first = drawing.show("the same", 1)
    assert await sent(stream) == first
    drawing.show("the same", 2)
    other = drawing.show("another", 3)
    assert await sent(stream) == other
    await stream.aclose()


async def test_when_the_last_has_gone_nothing_is_drawn_any_more(shared, drawing) -> None:
    one, other = shared.watch("w", drawing.looks), shared.watch("w", drawing.looks)
    drawing.show("first", 1)
    await sent(one)
    await sent(other)
    await one.aclose()
    assert not drawing.ended.is_set()
    await other.aclose()
    assert drawing.ended.is_set()
    again = shared.watch("w", drawing.looks)
    second = drawing.show("second", 2)
    assert await sent(again) == second
    assert drawing.begun == 2
    await again.aclose()


async def test_all_are_told_that_it_has_settled(shared, drawing) -> None:
    watching = [shared.watch("w", drawing.looks), shared.watch("w", drawing.looks, 9)]
    waiting = [asyncio.ensure_future(sent(each)) for each in watching]
    await drawing.watched.wait()
    last = drawing.show("the end", 9, is_last=True)
    settled = frames.said("settled")
    assert await asyncio.gather(*waiting) == [last, settled]  # one has seen the end
    assert [await sent(watching[0]), await sent(watching[0])] == [settled, b""]
    assert await sent(watching[1]) == b""


async def test_a_failure_ends_every_stream_and_the_next_begins_anew(shared, drawing) -> None:
    watching = [shared.watch("w", drawing.looks) for _ in range(2)]
    waiting = [asyncio.ensure_future(sent(each)) for each in watching]
    await drawing.watched.wait()
    drawing.fail(RuntimeError("it cannot be drawn"))
    failed = await asyncio.gather(*waiting, return_exceptions=True)
    assert [str(each) for each in failed] == ["it cannot be drawn"] * 2
    again = shared.watch("w", drawing.looks)
    anew = drawing.show("drawn again", 1)
    assert await sent(again) == anew
    await again.aclose()


async def test_streams_end_when_the_coordinator_does(shared, drawing, stop) -> None:
    watching = [shared.watch("w", drawing.looks) for _ in range(2)]
    waiting = [asyncio.ensure_future(sent(each)) for each in watching]
    drawing.show("first", 1)
    await asyncio.gather(*waiting)
    ends = [asyncio.ensure_future(sent(each)) for each in watching]
    stop.set()
    assert await asyncio.gather(*ends) == [b"", b""]
    assert drawing.ended.is_set()
