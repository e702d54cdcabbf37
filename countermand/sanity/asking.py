"""Asks an agent: the one place that knows the calls, and what a refusal looks like on the wire.

Every call has a deadline. A refusal is taken as it came, code and details apart: an agent that
somebody else wrote may well send the one without the other.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, cast

import grpc
from google.protobuf.message import Message

from countermand.rpc.channel import CHANGE_TIMEOUT_S, READ_TIMEOUT_S, open_channel
from countermand.rpc.errors import TABLE, Busy, FieldInvalid
from countermand.rpc.status import error_from_rpc
from countermand.sanity.promises import Broken, NotOffered
from countermand.v1 import agent_pb2
from countermand.v1.agent_pb2_grpc import AgentServiceStub
from countermand.v1.attempt_pb2 import Attempt, AttemptHeader
from countermand.v1.verb_pb2 import Action

if TYPE_CHECKING:  # only the stubs have it
    from countermand.v1.agent_pb2_grpc import AgentServiceAsyncStub

# What the contract calls reading; each other call may wait for a journal.
_READS = {"GetAttempt", "ListAttempts", "Inspect", "ListImages", "SurveyPool", "GetHost"}
# Reads content in full.
_LONG = {"Inspect": 120.0, "FenceAttempt": 60.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """An answer that is an error, as it came."""

    code: str  # the name of the gRPC code
    reason: str  # of its ErrorInfo; empty if it has none
    message: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    fields: tuple[str, ...] = ()  # named by its BadRequest
    retry_delay: timedelta | None = None

    def __str__(self) -> str:
        """Returns what a person reads."""
        named = f" naming {', '.join(self.fields)}" if self.fields else ""
        return f"{self.code} / {self.reason or '-'}{named}: {self.message}"


class Refused(Exception):
    """The agent refused a call."""

    def __init__(self, refusal: Refusal) -> None:
        """Keeps what it said."""
        self.refusal = refusal
        super().__init__(str(refusal))


class Calls:
    """The calls of one agent."""

    def __init__(self, stub: AgentServiceAsyncStub) -> None:
        """Asks through a stub."""
        self._stub = stub

    async def ask(self, call: str, request: Message, *, timeout_s: float = 0.0) -> Any:  # noqa: ANN401 - the call's own response
        """Makes one unary call.

        Raises:
            Refused: The agent answered with an error.
        """
        usual = READ_TIMEOUT_S if call in _READS else CHANGE_TIMEOUT_S
        timeout = timeout_s or _LONG.get(call, usual)
        try:
            return await getattr(self._stub, call)(request, timeout=timeout)
        except grpc.aio.AioRpcError as error:
            raise Refused(refusal_of(error)) from error

    async def verb(self, header: AttemptHeader, action: Action) -> Attempt:
        """Sends an action by the call of its verb."""
        verb = action.WhichOneof("verb") or ""
        call = call_of(verb)
        request = getattr(agent_pb2, f"{call}Request")(header=header)
        getattr(request, verb).SetInParent()
        getattr(request, verb).CopyFrom(getattr(action, verb))
        return cast("Attempt", (await self.ask(call, request)).attempt)

    @asynccontextmanager
    async def watch(self, after: int | None) -> AsyncIterator[AsyncIterator[Any]]:
        """Opens a watch; leaving ends it."""
        stream = self._stub.WatchAttempts(
            agent_pb2.WatchAttemptsRequest(after_sequence=after),
        )
        try:
            yield _messages(stream)
        finally:
            stream.cancel()

    @asynccontextmanager
    async def read(self, request: agent_pb2.ReadImageRequest) -> AsyncIterator[AsyncIterator[Any]]:
        """Opens the stream of an image's content; leaving ends it."""
        stream = self._stub.ReadImage(request, timeout=CHANGE_TIMEOUT_S)
        try:
            yield _messages(stream)
        finally:
            stream.cancel()


async def _messages(stream: Any) -> AsyncIterator[Any]:  # noqa: ANN401 - of any stream
    try:
        async for message in stream:
            yield message
    except grpc.aio.AioRpcError as error:
        raise Refused(refusal_of(error)) from error


@asynccontextmanager
async def connected(address: str) -> AsyncIterator[Calls]:
    """Yields the calls of the agent at an address."""
    async with open_channel(address) as channel:
        yield Calls(AgentServiceStub(channel))


def call_of(verb: str) -> str:
    """Returns the call that takes a verb: copy_image, CopyImage."""
    return "".join(word.capitalize() for word in verb.split("_"))


def refusal_of(error: grpc.aio.AioRpcError) -> Refusal:
    """Returns what an error says, code and details apart."""
    told = error_from_rpc(error)
    code = error.code().name
    return Refusal(
        code=code,
        reason="" if told.reason == code and told.reason not in TABLE else told.reason,
        message=error.details() or "",
        metadata=told.metadata,
        fields=tuple(v.field for v in told.violations) if isinstance(told, FieldInvalid) else (),
        retry_delay=told.retry_delay if isinstance(told, Busy) else None,
    )


# -- expecting a refusal ------------------------------------------------------------------------


async def refused(reason: str, answering: Awaitable[object], *, about: str = "") -> Refusal:
    """Returns the refusal of a call, which must be this one.

    Raises:
        Broken: It was answered, or refused for another reason, or with another code.
        NotOffered: The agent does not serve the call.
    """
    code = TABLE[reason].code.name
    expected = f"{code} / {reason}" + (f" for {about}" if about else "")
    try:
        answer = await answering
    except Refused as error:
        refusal = error.refusal
        served(refusal, unless=reason)
        if (refusal.code, refusal.reason) != (code, reason):
            raise Broken(expected=expected, seen=str(refusal)) from None
        return refusal
    raise Broken(expected=expected, seen=f"it was taken: {' '.join(str(answer).split())[:200]}")


def served(refusal: Refusal, *, unless: str = "") -> None:
    """Returns if a refusal is not about the call as a whole.

    Raises:
        NotOffered: It is.
    """
    whole = refusal.reason in {"CALL_UNSUPPORTED", ""} and refusal.code == "UNIMPLEMENTED"
    if whole and unless != "CALL_UNSUPPORTED":
        raise NotOffered(f"the agent does not serve this call: {refusal.message}")
