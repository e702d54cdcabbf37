"""What the service of webhooks writes into the log: what has happened, once it has."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from coordinator.api.webhook_service import WebhookService
from coordinator.runtime.ports import StoreError
from countermand.v1 import webhook_pb2 as pb
from tests.webhooks.receiver import receiver
from tests.webhooks.rig import world

NO_CONTEXT: Any = None  # it is asked for nothing


async def test_what_could_not_be_written_is_not_told(monkeypatch, caplog):
    caplog.set_level(logging.INFO)

    async def full(*_):
        raise StoreError("the disk is full")

    async with receiver() as to, world() as one:
        await one.add(to)
        service = WebhookService(
            webhooks=one.receivers, store=one.store, clock=one.clock, new_secret=str
        )
        request = pb.RemoveWebhookRequest(name="webhooks/one", request_id="r", reason="sold")
        with monkeypatch.context() as patched:
            patched.setattr(one.store, "remove_webhook", full)
            with pytest.raises(StoreError):
                await service.RemoveWebhook(request, NO_CONTEXT)
        assert "webhook.removed" not in caplog.text
        await service.RemoveWebhook(request, NO_CONTEXT)
        assert "webhook.removed" in caplog.text
