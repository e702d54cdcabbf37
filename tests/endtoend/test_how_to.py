"""The how-to pages, run block by block: every command works, and says what its page shows."""

from __future__ import annotations

import shutil

import pytest

from tests.endtoend.tour import DOCS, follow

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
        "call-it-with-json",
    ],
)
def test_every_command_of_a_page_works_and_says_what_the_page_says(name, tmp_path):
    follow(DOCS / f"how-to/{name}.md", tmp_path)
