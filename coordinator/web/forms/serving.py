"""Shows a form, takes what is typed into it, and does it once.

    GET   what will happen, and what is asked for
    POST  done: 303 to where it shows, with a word about it
          not right yet, or to be checked first: 303 to the form as it is filled in, a page that
                one can come back to without sending anything again
          else: the form again, as it was filled in, with what is wrong and what is now so;
                also when nobody answers, and then all that is known of it is what was typed

What a decision stands on is the form's basis. Where only the etag has moved on since somebody
looked, the decision is sent for what is now so; where the basis has, nothing is: one looks again.
"""

from __future__ import annotations

import asyncio
import hashlib
import uuid
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final
from urllib.parse import urlencode

from grpc import StatusCode
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from coordinator.web import errors
from coordinator.web.forms import guarding
from coordinator.web.forms.earlier import latest
from coordinator.web.forms.fields import (
    Form,
    Problem,
    filled,
    marked,
    missing,
    of_typed,
    typed_into,
)
from coordinator.web.site import Site
from countermand.rpc.errors import (
    Conflict,
    CountermandError,
    FieldInvalid,
    RequestIdReused,
    Violation,
)
from countermand.rpc.status import RemoteError

TRIES_MAX: Final = 4  # at a workflow that moves while it is decided about
DRAFTS_MAX: Final = 32  # forms that somebody is filling in; each has at most 256 KiB
REMEMBERED_MAX: Final = 1024  # forms that were sent; older ones are known to the coordinator
REQUEST_ID: Final = "request_id"
ETAG: Final = "etag"
BASIS: Final = "basis"
CHECKED: Final = "checked"
DRAFT: Final = "draft"
OWN: Final = frozenset({guarding.TOKEN, REQUEST_ID, ETAG, BASIS, CHECKED, "step"})

CHANGED: Final = "It has changed since you looked, and nothing was sent."
AGAIN: Final = f"{CHANGED} Below is what is so now: send it again if you still want it."
UNSEALED: Final = (
    "Nothing was sent: this page is older than the coordinator that now runs, or cookies are off. "
    "What you typed is still here: look at it and send it again."
)

UNANSWERED: Final = (
    "The coordinator does not answer at the moment. What you typed is below: send it again. "
    "However often you do, it is done once."
)
FORGOTTEN: Final = (
    "What you had typed is not known any more: it was typed in another browser, or a while ago, or "
    "the coordinator has started anew. Nothing of it was sent."
)
_AWAY: Final = frozenset(
    {StatusCode.UNAVAILABLE, StatusCode.DEADLINE_EXCEEDED, StatusCode.RESOURCE_EXHAUSTED}
)

Params = Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What somebody sends."""

    typed: Mapping[str, str]
    request_id: str
    etag: str

    @property
    def reason(self) -> str:
        """Returns why."""
        return self.typed.get("reason", "").strip()


@dataclass(frozen=True, slots=True, kw_only=True)
class Deed:
    """Something that people do, with the form for it."""

    path: str
    # Returns the form, given the names in the address and what was typed or asked for in it.
    look: Callable[[Site, Params, Mapping[str, str]], Awaitable[Form]]
    # Does it; returns where it shows.
    act: Callable[[Site, Params, Given], Awaitable[str]]
    word: str  # of what was done: see notices.py
    # Returns what a violation is about: the name of a field.
    field_of: Callable[[Violation, Form], str] = lambda violation, _: violation.field
    # Errors that are about one field, by their reasons.
    beside: Mapping[str, str] = field(default_factory=dict)


class Remembered:
    """Forms that were sent lately, so that one that comes twice is sent once."""

    def __init__(self) -> None:
        """Remembers none."""
        self._sent: OrderedDict[str, tuple[str, asyncio.Future[str]]] = OrderedDict()

    async def before(self, request_id: str, typed: Mapping[str, str]) -> tuple[str, bool] | None:
        """Returns where the same form led and whether it said the same; None: it is new."""
        while known := self._sent.get(request_id):
            digest, done = known
            await asyncio.wait({done})
            if not done.cancelled():
                return done.result(), digest == content_of(typed)
        self._sent[request_id] = (content_of(typed), asyncio.get_running_loop().create_future())
        return None

    def done(self, request_id: str, url: str) -> None:
        """Remembers that it was done."""
        self._sent[request_id][1].set_result(url)
        settled = [name for name, (_, done) in self._sent.items() if done.done()]
        for name in settled[: max(len(self._sent) - REMEMBERED_MAX, 0)]:
            del self._sent[name]

    def not_done(self, request_id: str) -> None:
        """Forgets it: it may come again, with what was wrong put right."""
        known = self._sent.get(request_id)
        if known and not known[1].done():
            del self._sent[request_id]
            known[1].cancel()


class Drafts:
    """What was typed lately and not done, by the browser and the form in which it was."""

    def __init__(self) -> None:
        """Keeps none."""
        self._kept: OrderedDict[tuple[str, str, str], Mapping[str, str]] = OrderedDict()

    def keep(self, request: Request, request_id: str, typed: Mapping[str, str]) -> str:
        """Keeps what was typed; returns where it is shown."""
        key = guarding.browser_of(request), request.url.path, request_id
        self._kept[key] = typed
        self._kept.move_to_end(key)
        if len(self._kept) > DRAFTS_MAX:
            self._kept.popitem(last=False)
        return f"{request.url.path}?{urlencode({DRAFT: request_id})}"

    def of(self, request: Request) -> Mapping[str, str] | None:
        """Returns what was typed into the form that is asked for, if that is still known."""
        id_ = request.query_params[DRAFT]
        return self._kept.get((guarding.browser_of(request), request.url.path, id_))


def content_of(typed: Mapping[str, str]) -> str:
    """Returns what stands for what somebody typed, without what a form carries by itself."""
    own = sorted((name, text) for name, text in typed.items() if name not in OWN)
    return hashlib.sha256(repr(own).encode()).hexdigest()


@dataclass(slots=True, kw_only=True)
class Desk:
    """Where all forms of one page are taken."""

    site: Site
    seals: guarding.Seals = field(default_factory=guarding.Seals)
    remembered: Remembered = field(default_factory=Remembered)
    drafts: Drafts = field(default_factory=Drafts)

    def routes(self, deeds: Sequence[Deed]) -> Sequence[BaseRoute]:
        """Returns a route per deed."""
        return [
            Route(deed.path, self._endpoint(deed), methods=["GET", "POST"], name=deed.path)
            for deed in deeds
        ]

    def _endpoint(self, deed: Deed) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            if request.method == "POST":
                return await self._posted(request, deed)
            if DRAFT in request.query_params:
                return await self._typed_before(request, deed)
            form = await deed.look(self.site, request.path_params, dict(request.query_params))
            return await self._draw(request, form, [], 200, str(uuid.uuid4()))

        return endpoint

    async def _typed_before(self, request: Request, deed: Deed) -> Response:
        """Returns a form as it was filled in, with what is wrong with it, or what comes of it."""
        typed = self.drafts.of(request)
        form = filled(await deed.look(self.site, request.path_params, typed or {}), typed or {})
        if typed is None:
            found = [Problem(said=FORGOTTEN)]
            return await self._draw(request, form, found, 200, str(uuid.uuid4()))
        found = [*missing(form, typed), *form.problems]
        return await self._draw(request, form, found, 400 if found else 200, typed[REQUEST_ID])

    async def _posted(self, request: Request, deed: Deed) -> Response:
        try:
            guarding.check_origin(request)
            typed = await guarding.typed_in(request)
        except guarding.RefusedError as refused:
            return PlainTextResponse(f"This form was not taken: {refused}.\n", status_code=403)
        except guarding.TooLargeError:
            said = f"This form was not taken: it has over {guarding.BODY_BYTES_MAX} bytes.\n"
            return PlainTextResponse(said, status_code=413)
        request_id = _uuid(typed.get(REQUEST_ID, ""))
        try:
            return await self._sent(request, deed, typed, request_id)
        except CountermandError as error:
            if error.code not in _AWAY:
                raise
            form = of_typed(typed, OWN, path=request.url.path, hidden=_own_of(typed))
            found = [Problem(said=UNANSWERED)]
            return await self._draw(request, form, found, errors.status_of(error), request_id)

    async def _sent(
        self, request: Request, deed: Deed, typed: Mapping[str, str], request_id: str
    ) -> Response:
        if not self.seals.check(request, typed):
            form = filled(await deed.look(self.site, request.path_params, typed), typed)
            return await self._draw(request, form, [Problem(said=UNSEALED)], 403, request_id)
        if (before := await self.remembered.before(request_id, typed)) is not None:
            url, is_same = before
            return self._leading_to(url, deed.word if is_same else "already")
        try:
            answer = await self._take(request, deed, typed, request_id)
        finally:
            self.remembered.not_done(request_id)  # unless it is
        return answer

    async def _take(
        self, request: Request, deed: Deed, typed: Mapping[str, str], request_id: str
    ) -> Response:
        form = filled(await deed.look(self.site, request.path_params, typed), typed)
        found = [*missing(form, typed), *form.problems]
        if found or (form.checks_first and not form.is_checked):
            url = self.drafts.keep(request, request_id, {**typed, REQUEST_ID: request_id})
            return RedirectResponse(url, status_code=303)
        etag = typed.get(ETAG, "")
        if not form.etag and digest_of(form) != typed.get(BASIS, ""):  # nobody else would notice
            return await self._second(request, form, typed, request_id)
        for _ in range(TRIES_MAX):
            given = Given(typed=typed, request_id=request_id, etag=etag)
            try:
                url = await deed.act(self.site, request.path_params, given)
            except RequestIdReused:  # sent before this life of the coordinator, or for another etag
                return self._leading_to(form.back, "already")
            except Conflict:
                form = filled(await deed.look(self.site, request.path_params, typed), typed)
                if digest_of(form) != typed.get(BASIS, ""):
                    break
                etag = form.etag
            except CountermandError as error:
                form = filled(await deed.look(self.site, request.path_params, typed), typed)
                if form.forbidden:
                    return await self._second(request, form, typed, request_id)
                status = errors.status_of(error)
                return await self._draw(
                    request, form, problems_of(error, form, deed), status, request_id
                )
            else:
                self.remembered.done(request_id, url)
                return self._leading_to(url, deed.word)
        return await self._second(request, form, typed, request_id)

    async def _second(
        self, request: Request, form: Form, typed: Mapping[str, str], request_id: str
    ) -> Response:
        """Tells somebody that another came first: who, and what had been typed in vain."""
        form = replace(
            form,
            latest=await latest(self.site, request.path_params),
            typed=typed_into(form, typed, OWN) if form.forbidden else (),
        )
        found = Problem(said=CHANGED if form.forbidden else AGAIN)
        return await self._draw(request, form, [found], 409, request_id)

    def _leading_to(self, url: str, word: str) -> Response:
        """Returns what leads to where a deed shows, with a word about it."""
        answer = RedirectResponse(url, status_code=303)
        self.site.notices.leave(answer, url, word)
        return answer

    async def _draw(
        self, request: Request, form: Form, problems: Sequence[Problem], status: int, id_: str
    ) -> Response:
        browser = guarding.browser_of(request)
        shown, summary = marked(form, problems)
        hidden = {
            guarding.TOKEN: self.seals.of(browser),
            REQUEST_ID: id_,
            ETAG: form.etag,
            BASIS: digest_of(form),
            CHECKED: "" if problems else form.checked,
            **(form.hidden or {}),
        }
        answer = await self.site.page(
            request,
            "form.html",
            http_status=status,
            form=replace(shown, hidden=hidden),
            problems=summary,
        )
        guarding.keep(answer, browser)
        return answer


def digest_of(form: Form) -> str:
    """Returns what stands for a form's basis."""
    return hashlib.sha256(form.basis.encode()).hexdigest()[:32]


def problems_of(error: CountermandError, form: Form, deed: Deed) -> list[Problem]:
    """Returns what is wrong, each beside the field that it is about as far as it is known."""
    violations = getattr(error, "violations", ())
    if isinstance(error, FieldInvalid) or violations:
        return [Problem(said=v.description, field=deed.field_of(v, form)) for v in violations]
    if isinstance(error, RemoteError) and error.code in _AWAY:
        return [Problem(said=UNANSWERED)]
    return [Problem(said=error.message, field=deed.beside.get(error.reason, ""))]


def _own_of(typed: Mapping[str, str]) -> Mapping[str, str]:
    """Returns what a form stands on, for one that is sent again as it was."""
    return {name: typed.get(name, "") for name in (ETAG, BASIS)}


def _uuid(text: str) -> str:
    """Returns the request id that a form carries; a new one where it is none."""
    try:
        return str(uuid.UUID(text))
    except ValueError:
        return str(uuid.uuid4())
