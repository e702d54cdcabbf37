"""A coordinator with a page, two agents, and workflows in every state, for each file of tests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import aiohttp
import pytest
import pytest_asyncio

from countermand.client import Client
from tests.endtoend.cluster import Cluster, free_address, running
from tests.endtoend.conftest import lives
from tests.web import stories
from tests.web.reading import Page, Reader

if TYPE_CHECKING:
    from playwright.async_api import Browser
    from playwright.async_api import Page as Tab

__all__ = ["lives"]

SHAPE = {"size_mib": 24, "extents": 12}  # about two megabytes: more than the smallest pool takes


@pytest.fixture(scope="module")
def web() -> str:
    """Returns the page's address, the same in all lives of a coordinator."""
    return free_address()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(lives, tmp_path_factory, web: str) -> AsyncIterator[Cluster]:
    folder = tmp_path_factory.mktemp("web")
    trace_url = "http://127.0.0.1:16686/trace/{trace_id}"
    options = {"coordinator": ("--web", web, "--trace-url", trace_url)}
    async with running(lives, folder, stories.HOSTS, base=SHAPE, options=options) as cluster:
        async with Client(cluster.coordinator.address) as client:
            await stories.tell(client)
        yield cluster


@pytest.fixture
async def client(cluster: Cluster) -> AsyncIterator[Client]:
    async with Client(cluster.coordinator.address) as client:
        yield client


@pytest.fixture
async def reader(cluster: Cluster, web: str) -> AsyncIterator[Reader]:
    """Yields what reads pages as text."""
    async with aiohttp.ClientSession(f"http://{web}") as session:
        yield Reader(session)


@pytest.fixture
def page() -> type[Page]:
    return Page


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    """Yields a real browser; what drives it is loaded where one is used."""
    from playwright.async_api import async_playwright

    from tests.web.browsing import CHROMIUM, FLAGS

    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield browser
        await browser.close()


@pytest.fixture
async def tab(browser: Browser, cluster: Cluster, web: str) -> AsyncIterator[Tab]:
    """Yields a tab in which no script may fail, and nothing may be refused."""
    from tests.web.browsing import complaints

    context = await browser.new_context(base_url=f"http://{web}")
    page = await context.new_page()
    wrong = complaints(page)
    yield page
    await context.close()
    assert wrong == []
