"""Starts the scripted coordinator as a process of its own."""

import subprocess
import sys
from contextlib import contextmanager


@contextmanager
def served(*args):
    """Yields a coordinator's process and address; it ends with its standard input."""
    command = [sys.executable, "-m", "tests.cli.served", *args]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        assert address, "the scripted coordinator did not start"
        yield process, address
        process.communicate()
