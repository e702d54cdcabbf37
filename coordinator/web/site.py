"""What every page is given: whom to ask, what time it is, and how a template becomes an answer."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Protocol

import jinja2
from starlette.requests import Request
from starlette.responses import HTMLResponse

from coordinator.web import shown
from coordinator.web.address import WebSettings
from coordinator.web.calls import Calls
from coordinator.web.colours import drawing_css
from coordinator.web.forms.notices import Notices
from coordinator.web.recovery import Recoveries
from countermand.rpc.visible import visible

FOLDER: Final = Path(__file__).parent
STATIC: Final = FOLDER / "static"
DRAWING: Final = drawing_css()


class Clock(Protocol):
    """Tells the time, for "3 min ago"."""

    def now(self) -> datetime:
        """Returns the time."""
        ...


class SystemClock:
    """Tells this machine's time of day."""

    def now(self) -> datetime:
        """Returns the time."""
        return datetime.now(UTC)


@dataclass(slots=True, kw_only=True)
class Site:
    """One web page before one coordinator."""

    calls: Calls
    clock: Clock
    stop: asyncio.Event  # set when it is to end: streams end by themselves
    settings: WebSettings
    notices: Notices = field(default_factory=Notices)
    recoveries: Recoveries = field(init=False)
    templates: jinja2.Environment = field(init=False)

    def __post_init__(self) -> None:
        """Says how templates are read: once, since they never change while it runs."""
        self.recoveries = Recoveries(self.calls)
        self.templates = jinja2.Environment(
            loader=jinja2.FileSystemLoader(FOLDER / "templates"),
            autoescape=True,
            lstrip_blocks=True,
            undefined=jinja2.StrictUndefined,
            finalize=_visible,
            auto_reload=False,
        )
        self.templates.globals.update(shown.GLOBALS)
        self.templates.globals["static"] = _Versioned()
        self.templates.globals["trace_url"] = self.settings.trace_url
        self.templates.filters.update(shown.FILTERS)

    def read_templates(self) -> None:
        """Compiles every template, for a fifth of a second: nobody's first page takes longer."""
        for name in self.templates.list_templates():
            self.templates.get_template(name)

    def draw(self, template: str, **values: Any) -> str:  # noqa: ANN401 - whatever a template names
        """Returns a template's text."""
        return self.templates.get_template(template).render(now=self.clock.now(), **values)

    async def page(
        self,
        request: Request,
        template: str,
        /,
        **values: Any,  # noqa: ANN401 - as above; "http_status" is the answer's
    ) -> HTMLResponse:
        """Returns a page. It is drawn in a thread: a large one must not hold up any workflow."""
        status, notice = values.pop("http_status", 200), self.notices.of(request)
        recovery = await self.recoveries.now()
        text = await asyncio.to_thread(
            self.draw,
            template,
            path=request.url.path,
            notice=notice,
            recovery=recovery,
            **values,
        )
        answer = HTMLResponse(text, status_code=status)
        if notice:
            self.notices.forget(answer)
        return answer


def _visible(value: object) -> object:
    """Returns what a template shows, with what a text of others hides written out."""
    return visible(value) if type(value) is str else value  # what is markup was a text before


class _Versioned:
    """Names static files so that a browser may keep each for ever: a change is another name."""

    def __init__(self) -> None:
        self._marks = {
            path.relative_to(STATIC).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()[:12]
            for path in sorted(STATIC.rglob("*"))
            if path.is_file()
        }
        self._marks["drawing.css"] = hashlib.sha256(DRAWING.encode()).hexdigest()[:12]

    def __call__(self, name: str) -> str:
        return f"/static/{name}?v={self._marks[name]}"
