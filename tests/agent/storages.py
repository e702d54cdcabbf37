"""What the drivers' stories are told on: each driver, on a file system of the kind it is for."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.agent.csi_host import CsiHost


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where one story happens: an agent's folder, and the driver of its pools."""

    folder: Path
    driver: str
    plugin: CsiHost | None = None

    def config(self, pool: Path) -> dict[str, Any]:
        """Returns how a pool is described that has a folder in it."""
        if self.plugin is not None:
            return self.plugin.config(pool)
        return {"driver": self.driver, "path": pool}

    @property
    def locate(self) -> Callable[[Path], Path] | None:
        """Returns what finds the data of an image's folder, if that is not in it."""
        return self.plugin.locate if self.plugin is not None else None


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
    plugin_needed: bool = False  # a CSI plug-in, which serves all places

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

        plugin: CsiHost | None = None
        if self.plugin_needed:
            plugin = request.getfixturevalue("csi_host")

        @contextlib.contextmanager
        def place() -> Iterator[Place]:
            folder = Path(tempfile.mkdtemp(dir=root))
            with plugin.agreeing(folder) if plugin else contextlib.nullcontext():
                yield Place(folder=folder, driver=self.driver, plugin=plugin)
            shutil.rmtree(folder)  # kept where a story failed

        return place


STORAGES: Mapping[str, Storage] = {
    "file": Storage(driver="file", mount="ext4", mount_needed=False, has_qcow2=True),
    # Where reflinks make the difference.
    "reflinks": Storage(
        driver="file",
        mount="xfs",
        verbs=frozenset({"clone_image", "revert_image"}),
    ),
    "btrfs": Storage(driver="btrfs", mount="btrfs"),
    "csi": Storage(
        driver="csi",
        mount="tmpfs",
        mount_needed=False,
        verbs=frozenset({"copy_image", "create_snapshot", "delete_image"}),
        plugin_needed=True,
    ),
}
