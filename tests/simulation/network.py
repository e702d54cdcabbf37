"""The network of the simulated cluster: it delays, drops, repeats, and is cut.

A call is lost on its way there or back, and the caller hears of it by its deadline only; a request
may arrive again much later, when nobody waits for it any more.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, Protocol, TypeVar

from google.protobuf.message import Message

from countermand.rpc.errors import Bug, CountermandError, HostUnreachable
from countermand.v1.agent_pb2 import WatchAttemptsRequest, WatchAttemptsResponse
from tests.simulation.nodes import AgentNode, Died, Node, node_of

M = TypeVar("M", bound=Message)
Life = tuple[str, int]  # of a process: its name, and which of its lives it is

LATE_S = 90.0  # how much later a repeated request may arrive


class Weather(Protocol):
    """How the network is today."""

    def delay_s(self) -> float:
        """Returns how long a message takes."""

    def lost(self, host: str) -> bool:
        """Returns whether a message to or from a host is lost."""

    def found_again(self) -> bool:
        """Returns whether a lost request arrives after all, when nobody waits for it any more."""

    def repeated(self) -> bool:
        """Returns whether a request arrives a second time."""

    def late_s(self) -> float:
        """Returns how much later."""

    def sent(self, host: str, rpc: str, request: Message) -> None:
        """Hears of every request that leaves a coordinator."""

    def taken(self, host: str, rpc: str, request: Message, sender: Life | None) -> None:
        """Hears of every request that an agent did not refuse."""


class _Deadline(HostUnreachable):
    """No answer from {address} in time."""


class Network:
    """Carries calls between nodes."""

    def __init__(self, weather: Weather, agents: Callable[[str], AgentNode]) -> None:
        """Finds agents by their address."""
        self.weather = weather
        self._agents = agents
        self._tasks: dict[asyncio.Task[Any], None] = {}

    def connect(self, address: str, *, way: str = "") -> Line:
        """Returns a connection to an agent, by a way of its own if it has one."""
        return Line(self, address, way or address)

    async def call(self, node: Node, method: Callable[[], Any], host: str, timeout_s: float) -> Any:
        """Carries one call to a node and its answer back; raises CountermandError."""
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._carry(self._transmit(node, method, host, answer))
        if self.weather.repeated():
            self._carry(self._repeat(node, method, host))
        try:
            async with asyncio.timeout(timeout_s):
                return await answer
        except TimeoutError:
            raise _Deadline(address=host) from None

    async def stream(self, node: Node, stream: AsyncIterator[M], host: str) -> AsyncIterator[M]:
        """Yields what a node streams, until that breaks; raises CountermandError then."""
        if self.weather.lost(host):
            raise HostUnreachable(address=host)
        messages: asyncio.Queue[M | None] = asyncio.Queue()

        async def pump() -> None:
            async for message in stream:
                messages.put_nowait(type(message).FromString(message.SerializeToString()))

        task = node.spawn(pump())
        task.add_done_callback(lambda _: messages.put_nowait(None))
        try:
            while (message := await messages.get()) is not None:
                await asyncio.sleep(self.weather.delay_s())
                if self.weather.lost(host):
                    break  # TCP would say it again, or break: here it breaks
                yield message
        finally:
            task.cancel()
        if task.done() and not task.cancelled() and isinstance(task.exception(), CountermandError):
            raise task.exception()  # type: ignore[misc]  # it is one
        raise HostUnreachable(address=host)

    def _carry(self, coroutine: Coroutine[Any, Any, None]) -> None:
        import contextvars

        # What is on the wire belongs to no process: it goes on when either end dies.
        context = contextvars.Context()
        task = asyncio.get_running_loop().create_task(coroutine, context=context)
        self._tasks[task] = None
        task.add_done_callback(lambda done: self._tasks.pop(done, None))

    async def _transmit(
        self, node: Node, method: Callable[[], Any], host: str, answer: asyncio.Future[Any]
    ) -> None:
        life = _connections(node)
        await asyncio.sleep(self.weather.delay_s())
        if life != _connections(node):
            return
        if self.weather.lost(host):
            if self.weather.found_again():  # not lost, only very late
                self._carry(self._repeat(node, method, host))
            return
        result: object
        try:
            result = await _served(node, method)
        except CountermandError as error:
            result = error
        await asyncio.sleep(self.weather.delay_s())
        if self.weather.lost(host) or answer.done():
            return
        if isinstance(result, CountermandError):
            answer.set_exception(result)
        else:
            answer.set_result(result)

    async def _repeat(self, node: Node, method: Callable[[], Any], host: str) -> None:
        life = _connections(node)
        await asyncio.sleep(self.weather.late_s())
        if not self.weather.lost(host) and life == _connections(node):
            try:
                await _served(node, method)
            except CountermandError:
                return  # refused, and nobody is told


def _connections(node: Node) -> int:
    """Returns a number that changes when what is under way to a node cannot arrive any more.

    A process of which an old journal was put back was stopped for it, and with it its connections:
    nothing but these tells that journal from the one that had come further.
    """
    return node.restored if isinstance(node, AgentNode) else 0


async def _served(node: Node, method: Callable[[], Any]) -> Any:
    """Runs a call in its node's process; a dead one refuses the connection."""
    if not node.alive:
        raise HostUnreachable(address=node.name)
    task = node.spawn(_run(method))
    await asyncio.wait({task})
    if task.cancelled():
        raise HostUnreachable(address=node.name)
    error = task.exception()
    if error is None:
        return task.result()
    if isinstance(error, CountermandError):
        raise error
    if isinstance(error, Died):
        raise HostUnreachable(address=node.name)
    raise Bug(what=repr(error)) from error


async def _run(method: Callable[[], Any]) -> Any:
    return await method()


class Line:
    """A coordinator's connection to one agent."""

    def __init__(self, network: Network, address: str, way: str) -> None:
        self._network = network
        self._address = address
        self._way = way  # where it may be cut

    async def call(
        self, rpc: str, request: Message, *, timeout_s: float, traceparent: str = ""
    ) -> Any:
        """Returns the response of one unary call."""
        self._network.weather.sent(self._address, rpc, request)
        agent = self._network._agents(self._address)
        payload = request.SerializeToString()
        node = node_of()
        sender = (node.name, node.life) if node else None

        async def method() -> Any:
            if agent.service is None:  # it has not come up yet
                raise HostUnreachable(address=self._address)
            answer = await getattr(agent.service, rpc)(type(request).FromString(payload), None)
            self._network.weather.taken(self._address, rpc, request, sender)
            return answer

        return await self._network.call(agent, method, self._way, timeout_s)

    async def watch(self, request: WatchAttemptsRequest) -> AsyncIterator[WatchAttemptsResponse]:
        """Yields what the agent streams, until the stream breaks."""
        agent = self._network._agents(self._address)
        if agent.service is None:
            raise HostUnreachable(address=self._address)
        stream = agent.service.WatchAttempts(request, None)
        async for message in self._network.stream(agent, stream, self._way):
            yield message

    async def close(self) -> None:
        """Has nothing to close."""
