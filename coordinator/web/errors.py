"""Shows errors: one page for all, with the table's words, and the HTTP status of its code."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from grpc import StatusCode
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from coordinator.web.site import Site
from countermand.rpc.errors import CountermandError

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
    StatusCode.UNIMPLEMENTED: 501,
    StatusCode.UNAVAILABLE: 503,
    StatusCode.DEADLINE_EXCEEDED: 504,
}

TITLES: Final[Mapping[int, str]] = {
    400: "That cannot be done",
    404: "There is no such thing",
    405: "That cannot be done",
    409: "Something came first",
    429: "Too much at once",
    503: "The coordinator does not answer",
    504: "The coordinator did not answer in time",
}

Handler = Callable[[Request, Exception], Awaitable[Response]]


def status_of(error: CountermandError) -> int:
    """Returns the HTTP status of an error."""
    return STATUS.get(error.code, 500)


def handlers(site: Site) -> dict[type[Exception], Handler]:
    """Returns what turns exceptions into pages."""

    async def ours(request: Request, error: Exception) -> Response:
        assert isinstance(error, CountermandError), error
        status = status_of(error)
        return await site.page(
            request,
            "error.html",
            http_status=status,
            title=TITLES.get(status, "Something went wrong"),
            message=error.message,
            reason=error.reason,
            violations=getattr(error, "violations", ()),
        )

    async def of_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException), error
        return await site.page(
            request,
            "error.html",
            http_status=error.status_code,
            title=TITLES.get(error.status_code, "Something went wrong"),
            message=f"{request.url.path}: {error.detail}",
            reason="",
            violations=(),
        )

    return {CountermandError: ours, HTTPException: of_http}
