"""Fixtures of the tests on real processes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from countermand.client import Client
from tests.endtoend.cluster import Cluster
from tests.endtoend.lives import Lives


@pytest.fixture(scope="session")
def lives() -> Iterator[Lives]:
    """Yields what starts processes; all are gone afterwards."""
    with Lives() as lives:
        yield lives


@pytest.fixture
async def client(cluster: Cluster) -> AsyncIterator[Client]:
    """Yields a client of a file's cluster, that reports an error rather than asking again."""
    async with cluster.client() as client:
        yield client
