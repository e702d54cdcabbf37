"""The page on verbs, followed to the letter: its example is installed, used, and made up for."""

from __future__ import annotations

import shutil

import pytest

from tests.endtoend.tour import DOCS, follow

PAGE = DOCS / "how-to/write-a-verb.md"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("bash") is None, reason="the pages are written for bash")
def test_the_page_works_and_says_what_it_shows(tmp_path):
    follow(PAGE, tmp_path)
    images = tmp_path / "fast/images"
    assert {path.name for path in images.iterdir()} == {"vm-7.seed", "vm-7.receipt"}
    assert list((tmp_path / "fast/staging").iterdir()) == []
