"""The page on drivers, followed to the letter: its example is installed, tried and served."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest

from agent.drivers.driver import NEEDS
from tests.agent.mounts import MEMORY
from tests.endtoend.test_templates import DOCS, told, words_of

PAGE = DOCS / "how-to/write-a-driver.md"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("bash") is None, reason="the pages are written for bash")
def test_the_page_works_and_says_what_it_shows(monkeypatch):
    monkeypatch.setenv("countermand", str(DOCS.parent))
    memory = MEMORY if MEMORY.is_dir() else None  # it flushes thousands of times
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        follow(Path(folder))


def follow(folder: Path) -> None:
    for text, said in told(PAGE, folder):
        assert "BROKEN" not in said
        lines = [words_of(line) for line in said.splitlines()]
        for line in text.splitlines():
            assert words_of(line) in lines, f"{line!r} is not in:\n{said}"


def test_the_page_names_what_each_verb_needs():
    page = PAGE.read_text(encoding="utf-8")
    for verb, needed in NEEDS.items():
        if needed is not None:
            assert any(
                f"`{verb}`" in line and f"`{needed.__name__}`" in line for line in page.splitlines()
            )
