"""Fixtures of the tests of `agent-sanity`."""

from __future__ import annotations

from tests.agent.mounts import btrfs_mount, ext4_mount, mount, tmpfs_mount, xfs_mount

__all__ = ["btrfs_mount", "ext4_mount", "mount", "tmpfs_mount", "xfs_mount"]
