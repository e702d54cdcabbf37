"""What the drivers' stories are told on: each driver, on a file system of the kind it is for."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where one story happens: an agent's folder, and the driver of its pools."""

    folder: Path
    driver: str


# Makes a new place, which goes with all that is in it.
Places = Callable[[], AbstractContextManager[Place]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Storage:
    """A driver on a kind of file system."""

    driver: str
    mount: str
    mount_needed: bool = True  # else any folder does, where nothing can be mounted
    has_qcow2: bool = False
    verbs: frozenset[str] = frozenset()  # all that the driver has, if none are named

    def tells(self, verb: str) -> bool:
        """Returns whether stories of a verb are told here."""
        return not self.verbs or verb in self.verbs

    def places(self, request: pytest.FixtureRequest, tmp_path: Path) -> Places:
        """Returns what makes places in it."""
        try:
            root: Path = request.getfixturevalue(f"{self.mount}_mount")
        except pytest.skip.Exception:
            if self.mount_needed:
                raise
            root = tmp_path

        @contextlib.contextmanager
        def place() -> Iterator[Place]:
            folder = Path(tempfile.mkdtemp(dir=root))
            yield Place(folder=folder, driver=self.driver)
            shutil.rmtree(folder)  # kept where a story failed

        return place


STORAGES: Mapping[str, Storage] = {
    "file": Storage(driver="file", mount="ext4", mount_needed=False, has_qcow2=True),
    # Where reflinks make the difference.
    "reflinks": Storage(
        driver="file",
        mount="xfs",
        verbs=frozenset({"clone_image", "create_snapshot", "revert_image"}),
    ),
    "btrfs": Storage(driver="btrfs", mount="btrfs"),
}
