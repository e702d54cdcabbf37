"""An agent with an image, and whoever reads it over its service."""

from __future__ import annotations

import os

import pytest

from agent.service import AgentService
from agent.tickets import TICKET_VALID
from tests.agent.requests import attempt_name

MIB = 2**20
READER = attempt_name("reads")
CONTENT = os.urandom(MIB + 512) + bytes(3 * MIB) + os.urandom(2 * MIB) + bytes(2 * MIB)


@pytest.fixture
def service(rig):
    path = rig.put("base", CONTENT)
    with path.open("wb") as file:
        file.write(CONTENT[: MIB + 512])
        file.seek(4 * MIB + 512)
        file.write(CONTENT[4 * MIB + 512 : 6 * MIB + 512])
        file.truncate(len(CONTENT))
    return AgentService(rig.runner, now=lambda: rig.now, version="0")


async def ticket(rig, service, image="fast/base", **fields) -> bytes:
    answer = await service.ServeImage(rig.requests.serve(READER, image, **fields), None)
    assert answer.valid_for.ToTimedelta() == TICKET_VALID
    return bytes(answer.ticket)


async def read(service, request):
    return [message async for message in service.ReadImage(request, None)]


def data_of(messages) -> bytes:
    content = bytearray(messages[0].head.size_bytes)
    for message in messages:
        data = message.data
        content[data.offset : data.offset + len(data.data)] = data.data
    return bytes(content)
