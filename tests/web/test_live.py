"""Streams: they resume by sequence, move by themselves, and end when the coordinator does."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import aclosing

from countermand.client.spec import sequence, task, workflow_spec
from countermand.v1.verb_pb2 import Noop
from tests.endtoend.cluster import HANG_S, copy
from tests.web import stories
from tests.web.reading import Frame


async def first(frames: AsyncIterator[Frame]) -> Frame:
    """Returns the next look of a stream."""
    async with asyncio.timeout(HANG_S):
        async for frame in frames:
            if not frame.event:
                return frame
    raise AssertionError("the stream has ended")


async def test_who_comes_back_is_told_what_is_new_and_nothing_else(reader, client) -> None:
    run = client.run("held")
    seen = (await run.get()).last_sequence
    async with aclosing(reader.stream("/live/workflows/held", last=seen - 3)) as behind:
        frame = await first(behind)
    assert frame.id == seen
    assert "‖ paused held" in frame.words
    assert "About it Name workflows/held" in frame.words
    async with aclosing(reader.stream("/live/workflows/held", last=seen)) as frames:
        nothing = asyncio.ensure_future(first(frames))
        await run.cancel("seen enough")
        frame = await nothing
    assert frame.id is not None
    assert frame.id > seen


async def test_progress_moves_and_the_end_is_told(reader, client) -> None:
    spec = workflow_spec(
        "crawl", sequence("all", copy("crawls", "host-a", stories.BASE, "slow/moving"))
    )
    run = await client.submit(spec, workflow_id="moving")
    shown: list[int] = []
    last, cancelled = None, False
    async with asyncio.timeout(HANG_S), aclosing(reader.stream("/live/workflows/moving")) as frames:
        async for frame in frames:
            if frame.event == "settled":
                break
            last = frame
            values = re.findall(r'<progress max="\d+" value="(\d+)"', frame.data)
            shown += [int(values[0])] if values else []
            if len(set(shown)) == 3 and not cancelled:
                cancelled = True
                await run.cancel("seen enough")
    assert shown == sorted(shown)
    assert last is not None
    assert "↺ compensated moving" in last.words


async def test_a_list_is_sent_anew_when_anything_happens(reader, client) -> None:
    async with aclosing(reader.stream("/live/workflows?kind=drill")) as frames:
        before = await first(frames)
        assert "In flight None like that." in before.words
        spec = workflow_spec("drill", sequence("all", task("one", host="host-b", action=Noop())))
        await client.submit(spec, workflow_id="drill")
        while "✓ succeeded 1 of 1" not in (after := await first(frames)).words:
            pass
    assert before.id is not None
    assert after.id is not None
    assert after.id > before.id
    async with aclosing(reader.stream("/live/workflows", last=before.id)) as frames:
        assert "drill" in (await first(frames)).words


async def test_hosts_and_owners_are_sent_anew_when_they_change(reader, client) -> None:
    async with aclosing(reader.stream("/live/hosts")) as frames:
        assert "host-b ✓ ready" in (await first(frames)).words
        await client.hosts.drain("host-b", "a test")
        while "host-b ⊘ drained" not in (await first(frames)).words:
            pass
        await client.hosts.undrain("host-b", "a test")
    async with aclosing(reader.stream("/live/owners")) as frames:
        assert "acme · does not watch 1 attempt" in (await first(frames)).words


async def test_open_streams_do_not_hold_up_an_end(reader, cluster) -> None:
    """The last test of the file: the coordinator is stopped, and its streams end with it."""
    paths = ("/live/workflows", "/live/workflows/stuck", "/live/hosts", "/live/owners")
    sent = {path: asyncio.Event() for path in paths}

    async def read(path: str) -> None:
        async for _ in reader.stream(path):
            sent[path].set()

    reading = [asyncio.create_task(read(path)) for path in paths]
    async with asyncio.timeout(HANG_S):
        await asyncio.gather(*(each.wait() for each in sent.values()))
        assert [each.done() for each in reading] == [False] * len(paths)
        await cluster.coordinator.stop()
        await asyncio.gather(*reading)  # each has ended as an answer does, whole
    said = cluster.coordinator.events()
    # Nobody was cut off, which is what happens after less than a second to who goes on.
    assert [line for line in said if str(line["event"]).startswith("web.")] == []
    assert [line for line in said if line["level"] == "error"] == []
