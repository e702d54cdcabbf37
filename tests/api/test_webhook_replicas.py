"""Webhooks at any replica: one tells receivers, all of them answer for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest

from coordinator.webhooks import courier, receivers
from countermand.v1 import webhook_pb2 as pb
from countermand.v1 import workflow_pb2 as wpb
from tests.api.calls import refused
from tests.api.replicas import Replica, look_often, replica, shared_on
from tests.runtime.replicas import Shared
from tests.runtime.rig import Agent, noop, series, until
from tests.webhooks.receiver import SECRET, TIMEOUT_S, Receiver, position, receiver

HOOK = "webhooks/hook"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    look_often(monkeypatch)
    monkeypatch.setattr(receivers, "NOTE_S", 0.002)
    monkeypatch.setattr(courier, "GATHER_S", 0.002)


@pytest.fixture(params=["memory", "postgres"])
def shared(request: pytest.FixtureRequest) -> Shared:
    return shared_on(request, {"a": Agent(pools=("p",))})


@pytest.fixture
async def keeping(shared: Shared) -> AsyncIterator[Replica]:
    """Yields the replica that keeps the house."""
    async with replica(shared) as keeping:
        await until(lambda: keeping.receivers.opened)
        yield keeping


@pytest.fixture
async def other(shared: Shared, keeping: Replica) -> AsyncIterator[Replica]:
    """Yields the replica that is asked."""
    async with replica(shared) as other:
        yield other


@pytest.fixture
async def to() -> AsyncIterator[Receiver]:
    async with receiver() as to:
        yield to


async def add(at: Replica, to: Receiver, webhook_id: str = "hook") -> pb.AddWebhookResponse:
    request = pb.AddWebhookRequest(
        webhook_id=webhook_id,
        url=to.url,
        event_types=["*"],
        secret=SECRET,
        since_position=0,
        request_id=str(uuid4()),
    )
    return await at.webhooks.AddWebhook(request)


async def names(at: Replica) -> list[str]:
    listed = await at.webhooks.ListWebhooks(pb.ListWebhooksRequest())
    return [each.name for each in listed.webhooks]


async def walk(at: Replica, *workflow_ids: str) -> None:
    """Starts workflows and cancels them: that has a history."""
    for workflow_id in workflow_ids:
        spec = series(noop("t", "a"))
        await at.workflows.StartWorkflow(
            wpb.StartWorkflowRequest(workflow_id=workflow_id, spec=spec)
        )
        await at.workflows.CancelWorkflow(
            wpb.CancelWorkflowRequest(
                name=f"workflows/{workflow_id}", request_id=str(uuid4()), reason="r"
            )
        )


async def told(at: Replica, to: Receiver) -> None:
    """Returns once a receiver has the whole history."""
    async with asyncio.timeout(TIMEOUT_S):
        while to.positions != await whole(at):  # noqa: ASYNC110 - what is stored is asked for
            await asyncio.sleep(0.001)


async def whole(at: Replica) -> list[int]:
    return [each.position for each in await at.store.events(after=0, limit=10_000)]


def asked(**said: Any) -> dict[str, Any]:
    return {"name": HOOK, "request_id": str(uuid4()), **said}


async def test_a_webhook_is_seen_to_through_a_replica_that_tells_nobody(keeping, other, to):
    added = await add(other, to)
    assert added.secret == SECRET
    assert not other.receivers.opened
    await walk(other, "x")
    await walk(keeping, "y")
    await told(other, to)
    assert await names(other) == await names(keeping) == [HOOK]
    get = pb.GetWebhookRequest(name=HOOK)
    seen = (await other.webhooks.GetWebhook(get)).webhook
    assert seen.state == pb.Webhook.STATE_ACTIVE
    ping = await other.webhooks.PingWebhook(pb.PingWebhookRequest(name=HOOK))
    assert ping.http_status == 204
    resume = pb.ResumeWebhookRequest(**asked(reason="r", since_position=0))
    count = len(to.taken)
    await other.webhooks.ResumeWebhook(resume)
    await to.until(lambda: len(to.taken) > count)
    rotated = await other.webhooks.RotateWebhookSecret(pb.RotateWebhookSecretRequest(**asked()))
    assert rotated.secret not in {"", SECRET}
    await other.webhooks.RemoveWebhook(pb.RemoveWebhookRequest(**asked(reason="r")))
    assert await names(other) == await names(keeping) == []
    changes = await other.webhooks.ListWebhookChanges(pb.ListWebhookChangesRequest(name=HOOK))
    assert [pb.WebhookChange.Kind.Name(each.kind) for each in changes.changes] == [
        "KIND_REMOVED",
        "KIND_SECRET_ROTATED",
        "KIND_RESUMED",
        "KIND_ADDED",
    ]


async def test_what_is_refused_is_refused_alike(keeping, other, to):
    await add(other, to)
    nobody = pb.GetWebhookRequest(name="webhooks/nobody")
    taken = pb.AddWebhookRequest(webhook_id="hook", url="http://127.0.0.1:9/else", request_id="r")
    wrong = pb.AddWebhookRequest(webhook_id="NO", url="ftp://x")
    for request, call in ((nobody, "GetWebhook"), (taken, "AddWebhook"), (wrong, "AddWebhook")):
        there = await refused(getattr(keeping.webhooks, call)(request))
        assert await refused(getattr(other.webhooks, call)(request)) == there


async def test_deliveries_go_on_when_the_house_changes_hands(keeping, other, shared, to):
    """Killed in the middle of a call: what was not noted comes once more, nothing is left out."""
    async with replica(shared) as third:
        await add(other, to)
        await walk(third, "x", "y")
        await told(third, to)
        to.open.clear()  # it answers nothing for a while
        await walk(other, "z")
        calls = to.calls
        await to.until(lambda: to.calls > calls - 1)
        await keeping.die()
        to.open.set()
        await until(lambda: other.receivers.opened or third.receivers.opened)
        assert other.receivers.opened is not third.receivers.opened
        await walk(third, "w")
        await told(third, to)
        assert await names(other) == await names(third) == [HOOK]
        first = list(dict.fromkeys(map(position, to.taken)))
        assert first == sorted(first)


async def test_a_call_waits_until_somebody_keeps_the_house(keeping, other, to):
    await add(keeping, to)
    await keeping.freeze()
    for each in keeping.receivers._couriers.values():
        await each.stop()
    asked_now = asyncio.create_task(names(other))
    await until(lambda: other.beside.routing.under_way)
    assert not other.receivers.opened
    await keeping.store.end_session()
    assert await asked_now == [HOOK]
    assert other.receivers.opened


async def test_what_is_asked_in_vain_says_that_nobody_keeps_the_house_yet(keeping, other, shared):
    await other.freeze()
    await keeping.die()
    call = other.webhooks.ListWebhooks(pb.ListWebhooksRequest(), timeout=1.0)
    error = await refused(call)
    assert (error.reason, error.metadata["name"]) == ("OWNER_UNAVAILABLE", "webhooks")
