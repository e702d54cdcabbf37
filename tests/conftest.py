"""Refuses to run on stubs older than their protos: such failures look like bugs and are none."""

import pytest

from protos.generate import StubsError, check


def pytest_configure() -> None:
    """Ends the run with one sentence before anything imports a stale stub."""
    try:
        check()
    except StubsError as error:
        pytest.exit(str(error), returncode=pytest.ExitCode.USAGE_ERROR)
