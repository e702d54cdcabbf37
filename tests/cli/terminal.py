"""A terminal with a command on it: what it shows is read, and what a person types is sent."""

from __future__ import annotations

import codecs
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

GIVE_UP_S = 30.0  # of a hanging command; nothing here takes as much
_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal:
    """One command on a terminal of its own; use it in `with`."""

    def __init__(
        self,
        address: str,
        *args: str,
        width: int = 100,
        env: Mapping[str, str] | None = None,
        folder: Path | None = None,
    ) -> None:
        self._folder = folder
        self._args = args
        known = {"COUNTERMAND_COORDINATOR": address, "TERM": "xterm", "COLUMNS": str(width)}
        self._env = known | dict(env or {})
        self._width = width
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.raw = ""

    def __enter__(self) -> Self:
        self._controller, terminal = pty.openpty()
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, self._width, 0, 0))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "countermand.cli", *self._args],
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            env=os.environ | self._env,
            cwd=self._folder,
            start_new_session=True,
        )
        os.close(terminal)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._controller)

    @property
    def text(self) -> str:
        """Returns what it has shown so far, without colours."""
        return self.plain(self.raw)

    @staticmethod
    def plain(raw: str) -> str:
        """Returns what was shown without colours."""
        return _ESCAPE.sub("", raw).replace("\r\n", "\n")

    def until(self, words: str) -> Self:
        """Reads until it shows these words after what was read before."""
        before = len(self.text)
        give_up = time.monotonic() + GIVE_UP_S
        while words not in self.text[self._seen :]:
            assert time.monotonic() < give_up, f"no {words!r} in:\n{self.text}"
            assert self._read(), f"it ended before {words!r}:\n{self.text}"
        self._seen = max(before, self.text.index(words, self._seen) + len(words))
        return self

    _seen = 0

    def type(self, line: str) -> Self:
        """Types a line."""
        os.write(self._controller, f"{line}\n".encode())
        return self

    def interrupt(self) -> Self:
        """Presses Ctrl-C, again if nothing comes of it, as people do.

        A signal that arrives just before Python begins to read a line is noted after that line. Who
        waits for a processor has not had the time to say anything: it is not pressed again.
        """
        give_up = time.monotonic() + GIVE_UP_S
        os.killpg(self._process.pid, signal.SIGINT)
        while not select.select([self._controller], [], [], 1.0)[0]:
            assert time.monotonic() < give_up, f"it hears no Ctrl-C after:\n{self.text}"
            if self._sleeps():
                os.killpg(self._process.pid, signal.SIGINT)
        return self

    def _sleeps(self) -> bool:
        """Returns whether it waits for a person, or for somebody's answer."""
        about = Path(f"/proc/{self._process.pid}/stat").read_text()
        return about.rpartition(")")[2].split()[0] == "S"

    def end(self) -> int:
        """Reads to the end, and returns the exit code."""
        while self._read():
            pass
        return self._process.wait(GIVE_UP_S)

    def _read(self) -> bool:
        """Reads what is there, waiting for it; returns whether there may be more."""
        ready, _, _ = select.select([self._controller], [], [], GIVE_UP_S)
        assert ready, f"it hangs after:\n{self.text}"
        with suppress(OSError):  # EIO: nobody has the terminal any more
            if more := os.read(self._controller, 65536):
                self.raw += self._decoder.decode(more)
                return True
        return False
