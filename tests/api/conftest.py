"""One real coordinator and two agents for each file of tests, called over gRPC."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from countermand.rpc.channel import open_channel
from tests.api.calls import Stubs
from tests.api.vendors import Vendor, vendor_at
from tests.endtoend.cluster import Cluster, running
from tests.endtoend.conftest import lives

__all__ = ["lives"]

HOSTS = {"a": {"pool-a": ""}, "b": {"pool-b": "", "crawling": "bandwidth=512KiB"}}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(lives, tmp_path_factory):
    async with running(lives, tmp_path_factory.mktemp("api"), HOSTS) as cluster:
        yield cluster


@pytest.fixture
async def stubs(cluster):
    async with open_channel(cluster.coordinator.address) as channel:
        yield Stubs(channel)


@pytest.fixture
async def acme(cluster: Cluster) -> AsyncIterator[Vendor]:
    async with vendor_at(cluster.coordinator.address, "acme") as vendor:
        yield vendor


@pytest.fixture
async def other(cluster: Cluster) -> AsyncIterator[Vendor]:
    async with vendor_at(cluster.coordinator.address, "other") as vendor:
        yield vendor
