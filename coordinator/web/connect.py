"""Errors as Connect writes them, for whoever calls the contract as JSON."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any, Final

from google.protobuf import any_pb2, descriptor_pool, json_format, message_factory
from google.protobuf.message import DecodeError
from google.rpc.status_pb2 import Status
from grpc import StatusCode
from starlette.responses import Response

PACKAGE: Final = "countermand.v1"
JSON: Final = "application/json"
END_OF_STREAM: Final = b"\x02"

# As google.rpc.Code says.
STATUS: Final[Mapping[StatusCode, int]] = {
    StatusCode.INVALID_ARGUMENT: 400,
    StatusCode.FAILED_PRECONDITION: 400,
    StatusCode.OUT_OF_RANGE: 400,
    StatusCode.UNAUTHENTICATED: 401,
    StatusCode.PERMISSION_DENIED: 403,
    StatusCode.NOT_FOUND: 404,
    StatusCode.ABORTED: 409,
    StatusCode.ALREADY_EXISTS: 409,
    StatusCode.RESOURCE_EXHAUSTED: 429,
    StatusCode.CANCELLED: 499,
    StatusCode.UNIMPLEMENTED: 501,
    StatusCode.UNAVAILABLE: 503,
    StatusCode.DEADLINE_EXCEEDED: 504,
}


def is_call(path: str) -> bool:
    """Returns whether somebody calls the contract, rather than looking at a page."""
    return path.startswith(f"/{PACKAGE}.")


def failed(
    status: Status, http_status: int | None = None, headers: Mapping[str, str] | None = None
) -> Response:
    """Returns an error as an answer."""
    body = json.dumps(_error(status), ensure_ascii=False)
    return Response(body, http_status or STATUS.get(_code(status), 500), headers, JSON)


def end_of_stream(status: Status, content_type: str) -> Response:
    """Returns an error as a stream: whoever asks for one reads nothing else."""
    end = json.dumps({"error": _error(status)}).encode()
    return Response(END_OF_STREAM + len(end).to_bytes(4, "big") + end, media_type=content_type)


def _code(status: Status) -> StatusCode:
    return next(each for each in StatusCode if each.value[0] == status.code)


def _error(status: Status) -> dict[str, Any]:
    code = _code(status)
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
