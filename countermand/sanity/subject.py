"""The agent that is checked: what it says of itself, and what the command was told about it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from countermand.sanity.asking import Calls
from countermand.sanity.promises import NotOffered
from countermand.v1.agent_pb2 import ForgetRequest, GetHostRequest, HostReport
from countermand.v1.image_pb2 import ImageAddress, Pool


@dataclass(slots=True, kw_only=True)
class Subject:
    """The agent that is checked, and what the command was told about it."""

    calls: Calls
    address: str
    host: HostReport
    cluster_id: str
    run: str  # a part of every name that this run makes
    intent: int  # the last intent's number; the next is higher
    pools: tuple[str, ...]
    verbs: tuple[str, ...] = ()  # only these; empty: all that are offered
    source: ImageAddress | None = None  # an image that holds data
    patience_s: float = 60.0
    restart: Callable[[], Awaitable[None]] | None = None
    other: Subject | None = None  # the agent of another host that reaches the same storage
    workflows: list[str] = field(default_factory=list)

    @property
    def open_max(self) -> int:
        """Returns how many attempts may be open at once: a further one is refused for the time."""
        return self.host.attempts_max + self.host.queue_max

    def next_intent(self) -> int:
        """Returns the number of a new intent."""
        self.intent += 1
        return self.intent

    def pool(self, pool_id: str) -> Pool:
        """Returns a pool as the agent describes it.

        Raises:
            NotOffered: It does not.
        """
        for pool in self.host.pools:
            if pool.pool_id == pool_id:
                return pool
        raise NotOffered(f"the agent reports no pool {pool_id}")

    def offers(self, verb: str, pool: Pool) -> bool:
        """Returns whether a verb is offered in a pool, and wanted by the command."""
        return verb in pool.verbs and (not self.verbs or verb in self.verbs)

    async def look(self) -> HostReport:
        """Asks the agent to describe itself anew."""
        self.host = (await self.calls.ask("GetHost", GetHostRequest())).host
        return self.host

    async def forget(self) -> None:
        """Allows the agent to drop what this run has left in its journal."""
        request = ForgetRequest(cluster_id=self.cluster_id, workflows=self.workflows)
        await self.calls.ask("Forget", request)
