"""A coordinator whose database went back in time says so on every page."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import aiohttp
import pytest

from coordinator.web import server
from coordinator.web.address import WebSettings, take_address
from tests.api.recovering import WHY, Life, life
from tests.api.vendors import external
from tests.runtime.replicas import Shared
from tests.web.reading import Reader

SAID = f"The database went back in time: {WHY}."


@pytest.fixture
async def now() -> AsyncIterator[Life]:
    """Yields a life in which somebody has to look first."""
    shared = Shared({})
    async with life(shared.store(), {}) as before:
        await before.start("asked", external("use"))
        await before.store.require_recovery(WHY)
    async with life(shared.store(), {}) as now:
        yield now


@pytest.fixture
async def address(now: Life) -> AsyncIterator[str]:
    """Yields where its pages are."""
    settings, stop = WebSettings(listen="127.0.0.1:0", asked_for=True), asyncio.Event()
    listening = take_address(settings)
    assert listening is not None
    serving = server.serve(listening, now.server.address, settings, stop, beside=())
    task = asyncio.create_task(serving)
    yield f"127.0.0.1:{listening.getsockname()[1]}"
    stop.set()
    await task


@pytest.fixture
async def reader(address: str) -> AsyncIterator[Reader]:
    async with aiohttp.ClientSession(f"http://{address}") as session:
        yield Reader(session)


PAGES = {
    "/workflows": 200,
    "/workflows/asked": 200,
    "/workflows/asked/tasks/use": 200,
    "/hosts": 200,
    "/owners": 200,
    "/webhooks": 200,
    "/workflows/unknown": 404,
    "/owners/acme": 400,  # what waits for an owner is not told
}


async def test_every_page_says_so_and_what_to_do(reader):
    for path, status in PAGES.items():
        page = await reader(path)
        assert page.status == status, path
        assert SAID in page.words, path
        assert "countermand coordinator recover" in page.words, path
        assert "Open in it: 1 workflow." in page.words, path
