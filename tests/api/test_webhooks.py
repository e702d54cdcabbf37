"""Webhooks of a real coordinator, over gRPC: what is refused, and what is shown."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest
import pytest_asyncio

from countermand.client import Client
from countermand.client.spec import sequence, task, workflow_spec
from countermand.rpc.errors import (
    CountermandError,
    FieldInvalid,
    WebhookIdTaken,
    WebhookNotFound,
    WebhooksFull,
)
from countermand.v1.verb_pb2 import Noop
from countermand.v1.webhook_pb2 import AddWebhookRequest, Webhook, WebhookChange
from tests.endtoend.cluster import until
from tests.webhooks.receiver import SECRET, data_of, receiver

URL = "https://receiver.example/events"


@pytest_asyncio.fixture(loop_scope="function")
async def client(cluster):
    async with Client(cluster.coordinator.address) as client:
        yield client
        for webhook in [found async for found in client.webhooks.list()]:
            await client.webhooks.remove(webhook.name, "the test is over")


async def refused(call) -> CountermandError:
    with pytest.raises(CountermandError) as raised:
        await call
    return raised.value


async def violations(client: Client, **fields) -> dict[str, str]:
    request = {"webhook_id": "a", "url": URL} | fields
    error = await refused(client.webhooks.add(request.pop("webhook_id"), **request))
    assert isinstance(error, FieldInvalid), error
    return {violation.field: violation.description for violation in error.violations}


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("", "is required"),
        ("ftp://receiver.example/", "must begin with http:// or https://"),
        ("receiver.example/in", "must begin with http:// or https://"),
        ("file:///etc/passwd", "must begin with http:// or https://"),
        ("https:///in", "names no host"),
        ("http://h:0/", "names no host"),
        ("http://h:99999/", "is no URL"),
        ("http://[::1/", "is no URL"),
        ("https://user:secret@h/", "must not hold a user or password"),
        ("https://h/#part", "must not have a fragment"),
        ("https://h/a b", "has a character that no URL has"),
        ("https://h/\nHost: x", "has a character that no URL has"),
        ("https://h/" + "a" * 2048, "is longer than 2048 bytes"),
    ],
)
async def test_a_url_that_cannot_be_called_is_refused_by_its_field(client, url, words):
    found = await violations(client, url=url)
    assert list(found) == ["url"]
    assert words in found["url"]
    assert "secret@" not in found["url"]


async def test_everything_that_is_wrong_is_said_at_once(client):
    found = await violations(
        client,
        webhook_id="A!",
        url="x",
        event_types=["workflow.failed", "workflow.succeded", "disk.*"],
        labels={"Ä": "1"},
        secret="hunter2",
    )
    assert list(found) == [
        "webhook_id",
        "url",
        "event_types[1]",
        "event_types[2]",
        "secret",
        "labels['Ä']",
    ]
    assert "did you mean workflow.succeeded? Of workflow there are" in found["event_types[1]"]
    assert "workflow.*, task.*, group.*, attempt.*, or *" in found["event_types[2]"]
    assert "hunter2" not in str(found)


@pytest.mark.parametrize(
    "secret", ["whsec_", "whsec_c2hvcnQ=", "whsec_???", "whsec_" + "QUJD" * 40]
)
async def test_a_secret_that_signs_badly_is_refused_and_not_told(client, secret):
    assert list(await violations(client, secret=secret)) == ["secret"]


async def test_a_position_that_never_was_is_refused(client):
    assert list(await violations(client, since_position=2**60)) == ["since_position"]
    assert list(await violations(client, since_position=-1)) == ["since_position"]


async def test_a_secret_is_shown_once_and_a_repeat_changes_nothing(client):
    added = await client.webhooks.add("once", URL)
    again = await client.webhooks.add("once", URL)
    given = await client.webhooks.add("given", URL, secret=SECRET)

    assert added.secret.startswith("whsec_")
    assert again.secret == ""
    assert given.secret == SECRET
    assert again.webhook == await client.webhooks.get("once") == added.webhook
    assert list(added.webhook.event_types) == [
        "workflow.succeeded",
        "workflow.compensated",
        "workflow.failed",
    ]
    others: dict[str, dict[str, Any]] = {
        "url": {"url": URL + "2"},
        "choice of events": {"url": URL, "event_types": ["*"]},
        "secret": {"url": URL, "secret": SECRET},
    }
    for field, other in others.items():
        error = await refused(client.webhooks.add("once", **other))
        assert isinstance(error, WebhookIdTaken)
        assert error.metadata["field"] == field
    assert SECRET not in str([found async for found in client.webhooks.list()])


async def test_what_is_not_there_is_not_found_and_a_bad_name_is_said(client):
    hooks = client.webhooks
    for call in (
        hooks.get("nobody"),
        hooks.ping("nobody"),
        hooks.resume("nobody", "x"),
        hooks.rotate_secret("nobody"),
        hooks.remove("nobody", "x"),
    ):
        assert isinstance(await refused(call), WebhookNotFound)
    assert isinstance(await refused(hooks.get("hosts/a")), FieldInvalid)
    await hooks.add("here", URL)
    assert isinstance(await refused(hooks.remove("here", " ")), FieldInvalid)
    assert isinstance(await refused(hooks.resume("here", "")), FieldInvalid)


async def test_who_did_what_to_a_webhook_and_why_is_known_after_it_was_removed(client):
    """A repeat that changes nothing is not told; of a secret only that there is another."""
    hooks, name = client.webhooks, f"audited-{uuid4()}"
    added = await hooks.add(name, URL)
    await hooks.add(name, URL)
    rotated = await hooks.rotate_secret(name)
    await hooks.rotate_secret(name, rotated.secret)
    await hooks.resume(name, "it is back", since_position=0)
    await hooks.resume(name, "again")
    await hooks.remove(name, "sold")
    assert isinstance(await refused(hooks.remove(name, "once more")), WebhookNotFound)

    found = [each async for each in hooks.changes(name)]
    assert [(WebhookChange.Kind.Name(each.kind), each.reason) for each in found] == [
        ("KIND_REMOVED", "sold"),
        ("KIND_RESUMED", "again"),
        ("KIND_RESUMED", "it is back"),
        ("KIND_SECRET_ROTATED", ""),
        ("KIND_ADDED", ""),
    ]
    assert [each.HasField("since_position") for each in found] == [False, False, True, False, False]
    assert {(each.webhook, each.principal) for each in found} == {(f"webhooks/{name}", "local")}
    assert added.secret not in str(found)
    everything = [each.position async for each in hooks.changes()]
    assert everything == sorted(everything, reverse=True)
    assert {each.position for each in found} < set(everything)


async def test_the_log_tells_what_has_changed_and_nothing_else(client, cluster):
    hooks, name = client.webhooks, f"logged-{uuid4()}"
    await hooks.add(name, URL)
    await hooks.add(name, URL)
    rotated = await hooks.rotate_secret(name)
    await hooks.rotate_secret(name, rotated.secret)
    await hooks.remove(name, "sold")
    lines = [each for each in cluster.coordinator.events() if each.get("webhook") == name]
    told = ["webhook.added", "webhook.secret_rotated", "webhook.removed"]
    assert [each["event"] for each in lines] == told
    assert lines[-1]["reason"] == "sold"


async def test_there_are_only_so_many(client):
    for number in range(64):
        await client.webhooks.add(f"w-{number:02}", URL)
    assert isinstance(await refused(client.webhooks.add("one-more", URL)), WebhooksFull)
    names = [found.name async for found in client.webhooks.list()]
    assert names == sorted(names)
    assert len(names) == 64


async def test_lists_are_paged(stubs, client):
    from countermand.v1.webhook_pb2 import ListWebhooksRequest

    for name in "cab":
        await client.webhooks.add(name, URL)
    call = client._calls.webhooks.ListWebhooks
    first = await call(ListWebhooksRequest(page_size=2))
    last = await call(ListWebhooksRequest(page_size=2, page_token=first.next_page_token))
    assert [w.name for w in (*first.webhooks, *last.webhooks)] == [f"webhooks/{n}" for n in "abc"]
    assert last.next_page_token == ""


async def test_a_request_without_an_id_is_refused(client):
    call = client._calls.webhooks.AddWebhook
    error = await refused(
        client._calls.unary(call, AddWebhookRequest(webhook_id="a", url=URL), timeout_s=10)
    )
    assert isinstance(error, FieldInvalid)


async def test_a_workflow_that_ends_is_told_with_its_labels(client):
    """From the submit to the receiver, through the committed history."""
    async with receiver() as to:
        await client.webhooks.add(
            "ends", to.url, secret=SECRET, labels={"tenant": "é"}, kind="told"
        )
        assert (await client.webhooks.ping("ends")).http_status == 204
        spec = workflow_spec("told", sequence("all", task("only", host="a", action=Noop())))
        for name, labels in (("x", {"tenant": "é"}), ("y", {"tenant": "e"})):
            run = await client.submit(spec, workflow_id=f"{name}-{uuid4()}", labels=labels)
            await run.result()
        other = await client.submit(spec, workflow_id=f"z-{uuid4()}", labels={"tenant": "é"})
        await other.result()
        await to.until(lambda: len(to.taken) == 3)

        assert to.types == ["webhook.ping", "workflow.succeeded", "workflow.succeeded"]
        data = data_of(to.taken[1])
        assert (data["kind"], data["labels"]) == ("told", {"tenant": "é"})
        assert data["event"]["workflow_state_changed"]["after"] == "WORKFLOW_STATE_SUCCEEDED"
        assert to.taken[2].get_subject() == other.name

        async def caught_up() -> bool:
            found = await client.webhooks.get("ends")
            return not found.behind and bool(found.success_time.seconds)

        await until(caught_up, "told")
        to.answers.append((410, {}))
        last = await client.submit(spec, workflow_id=f"v-{uuid4()}", labels={"tenant": "é"})
        await last.result()

        async def disabled() -> bool:
            found = await client.webhooks.get("ends")
            return bool(found.state == Webhook.STATE_DISABLED)

        await until(disabled, "410 Gone")
        rotated = await client.webhooks.rotate_secret("ends")
        assert rotated.webhook.HasField("old_secret_expire_time")
        to.secret = rotated.secret
        resumed = await client.webhooks.resume("ends", "it is back")
        assert resumed.state != Webhook.STATE_DISABLED
        await to.until(lambda: len(to.taken) == 4)
        assert not to.refused
