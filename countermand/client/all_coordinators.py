"""The coordinators that share a store, as any of them tells."""

from __future__ import annotations

from collections.abc import AsyncIterator

from countermand.client.calls import Calls
from countermand.client.run import PAGE_SIZE
from countermand.v1.coordinator_pb2 import Coordinator, ListCoordinatorsRequest


class AllCoordinators:
    """Lists coordinators, also those that this client was not told of."""

    def __init__(self, calls: Calls) -> None:
        """Keeps the channel."""
        self._calls = calls

    async def list(self) -> AsyncIterator[Coordinator]:
        """Yields all of them, the oldest first."""
        request = ListCoordinatorsRequest(page_size=PAGE_SIZE)
        async for page in self._calls.pages(self._calls.coordinators.ListCoordinators, request):
            for coordinator in page.coordinators:
                yield coordinator
