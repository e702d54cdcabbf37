"""Fixtures of the tests of `agent-sanity`."""

from __future__ import annotations

from tests.agent.csi_host import csi_host
from tests.agent.mounts import btrfs_mount, ext4_mount, mount, tmpfs_mount, xfs_mount

__all__ = ["btrfs_mount", "csi_host", "ext4_mount", "mount", "tmpfs_mount", "xfs_mount"]
