"""README's tour, run as a newcomer pastes it: block by block into one shell, with real processes.

Blocks marked `tour` are run in their order. What README shows as their output must come, but for
numbers. Addresses are replaced by free ones, so that the tour disturbs nobody.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.endtoend.cluster import free_address

pytestmark = pytest.mark.slow

README = Path(__file__).parents[2] / "README.md"
FENCE = re.compile(r"^```(.*)\n((?:.*\n)*?)```$", re.MULTILINE)
COORDINATOR, AGENT = "127.0.0.1:7700", "127.0.0.1:7710"
READY = ("coordinator.ready", "agent.ready")
DONE = "README-BLOCK-DONE"

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


class Shell:
    """One shell that is given blocks, and everything it says."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.said = ""
        self.process = subprocess.Popen(
            ["bash", "--norc"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
            start_new_session=True,
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._given, self._saying = self.process.stdin, self.process.stdout

    def run(self, block: str) -> None:
        """Returns once a block has ended, and what it started in the background is ready."""
        awaited = {word for word in READY if f"countermand-{word.partition('.')[0]} serve" in block}
        self._given.write(f"{block}\necho {DONE}\n")
        self._given.flush()
        awaited.add(DONE)
        while awaited:
            line = self._saying.readline()
            assert line, f"the shell has ended:\n{self.said}"
            self.said += line
            awaited -= {word for word in awaited if word in line}

    def end(self) -> None:
        """Ends the shell and whatever it started."""
        self._given.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self._saying.close()
        self.process.wait()


def blocks() -> list[tuple[str, str]]:
    """Returns the fenced blocks, each with the words behind its fence."""
    return FENCE.findall(README.read_text(encoding="utf-8"))


def plain(text: str) -> str:
    """Returns a text without its numbers."""
    return re.sub(r"\d[\d.:]*", "0", text)


@pytest.mark.skipif(shutil.which("bash") is None, reason="the tour is written for bash")
def test_the_tour_works_and_says_what_readme_says(tmp_path):
    bin_ = Path(sys.executable).parent
    coordinator, agent = free_address(), free_address()
    environment = os.environ | {
        "PATH": f"{bin_}:{os.environ['PATH']}",
        "TMPDIR": str(tmp_path),
        "COUNTERMAND_LISTEN": coordinator,
        "COUNTERMAND_COORDINATOR": coordinator,
        "PYTHONUNBUFFERED": "1",
    }
    shell = Shell(environment)
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
