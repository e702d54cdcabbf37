"""What people do about webhooks: add them, have the receiver told again, sign anew, remove them.

A secret is made with the form, before anything is sent: whoever sends it has seen it, and it is one
and the same however often it is sent. No answer shows one, and no address holds one.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from secrets import token_bytes
from typing import Final

from coordinator.web.forms.fields import Field, Form, Problem, reason
from coordinator.web.forms.serving import Deed, Given, Params
from coordinator.web.forms.workflows import LABELS, field_of_first, labels_of
from coordinator.web.site import Site
from countermand.drawing.values import said
from countermand.drawing.words import webhook_look
from countermand.rpc.channel import CHANGE_TIMEOUT_S
from countermand.rpc.errors import FieldInvalid, Violation
from countermand.rpc.names import ID_RULE, is_id, webhook_name
from countermand.v1.webhook_pb2 import (
    AddWebhookRequest,
    GetWebhookRequest,
    RemoveWebhookRequest,
    ResumeWebhookRequest,
    RotateWebhookSecretRequest,
    Webhook,
)

ALL: Final = "/webhooks"
WEBHOOK_ID, URL, TYPES, KIND = "webhook_id", "url", "event_types", "kind"
SECRET: Final = "secret"  # noqa: S105 - the name of a field
SECRET_BYTES: Final = 32
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


def _secret(hint: str) -> Field:
    made = f"whsec_{b64encode(token_bytes(SECRET_BYTES)).decode()}"
    return Field(
        name=SECRET,
        label="Secret that signs",
        kind="long",  # all of it is to be seen
        value=made,
        hint=hint,
        is_required=True,
    )


def _position(typed: Mapping[str, str]) -> Sequence[Problem]:
    """Returns what is wrong with where it goes on."""
    text = typed.get(SINCE, "").strip()
    is_one = text.isascii() and text.isdecimal() and len(text) < 19  # noqa: PLR2004 - int64
    said_ = f"{text[:40]!r} is no position"
    return [Problem(said=said_, field=SINCE)] if text and not is_one else []


async def _add(_: Site, __: Params, typed: Mapping[str, str]) -> Form:
    fields = [
        Field(
            name=WEBHOOK_ID,
            label="Id",
            hint="Small letters, digits, dot, dash, underscore; at most 63.",
            is_required=True,
        ),
        Field(
            name=URL,
            label="Address of the receiver",
            hint="http:// or https://; events are posted there.",
            is_required=True,
        ),
        _secret("The receiver needs it: copy it now, it is not shown again."),
        Field(
            name=TYPES,
            label="Types of events",
            kind="long",
            hint="One per line, such as workflow.failed, task.* or *. Empty: how workflows end.",
        ),
        Field(
            name=LABELS,
            label="Only of workflows with these labels",
            kind="long",
            hint="One per line: key=value. Empty: whatever their labels.",
        ),
        Field(name=KIND, label="Only of workflows of this kind", hint="Empty: of any kind."),
        Field(
            name=SINCE,
            label="Begin after position",
            kind="number",
            hint="Empty: from now on. 0: with everything that is still kept.",
        ),
    ]
    wrong = [Problem(said=each.description, field=each.field) for each in _wrong(typed)]
    return Form(
        title="Add a webhook",
        about="Webhooks",
        back=ALL,
        button="Add it",
        happens=["Its receiver is told over HTTP what happens, each event signed."],
        fields=fields,  # nobody is asked why: an addition has no reason in the contract
        problems=[*wrong, *_position(typed)],
    )


def _wrong(typed: Mapping[str, str]) -> Iterator[Violation]:
    if (id_ := typed.get(WEBHOOK_ID, "").strip()) and not is_id(id_):
        yield Violation(WEBHOOK_ID, f"{id_[:80]!r} {ID_RULE}")
    try:
        labels_of(typed.get(LABELS, ""))
    except FieldInvalid as error:
        yield from error.violations


async def _send_add(site: Site, _: Params, given: Given) -> str:
    typed = {name: text.strip() for name, text in given.typed.items()}
    request = AddWebhookRequest(
        webhook_id=typed.get(WEBHOOK_ID, ""),
        url=typed.get(URL, ""),
        event_types=typed.get(TYPES, "").split(),
        labels=labels_of(typed.get(LABELS, "")),
        kind=typed.get(KIND, ""),
        secret=typed.get(SECRET, ""),
        request_id=given.request_id,
    )
    if text := typed.get(SINCE):
        request.since_position = int(text)
    await site.calls.unary(site.calls.webhooks.AddWebhook, request, timeout_s=CHANGE_TIMEOUT_S)
    return ALL


async def _rotate(site: Site, params: Params, _: Mapping[str, str]) -> Form:
    webhook = await _read(site, params)
    happens = [
        f"What is sent to {webhook.url} is signed with the secret below from now on.",
        "For a day the old one signs as well: have the receiver change over within it.",
    ]
    fields = [_secret("Copy it now: it is not shown again.")]
    return _form(webhook, "Sign with another secret", "Rotate it", happens=happens, fields=fields)


async def _send_rotate(site: Site, params: Params, given: Given) -> str:
    request = RotateWebhookSecretRequest(
        name=webhook_name(params["webhook"]),
        secret=given.typed.get(SECRET, "").strip(),
        request_id=given.request_id,
    )
    method = site.calls.webhooks.RotateWebhookSecret
    await site.calls.unary(method, request, timeout_s=CHANGE_TIMEOUT_S)
    return ALL


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
    return _form(
        webhook,
        "Resume the webhook",
        "Resume it",
        happens=happens,
        fields=[since, reason()],
        problems=_position(typed),
    )


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
    Deed(
        path="/add-webhook",
        look=_add,
        act=_send_add,
        word="told-from-now",
        field_of=field_of_first,
        beside={"WEBHOOK_ID_TAKEN": WEBHOOK_ID},
    ),
    Deed(path="/webhooks/{webhook}/secret", look=_rotate, act=_send_rotate, word="rotated"),
    Deed(path="/webhooks/{webhook}/resume", look=_resume, act=_send_resume, word="called"),
    Deed(path="/webhooks/{webhook}/remove", look=_remove, act=_send_remove, word="removed"),
)
