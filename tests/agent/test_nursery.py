"""Agents that are forked: none of them outlives the test, however that ends."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from pathlib import Path

import pytest

from tests.agent import nursery

GONE_S_MAX = 30.0

# Forks an agent, says so, and waits for somebody to kill it.
MAKER = """
import os, sys
from tests.agent import nursery
from tests.agent.test_nursery import started
with nursery.opened() as opened:
    print(started(opened, sys.argv[1]).pid, flush=True)
    input()
"""


class FailedError(Exception):
    """A test has failed."""


def started(forks: nursery.Nursery, folder: str) -> nursery.Child:
    """Returns an agent that serves."""
    arguments = ["serve", f"--data={folder}/agent", "--listen=127.0.0.1:0"]
    pool = Path(folder, "pool")
    pool.mkdir()
    arguments += [f"--pool=fast={pool}"]
    with Path(folder, "log").open("wb") as log:
        child, said = forks.fork(arguments, environment={}, stderr=log.fileno())
    with os.fdopen(said) as out:
        assert "agent.ready" in out.readline()
    return child


def test_one_dies_with_the_test_that_failed(tmp_path: Path) -> None:
    def fails() -> None:
        with nursery.opened() as forks:
            pids.append(started(forks, str(tmp_path)).pid)
            raise FailedError

    pids: list[int] = []
    with pytest.raises(FailedError):
        fails()
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)


def test_one_dies_with_the_process_that_ordered_it(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", MAKER, tmp_path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as maker:
        assert maker.stdout is not None
        child = os.pidfd_open(int(maker.stdout.readline()))
        try:
            maker.kill()
            gone, _, _ = select.select([child], [], [], GONE_S_MAX)
            assert gone
        finally:
            os.close(child)
