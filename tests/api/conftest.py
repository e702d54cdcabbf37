"""One real coordinator and two agents for each file of tests, called over gRPC."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import pytest_asyncio

from countermand.rpc.channel import open_channel
from tests.api.calls import Stubs
from tests.endtoend.cluster import Cluster
from tests.endtoend.lives import Lives

HOSTS = {"a": {"pool-a": ""}, "b": {"pool-b": "", "crawling": "bandwidth=512KiB"}}


@pytest.fixture(scope="session")
def lives() -> Iterator[Lives]:
    with Lives() as lives:
        yield lives


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(lives, tmp_path_factory):
    cluster = Cluster(lives, tmp_path_factory.mktemp("api"), HOSTS)
    await cluster.add_template("base")
    await cluster.start()
    yield cluster
    await cluster.end()


@pytest.fixture
async def stubs(cluster):
    async with open_channel(cluster.coordinator.address) as channel:
        yield Stubs(channel)
