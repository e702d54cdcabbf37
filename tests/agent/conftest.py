"""Fixtures of the agent's tests."""

from __future__ import annotations

import pytest

from tests.agent.csi_host import csi_host
from tests.agent.mounts import btrfs_mount, ext4_mount, mount, tmpfs_mount, xfs_mount
from tests.agent.rig import Rig
from tests.agent.served import service

__all__ = [
    "btrfs_mount",
    "csi_host",
    "ext4_mount",
    "mount",
    "rig",
    "service",
    "tmpfs_mount",
    "xfs_mount",
]


@pytest.fixture
async def rig(tmp_path):
    """Yields a started agent with one pool, `fast`, and stops it."""
    rig = Rig(tmp_path)
    await rig.start()
    yield rig
    await rig.runner.stop()
