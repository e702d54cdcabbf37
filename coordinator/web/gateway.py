"""The contract as JSON over HTTP, in the unary form that Connect speaks: for whoever has no gRPC.

    POST /countermand.v1.WorkflowService/GetWorkflow   {"name": "workflows/vm-42"}

Each request goes through the coordinator's own gRPC port: every check there applies, and an error
comes back with the details that it has there. Streams are gRPC's. No page of another site can send
any of this: neither content type is one that a browser sends unasked, and nobody is told yes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from types import ModuleType
from typing import Any, Final

from google.protobuf import json_format, message_factory
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import DecodeError, Message
from google.rpc.status_pb2 import Status
from grpc import StatusCode
from grpc.aio import AioRpcError
from grpc_status import rpc_status
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from coordinator.web import connect
from coordinator.web.connect import JSON, PACKAGE
from coordinator.web.forms import guarding
from coordinator.web.site import Site
from countermand.rpc.channel import REQUEST_BYTES_MAX, WAIT_SLACK_S
from countermand.rpc.errors import Busy
from countermand.rpc.json_form import UnreadableError, read
from countermand.rpc.status import status_from_error
from countermand.rpc.telemetry import parse_traceparent
from countermand.v1 import (
    coordinator_pb2,
    doctor_pb2,
    external_task_pb2,
    host_pb2,
    webhook_pb2,
    workflow_pb2,
)

MODULES: Final[Sequence[ModuleType]] = (
    workflow_pb2,
    host_pb2,
    external_task_pb2,
    webhook_pb2,
    doctor_pb2,
    coordinator_pb2,
)
PROTO: Final = "application/proto"
STREAMED: Final[Mapping[str, str]] = {
    "application/connect+json": "application/connect+json",
    "application/connect+proto": "application/connect+proto",
}
# Of JSON, which says the same in more bytes. As text, it is what costs most in all of a request:
# half a second for the worst of this size.
BODY_BYTES_MAX: Final = 512 * 1024
SMALL_BYTES: Final = 4096  # read sooner than a thread is begun
TIMEOUT_S_MAX: Final = 60.0 + WAIT_SLACK_S  # as WaitWorkflow takes at most
DIGITS_MAX: Final = 10  # of a timeout, as Connect has it
TRACESTATE_CHARACTERS_MAX: Final = 512
BUSY: Final = Busy(retry_delay=timedelta(seconds=1))


class WrongError(Exception):
    """A request that is answered before anybody is asked."""

    def __init__(self, code: StatusCode, said: str) -> None:
        """Keeps what to say."""
        super().__init__(said)
        self.status = Status(code=code.value[0], message=said)


@dataclass(frozen=True, slots=True)
class _Call:
    """A method of the contract."""

    path: str
    request: type[Message]
    answer: type[Message]
    is_stream: bool


def _call(method: MethodDescriptor) -> _Call:
    service = method.containing_service
    assert service is not None, method.full_name
    return _Call(
        path=f"/{service.full_name}/{method.name}",
        request=message_factory.GetMessageClass(method.input_type),
        answer=message_factory.GetMessageClass(method.output_type),
        is_stream=method.client_streaming or method.server_streaming,
    )


CALLS: Final[Mapping[str, _Call]] = {
    call.path: call
    for module in MODULES
    for service in module.DESCRIPTOR.services_by_name.values()
    for call in map(_call, service.methods)
}


class Reading:
    """Reads what is sent, beside the loop: large ones one at a time, so that others keep theirs."""

    def __init__(self) -> None:
        """Has nothing to read yet."""
        self._reader = ThreadPoolExecutor(1, "web.reading")

    async def read(self, call: _Call, body: bytes, content: str) -> Message:
        """Returns what a body says, or raises WrongError."""
        if len(body) <= SMALL_BYTES:
            return _parsed(call, body, content)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._reader, _parsed, call, body, content)


@dataclass(slots=True, kw_only=True)
class _Gateway:
    """Answers calls, so many at once."""

    site: Site
    room: int
    reading: Reading = field(default_factory=Reading)

    async def endpoint(self, request: Request) -> Response:
        """Answers one."""
        kind = request.headers.get("content-type", "")
        content, _, charset = (part.strip().lower() for part in kind.partition(";"))
        call = CALLS.get(request.url.path)
        if content in STREAMED:
            path = call.path if call else "this"
            return connect.end_of_stream(_is_stream(path).status, content)
        if content not in {JSON, PROTO} or charset not in {"", "charset=utf-8"}:
            said = f"This answers to {JSON} and {PROTO}.\n"
            return Response(said, 415, {"Accept-Post": f"{JSON}, {PROTO}"}, "text/plain")
        if not self.room:
            # Not to be kept either, or those who wait to ask again would fill the port. Where
            # something is still unread, closing takes the answer back.
            await _passed_over(request)
            return connect.failed(status_from_error(BUSY), headers={"Connection": "close"})
        self.room -= 1
        try:
            return Response(await self._in_time(request, call, content), media_type=content)
        except WrongError as wrong:
            return connect.failed(wrong.status)
        except AioRpcError as error:
            return connect.failed(_status_of(error))
        finally:
            self.room += 1

    async def _in_time(self, request: Request, call: _Call | None, content: str) -> bytes:
        """Returns the answer to a request while there is time, and somebody who waits for it."""
        if call is None:
            said = f"there is no call {request.url.path}: the contract has them all"
            raise WrongError(StatusCode.UNIMPLEMENTED, said)
        if call.is_stream:
            raise _is_stream(call.path)
        _check(request)
        timeout_s = _timeout_s(request.headers.get("connect-timeout-ms"))
        try:
            async with asyncio.timeout(timeout_s):
                body = await _body(request)
                return await _while_there(request, self._answer(request, call, body, content))
        except TimeoutError:
            raise WrongError(StatusCode.DEADLINE_EXCEEDED, _LATE) from None

    async def _answer(self, request: Request, call: _Call, body: bytes, content: str) -> bytes:
        """Returns the answer to a request, as it asks for it."""
        asked = await self.reading.read(call, body, content)
        if asked.ByteSize() > REQUEST_BYTES_MAX:
            raise WrongError(StatusCode.RESOURCE_EXHAUSTED, _TOO_LARGE)
        method = self.site.calls.raw(call.path)
        answer = await method(
            asked.SerializeToString(), timeout=TIMEOUT_S_MAX, metadata=_metadata(request)
        )
        return answer if content == PROTO else await asyncio.to_thread(_as_json, call, answer)


def routes(site: Site) -> Sequence[BaseRoute]:
    """Returns the route of all calls."""
    gateway = _Gateway(site=site, room=site.settings.limits.calls)
    return [Route(f"/{PACKAGE}.{{service}}/{{method}}", gateway.endpoint, methods=["POST"])]


async def _passed_over(request: Request) -> None:
    """Reads what is sent and keeps nothing of it."""
    bytes_left = BODY_BYTES_MAX
    with suppress(ClientDisconnect):
        async for chunk in request.stream():
            bytes_left -= len(chunk)
            if bytes_left < 0:
                return


async def _while_there(request: Request, answering: Coroutine[Any, Any, bytes]) -> bytes:
    """Returns an answer; what nobody waits for any more is not waited for."""
    answer = asyncio.create_task(answering)
    gone = asyncio.create_task(_gone(request))
    try:
        await asyncio.wait({answer, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not answer.done():
            raise WrongError(StatusCode.CANCELLED, "whoever asked has gone")
        return await answer
    finally:
        for each in (answer, gone):
            each.cancel()
        await asyncio.gather(answer, gone, return_exceptions=True)


async def _gone(request: Request) -> None:
    """Returns once whoever asks is not connected any more."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _metadata(request: Request) -> list[tuple[str, str]]:
    """Returns who began a trace, so that an engine's goes on here. Nothing else is handed on."""
    parent, state = (request.headers.get(name, "") for name in ("traceparent", "tracestate"))
    if parse_traceparent(parent) is None:
        return []
    found = [("traceparent", parent)]
    if (
        state
        and state.isascii()
        and state.isprintable()
        and len(state) <= TRACESTATE_CHARACTERS_MAX
    ):
        found.append(("tracestate", state))
    return found


# What tells the same without a stream, by the name of the call.
INSTEAD: Final = {
    "WatchWorkflow": "ask WaitWorkflow, and read its history with ListEvents",
    "WatchEvents": "get told by a webhook, and read a workflow's history with ListEvents",
    "WatchExternalTasks": "ask ListExternalTasks again",
    "Diagnose": "run `countermand doctor`",
}


def _is_stream(path: str) -> WrongError:
    """Returns that a call is a stream, and what to ask instead."""
    instead = INSTEAD.get(path.rpartition("/")[2], "")
    said = f"{path} is a stream, and streams are gRPC's: call it there"
    return WrongError(StatusCode.UNIMPLEMENTED, f"{said}, or {instead}" if instead else said)


_LATE: Final = (
    "the time is over, and what was asked may have been done: ask with the same request id"
)
_TOO_LARGE: Final = f"a request has at most {REQUEST_BYTES_MAX} bytes: send a reference instead"


def _check(request: Request) -> None:
    version = request.headers.get("connect-protocol-version", "1")
    if version != "1":
        raise WrongError(StatusCode.INVALID_ARGUMENT, f"there is no Connect {version[:20]!r}: 1 is")
    encoding = request.headers.get("content-encoding", "identity")
    if encoding != "identity":
        raise WrongError(StatusCode.UNIMPLEMENTED, f"{encoding[:20]!r} is not read: send identity")
    try:
        guarding.check_origin(request)
    except guarding.RefusedError as refused:
        raise WrongError(StatusCode.PERMISSION_DENIED, str(refused)) from None


async def _body(request: Request) -> bytes:
    try:
        return await guarding.bounded(request, BODY_BYTES_MAX)
    except guarding.TooLargeError:
        raise WrongError(StatusCode.RESOURCE_EXHAUSTED, _TOO_LARGE) from None
    except guarding.RefusedError as refused:
        raise WrongError(StatusCode.CANCELLED, str(refused)) from None


def _parsed(call: _Call, body: bytes, content: str) -> Message:
    try:
        if content == PROTO:
            return call.request.FromString(body)
        # A name that is none is refused: one that was left out silently could be "validateOnly".
        return read(body or b"{}", call.request)
    except (DecodeError, UnreadableError) as error:
        said = f"this is no {call.request.DESCRIPTOR.full_name}: {str(error)[:500]}"
        raise WrongError(StatusCode.INVALID_ARGUMENT, said) from None


def _timeout_s(text: str | None) -> float:
    if text is None:
        return TIMEOUT_S_MAX
    if not (text.isascii() and text.isdecimal() and len(text) <= DIGITS_MAX):
        said = f"{text[:20]!r} is no Connect-Timeout-Ms: write up to {DIGITS_MAX} digits"
        raise WrongError(StatusCode.INVALID_ARGUMENT, said)
    return min(int(text) / 1000, TIMEOUT_S_MAX)


def _as_json(call: _Call, answer: bytes) -> bytes:
    return json_format.MessageToJson(call.answer.FromString(answer), indent=None).encode()


def _status_of(error: AioRpcError) -> Status:
    try:
        status = rpc_status.from_call(error)  # type: ignore[arg-type]  # it answers what is asked
    except ValueError:  # the details contradict the code: believe the code
        status = None
    return status or Status(code=error.code().value[0], message=error.details() or "")
