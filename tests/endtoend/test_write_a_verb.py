"""The page on verbs, followed to the letter: its example is installed, used, and made up for."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.endtoend.test_templates import DOCS, told, words_of

PAGE = DOCS / "how-to/write-a-verb.md"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("bash") is None, reason="the pages are written for bash")
def test_the_page_works_and_says_what_it_shows(monkeypatch, tmp_path):
    monkeypatch.setenv("countermand", str(DOCS.parent))
    follow(tmp_path)
    images = tmp_path / "fast/images"
    assert {path.name for path in images.iterdir()} == {"vm-7.seed", "vm-7.receipt"}
    assert list((tmp_path / "fast/staging").iterdir()) == []


def follow(folder: Path) -> None:
    for text, said in told(PAGE, folder):
        lines = [words_of(line) for line in said.splitlines()]
        for line in text.splitlines():
            assert words_of(line) in lines, f"{line!r} is not in:\n{said}"
