"""Styles and scripts. Their names change with what is in them, so a browser keeps each for good."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike, stat_result
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from coordinator.web.site import DRAWING, STATIC, Site

A_YEAR: Final = "public, max-age=31536000, immutable"


class _Kept(StaticFiles):
    """Files that a browser asks for once."""

    def file_response(
        self,
        full_path: str | PathLike[str],
        stat_result: stat_result,
        scope: Scope,
        status_code: int = 200,
    ) -> Response:
        """Returns a file, to be kept if it was asked for by its mark."""
        response = super().file_response(full_path, stat_result, scope, status_code)
        kept = scope.get("query_string", b"").startswith(b"v=")
        response.headers["Cache-Control"] = A_YEAR if kept else "no-cache"
        return response


def routes(_: Site) -> Sequence[BaseRoute]:
    """Returns where files are, and the style sheet that is no file."""

    async def drawing(_: Request) -> Response:
        return Response(DRAWING, media_type="text/css", headers={"Cache-Control": A_YEAR})

    files = Mount("/static", _Kept(directory=STATIC), name="static")
    return [Route("/static/drawing.css", drawing), files]
