"""Puts an installed driver through the stories that its verbs can tell, each on storage of its own.

For whoever writes a driver; it is told what is broken, and goes on with the next story.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from agent.drivers.conformance import Open, stories, tell
from agent.drivers.driver import PoolConfig
from agent.drivers.plugins import ConfigInvalid, Drivers, DriverType


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """How one story ended."""

    story: str
    problem: str  # empty if the driver kept what is promised


def check_driver(pool: PoolConfig, drivers: Drivers) -> Iterator[Told]:
    """Yields how each story ended; the pool's folder is left as it was.

    Raises:
        ConfigInvalid: The driver has no folders, or the pool's is missing.
    """
    kind = drivers.load(pool.driver)
    if kind.folder(pool) is None:
        raise ConfigInvalid(f"driver {pool.driver} has no folders: call agent.drivers.conformance")
    if not pool.path.is_dir():
        raise ConfigInvalid(f"the folder {pool.path} does not exist: make it first")
    for story in stories(kind.verbs):
        problem = ""
        try:
            tell(story, partial(_fresh, pool, drivers, kind))
        except ConfigInvalid:
            raise
        except Exception as error:  # noqa: BLE001 - somebody else's code, and what we are here for
            problem = f"{type(error).__name__}: {error}"
        yield Told(story=story, problem=problem)


@contextmanager
def _fresh(pool: PoolConfig, drivers: Drivers, kind: DriverType) -> Iterator[Open]:
    with _folder(pool.path) as path:
        empty = replace(pool, path=path)
        identity = kind.mark(empty, "checked")
        yield lambda: drivers.open(empty, identity)


@contextmanager
def _folder(parent: Path) -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="check-driver-", dir=parent))
    try:
        yield path
    finally:
        shutil.rmtree(path)
