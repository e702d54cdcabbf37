"""The page on drivers, followed to the letter: its example is installed, tried and served."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest

from agent.drivers.driver import NEEDS
from tests.agent.mounts import MEMORY
from tests.endtoend.tour import DOCS, follow

PAGE = DOCS / "how-to/write-a-driver.md"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("bash") is None, reason="the pages are written for bash")
def test_the_page_works_and_says_what_it_shows():
    memory = MEMORY if MEMORY.is_dir() else None  # it flushes thousands of times
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        follow(PAGE, Path(folder))


def test_the_page_names_what_each_verb_needs():
    page = PAGE.read_text(encoding="utf-8")
    for verb, needed in NEEDS.items():
        if needed is not None:
            assert any(
                f"`{verb}`" in line and f"`{needed.__name__}`" in line for line in page.splitlines()
            )
