"""One real coordinator and two agents for each file of tests, called over gRPC.

A file that needs other hosts, or none, says so by its own HOSTS.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from countermand.client import Client
from countermand.client.external import Owner
from countermand.rpc.channel import open_channel
from tests.api.calls import Stubs
from tests.api.vendors import Vendor, vendor_at
from tests.endtoend.cluster import Cluster, running
from tests.endtoend.conftest import lives

__all__ = ["lives"]

# A copy to `crawling` takes longer than any test looks at it: it is cancelled; one to `slow` ends.
SLOW_POOLS = {"crawling": "bandwidth=64KiB", "slow": "bandwidth=512KiB"}
HOSTS = {"a": {"pool-a": ""}, "b": {"pool-b": "", **SLOW_POOLS}}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(request, lives, tmp_path_factory):
    hosts = getattr(request.module, "HOSTS", HOSTS)
    async with running(lives, tmp_path_factory.mktemp("api"), hosts) as cluster:
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


@pytest.fixture
async def client(cluster: Cluster) -> AsyncIterator[Client]:
    """Yields a client that waits for a coordinator which is away."""
    async with Client(cluster.coordinator.address) as client:
        yield client


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """Returns a word of the test's own: its workflow's id, and its owner's."""
    return str(request.node.originalname).removeprefix("test_").replace("_", "-")[:50]


@pytest.fixture
async def owner(cluster: Cluster, name: str) -> AsyncIterator[Owner]:
    async with Owner(cluster.coordinator.address, name) as owner:
        yield owner
