"""A coordinator with a page, two agents, and workflows in every state, for each file of tests."""

from __future__ import annotations

from collections.abc import AsyncIterator

import aiohttp
import pytest
import pytest_asyncio

from countermand.client import Client
from tests.endtoend.cluster import Cluster, free_address, running
from tests.endtoend.conftest import lives
from tests.web import stories
from tests.web.reading import Page, Reader

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
