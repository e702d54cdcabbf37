"""What people do about webhooks: have the receiver told again, from where they say; remove them.

Adding one and another secret are left to the command line: both answer with a secret, once, which
belongs into no browser's memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from coordinator.web.forms.fields import Field, Form, Problem, reason
from coordinator.web.forms.serving import Deed, Given, Params
from coordinator.web.site import Site
from countermand.drawing.values import said
from countermand.drawing.words import webhook_look
from countermand.rpc.channel import CHANGE_TIMEOUT_S
from countermand.rpc.names import webhook_name
from countermand.v1.webhook_pb2 import (
    GetWebhookRequest,
    RemoveWebhookRequest,
    ResumeWebhookRequest,
    Webhook,
)

ALL: Final = "/webhooks"
SINCE: Final = "since_position"


async def _read(site: Site, params: Params) -> Webhook:
    request = GetWebhookRequest(name=webhook_name(params["webhook"]))
    return (await site.calls.unary(site.calls.webhooks.GetWebhook, request)).webhook


def _form(webhook: Webhook, title: str, button: str, **more: object) -> Form:
    return Form(
        title=title,
        about=webhook.name.removeprefix("webhooks/"),
        back=ALL,
        button=button,
        basis=webhook.url,
        **more,  # type: ignore[arg-type]
    )


async def _resume(site: Site, params: Params, typed: Mapping[str, str]) -> Form:
    webhook = await _read(site, params)
    state = webhook_look(webhook.state).word
    happens = [
        f"It is {state}, and {webhook.behind} events behind.",
        f"{webhook.url} is called at once, and told what it has not taken yet.",
    ]
    if webhook.HasField("failure"):
        happens.insert(1, f"Why it failed last: {said(webhook.failure)}")
    since = Field(
        name=SINCE,
        label="Go on after position",
        kind="number",
        hint="Empty: where it is. An earlier one tells events again, a later one leaves some out.",
    )
    text = typed.get(SINCE, "").strip()
    wrong = [Problem(said=f"{text[:40]!r} is no position", field=SINCE)]
    return _form(
        webhook,
        "Resume the webhook",
        "Resume it",
        happens=happens,
        fields=[since, reason()],
        problems=wrong if text and not _is_position(text) else (),
    )


def _is_position(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 19  # noqa: PLR2004 - int64


async def _send_resume(site: Site, params: Params, given: Given) -> str:
    request = ResumeWebhookRequest(
        name=webhook_name(params["webhook"]), request_id=given.request_id, reason=given.reason
    )
    if text := given.typed.get(SINCE, "").strip():
        request.since_position = int(text)
    method = site.calls.webhooks.ResumeWebhook
    await site.calls.unary(method, request, timeout_s=CHANGE_TIMEOUT_S)
    return ALL


async def _remove(site: Site, params: Params, _: Mapping[str, str]) -> Form:
    webhook = await _read(site, params)
    happens = [
        f"Nothing more is sent to {webhook.url}.",
        f"{webhook.behind} events that it has not taken are never told there.",
    ]
    return _form(
        webhook,
        "Remove the webhook",
        "Remove it",
        happens=happens if webhook.behind else happens[:1],
        fields=[reason()],
        is_grave=True,
    )


async def _send_remove(site: Site, params: Params, given: Given) -> str:
    name = webhook_name(params["webhook"])
    request = RemoveWebhookRequest(name=name, request_id=given.request_id, reason=given.reason)
    method = site.calls.webhooks.RemoveWebhook
    await site.calls.unary(method, request, timeout_s=CHANGE_TIMEOUT_S)
    return ALL


DEEDS: Final[Sequence[Deed]] = (
    Deed(path="/webhooks/{webhook}/resume", look=_resume, act=_send_resume, word="called"),
    Deed(path="/webhooks/{webhook}/remove", look=_remove, act=_send_remove, word="removed"),
)
