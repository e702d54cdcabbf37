"""WebhookService: the receivers that are told over HTTP what happens."""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta
from typing import Protocol
from urllib.parse import urlsplit

from coordinator.api import audit, requests
from coordinator.api.deciding import ElsewhereError
from coordinator.api.requests import Context
from coordinator.runtime.ports import AuditEvent, Clock, Recovery, WebhookChange
from coordinator.runtime.webhooks import (
    SECRET_PREFIX,
    WebhookProgress,
    WebhookRecord,
    Webhooks,
    WebhookStore,
    WebhookView,
)
from coordinator.wire.event_types import ENDS, problem_of
from coordinator.wire.failure import failure_to_proto
from coordinator.wire.history import duration, timestamp
from countermand.rpc.errors import (
    FieldInvalid,
    Violation,
    WebhookIdTaken,
    WebhookNotFound,
    WebhooksFull,
)
from countermand.rpc.names import ID_RULE, is_id, webhook_name
from countermand.v1 import webhook_pb2 as pb
from countermand.v1.webhook_pb2_grpc import WebhookServiceServicer

log = logging.getLogger(__name__)

_KINDS = {change: pb.WebhookChange.Kind.Value(f"KIND_{change}") for change in WebhookChange}
WEBHOOKS_MAX = 64  # each may be a connection, a page of history and a call under way
URL_BYTES_MAX = 2048
EVENT_TYPES_MAX = 64
SECRET_BYTES = range(24, 65)  # as Standard Webhooks say
OVERLAP = timedelta(days=1)  # for receivers to change over to another secret


class ServiceStore(WebhookStore, Protocol):
    """What is asked of the store."""

    async def recovery(self) -> Recovery | None:
        """Returns why nothing is to be decided; None if all is well."""


class WebhookService(WebhookServiceServicer):
    """Serves webhooks."""

    def __init__(
        self,
        *,
        webhooks: Webhooks,
        store: ServiceStore,
        clock: Clock,
        new_secret: Callable[[], str],
    ) -> None:
        """Keeps what it asks."""
        self._webhooks = webhooks
        self._store = store
        self._clock = clock
        self._new_secret = new_secret
        self._changing = asyncio.Lock()  # one at a time

    async def AddWebhook(
        self, request: pb.AddWebhookRequest, context: Context
    ) -> pb.AddWebhookResponse:
        """Adds a webhook, and shows its secret this once."""
        _check_add(request)
        async with self._changing:
            known = await self._all()
            if old := known.get(request.webhook_id):
                _refuse_other(request, old.record)
                return pb.AddWebhookResponse(webhook=_shown(old, self._clock.now()))
            if len(known) >= WEBHOOKS_MAX:
                raise WebhooksFull(count=len(known))
            position = await self._store.position()
            if request.HasField("since_position"):
                position = _position(request.since_position, position)
            record = WebhookRecord(
                id=request.webhook_id,
                url=request.url,
                event_types=_types(request),
                labels=tuple(sorted(request.labels.items())),
                kind=request.kind,
                secret=request.secret or self._new_secret(),
                create_time=self._clock.now(),
                progress=WebhookProgress(position=position),
            )
            event = self._event(record.id, WebhookChange.ADDED)
            await self._webhooks.add(record, event)
            _log(record.id, event)
            shown = await self._one(record.id)
        return pb.AddWebhookResponse(webhook=shown, secret=record.secret)

    async def GetWebhook(
        self, request: pb.GetWebhookRequest, context: Context
    ) -> pb.GetWebhookResponse:
        """Returns one webhook."""
        webhook_id = requests.webhook_id(request.name)
        return pb.GetWebhookResponse(webhook=await self._one(webhook_id))

    async def ListWebhooks(
        self, request: pb.ListWebhooksRequest, context: Context
    ) -> pb.ListWebhooksResponse:
        """Returns one page of webhooks, in order of their ids."""
        limit = requests.page_size(request.page_size)
        known = await self._all()
        ids = sorted(name for name in known if name > request.page_token)
        page = ids[:limit]
        now = self._clock.now()
        return pb.ListWebhooksResponse(
            webhooks=[_shown(known[name], now) for name in page],
            next_page_token=page[-1] if len(ids) > limit else "",
        )

    async def PingWebhook(
        self, request: pb.PingWebhookRequest, context: Context
    ) -> pb.PingWebhookResponse:
        """Sends a test event, and answers with what came of it."""
        webhook_id = await self._known(request.name)
        answer = await self._webhooks.ping(webhook_id)
        return pb.PingWebhookResponse(
            http_status=answer.status,
            failure=failure_to_proto(answer.failure),
            call_duration=duration(answer.took),
        )

    async def ResumeWebhook(
        self, request: pb.ResumeWebhookRequest, context: Context
    ) -> pb.ResumeWebhookResponse:
        """Calls a receiver at once, from a position on if one is given."""
        requests.demand(request, "request_id", "reason")
        async with self._changing:
            webhook_id = await self._known(request.name)
            position = None
            if request.HasField("since_position"):
                position = _position(request.since_position, await self._store.position())
            since = "" if position is None else str(position)
            event = self._event(webhook_id, WebhookChange.RESUMED, request.reason, since)
            await self._webhooks.resume(webhook_id, position, event)
            _log(webhook_id, event)
            return pb.ResumeWebhookResponse(webhook=await self._one(webhook_id))

    async def RotateWebhookSecret(
        self, request: pb.RotateWebhookSecretRequest, context: Context
    ) -> pb.RotateWebhookSecretResponse:
        """Signs with another secret, and shows it this once."""
        requests.demand(request, "request_id")
        if problem := _secret_problem(request.secret):
            raise FieldInvalid(Violation("secret", problem))
        async with self._changing:
            webhook_id = await self._known(request.name)
            secret = request.secret or self._new_secret()
            event = self._event(webhook_id, WebhookChange.SECRET_ROTATED)
            if await self._webhooks.replace_secret(
                webhook_id, secret, overlap=OVERLAP, event=event
            ):
                _log(webhook_id, event)
            shown = await self._one(webhook_id)
        return pb.RotateWebhookSecretResponse(webhook=shown, secret=secret)

    async def RemoveWebhook(
        self, request: pb.RemoveWebhookRequest, context: Context
    ) -> pb.RemoveWebhookResponse:
        """Removes a webhook."""
        requests.demand(request, "request_id", "reason")
        async with self._changing:
            webhook_id = await self._known(request.name)
            event = self._event(webhook_id, WebhookChange.REMOVED, request.reason)
            await self._webhooks.remove(webhook_id, event)
            _log(webhook_id, event)
        return pb.RemoveWebhookResponse()

    async def ListWebhookChanges(
        self, request: pb.ListWebhookChangesRequest, context: Context
    ) -> pb.ListWebhookChangesResponse:
        """Returns one page of what was done to webhooks, the last first."""
        subject = webhook_name(requests.webhook_id(request.name) if request.name else "")
        events, token = await audit.page(self._store, subject, request)
        return pb.ListWebhookChangesResponse(changes=map(_change, events), next_page_token=token)

    def _event(
        self, webhook_id: str, change: WebhookChange, reason: str = "", since: str = ""
    ) -> AuditEvent:
        name = webhook_name(webhook_id)
        return audit.done(name, change, self._clock, reason=reason, detail=since)

    async def _all(self) -> Mapping[str, WebhookView]:
        """Returns every webhook by its id."""
        if self._webhooks.opened:
            return await self._webhooks.all()
        if await self._store.recovery() is None:
            raise ElsewhereError  # not here yet, or no more
        # Nobody tells them anything until somebody has looked at the store: they are as stored.
        top = await self._store.position()
        return {
            record.id: WebhookView(record=record, behind=max(0, top - record.progress.position))
            for record in await self._store.webhooks()
        }

    async def _known(self, name: str) -> str:
        """Returns the id in a webhook's name; raises if there is no such webhook."""
        webhook_id = requests.webhook_id(name)
        if webhook_id not in await self._all():
            raise WebhookNotFound(name=name)
        return webhook_id

    async def _one(self, webhook_id: str) -> pb.Webhook:
        found = (await self._all()).get(webhook_id)
        if found is None:
            raise WebhookNotFound(name=webhook_name(webhook_id))
        return _shown(found, self._clock.now())


def _log(webhook_id: str, done: AuditEvent) -> None:
    """Says what was done, once that is durable."""
    extra = {"webhook": webhook_id, "reason": done.reason, "since": done.detail}
    log.info("webhook.%s", done.change.lower(), extra=extra)


# -- what is asked --------------------------------------------------------------------------------


def _check_add(request: pb.AddWebhookRequest) -> None:
    """Raises FieldInvalid with everything that is wrong."""
    found = [*_problems(request), *requests.label_problems(dict(request.labels))]
    if found:
        raise FieldInvalid(*found)


def _problems(request: pb.AddWebhookRequest) -> Iterator[Violation]:
    if not is_id(request.webhook_id):
        yield Violation("webhook_id", ID_RULE)
    if problem := _url_problem(request.url):
        yield Violation("url", problem)
    if len(request.event_types) > EVENT_TYPES_MAX:
        number = len(request.event_types)
        yield Violation("event_types", f"has {number}, at most {EVENT_TYPES_MAX} are allowed")
    for index, wanted in enumerate(request.event_types[:EVENT_TYPES_MAX]):
        if problem := problem_of(wanted):
            yield Violation(f"event_types[{index}]", problem)
    if len(request.kind.encode()) > requests.LABEL_BYTES_MAX:
        yield Violation("kind", f"is longer than {requests.LABEL_BYTES_MAX} bytes")
    if problem := _secret_problem(request.secret):
        yield Violation("secret", problem)
    if not request.request_id.strip():
        yield Violation("request_id", "is required")


def _url_problem(url: str) -> str:
    """Returns what is wrong with a URL, or nothing."""
    example = "such as https://receiver.example/events"
    if not url:
        return f"is required, {example}"
    if len(url.encode()) > URL_BYTES_MAX:
        return f"is longer than {URL_BYTES_MAX} bytes"
    if not url.isprintable() or " " in url:
        return "has a character that no URL has"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        return f"is no URL ({error}): write one {example}"
    if parts.scheme not in {"http", "https"}:
        return f"must begin with http:// or https://, {example}"
    if not parts.hostname or port == 0:
        return f"names no host to call: write one {example}"
    if parts.username is not None or parts.password is not None:
        return "must not hold a user or password: it is shown to everybody; check the signature"
    return "must not have a fragment: it is never sent" if parts.fragment else ""


def _secret_problem(secret: str) -> str:
    """Returns what is wrong with a secret, or nothing; never shows it."""
    if not secret:
        return ""
    rule = (
        f"must be {SECRET_PREFIX} and {SECRET_BYTES.start} to {SECRET_BYTES.stop - 1} bytes in "
        "base64; leave it out to have one made"
    )
    if not secret.startswith(SECRET_PREFIX):
        return rule
    try:
        size = len(base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True))
    except (binascii.Error, ValueError):
        return rule
    return "" if size in SECRET_BYTES else rule


def _position(asked: int, top: int) -> int:
    """Returns a position that was asked for; raises FieldInvalid if there is none such."""
    if not 0 <= asked <= top:
        raise FieldInvalid(Violation("since_position", f"must be from 0 to {top}, the last one"))
    return asked


def _types(request: pb.AddWebhookRequest) -> tuple[str, ...]:
    return tuple(dict.fromkeys(request.event_types)) or ENDS


def _refuse_other(request: pb.AddWebhookRequest, old: WebhookRecord) -> None:
    """Raises WebhookIdTaken unless a request says what is there already."""
    same = {
        "url": request.url == old.url,
        "choice of events": _types(request) == old.event_types
        and dict(request.labels) == dict(old.labels)
        and request.kind == old.kind,
        "secret": request.secret in {"", old.secret},
    }
    for field, is_same in same.items():
        if not is_same:
            raise WebhookIdTaken(name=webhook_name(old.id), field=field)


# -- what is shown --------------------------------------------------------------------------------


def _shown(view: WebhookView, now: datetime) -> pb.Webhook:
    """Returns a webhook as the contract writes it: without its secrets."""
    record, progress = view.record, view.record.progress
    state = pb.Webhook.STATE_FAILING if progress.failures else pb.Webhook.STATE_ACTIVE
    overlaps = record.old_secret_end is not None and now < record.old_secret_end
    return pb.Webhook(
        name=webhook_name(record.id),
        url=record.url,
        event_types=record.event_types,
        labels=dict(record.labels),
        kind=record.kind,
        state=pb.Webhook.STATE_DISABLED if progress.disabled else state,
        position=progress.position,
        behind=view.behind,
        missed_events=progress.missed,
        failures=progress.failures,
        failure=failure_to_proto(progress.failure),
        failure_time=timestamp(progress.failure_time),
        success_time=timestamp(progress.success_time),
        next_try_time=timestamp(progress.next_try_time),
        create_time=timestamp(record.create_time),
        old_secret_expire_time=timestamp(record.old_secret_end if overlaps else None),
    )


def _change(event: AuditEvent) -> pb.WebhookChange:
    assert isinstance(event.change, WebhookChange), event
    return pb.WebhookChange(
        webhook=event.subject,
        position=event.position,
        time=timestamp(event.time),
        kind=_KINDS[event.change],
        principal=event.principal,
        reason=event.reason,
        since_position=int(event.detail) if event.detail else None,
    )
