"""Changes of hosts and webhooks whose answer is lost are asked for again where that is harmless."""

from __future__ import annotations

import random
from datetime import timedelta
from typing import Any

import pytest
from grpc import StatusCode

from countermand.client import Client
from countermand.rpc.errors import (
    CoordinatorUnavailable,
    HostNotFound,
    HostUnreachable,
    WebhookNotFound,
)
from countermand.rpc.server import Service
from countermand.v1 import (
    host_pb2,
    webhook_pb2,
    webhook_pb2_grpc,
)
from tests.rpc.scripted import Scripted, ScriptedHosts, start

NOBODY = "127.0.0.1:9"


class Forgetful(ScriptedHosts, webhook_pb2_grpc.WebhookServiceServicer):
    """Does what is asked, and loses the answer of each call but its last."""

    def __init__(self) -> None:
        super().__init__()
        self.webhooks: dict[str, webhook_pb2.Webhook] = {}
        self.asked: list[Any] = []
        self.to_lose = 1

    async def _answer(self, request: Any, context: Any, answer: Any) -> Any:
        self.asked.append(request)
        if len(self.asked) <= self.to_lose:
            await context.abort(StatusCode.UNAVAILABLE, "the answer was lost")
        return answer

    async def AddHost(self, request, context):
        if request.address == NOBODY:
            self.asked.append(request)
            raise HostUnreachable(address=NOBODY)
        return await self._answer(request, context, await super().AddHost(request, context))

    async def DrainHost(self, request, context):
        return await self._answer(request, context, await super().DrainHost(request, context))

    async def AcceptHost(self, request, context):
        return await self._answer(request, context, await super().AcceptHost(request, context))

    async def RemoveHost(self, request, context):
        if self.hosts.pop(request.name, None) is None:
            raise HostNotFound(name=request.name)
        return await self._answer(request, context, host_pb2.RemoveHostResponse())

    async def AddWebhook(self, request, context):
        answer = webhook_pb2.AddWebhookResponse(secret="whsec_" if not self.asked else "")
        return await self._answer(request, context, answer)

    async def ResumeWebhook(self, request, context):
        return await self._answer(request, context, webhook_pb2.ResumeWebhookResponse())

    async def RotateWebhookSecret(self, request, context):
        return await self._answer(request, context, webhook_pb2.RotateWebhookSecretResponse())

    async def RemoveWebhook(self, request, context):
        if self.asked:
            raise WebhookNotFound(name=request.name)
        return await self._answer(request, context, webhook_pb2.RemoveWebhookResponse())


@pytest.fixture
def forgetful():
    return Forgetful()  # type: ignore[abstract]  # the other calls are not served


@pytest.fixture
async def client(forgetful):
    add = webhook_pb2_grpc.add_WebhookServiceServicer_to_server
    name = webhook_pb2.DESCRIPTOR.services_by_name["WebhookService"].full_name
    more = [Service(name, add, forgetful)]
    running = await start(Scripted(), forgetful, more=more)  # type: ignore[abstract]  # not served
    patience = timedelta(seconds=20)
    async with Client(running.address, patience=patience, randomness=random.Random(7)) as opened:
        yield opened
    await running.stop(0)


REPEATED = {
    "add": lambda client: client.hosts.add("a", "127.0.0.1:1"),
    "drain": lambda client: client.hosts.drain("a", "x"),
    "undrain": lambda client: client.hosts.undrain("a", "x"),
    "accept": lambda client: client.hosts.accept("a", "x"),
    "webhook-add": lambda client: client.webhooks.add("w", "http://w", secret="whsec_x"),
    "webhook-resume": lambda client: client.webhooks.resume("w", "x"),
    "webhook-rotate": lambda client: client.webhooks.rotate_secret("w", "whsec_x"),
}


@pytest.mark.parametrize("change", REPEATED.values(), ids=REPEATED)
async def test_a_change_whose_answer_is_lost_is_asked_for_again(client, forgetful, change):
    forgetful.hosts["hosts/a"] = host_pb2.Host(name="hosts/a")
    await change(client)

    first, second = forgetful.asked
    assert first == second
    assert first.request_id


@pytest.mark.parametrize("kind", ["hosts", "webhooks"])
async def test_what_is_gone_when_asked_again_was_removed(client, forgetful, kind):
    forgetful.hosts["hosts/a"] = host_pb2.Host(name="hosts/a")
    await getattr(client, kind).remove("a", "x")

    assert len(forgetful.asked) == 1


async def test_what_was_never_there_is_not_removed(client):
    with pytest.raises(HostNotFound):
        await client.hosts.remove("nothing", "x")


@pytest.mark.parametrize("word", ["add", "rotate_secret"])
async def test_a_secret_that_is_told_once_is_never_asked_for_twice(client, forgetful, word):
    """A repeat would succeed without it, or make yet another."""
    words = ("w", "http://w") if word == "add" else ("w",)
    with pytest.raises(CoordinatorUnavailable):
        await getattr(client.webhooks, word)(*words)

    assert len(forgetful.asked) == 1


async def test_a_host_that_does_not_answer_is_told_at_once(client, forgetful):
    with pytest.raises(HostUnreachable):
        await client.hosts.add("a", NOBODY)

    assert len(forgetful.asked) == 1
