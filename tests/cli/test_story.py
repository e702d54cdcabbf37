"""A failure, as somebody lives through it: it fails, they look, they mend it, and it goes on.

With a real coordinator, a real agent and a pool that is truly too small; once on a terminal, once
in a pipe. What is said is in `transcripts/`, to be read as a stranger would. Where it is meant to
change, remove the file: the test writes it anew, and fails once.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cli.shell import coordinating
from tests.cli.terminal import Terminal

TRANSCRIPTS = Path(__file__).with_name("transcripts")
SPEC = """
spec:
  kind: add-vm
  policy: {on_failure: ON_FAILURE_PAUSE}
  root:
    kind: KIND_SEQUENCE
    members:
      - name: data-disk
        task:
          host_id: host-a
          action: {create_image: {target: {pool_id: fast}, virtual_size_bytes: 1048576}}
          bindings: [{field: target.image_id, source: input.data}]
      - name: system-disk
        task:
          host_id: host-a
          action: {copy_image: {source: {pool_id: fast, image_id: template}}}
          bindings:
            - {field: target.pool_id, source: input.pool}
            - {field: target.image_id, source: input.system}
      - name: verify
        task:
          host_id: host-a
          action: {verify_image: {}}
          bindings:
            - {field: target.pool_id, source: tasks.system-disk.output.image.pool_id}
            - {field: target.image_id, source: tasks.system-disk.output.image.image_id}
input: {pool: small, data: vm-1-data, system: vm-1-system}
"""
# What is another each time, with what stands for it.
VARYING = (
    (re.compile(r"\d\d:\d\d:\d\d\.\d{3}Z"), "12:00:00.000Z"),
    (re.compile(r"\b\d+(\.\d+)? (ms|s|min)\b( ago)?"), "…"),
    (re.compile(r"\b[0-9a-f]{32}\b"), "…"),
    (re.compile(r"blake3-\S+"), "blake3-…"),
    (re.compile(r" {3,}"), "  "),  # columns are as wide as what is in them
)
WIDTH = 300  # nothing is cut, wherever a column ends
_LAST_FRAME = re.compile(r"\r\x1b\[2K(?:\x1b\[1A\x1b\[2K)*")


@contextmanager
def agent(folder: Path) -> Iterator[str]:
    """Yields the address of an agent, with a template and a pool that is too small for it."""
    for name in ("fast", "small"):
        (folder / name).mkdir()
    fast = f"fast={folder / 'fast'}"
    raw = folder / "template.raw"
    raw.write_bytes(os.urandom(4 << 20))
    importing = ["import", "--pool", fast, "--image", "template", "--format", "raw", str(raw)]
    subprocess.run([sys.executable, "-m", "agent", *importing], check=True, capture_output=True)
    serving = ["serve", "--data", str(folder / "agent"), "--listen", "127.0.0.1:0", "--pool", fast]
    with (
        (folder / "agent.log").open("w") as log,
        subprocess.Popen(
            [
                *(sys.executable, "-m", "agent", *serving),
                *("--pool", f"small={folder / 'small'},quota=2MiB"),
            ],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        ) as process,
    ):
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())["address"]
        process.terminate()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """Yields a coordinator with one host, and a file with a spec."""
    (tmp_path / "coordinator").mkdir()
    with coordinating(tmp_path / "coordinator") as address, agent(tmp_path) as host:
        piped(address, tmp_path, f"host add host-a {host}")
        file = tmp_path / "add-vm.yaml"
        file.write_text(SPEC)
        yield address, tmp_path


def piped(address: str, folder: Path, words: str) -> str:
    """Runs a command in a pipe; returns it with all that it said, and its exit code."""
    done = subprocess.run(
        [sys.executable, "-m", "countermand.cli", *shlex.split(words)],
        env=os.environ | {"COUNTERMAND_COORDINATOR": address},
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        check=False,
    )
    return told(words, done.stdout, done.returncode)


def typed(address: str, folder: Path, words: str, *answers: tuple[str, str]) -> str:
    """Runs a command on a terminal, and answers what it asks."""
    with Terminal(address, *shlex.split(words), folder=folder, width=WIDTH) as terminal:
        for question, answer in answers:
            terminal.until(question).type(answer)
        code = terminal.end()
        # Of a live tree only what is left on the screen.
        parts = _LAST_FRAME.split(terminal.raw)
        shown = parts[0].rpartition("\x1b[?25l")[0] + parts[-1] if len(parts) > 1 else parts[0]
    return told(words, Terminal.plain(shown), code)


def told(words: str, text: str, code: int) -> str:
    for pattern, stands in VARYING:
        text = pattern.sub(stands, text)
    lines = "\n".join(line.rstrip() for line in text.strip().splitlines())
    return f"$ countermand {words}\n{lines}\n[exit code {code}]\n"


def assert_told(name: str, *steps: str) -> None:
    file, text = TRANSCRIPTS / f"{name}.txt", "\n".join(steps)
    if not file.exists():
        file.write_text(text)
        pytest.fail(f"{file.name} was not there, and is now: read it")
    assert text == file.read_text()


def test_on_a_terminal(place):
    address, folder = place
    assert_told(
        "terminal",
        typed(address, folder, "workflow submit add-vm.yaml --id vm-1 --wait"),
        typed(address, folder, "workflow list --attention"),
        typed(address, folder, "workflow get vm-1"),
        typed(address, folder, "workflow task vm-1 system-disk"),
        typed(
            address,
            folder,
            "workflow resume vm-1 --watch",
            ("What", "r"),
            ("no more", "target.pool_id=fast"),
            ("no more", ""),
            ("Host", ""),
            ("audit", "small is full"),
            ("Send it?", "y"),
        ),
        typed(address, folder, "workflow get @latest"),
    )


def test_in_a_pipe(place):
    address, folder = place
    decided = "--rerun system-disk --set system-disk.target.pool_id=fast --reason 'small is full'"
    assert_told(
        "piped",
        piped(address, folder, "workflow submit add-vm.yaml --id vm-1 --wait"),
        piped(address, folder, "workflow list --attention -o name"),
        piped(address, folder, "workflow requirements vm-1"),
        piped(address, folder, "workflow resume vm-1"),
        piped(address, folder, f"workflow resume vm-1 {decided} --dry-run"),
        piped(address, folder, f"workflow resume vm-1 {decided} --wait"),
        piped(address, folder, "workflow wait vm-1 --for paused"),
        piped(address, folder, "workflow events vm-1 --follow"),
    )
