"""Fixtures of the agent's tests."""

from __future__ import annotations

import pytest

from tests.agent.rig import Rig


@pytest.fixture
async def rig(tmp_path):
    """Yields a started agent with one pool, `fast`, and stops it."""
    rig = Rig(tmp_path)
    await rig.start()
    yield rig
    await rig.runner.stop()
