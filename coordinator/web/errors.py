"""Shows errors: one page for all, with the table's words, and the HTTP status of its code.

Whoever calls the contract as JSON reads no pages, and is told in Connect's form.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from google.rpc.status_pb2 import Status
from grpc import StatusCode
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from coordinator.web import connect
from coordinator.web.site import Site
from countermand.rpc.errors import CountermandError
from countermand.rpc.status import status_from_error

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
    return connect.STATUS.get(error.code, 500)


async def told(site: Site, request: Request, error: CountermandError) -> Response:
    """Returns what is answered to whoever meets an error of the table."""
    if connect.is_call(request.url.path):
        return connect.failed(status_from_error(error))
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


def handlers(site: Site) -> dict[type[Exception], Handler]:
    """Returns what turns exceptions into pages."""

    async def ours(request: Request, error: Exception) -> Response:
        assert isinstance(error, CountermandError), error
        return await told(site, request, error)

    async def of_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException), error
        said = f"{request.url.path}: {error.detail}"
        if connect.is_call(request.url.path):
            status = Status(code=StatusCode.UNIMPLEMENTED.value[0], message=said)
            return connect.failed(status, error.status_code, error.headers)
        page = await site.page(
            request,
            "error.html",
            http_status=error.status_code,
            title=TITLES.get(error.status_code, "Something went wrong"),
            message=said,
            reason="",
            violations=(),
        )
        page.headers.update(error.headers or {})
        return page

    return {CountermandError: ours, HTTPException: of_http}
