"""All hosts of a coordinator: a line to each, and the records that are kept of them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

from coordinator.agents.connection import CALL_TIMEOUT_S, Connect
from coordinator.agents.line import Ears, Line
from coordinator.runtime.ports import Chance, Clock, HostRecord, HostView, Order, Store
from coordinator.saga.events import AttemptLost
from coordinator.wire.failure import failure_from_proto
from coordinator.wire.order import name_of
from countermand.rpc.crash import Crash
from countermand.rpc.errors import CountermandError, HostNotFound, WrongCluster
from countermand.rpc.names import host_name
from countermand.v1.agent_pb2 import GetHostRequest

log = logging.getLogger(__name__)


class Fleet:
    """Delivers orders to hosts, each by its own line: a slow one delays no other."""

    def __init__(
        self,
        *,
        store: Store,
        connect: Connect,
        cluster_id: str,
        clock: Clock,
        chance: Chance,
        crash: Crash,
        ears: Ears,
    ) -> None:
        """Keeps its ports; `open` connects to the known hosts."""
        self._store = store
        self._connect = connect
        self._cluster_id = cluster_id
        self._clock = clock
        self._chance = chance
        self._crash = crash
        self._ears = ears
        self._lines: dict[str, Line] = {}
        self._running: dict[str, asyncio.Task[None]] = {}

    async def open(self) -> None:
        """Begins to connect to every known host."""
        for record in await self._store.hosts():
            self._begin(record)

    async def close(self) -> None:
        """Ends every line; what they were seeing to is in the store."""
        for task in self._running.values():
            task.cancel()
        await asyncio.gather(*self._running.values(), return_exceptions=True)

    def all(self) -> Mapping[str, HostView]:
        """Returns every host by its id."""
        return {host_id: line.view() for host_id, line in self._lines.items()}

    async def begin(self, record: HostRecord, *, wait_s: float) -> None:
        """Connects to a host, and waits for its first answer for at most so long."""
        if record.id not in self._lines:
            self._begin(record)
        await self._lines[record.id].ready(wait_s)

    def _begin(self, record: HostRecord) -> None:
        line = Line(
            record,
            connect=self._connect,
            cluster_id=self._cluster_id,
            clock=self._clock,
            chance=self._chance,
            crash=self._crash,
            ears=self._ears,
        )
        self._lines[record.id] = line
        self._running[record.id] = asyncio.create_task(line.run(), name=f"line {record.id}")

    async def end(self, host_id: str) -> None:
        """Ends the line to a host."""
        self._lines.pop(host_id, None)
        if task := self._running.pop(host_id, None):
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def probe(self, address: str) -> None:
        """Checks that an agent answers at an address and would serve this cluster.

        Raises:
            CountermandError: It does not.
        """
        connection = self._connect(address)
        try:
            answer = await connection.call("GetHost", GetHostRequest(), timeout_s=CALL_TIMEOUT_S)
        finally:
            await connection.close()
        if answer.host.cluster_id not in ("", self._cluster_id):
            raise WrongCluster(expected=answer.host.cluster_id, cluster_id=self._cluster_id)

    def placement_problem(self, host_id: str, pools: frozenset[str], verb: str) -> str | None:
        """Returns why a verb on some pools cannot run on a host, or None."""
        line = self._lines.get(host_id)
        if line is None:
            known = ", ".join(sorted(self._lines)) or "none so far"
            return f"there is no host {host_id!r}; known: {known}"
        if line.report is None:
            return None  # it has not been heard yet: its agent will say
        reached = {pool.pool_id: pool for pool in line.report.pools}
        missing = sorted(pools - set(reached) - {""})
        if missing:
            return (
                f"host {host_id!r} reaches no pool {missing[0]!r}; "
                f"it reaches: {', '.join(sorted(reached)) or 'none'}"
            )
        for pool in sorted(pools & set(reached)):
            # A pool that is only read is a source, and asks nothing of its driver but to be read.
            if not reached[pool].read_only and verb not in reached[pool].verbs:
                able = ", ".join(sorted(reached[pool].verbs)) or "nothing"
                return f"host {host_id!r} cannot {verb} in pool {pool!r}; it can: {able}"
        return None

    def deliver(self, order: Order) -> None:
        """Hands an order to its host's line."""
        command = order.command
        if line := self._lines.get(command.host):
            line.deliver(order)
            return
        # Hosts that open workflows name are not removed, so this came in between. Whatever was sent
        # before is not known here: no verdict is taken from that.
        error: CountermandError = HostNotFound(name=host_name(command.host))
        name = name_of(order.workflow, command)
        log.error("order.homeless", extra={"attempt": name, "host": command.host})
        failure = failure_from_proto(error.failure(attempt=name, host_id=command.host))
        event = AttemptLost(task=command.task, number=command.number, failure=failure)
        self._ears.event(order.workflow.id, event)
