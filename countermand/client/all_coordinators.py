"""The coordinators that share a store, as any of them tells."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial

from grpc import StatusCode

from countermand.client.calls import Calls
from countermand.client.run import PAGE_SIZE
from countermand.rpc.channel import CHANGE_TIMEOUT_S, READ_TIMEOUT_S
from countermand.rpc.errors import CountermandError
from countermand.v1.coordinator_pb2 import (
    ConfirmRecoveryRequest,
    ConfirmRecoveryResponse,
    Coordinator,
    ListCoordinatorsRequest,
    Recovery,
)

_NO_ANSWER = (StatusCode.UNAVAILABLE, StatusCode.DEADLINE_EXCEEDED)


class AllCoordinators:
    """Lists coordinators, also those that this client was not told of, and has them go on."""

    def __init__(self, calls: Calls) -> None:
        """Keeps the channel."""
        self._calls = calls

    async def list(self) -> AsyncIterator[Coordinator]:
        """Yields all of them, the oldest first."""
        request = ListCoordinatorsRequest(page_size=PAGE_SIZE)
        async for page in self._calls.pages(self._calls.coordinators.ListCoordinators, request):
            for coordinator in page.coordinators:
                yield coordinator

    async def recovery(self) -> Recovery | None:
        """Returns why nothing is decided until somebody has looked; None if all is well."""
        method, request = self._calls.coordinators.ListCoordinators, ListCoordinatorsRequest()
        answer = await self._calls.unary(method, request, timeout_s=READ_TIMEOUT_S)
        return answer.recovery if answer.HasField("recovery") else None

    async def recover(self, reason: str) -> ConfirmRecoveryResponse:
        """Has coordinators go on with a database that went back in time.

        What is open in it is paused, with its compensations. It ends what each coordinator has
        begun, also of the one that answers: where the answer is lost so, its numbers are 0. One
        that begins anew, since it has just heard of it, is asked again.
        """
        return await self._calls.patiently(partial(self._recover, reason))

    async def _recover(self, reason: str) -> ConfirmRecoveryResponse:
        method = self._calls.coordinators.ConfirmRecovery
        request = ConfirmRecoveryRequest(reason=reason)
        try:
            return await self._calls.once(method, request, timeout_s=CHANGE_TIMEOUT_S)
        except CountermandError as error:
            is_done = error.code in _NO_ANSWER and await self._is_done()
            if not is_done:
                raise
        return ConfirmRecoveryResponse()

    async def _is_done(self) -> bool:
        return await self._calls.patiently(self.recovery) is None
