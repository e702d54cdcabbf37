"""What every run of tests begins with.

It refuses to run on stubs older than their protos: such failures look like bugs and are none. And
whatever it starts is ended with it.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import pytest

from protos.generate import StubsError, check
from tests import guard

pytest_plugins = ["tests.postgres"]

MARK = pytest.StashKey[str]()

# Coordinators of tests run side by side, and have no page but where a test asks for one.
os.environ.setdefault("COUNTERMAND_WEB", "off")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds what `make test` says: a run has an end."""
    about = "end the run after so many minutes, and tell where each process was"
    parser.addoption("--minutes-max", type=float, metavar="N", help=about)


def pytest_configure(config: pytest.Config) -> None:
    """Ends the run with one sentence before anything imports a stale stub."""
    try:
        check()
    except StubsError as error:
        pytest.exit(str(error), returncode=pytest.ExitCode.USAGE_ERROR)
    # What a shell runs in the background ignores interrupts, and so would all that is started here.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # The services and commands that are started hundreds of times need not be compiled each time.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    is_worker = hasattr(config, "workerinput")  # of xdist
    config.stash[MARK] = guard.begin(config.getoption("--minutes-max"), is_worker=is_worker)


@pytest.fixture(scope="session", autouse=True)
def nothing_is_left(pytestconfig: pytest.Config) -> Iterator[None]:
    """Has every process that a test started end with that test, or with the fixture it is of."""
    yield
    mark = pytestconfig.stash[MARK]
    give_up = time.monotonic() + guard.GONE_S_MAX
    while (left := guard.living(mark)) and time.monotonic() < give_up:
        time.sleep(0.05)  # killed, but not gone yet
    assert not left, f"tests have left running: {left}"
