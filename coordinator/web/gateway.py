"""The contract as JSON over HTTP, in the unary form that Connect speaks: for whoever has no gRPC.

    POST /countermand.v1.WorkflowService/GetWorkflow   {"name": "workflows/vm-42"}

Each request goes through the coordinator's own gRPC port: every check there applies, and an error
comes back with the details that it has there. Streams are gRPC's. No page of another site can send
any of this: neither content type is one that a browser sends unasked, and nobody is told yes.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Final

from google.protobuf import any_pb2, descriptor_pool, json_format, message_factory
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import DecodeError, Message
from google.rpc.status_pb2 import Status
from grpc import StatusCode
from grpc.aio import AioRpcError
from grpc_status import rpc_status
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from coordinator.web.errors import STATUS
from coordinator.web.forms import guarding
from coordinator.web.site import Site
from countermand.rpc.channel import REQUEST_BYTES_MAX, WAIT_SLACK_S
from countermand.v1 import (
    doctor_pb2,
    external_task_pb2,
    host_pb2,
    webhook_pb2,
    workflow_pb2,
)

PACKAGE: Final = "countermand.v1"
MODULES: Final[Sequence[ModuleType]] = (
    workflow_pb2,
    host_pb2,
    external_task_pb2,
    webhook_pb2,
    doctor_pb2,
)
JSON, PROTO = "application/json", "application/proto"
STREAMED: Final[Mapping[str, str]] = {
    "application/connect+json": "application/connect+json",
    "application/connect+proto": "application/connect+proto",
}
BODY_BYTES_MAX: Final = 1024 * 1024  # of JSON, which says the same in more bytes
TIMEOUT_S_MAX: Final = 60.0 + WAIT_SLACK_S  # as WaitWorkflow takes at most
DIGITS_MAX: Final = 10  # of a timeout, as Connect has it
# Who began a trace, so that an engine's goes on here. Nothing else of a request is handed on.
HANDED_ON: Final = ("traceparent", "tracestate")
END_OF_STREAM: Final = b"\x02"
# Where Connect has another status than gRPC's usual one.
STATUSES: Final[Mapping[StatusCode, int]] = {**STATUS, StatusCode.CANCELLED: 499}


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


def routes(site: Site) -> Sequence[BaseRoute]:
    """Returns the route of all calls."""

    async def endpoint(request: Request) -> Response:
        kind = request.headers.get("content-type", "")
        content, _, charset = (part.strip().lower() for part in kind.partition(";"))
        call = CALLS.get(request.url.path)
        if content in STREAMED:
            return _streamed(content, call)
        if content not in {JSON, PROTO} or charset not in {"", "charset=utf-8"}:
            said = f"This answers to {JSON} and {PROTO}.\n"
            return Response(said, 415, {"Accept-Post": f"{JSON}, {PROTO}"}, "text/plain")
        try:
            answer = await _answered(site, request, call, content)
        except WrongError as wrong:
            return _failed(wrong.status)
        except AioRpcError as error:
            return _failed(_status_of(error))
        return Response(answer, media_type=content)

    return [Route(f"/{PACKAGE}.{{service}}/{{method}}", endpoint, methods=["POST"])]


async def _answered(site: Site, request: Request, call: _Call | None, content: str) -> bytes:
    """Returns the answer to a request, as it asks for it."""
    if call is None:
        said = f"there is no call {request.url.path}: the contract has them all"
        raise WrongError(StatusCode.UNIMPLEMENTED, said)
    if call.is_stream:
        raise WrongError(StatusCode.UNIMPLEMENTED, _STREAMS.format(call=call.path))
    _check(request)
    asked = _parsed(call, await _body(request), content)
    if asked.ByteSize() > REQUEST_BYTES_MAX:
        raise WrongError(StatusCode.RESOURCE_EXHAUSTED, _TOO_LARGE)
    timeout_s = _timeout_s(request.headers.get("connect-timeout-ms"))
    metadata = [(n, request.headers[n]) for n in HANDED_ON if n in request.headers]
    method = site.calls.raw(call.path)
    answer = await method(asked.SerializeToString(), timeout=timeout_s, metadata=metadata)
    if content == PROTO:
        return answer
    return await asyncio.to_thread(_as_json, call, answer)


_STREAMS: Final = "{call} is a stream, and streams are gRPC's: call it there, or read its pages"
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
        return json_format.Parse(body or b"{}", call.request())
    except (DecodeError, json_format.ParseError, UnicodeDecodeError, RecursionError) as error:
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


# -- errors ---------------------------------------------------------------------------------------


def _failed(status: Status) -> Response:
    code = next(each for each in StatusCode if each.value[0] == status.code)
    body = json.dumps(_error(status), ensure_ascii=False)
    return Response(body, STATUSES.get(code, 500), media_type=JSON)


def _error(status: Status) -> dict[str, Any]:
    """Returns an error as Connect writes it."""
    code = next(each for each in StatusCode if each.value[0] == status.code)
    # The one word that is spelt otherwise.
    name = "canceled" if code is StatusCode.CANCELLED else code.name.lower()
    said: dict[str, Any] = {"code": name}
    if status.message:
        said["message"] = status.message
    if status.details:
        said["details"] = [_detail(each) for each in status.details]
    return said


def _detail(detail: any_pb2.Any) -> dict[str, Any]:
    type_ = detail.type_url.rpartition("/")[2]
    value = base64.b64encode(detail.value).rstrip(b"=").decode()
    said: dict[str, Any] = {"type": type_, "value": value}
    try:
        known = descriptor_pool.Default().FindMessageTypeByName(type_)
        message = message_factory.GetMessageClass(known).FromString(detail.value)
        said["debug"] = json_format.MessageToDict(message)
    except (KeyError, DecodeError):
        pass  # of another version: whoever knows it reads the value
    return said


def _status_of(error: AioRpcError) -> Status:
    try:
        status = rpc_status.from_call(error)  # type: ignore[arg-type]  # it answers what is asked
    except ValueError:  # the details contradict the code: believe the code
        status = None
    return status or Status(code=error.code().value[0], message=error.details() or "")


def _streamed(content: str, call: _Call | None) -> Response:
    """Says that there are no streams here, in a stream: whoever asks for one reads nothing else."""
    path = call.path if call else "this"
    status = Status(code=StatusCode.UNIMPLEMENTED.value[0], message=_STREAMS.format(call=path))
    end = json.dumps({"error": _error(status)}).encode()
    body = END_OF_STREAM + len(end).to_bytes(4, "big") + end
    return Response(body, media_type=STREAMED[content])
