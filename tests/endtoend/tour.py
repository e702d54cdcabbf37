"""Follows a page as a newcomer pastes it: block by block into one shell, with real processes.

Blocks marked `tour` are run in their order; what the page shows as their output must come, but for
numbers. Addresses are replaced by free ones, so that a tour disturbs nobody. A page may wait for
something in a loop without an end: its block has one here, and whatever a tour has started ends
with it.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests import guard
from tests.endtoend.cluster import HangError, free_address

DOCS = Path(__file__).parents[2] / "docs"

FENCE = re.compile(r"^```(.*)\n((?:.*\n)*?)```$", re.MULTILINE)
ADDRESS = re.compile(r"127\.0\.0\.1:77\d\d")
COORDINATOR = "127.0.0.1:7700"
SET_UP = "## To follow this page"
SETS_UP = "countermand-coordinator serve"

# What no command of a page says.
WRONG = ("Traceback", "command not found", "No such file", "Usage:", "(BUG)", "BROKEN")

READY = ("coordinator.ready", "agent.ready")
DONE = "TOUR-BLOCK-DONE"

# The longest block takes 10 s on a quiet machine; with it a tour ends before a hung test does.
BLOCK_S_MAX = 90.0
ASKED_AGAIN_S_MAX = 10.0
STEPS_SHOWN = 8
LOG_CHARACTERS_SHOWN = 1000


class Shell:
    """One shell that is given blocks, and everything it says."""

    def __init__(self, folder: Path, **variables: str) -> None:
        self.said = ""
        self.mark = guard.new_mark()
        self._folder = folder
        self.environment = {
            **os.environ,
            guard.VARIABLE: self.mark,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "TMPDIR": str(folder),
            "PYTHONUNBUFFERED": "1",
            **variables,
        }
        self._unread = b""
        self._steps = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed in `end`
        steps = self._steps.fileno()
        self.process = subprocess.Popen(
            ["bash", "--norc", "-x"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=self.environment | {"BASH_XTRACEFD": str(steps)},
            pass_fds=[steps],
            start_new_session=True,
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._given, self._saying = self.process.stdin, self.process.stdout

    def run(self, block: str, *, s_max: float = BLOCK_S_MAX) -> None:
        """Returns once a block has ended, and what it started in the background is ready.

        Raises:
            HangError: It has not, and what it was doing meanwhile is in the message.
        """
        awaited = {word for word in READY if f"countermand-{word.partition('.')[0]} serve" in block}
        awaited.add(DONE)
        give_up = time.monotonic() + s_max
        self._given.write(f"{block}\necho {DONE}\n".encode())
        self._given.flush()
        while awaited:
            ready, _, _ = select.select([self._saying], [], [], max(0, give_up - time.monotonic()))
            if not ready:
                raise HangError(self._story(block, awaited))
            some = os.read(self._saying.fileno(), 65536)
            assert some, f"the shell has ended:\n{self.said}"
            *lines, self._unread = (self._unread + some).split(b"\n")
            for line in lines:
                self.said += f"{line.decode()}\n"
                awaited -= {word for word in awaited if word.encode() in line}

    def end(self) -> None:
        """Ends the shell and whatever it started."""
        self._given.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        guard.end(self.mark)
        self._saying.close()
        self._steps.close()
        self.process.wait()

    def _story(self, block: str, awaited: set[str]) -> str:
        """Tells what a block that does not end was doing, and what its loop would see."""
        self._steps.seek(0)
        steps = list(dict.fromkeys(reversed(self._steps.read().splitlines())))[:STEPS_SHOWN]
        commands = [step.lstrip("+ ") for step in steps]
        asked = [command for command in commands if command.startswith("countermand ")]
        told = [f"still awaited: {', '.join(sorted(awaited))}", "in the block:", block]
        told += ["what it did last, newest first:", *steps]
        for command in asked[:1]:
            told += [f"what {command!r} says:", self._asked_again(command)]
        for log in self._folder.rglob("*.log"):
            told += [f"the end of {log}:", log.read_text(errors="replace")[-LOG_CHARACTERS_SHOWN:]]
        return "\n".join([*told, "what was said in the tour:", self.said])

    def _asked_again(self, command: str) -> str:
        again = ["timeout", str(ASKED_AGAIN_S_MAX), "bash", "-c", command]
        return subprocess.run(
            again,
            env=self.environment,
            cwd=Path(f"/proc/{self.process.pid}/cwd").readlink(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        ).stdout


def told(page: Path, folder: Path) -> Iterator[tuple[str, str]]:
    """Runs a page block by block; yields each text it shows, with what really came."""
    addresses: Mapping[str, str] = defaultdict(free_address)
    coordinator = addresses[COORDINATOR]
    shell = Shell(
        folder,
        COUNTERMAND_LISTEN=coordinator,
        COUNTERMAND_COORDINATOR=coordinator,
        countermand=str(DOCS.parent),  # where the pages say that the sources are
    )
    said = ""
    text = page.read_text(encoding="utf-8")
    if SET_UP not in text and SETS_UP not in text:  # it is the other page's
        _, _, rest = (DOCS / "reference/templates.md").read_text("utf-8").partition(SET_UP)
        set_up, _, _ = rest.partition("\n## ")
        text = set_up + text
    try:
        shell.run(f"cd {folder}")
        for kind, block in FENCE.findall(text):
            _, _, name = kind.partition(" ")
            if "." in name:  # a file that the page has its reader write
                (folder / name).write_text(block, encoding="utf-8")
            elif kind == "sh tour":
                before = len(shell.said)
                shell.run(ADDRESS.sub(lambda found: addresses[found[0]], block))
                said = shell.said[before:]
                for words in WRONG:
                    assert words not in said, said
            elif kind == "text":
                yield block, said
    finally:
        shell.end()


def follow(page: Path, folder: Path) -> None:
    """Runs a page; every command works, and says what the page says.

    What comes differs between runs in its numbers, and behind the … at the end of a line.
    """
    shown = list(told(page, folder))
    assert shown, page
    for text, said in shown:
        lines = [words_of(line) for line in said.splitlines()]
        for line in text.splitlines():
            start, cut, _ = words_of(line).partition("…")
            start = start.rstrip() if cut else start
            found = [one for one in lines if (one.startswith(start) if cut else one == start)]
            assert found, f"{line!r} is not in:\n{said}"


def plain(text: str) -> str:
    """Returns a text without its numbers."""
    return re.sub(r"\d[\d.:]*", "0", text)


def words_of(line: str) -> str:
    """Returns a line without its numbers, and without the room that they take in a table."""
    return re.sub(r" +", " ", plain(line))
