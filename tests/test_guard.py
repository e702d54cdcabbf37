"""What a run of tests has started ends with it, also when it is killed or takes too long."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests import guard

# A background service that has left its parent and its session, and a test that waits for ever.
ENDLESS = """
import os, subprocess, time

def test_starts_something():
    subprocess.run(["sh", "-c", "setsid sleep 600 & setsid sleep 600 &"], check=True)

def test_goes_wrong():
    print("begun", flush=True)
    {wrong}

def test_comes_after():
    pass
"""
WAITS = "while True: time.sleep(0.1)"
DIES = "os.kill(os.getpid(), 9)"

# Another file, so that there is work for another worker.
OTHER = "def test_of_another_file(): pass\n"

pytestmark = pytest.mark.slow


def run_of(folder: Path, wrong: str, *arguments: str) -> tuple[subprocess.Popen[str], str]:
    """Starts a run of its own, with a conftest as ours; returns it and its mark."""
    (folder / "conftest.py").write_text("from tests.conftest import *\n")
    (folder / "test_endless.py").write_text(ENDLESS.format(wrong=wrong))
    (folder / "test_other.py").write_text(OTHER)
    mark = guard.new_mark()
    run = subprocess.Popen(
        [sys.executable, "-m", "pytest", "-s", "-c", "pyproject.toml", *arguments, str(folder)],
        env=os.environ | {guard.VARIABLE: mark},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return run, mark


def none_of(mark: str) -> bool:
    """Returns whether all that bear a mark end by themselves."""
    while pids := guard.living(mark):
        for pid in pids:
            try:
                handle = os.pidfd_open(pid)
            except ProcessLookupError:
                continue
            ended, _, _ = select.select([handle], [], [], guard.GONE_S_MAX)
            os.close(handle)
            if not ended:
                return False
    return True


def test_a_run_that_is_killed_leaves_nothing(tmp_path):
    run, mark = run_of(tmp_path, WAITS)
    with run:
        assert run.stdout is not None
        while "begun" not in run.stdout.readline():
            assert run.poll() is None
        assert len([line for line in guard.living(mark).values() if "sleep 600" in line]) == 2
        run.send_signal(signal.SIGKILL)
    assert none_of(mark)


def test_a_worker_that_dies_ends_its_run_and_leaves_nothing(tmp_path):
    """Replaced, it would be given the files that were done already, and wait for ever."""
    run, mark = run_of(tmp_path, DIES, "--numprocesses", "2", "--dist", "loadfile")
    said, _ = run.communicate()
    assert run.returncode == pytest.ExitCode.TESTS_FAILED, said
    assert re.search(r"crashed while running '.*test_endless.py::test_goes_wrong'", said)
    assert "crashed and worker restarting disabled" in said
    assert none_of(mark)


def test_a_run_that_takes_too_long_tells_where_it_was_and_leaves_nothing(tmp_path):
    run, mark = run_of(tmp_path, WAITS, "--minutes-max", "0.05", "--numprocesses", "1")
    said, _ = run.communicate()
    assert run.returncode != 0, said
    assert "The tests have not ended within 0.05 minutes" in said
    # Of the run and of its worker: on a busy machine that has not even come to its first test.
    assert (
        len(re.findall(r"^(?:Current thread|Thread) .*most recent call first", said, re.MULTILINE))
        >= 2
    )
    assert none_of(mark)
