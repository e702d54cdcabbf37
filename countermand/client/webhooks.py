"""The webhooks of a coordinator: added, looked at, tested, resumed and removed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence

from countermand.client.calls import Answer, Calls, Method, Request
from countermand.client.run import PAGE_SIZE, new_request_id
from countermand.rpc import names
from countermand.rpc.channel import CHANGE_TIMEOUT_S, READ_TIMEOUT_S
from countermand.rpc.errors import WebhookNotFound
from countermand.v1.webhook_pb2 import (
    AddWebhookRequest,
    AddWebhookResponse,
    GetWebhookRequest,
    ListWebhookChangesRequest,
    ListWebhooksRequest,
    PingWebhookRequest,
    PingWebhookResponse,
    RemoveWebhookRequest,
    ResumeWebhookRequest,
    RotateWebhookSecretRequest,
    RotateWebhookSecretResponse,
    Webhook,
    WebhookChange,
)


class Webhooks:
    """Adds, lists and removes webhooks; one is named by its id or its whole name.

    Every change is asked for again while the coordinator is away, but for one that makes a secret:
    that is told once, and a repeat would succeed without it, or make yet another.
    """

    def __init__(self, calls: Calls) -> None:
        """Keeps the channel."""
        self._calls = calls

    async def add(
        self,
        webhook_id: str,
        url: str,
        *,
        event_types: Sequence[str] = (),
        labels: Mapping[str, str] | None = None,
        kind: str = "",
        secret: str = "",
        since_position: int | None = None,
    ) -> AddWebhookResponse:
        """Adds a webhook; the answer shows its secret, this once.

        The same id with the same settings returns the same webhook, and no secret.
        """
        request = AddWebhookRequest(
            webhook_id=webhook_id,
            url=url,
            event_types=event_types,
            labels=labels,
            kind=kind,
            secret=secret,
            since_position=since_position,
            request_id=new_request_id(),
        )
        return await self._told_once(self._calls.webhooks.AddWebhook, request, secret)

    async def list(self) -> AsyncIterator[Webhook]:
        """Yields the webhooks in order of their ids."""
        request = ListWebhooksRequest(page_size=PAGE_SIZE)
        async for page in self._calls.pages(self._calls.webhooks.ListWebhooks, request):
            for webhook in page.webhooks:
                yield webhook

    async def get(self, webhook: str) -> Webhook:
        """Returns one webhook."""
        request = GetWebhookRequest(name=_name(webhook))
        method = self._calls.webhooks.GetWebhook
        return (await self._calls.unary(method, request, timeout_s=READ_TIMEOUT_S)).webhook

    async def ping(self, webhook: str) -> PingWebhookResponse:
        """Has a test event sent, and returns what came of it."""
        request = PingWebhookRequest(name=_name(webhook))
        method = self._calls.webhooks.PingWebhook
        return await self._calls.once(method, request, timeout_s=CHANGE_TIMEOUT_S)

    async def resume(
        self, webhook: str, reason: str, *, since_position: int | None = None
    ) -> Webhook:
        """Has the receiver called at once; from a position on, if one is given."""
        request = ResumeWebhookRequest(
            name=_name(webhook),
            reason=reason,
            since_position=since_position,
            request_id=new_request_id(),
        )
        method = self._calls.webhooks.ResumeWebhook
        return (await self._calls.change(method, request)).webhook

    async def rotate_secret(self, webhook: str, secret: str = "") -> RotateWebhookSecretResponse:
        """Has another secret sign; for a day the old one does as well."""
        request = RotateWebhookSecretRequest(
            name=_name(webhook), secret=secret, request_id=new_request_id()
        )
        return await self._told_once(self._calls.webhooks.RotateWebhookSecret, request, secret)

    async def _told_once(
        self, method: Method[Request, Answer], request: Request, secret: str
    ) -> Answer:
        """Asks again only if no secret is made."""
        if secret:
            return await self._calls.change(method, request)
        return await self._calls.once(method, request, timeout_s=CHANGE_TIMEOUT_S)

    async def remove(self, webhook: str, reason: str) -> None:
        """Removes a webhook: nothing more is sent to it."""
        request = RemoveWebhookRequest(
            name=_name(webhook), reason=reason, request_id=new_request_id()
        )
        await self._calls.removal(self._calls.webhooks.RemoveWebhook, request, WebhookNotFound)

    async def changes(self, webhook: str = "") -> AsyncIterator[WebhookChange]:
        """Yields what was done to a webhook, or to any, by whom and why, the last first."""
        name = _name(webhook) if webhook else ""
        request = ListWebhookChangesRequest(name=name, page_size=PAGE_SIZE)
        async for page in self._calls.pages(self._calls.webhooks.ListWebhookChanges, request):
            for change in page.changes:
                yield change


def _name(webhook: str) -> str:
    return webhook if "/" in webhook else names.webhook_name(webhook)
