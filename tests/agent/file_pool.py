"""What the tests of the `file` driver ask of its agent, and what they expect."""

from __future__ import annotations

import os
import subprocess

import pytest

from agent.drivers import qemu
from agent.drivers.copying import CHUNK_BYTES
from countermand.v1.attempt_pb2 import Attempt
from countermand.v1.verb_pb2 import (
    Action,
    CloneImage,
    CreateImage,
    DeleteImage,
)
from tests.agent.requests import address, attempt_name, copy_action
from tests.agent.rig import Rig

MIB = 2**20
COPY = attempt_name("copy")
UNDO = attempt_name("copy", 2)
ACTION = copy_action("fast/base", "fast/disk")
CONTENT = os.urandom(CHUNK_BYTES) + bytes(CHUNK_BYTES) + os.urandom(CHUNK_BYTES + 512)

SUCCEEDED = Attempt.STATE_SUCCEEDED
FAILED = Attempt.STATE_FAILED

needs_qemu = pytest.mark.skipif(
    not qemu.is_installed(), reason="qemu-img is not installed: apt install qemu-utils"
)


def clone_action(source: str, target: str, **fields) -> Action:
    return Action(clone_image=CloneImage(source=address(source), target=address(target), **fields))


def create_action(target: str, size_bytes: int, **fields) -> Action:
    create = CreateImage(target=address(target), virtual_size_bytes=size_bytes, **fields)
    return Action(create_image=create)


def delete_action(target: str) -> Action:
    return Action(delete_image=DeleteImage(target=address(target)))


def run(*arguments: object) -> None:
    subprocess.run(list(map(str, arguments)), check=True, capture_output=True)


async def refused(rig: Rig, action: Action, task: str = "copy") -> str:
    """Runs what must fail and leave nothing half-made; returns the reason."""
    failed = await rig.run(attempt_name(task), action)
    assert failed.state == FAILED, failed
    assert rig.staged() == []
    return failed.failure.reason
