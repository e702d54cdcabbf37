"""How engines, operators and owners call coordinators: over a network that loses and repeats.

A caller asks again, under the same request id, until it is answered. The desk keeps both ends of
each request: what the services did with it, each time that it reached them, and what the caller was
told in the end.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from google.protobuf.message import Message

from countermand.rpc.errors import (
    Busy,
    CountermandError,
    HostUnreachable,
    OwnerUnavailable,
    RecoveryRequired,
    StoreUnavailable,
)
from tests.simulation.network import Network
from tests.simulation.nodes import CoordinatorNode

RETRY_S = 1.0
CALL_TIMEOUT_S = 10.0

# What somebody else may get an answer to, or the same one later.
_AWAY = (HostUnreachable, Busy, StoreUnavailable, OwnerUnavailable, RecoveryRequired)

DONE, REFUSED, IN_DOUBT = "done", "refused", "in doubt"


@dataclass(slots=True)
class Desk:
    """Carries calls to the coordinator."""

    network: Network
    choose: Callable[[], CoordinatorNode]  # whom to call now
    note: Callable[[str], None]
    check: Callable[[], None]  # raises what was found wrong anywhere
    served: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    told: set[str] = field(default_factory=set)  # requests that were answered as done
    etags: dict[str, str] = field(default_factory=dict)  # what the asker had seen
    unrecorded: set[str] = field(default_factory=set)  # those among them that no history tells of
    # Hears of each call that was served: what was asked, what was answered, and when it arrived.
    listener: Callable[[str, Message, Any, float], None] = lambda *_: None

    async def ask(self, rpc: str, request: Message, *, at: str = "coordinator") -> Any:
        """Returns the answer to a call, however often it takes; raises what it was refused for.

        `at` is where the network may be cut: the coordinator's side, or that of who asks.
        """
        while True:
            self.check()
            try:
                answer = await self.once(rpc, request, at=at)
            except _AWAY as error:
                self.note(f"{rpc}: {error.reason}")
                await asyncio.sleep(RETRY_S)
            else:
                if request_id := _id_of(request):
                    self.told.add(request_id)
                return answer

    async def once(self, rpc: str, request: Message, *, at: str) -> Any:
        """Returns the answer to a call; raises also when there is none."""
        node = self.choose()
        return await self.network.call(
            node, lambda: self._serve(node, rpc, request), at, CALL_TIMEOUT_S
        )

    async def watch(self, rpc: str, request: Message, *, at: str) -> AsyncIterator[Any]:
        """Yields what the coordinator streams, until that breaks; raises CountermandError then."""
        node = self.choose()
        service = node.services.get(rpc)
        if service is None:
            raise HostUnreachable(address="coordinator")
        async for message in self.network.stream(node, service(request, None), at):
            yield message

    async def _serve(self, node: CoordinatorNode, rpc: str, request: Message) -> Any:
        """Calls a service in a coordinator's process, and keeps what it did."""
        service = node.services.get(rpc)
        if service is None:
            raise HostUnreachable(address="coordinator")
        outcome, begin_s = IN_DOUBT, asyncio.get_running_loop().time()
        context = SimpleNamespace(
            invocation_metadata=lambda: (),
            time_remaining=lambda: begin_s + CALL_TIMEOUT_S - asyncio.get_running_loop().time(),
        )
        copy = type(request).FromString(request.SerializeToString())
        try:
            answer = await service(copy, context)
            outcome = DONE
            self.listener(rpc, copy, answer, begin_s)
        except CountermandError as error:
            outcome = IN_DOUBT if error.retriable and error.reason != "CONFLICT" else REFUSED
            raise
        finally:
            if request_id := _id_of(request):
                self.served[request_id].add(outcome)
                self.etags[request_id] = getattr(request, "etag", "")
                if rpc in _UNRECORDED or getattr(request, "validate_only", False):
                    self.unrecorded.add(request_id)
        return answer


# Of these the history does not tell by their ids.
_UNRECORDED = frozenset({"DrainHost", "AcceptHost", "AddExternalTask", "EndExternalTask"})


def _id_of(request: Message) -> str:
    """Returns the id under which a request, or a report, is remembered."""
    return str(getattr(request, "request_id", "") or getattr(request, "report_id", ""))
