"""Fixtures of the tests on real processes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.endtoend.lives import Lives


@pytest.fixture(scope="session")
def lives() -> Iterator[Lives]:
    """Yields what starts processes; all are gone afterwards."""
    with Lives() as lives:
        yield lives
