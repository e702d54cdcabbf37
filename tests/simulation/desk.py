"""How engines and operators call the coordinator: over a network that loses and repeats.

A caller asks again, under the same request id, until it is answered. The desk keeps both ends of
each request: what the services did with it, each time that it reached them, and what the caller was
told in the end.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from google.protobuf.message import Message

from countermand.rpc.errors import Busy, CountermandError, HostUnreachable, StoreUnavailable
from tests.simulation.network import Network
from tests.simulation.nodes import CoordinatorNode

RETRY_S = 1.0
CALL_TIMEOUT_S = 10.0

DONE, REFUSED, IN_DOUBT = "done", "refused", "in doubt"


@dataclass(slots=True)
class Desk:
    """Carries calls to the coordinator."""

    network: Network
    coordinator: CoordinatorNode
    note: Callable[[str], None]
    check: Callable[[], None]  # raises what was found wrong anywhere
    served: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    told: set[str] = field(default_factory=set)  # requests that were answered as done
    etags: dict[str, str] = field(default_factory=dict)  # what the asker had seen
    unrecorded: set[str] = field(default_factory=set)  # those among them that no history tells of

    async def ask(self, rpc: str, request: Message) -> Any:
        """Returns the answer to a call, however often it takes; raises what it was refused for."""
        while True:
            self.check()
            try:
                answer = await self.network.call(
                    self.coordinator,
                    lambda: self._serve(rpc, request),
                    "coordinator",
                    CALL_TIMEOUT_S,
                )
            except (HostUnreachable, Busy, StoreUnavailable) as error:
                self.note(f"{rpc}: {error.reason}")
                await asyncio.sleep(RETRY_S)
            else:
                if request_id := getattr(request, "request_id", ""):
                    self.told.add(request_id)
                return answer

    async def _serve(self, rpc: str, request: Message) -> Any:
        """Calls a service in the coordinator's process, and keeps what it did."""
        service = self.coordinator.services.get(rpc)
        if service is None:
            raise HostUnreachable(address="coordinator")
        outcome = IN_DOUBT
        context = SimpleNamespace(invocation_metadata=lambda: ())
        copy = type(request).FromString(request.SerializeToString())
        try:
            answer = await service(copy, context)
            outcome = DONE
        except CountermandError as error:
            outcome = IN_DOUBT if error.retriable and error.reason != "CONFLICT" else REFUSED
            raise
        finally:
            if request_id := getattr(request, "request_id", ""):
                self.served[request_id].add(outcome)
                self.etags[request_id] = getattr(request, "etag", "")
                if rpc in ("DrainHost", "AcceptHost") or getattr(request, "validate_only", False):
                    self.unrecorded.add(request_id)
        return answer
