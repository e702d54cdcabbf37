"""The how-to pages, run block by block: every command works, and says what its page shows."""

from __future__ import annotations

import re
import shutil

import pytest

from tests.endtoend.tour import DOCS, FENCE, follow

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("bash") is None, reason="the pages are written for bash"),
]


NEEDS_SQLITE = pytest.mark.skipif(
    shutil.which("sqlite3") is None, reason="the page calls sqlite3, which is not installed"
)


@pytest.mark.parametrize(
    "name",
    [
        "pause-fix-resume",
        "decide-a-blocked-compensation",
        "images-in-line",
        "drain-a-host",
        "find-and-mend-differences",
        "when-a-host-is-lost",
        pytest.param("back-up-and-restore", marks=NEEDS_SQLITE),
        "use-a-csi-plug-in",
        "check-an-agent",
        "copy-across-hosts",
        "get-told-by-webhook",
        "call-it-with-json",
        "follow-a-workflow-in-jaeger",
        "watch-with-prometheus",
    ],
)
def test_every_command_of_a_page_works_and_says_what_the_page_says(name, tmp_path):
    follow(DOCS / f"how-to/{name}.md", tmp_path)


STARTS = re.compile(r"countermand-(?:coordinator|agent) serve")
ASKS = re.compile(r"^(?:countermand(?! init) |curl )", re.MULTILINE)
WAITS = re.compile(r"\bready\b|\buntil\b|lines are there")


@pytest.mark.parametrize(
    "page",
    [DOCS.parent / "README.md", *sorted(DOCS.glob("*/*.md"))],
    ids=lambda page: page.stem,
)
def test_whoever_pastes_a_page_is_told_to_wait_until_what_it_starts_is_ready(page):
    """Between what starts a service and what asks it stands that one waits."""
    text = page.read_text(encoding="utf-8")
    started: int | None = None
    for found in FENCE.finditer(text):
        kind, block = found.groups()
        if not kind.startswith("sh"):
            continue
        for start in STARTS.finditer(block):
            started = found.start(2) + start.end()
        asked = ASKS.search(text, started or found.start(2), found.end(2))
        if asked and started is not None:
            assert WAITS.search(text, started, asked.start()), f"{page}:\n{block}"
            started = None
