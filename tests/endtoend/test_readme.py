"""README's tour, run as a newcomer pastes it: block by block into one shell, with real processes.

Blocks marked `tour` are run in their order. What README shows as their output must come, but for
numbers. Addresses are replaced by free ones, so that the tour disturbs nobody.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from tests.endtoend.cluster import free_address
from tests.endtoend.tour import COORDINATOR, FENCE, Shell, plain

pytestmark = pytest.mark.slow

README = Path(__file__).parents[2] / "README.md"
AGENT = "127.0.0.1:7710"

# What the whole tour must have said.
EXPECTED = (
    "host-a  ✓ ready",
    "✓ succeeded  workflows/vm-1",
    "workflow ↺ compensated",
    "exit code 3",
    "Wrote ",
    "── compensation",
    "vm-1-system",
    "workflows/vm-3 failed in task copy-2 on host-a (NO_SPACE)",
    '"state": "WORKFLOW_STATE_COMPENSATED"',
)


def blocks() -> list[tuple[str, str]]:
    """Returns the fenced blocks, each with the words behind its fence."""
    return FENCE.findall(README.read_text(encoding="utf-8"))


@pytest.mark.skipif(shutil.which("bash") is None, reason="the tour is written for bash")
def test_the_tour_works_and_says_what_readme_says(tmp_path):
    coordinator, agent = free_address(), free_address()
    shell = Shell(tmp_path, COUNTERMAND_LISTEN=coordinator, COUNTERMAND_COORDINATOR=coordinator)
    try:
        for kind, block in blocks():
            here = block.replace(COORDINATOR, coordinator).replace(AGENT, agent)
            if kind == "sh tour":
                shell.run(here)
            elif kind == "python tour":
                (tmp_path / "example.py").write_text(here, encoding="utf-8")
                shell.run(f"python {tmp_path / 'example.py'}")
    finally:
        shell.end()

    for words in EXPECTED:
        assert words in shell.said, f"{words!r} is not in:\n{shell.said}"
    for kind, block in blocks():
        if kind == "text":
            for line in block.splitlines():
                assert plain(line) in plain(shell.said), f"{line!r} is not in:\n{shell.said}"
    for words in ("Traceback", "command not found", "No such file", "Usage:"):
        assert words not in shell.said, shell.said
    assert [path.name for path in tmp_path.iterdir()] == ["example.py"], "something is left"


def test_readme_names_only_what_is_there():
    text = README.read_text(encoding="utf-8")
    paths = re.findall(r"`(tests/[\w/.]+)`", text)

    assert [path for path in paths if not (README.parent / path).exists()] == []


PAGES = [README, *README.parent.glob("docs/**/*.md"), README.parent / "coordinator/README.md"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(README.parent)))
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8"))

    here = [link for link in links if not link.startswith("https://")]
    assert [link for link in here if not (page.parent / link).exists()] == []


def test_readme_names_only_targets_that_are_there():
    makefile = (README.parent / "Makefile").read_text(encoding="utf-8")

    named = set(
        re.findall(r"(?:`|^)make ([a-z]+)", README.read_text(encoding="utf-8"), re.MULTILINE)
    )
    assert {name for name in named if not re.search(rf"^{name}:", makefile, re.MULTILINE)} == set()
