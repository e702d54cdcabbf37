"""The hosts that a coordinator may send tasks to: added, drained, accepted and removed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from countermand.client.calls import Calls
from countermand.client.run import PAGE_SIZE, new_request_id
from countermand.rpc import names
from countermand.rpc.channel import READ_TIMEOUT_S
from countermand.rpc.errors import HostNotFound
from countermand.v1.host_pb2 import (
    AcceptHostRequest,
    AddHostRequest,
    DrainHostRequest,
    DrainHostResponse,
    Host,
    HostEvent,
    HostServiceGetHostRequest,
    ListHostEventsRequest,
    ListHostsRequest,
    RemoveHostRequest,
)

DRAIN_POLL_S = 1.0  # tasks take minutes: who waits for the last of them does not miss a second


class Hosts:
    """Adds, lists and removes hosts; a host is named by its id or its whole name.

    Every change is asked for again while the coordinator is away: a repeat changes nothing. That
    an agent does not answer is heard of at once.
    """

    def __init__(self, calls: Calls) -> None:
        """Keeps the channel."""
        self._calls = calls

    async def add(self, host_id: str, address: str, *, unreachable_allowed: bool = False) -> Host:
        """Adds a host; the same id with the same address returns the same host."""
        request = AddHostRequest(
            host_id=host_id,
            address=address,
            unreachable_allowed=unreachable_allowed,
            request_id=new_request_id(),
        )
        return (await self._calls.change(self._calls.hosts.AddHost, request)).host

    async def list(self) -> AsyncIterator[Host]:
        """Yields the hosts in order of their ids."""
        request = ListHostsRequest(page_size=PAGE_SIZE)
        async for page in self._calls.pages(self._calls.hosts.ListHosts, request):
            for host in page.hosts:
                yield host

    async def get(self, host: str) -> Host:
        """Returns one host."""
        request = HostServiceGetHostRequest(name=_name(host))
        method = self._calls.hosts.GetHost
        return (await self._calls.unary(method, request, timeout_s=READ_TIMEOUT_S)).host

    async def drain(self, host: str, reason: str) -> DrainHostResponse:
        """Gives a host no new tasks; the answer lists what blocks the drain."""
        return await self._drain(host, reason, undrain=False)

    async def undrain(self, host: str, reason: str) -> DrainHostResponse:
        """Takes a drain back: the host gets tasks again."""
        return await self._drain(host, reason, undrain=True)

    async def _drain(self, host: str, reason: str, *, undrain: bool) -> DrainHostResponse:
        request = DrainHostRequest(
            name=_name(host), reason=reason, undrain=undrain, request_id=new_request_id()
        )
        method = self._calls.hosts.DrainHost
        return await self._calls.change(method, request)

    async def accept(self, host: str, reason: str) -> Host:
        """Accepts a quarantined host as it is now; one that is not is left as it is."""
        request = AcceptHostRequest(name=_name(host), reason=reason, request_id=new_request_id())
        return (await self._calls.change(self._calls.hosts.AcceptHost, request)).host

    async def follow_drain(self, host: str) -> AsyncIterator[Host]:
        """Yields a draining host whenever what blocks it changes, until nothing does.

        Ends early when somebody takes the drain back: its last state then says so.
        """
        known: list[str] | None = None
        while True:
            now = await self._calls.patiently(lambda: self.get(host))
            if now.blocking_tasks != known:
                known = list(now.blocking_tasks)
                yield now
            if not known:
                return
            await asyncio.sleep(DRAIN_POLL_S)

    async def remove(self, host: str, reason: str) -> None:
        """Removes a host that no open workflow names."""
        request = RemoveHostRequest(name=_name(host), reason=reason, request_id=new_request_id())
        await self._calls.removal(self._calls.hosts.RemoveHost, request, HostNotFound)

    async def events(self, host: str = "") -> AsyncIterator[HostEvent]:
        """Yields what was done to a host, or to any, by whom and why, the last first."""
        request = ListHostEventsRequest(name=_name(host) if host else "", page_size=PAGE_SIZE)
        async for page in self._calls.pages(self._calls.hosts.ListHostEvents, request):
            for event in page.events:
                yield event


def _name(host: str) -> str:
    return host if "/" in host else names.host_name(host)
