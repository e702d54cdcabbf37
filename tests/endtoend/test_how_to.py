"""The how-to pages, run block by block: every command works, and says what its page shows."""

from __future__ import annotations

import shutil

import pytest

from tests.endtoend.test_templates import DOCS, told, words_of

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("bash") is None, reason="the pages are written for bash"),
]


@pytest.mark.parametrize(
    "name",
    [
        "pause-fix-resume",
        "decide-a-blocked-compensation",
        "images-in-line",
        "drain-a-host",
        "find-and-mend-differences",
        "when-a-host-is-lost",
        "use-a-csi-plug-in",
        "check-an-agent",
        "copy-across-hosts",
        "get-told-by-webhook",
    ],
)
def test_every_command_of_a_page_works_and_says_what_the_page_says(name, tmp_path, monkeypatch):
    """What comes differs between runs in its numbers, and behind the … at the end of a line."""
    monkeypatch.setenv("countermand", str(DOCS.parent))
    shown = list(told(DOCS / f"how-to/{name}.md", tmp_path))

    assert shown
    for text, said in shown:
        lines = [words_of(line) for line in said.splitlines()]
        for line in text.splitlines():
            start, cut, _ = words_of(line).partition(" …")
            found = [one for one in lines if (one.startswith(start) if cut else one == start)]
            assert found, f"{line!r} is not in:\n{said}"
