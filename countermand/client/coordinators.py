"""Several coordinators behind what generated stubs take for one channel: calls go round.

There is a channel for each address. gRPC's own targets with several addresses, "ipv4:a,b", know no
host names, cannot mix the two kinds of IP, and have one authority for all of them, so that TLS
would look for the same name in every certificate. What gRPC does well is left to it: each channel
finds out by itself whether its coordinator is there and serves (see `open_channel_of_several`), and
a name with several addresses is one channel that goes round below. Here is only who is next.

Whoever does not answer is passed over for a while: gRPC needs up to 15 s to notice that a peer
hangs. Nothing is repeated here; `countermand.client.patience` decides that.
"""

from __future__ import annotations

import asyncio
import math
import random
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, Self

from grpc import ChannelConnectivity, StatusCode
from grpc.aio import AioRpcError, Channel, Metadata

from countermand.rpc.addresses import AddressInvalid, addresses, is_name
from countermand.rpc.channel import KEEPALIVE_TIME_S, KEEPALIVE_TIMEOUT_S
from countermand.rpc.errors import FieldInvalid, Violation

# Who has not answered by then is given up while another can be asked: it may hang. Whoever is only
# slow has taken the same request twice, which is harmless. A watch says at once how far it is.
TRY_S_MAX = 5.0
# One that hangs is known to gRPC after this long, if it goes on hanging; else it is asked again.
PASSED_OVER_S = KEEPALIVE_TIME_S + KEEPALIVE_TIMEOUT_S
# One that has said UNAVAILABLE, or has cancelled what it was asked, is about to end, or to lose its
# connection, which shows soon.
PASSED_OVER_AFTER_ANSWER_S = 1.0
# A call that waits for nothing to become of it still has to say so.
CALL_S_MIN = 0.001

_TO_COME = (ChannelConnectivity.IDLE, ChannelConnectivity.CONNECTING)
# What gRPC says of a connection: the last that went wrong, without the address, which is told.
_LAST_ERROR = re.compile(r".*last error: (?:UNKNOWN: )?(?:\w+:\S+:\d+: )?", re.DOTALL)
_SAID = (
    ("Connection refused", "refuses connections"),
    ("SETTINGS frame", "takes connections and says nothing"),
    ("keepalive", "says nothing any more"),
    ("backend unhealthy", "does not serve at the moment"),
    ("lookup", "the name is not known"),
)

NOTHING: Final = Metadata()


class Call(Protocol):
    """A stream that a coordinator answers with."""

    def __aiter__(self) -> AsyncIterator[Any]:
        """Returns the messages."""
        ...

    def cancel(self) -> bool:
        """Ends it."""
        ...


Make = Callable[[Channel], Callable[..., Any]]


def addresses_of(given: str | Sequence[str]) -> tuple[str, ...]:
    """Returns where coordinators are said to listen.

    Raises:
        FieldInvalid: There is none, or something else among them.
    """
    try:
        return addresses(given)
    except AddressInvalid as error:
        raise FieldInvalid(Violation("address", str(error))) from None


def in_words(raised: AioRpcError) -> str:
    """Returns why a coordinator did not answer, without its address."""
    said = _LAST_ERROR.sub("", raised.details() or raised.code().name)
    return next((words for sign, words in _SAID if sign in said), said)


class Coordinator:
    """One address, and how it does."""

    def __init__(self, address: str, channel: Channel) -> None:
        """Has not connected yet."""
        self.address = address
        self.channel = channel
        self.state = ChannelConnectivity.IDLE
        self.failed_at = 0.0
        self.passed_over_until = 0.0

    @property
    def count(self) -> int:
        """Returns how many there may be to ask, one after another: a name may stand for several."""
        return 2 if is_name(self.address) else 1

    def has_failed(self, raised: AioRpcError, now: float) -> None:
        """Notes that it did not answer, and who has not."""
        raised.asked_at = self.address  # type: ignore[attr-defined]  # for whoever tells it
        if raised.code() is StatusCode.DEADLINE_EXCEEDED:
            self.failed_at, self.passed_over_until = now, now + PASSED_OVER_S
        elif raised.code() in {StatusCode.UNAVAILABLE, StatusCode.CANCELLED}:
            self.failed_at, self.passed_over_until = now, now + PASSED_OVER_AFTER_ANSWER_S


class Coordinators:
    """What stubs take for a channel: each call goes to the next coordinator that answers."""

    def __init__(self, coordinators: Sequence[Coordinator], randomness: random.Random) -> None:
        """Connects to all of them at the first call."""
        self._all = tuple(coordinators)
        # A thousand clients must not all begin with the first.
        self._next = randomness.randrange(len(self._all))
        self._changed = asyncio.Event()
        self._following: list[asyncio.Task[None]] = []

    @property
    def others(self) -> int:
        """Returns how many can be asked after one has failed."""
        return sum(each.count for each in self._all) - 1

    def try_s(self, left_s: float) -> float:
        """Returns how long the next may take, if another could be asked within what is left."""
        has_others = sum(each.count for each in self._answering()) > 1
        return min(left_s / 2, TRY_S_MAX) if has_others else left_s

    async def close(self, grace: float | None = None) -> None:
        """Closes every channel."""
        for task in self._following:
            task.cancel()
        await asyncio.gather(*self._following, return_exceptions=True)
        await asyncio.gather(*(each.channel.close(grace) for each in self._all))

    # -- what stubs ask for: no call of the client sends a stream ----------------------------------

    def unary_unary(self, method: str, **how: Any) -> Callable[..., Any]:  # noqa: ANN401 - handed on
        """Returns what makes calls with one answer."""
        made = _Made(lambda channel: channel.unary_unary(method, **how))

        async def call(
            request: object,
            *,
            timeout: float | None = None,
            metadata: Sequence[tuple[str, str]] = (),
        ) -> object:
            give_up_at = None if timeout is None else _now() + timeout
            chosen = await self._choose(give_up_at)
            left_s = None if give_up_at is None else max(give_up_at - _now(), CALL_S_MIN)
            try:
                answer = await made.at(chosen)(request, timeout=left_s, metadata=metadata)
            except AioRpcError as raised:
                chosen.has_failed(raised, _now())
                raise
            chosen.passed_over_until = 0.0
            return answer

        return call

    def unary_stream(self, method: str, **how: Any) -> Callable[..., Any]:  # noqa: ANN401 - as above
        """Returns what makes calls with a stream of answers."""
        made = _Made(lambda channel: channel.unary_stream(method, **how))
        is_watch = method.rpartition("/")[2].startswith("Watch")

        def call(request: object, **options: Any) -> _Stream:  # noqa: ANN401 - as above
            async def begun() -> _Begun:
                chosen = await self._choose(None)
                first_s = self.try_s(math.inf) if is_watch else math.inf
                stream = made.at(chosen)(request, **options)
                return _Begun(chosen, stream, aiter(stream), first_s)

            return _Stream(begun)

        return call

    # -- whom to ask ------------------------------------------------------------------------------

    async def _choose(self, give_up_at: float | None) -> Coordinator:
        """Returns who is next; waits while nobody answers yet and some may."""
        self._follow()
        try:
            async with asyncio.timeout_at(give_up_at):
                while not any(self._answering()) and any(e.state in _TO_COME for e in self._all):
                    await self._changed.wait()
        except TimeoutError:
            pass  # the call itself says so
        ready = [each for each in self._all if each.state is ChannelConnectivity.READY]
        # Nobody, or only such as have just failed: who did so longest ago.
        fallback = min(ready or self._all, key=lambda each: each.failed_at)
        chosen = next(self._answering(), fallback)
        self._next = (self._all.index(chosen) + 1) % len(self._all)
        return chosen

    def _answering(self) -> Iterator[Coordinator]:
        """Yields those that may be asked, the next one first."""
        now = _now()
        for each in (*self._all[self._next :], *self._all[: self._next]):
            if each.state is ChannelConnectivity.READY and each.passed_over_until <= now:
                yield each

    def _follow(self) -> None:
        if not self._following:
            self._following = [asyncio.create_task(self._follow_one(each)) for each in self._all]

    async def _follow_one(self, one: Coordinator) -> None:
        """Keeps an eye on a connection, and has it made."""
        while one.state is not ChannelConnectivity.SHUTDOWN:
            one.state = one.channel.get_state(try_to_connect=True)
            self._changed.set()
            self._changed = asyncio.Event()
            await one.channel.wait_for_state_change(one.state)


class _Made:
    """What makes calls of one method, made for a coordinator when it is first asked."""

    def __init__(self, make: Make) -> None:
        self._make = make
        self._made: dict[Coordinator, Callable[..., Any]] = {}

    def at(self, coordinator: Coordinator) -> Callable[..., Any]:
        if coordinator not in self._made:
            self._made[coordinator] = self._make(coordinator.channel)
        return self._made[coordinator]


@dataclass(frozen=True, slots=True)
class _Begun:
    """A stream that was asked for."""

    at: Coordinator
    call: Call
    answers: AsyncIterator[Any]
    first_s: float  # how long the first answer may take


class _Stream:
    """A stream of answers, of whoever is next when the first is asked for."""

    def __init__(self, begin: Callable[[], Awaitable[_Begun]]) -> None:
        self._begin = begin
        self._begun: _Begun | None = None

    def cancel(self) -> bool:
        return self._begun is not None and self._begun.call.cancel()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> object:
        begun, limit_s = self._begun, math.inf
        if begun is None:
            self._begun = begun = await self._begin()
            limit_s = begun.first_s
        try:
            answer = await _in_time(anext(begun.answers), limit_s)
        except AioRpcError as raised:
            begun.at.has_failed(raised, _now())
            raise
        begun.at.passed_over_until = 0.0
        return answer


async def _in_time(answer: Awaitable[object], limit_s: float) -> object:
    """Returns an answer of a stream, or raises what gRPC does when time is over."""
    if limit_s == math.inf:
        return await answer
    try:
        async with asyncio.timeout(limit_s):
            return await answer
    except TimeoutError:
        raise AioRpcError(StatusCode.DEADLINE_EXCEEDED, NOTHING, NOTHING) from None


def _now() -> float:
    return asyncio.get_running_loop().time()
