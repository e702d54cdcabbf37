"""What everything of one owner shares: its calls, its watch, its heartbeats."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from countermand.client.calls import Calls, Method
from countermand.client.external.heartbeats import Heartbeats
from countermand.client.external.waiting import Waiting
from countermand.rpc.channel import CHANGE_TIMEOUT_S

if TYPE_CHECKING:
    from countermand.client.external.serving import Handler

Request = TypeVar("Request")
Answer = TypeVar("Answer")


@dataclass(slots=True, kw_only=True)
class Ties:
    """The ties of one owner to one coordinator."""

    owner_id: str
    calls: Calls
    waiting: Waiting
    heartbeats: Heartbeats
    served: list[Mapping[str, Handler]] = field(default_factory=list)  # what loops here do, by kind
    leaving: bool = field(default=False)  # this process ends: what it works on, its next life does

    async def ask(self, method: Method[Request, Answer], request: Request) -> Answer:
        """Returns the answer to what is harmless to repeat; repeats it until there is one."""
        return await self.ask_anew(method, lambda: request)

    async def ask_anew(
        self, method: Method[Request, Answer], request: Callable[[], Request]
    ) -> Answer:
        """Returns the answer to a request that is made anew for each repeat."""

        def call() -> Awaitable[Answer]:
            return self.calls.unary(method, request(), timeout_s=CHANGE_TIMEOUT_S)

        return await self.calls.patiently(call)
