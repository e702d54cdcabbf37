"""A service that is told to stop, at whatever moment, stops in good order."""

from __future__ import annotations

import pytest

from tests.endtoend.cluster import Cluster

pytestmark = pytest.mark.slow

TIMES = 5


@pytest.mark.parametrize("name", ["coordinator", "a"])
async def test_a_service_stops_the_moment_it_is_ready(lives, tmp_path, name):
    """Whoever waits for its line may stop it at once: `Service.stop` checks how it ended."""
    cluster = Cluster(lives, tmp_path, {"a": {"pool-a": ""}})
    service = {**cluster.agents, "coordinator": cluster.coordinator}[name]
    for _ in range(TIMES):
        await service.start()
        await service.stop()
