"""Which folders share a disk: on real mounts, and in a tree of devices that cannot be had here.

And what pools make of it. That copies are then made in short pieces is in `test_modes`.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, cast

import pytest

from agent import disks
from agent.disks import may_share
from agent.drivers.driver import PoolConfig
from agent.drivers.file import FILE, VERBS, FileDriver
from agent.drivers.folders import FolderType
from agent.drivers.plugins import GROUP, Drivers, installed
from agent.journal import InlineJournal, Journal, open_connection
from agent.pools import Pools
from tests.agent.mounts import Mount, mounted
from tests.agent.processes import Host

LOOPS = ("btrfs", "ext4", "xfs")


@pytest.fixture
def journal(tmp_path):
    """Yields a folder that has a disk."""
    if disks._under(tmp_path) == frozenset():
        pytest.skip(f"{tmp_path} is in memory: a folder on a disk is needed")
    (tmp_path / "journal").mkdir()
    return tmp_path / "journal"


@pytest.fixture
def elsewhere(mount: Mount) -> Path:
    """Returns a folder that shares no disk with the journal."""
    return mount("tmpfs", name="elsewhere", size_bytes=400 * 2**20)


def test_folders_of_one_file_system_share_its_disk(journal, tmp_path):
    assert may_share(journal, tmp_path)
    assert may_share(tmp_path, journal / "not-there-yet")


@pytest.mark.parametrize("kind", LOOPS)
def test_a_file_system_in_a_file_lies_where_the_file_does(kind, journal, tmp_path, elsewhere):
    """Whatever number its device has."""
    with contextlib.ExitStack() as stack:
        here, there = (
            stack.enter_context(mounted(kind, tmp_path / name, image=folder / "image"))
            for name, folder in (("here", tmp_path), ("there", elsewhere))
        )
        for folder in (here, there):
            (folder / "pool").mkdir()
        assert may_share(here / "pool", journal)
        assert may_share(journal, here)
        assert not may_share(there / "pool", journal)
        assert not may_share(journal, there)


def test_a_file_without_a_name_lies_where_it_had_one(journal, tmp_path):
    with mounted("ext4", tmp_path / "here", image=tmp_path / "image") as folder:
        (tmp_path / "image").unlink()
        assert may_share(folder, journal)


def test_a_subvolume_lies_on_all_the_disks_of_its_file_system(journal, tmp_path, elsewhere):
    """Its device number is its own, and the source of its mount is one disk of several."""
    with mounted("btrfs", tmp_path / "there", image=elsewhere / "image") as folder:
        subprocess.run(
            ["btrfs", "subvolume", "create", folder / "pool"], check=True, capture_output=True
        )
        assert (folder / "pool").stat().st_dev != folder.stat().st_dev
        assert not may_share(folder / "pool", journal)
        with _loop(tmp_path / "second", 256 * 2**20) as device:
            subprocess.run(
                ["btrfs", "device", "add", "-f", device, folder], check=True, capture_output=True
            )
            assert may_share(folder / "pool", journal)
            subprocess.run(["btrfs", "device", "remove", device, folder], check=True)


@contextlib.contextmanager
def _loop(image: Path, size_bytes: int) -> Iterator[str]:
    with image.open("wb") as file:
        file.truncate(size_bytes)
    shown = subprocess.check_output(["losetup", "--find", "--show", image], text=True)
    try:
        yield shown.strip()
    finally:
        subprocess.run(["losetup", "--detach", shown.strip()], check=True)


def test_what_is_in_memory_shares_no_disk(journal, mount):
    memory = mount("tmpfs")
    assert not may_share(memory, journal)
    assert not may_share(memory, memory)
    assert not may_share(memory, Path("/proc"))


def test_where_nobody_can_tell_journals_are_spared(journal, tmp_path, mount):
    """An overlay has no device, and its folders may lie anywhere."""
    memory = mount("tmpfs")
    for name in ("upper", "work", "pool"):
        (memory / name).mkdir()
    folders = f"lowerdir={tmp_path},upperdir={memory}/upper,workdir={memory}/work"
    command = ["mount", "-t", "overlay", "-o", folders, "overlay", memory / "pool"]
    made = subprocess.run(command, check=False, capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"no overlay can be mounted here: {made.stderr.strip()}")
    try:
        assert may_share(memory / "pool", journal)
        assert may_share(journal, memory / "pool")
    finally:
        subprocess.run(["umount", memory / "pool"], check=True)


# -- devices that cannot be had for a test, from such a tree as the kernel draws of them --------

# By place, with what each has beside its number: that it is a partition, or what it is made of.
TREE: dict[str, tuple[str, dict[str, str]]] = {
    "sda": ("8:0", {}),
    "sda/sda1": ("8:1", {"partition": ""}),
    "sdb": ("8:16", {}),
    "sdc": ("8:32", {}),
    "md0": ("9:0", {"slaves/sda1": "sda/sda1", "slaves/sdb": "sdb"}),
    "dm-0": ("253:0", {"slaves/md0": "md0"}),
    "dm-1": ("253:1", {"slaves/sdc": "sdc"}),
    "zram0": ("252:0", {}),
}


@pytest.fixture
def tree(tmp_path, monkeypatch):
    block, numbers = tmp_path / "block", tmp_path / "dev"
    numbers.mkdir()
    for place, (number, holds) in TREE.items():
        (block / place).mkdir(parents=True, exist_ok=True)
        (block / place / "dev").write_text(f"{number}\n")
        (numbers / number).symlink_to(block / place)
        for name, target in holds.items():
            (block / place / name).parent.mkdir(exist_ok=True)
            if target:
                (block / place / name).symlink_to(block / target)
            else:
                (block / place / name).touch()
    monkeypatch.setattr(disks, "_DEVICES", numbers)


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        ("8:1", {"sda"}),
        ("9:0", {"sda", "sdb"}),
        ("253:0", {"sda", "sdb"}),
        ("253:1", {"sdc"}),
        ("252:0", set()),
        ("259:7", {"259:7"}),
    ],
    ids=["partition", "array", "volume-on-an-array", "volume", "in-memory", "unknown"],
)
@pytest.mark.usefixtures("tree")
def test_a_device_lies_on_whole_disks(number, expected):
    assert disks._of_device(number) == expected


# -- what pools make of it ----------------------------------------------------------------------


async def beside(config: PoolConfig, data: Path | None) -> bool:
    """Returns what an agent with its journal in a folder believes of a pool, once it is open."""
    [found] = await beside_each([config], data)
    return found


async def beside_each(
    configs: list[PoolConfig], data: Path | None, drivers: Drivers | None = None
) -> list[bool]:
    connection = open_connection(configs[0].path.parent / "journal.sqlite")
    journal = InlineJournal(Journal(connection, new_id=lambda: "one"))
    drivers = drivers or installed()
    pools = Pools(journal, configs, drivers=drivers, new_id=lambda: "id", data=data)
    try:
        await pools.open()
    finally:
        await journal.close()
    files: list[Any] = [cast("FileDriver", driver).files for driver in pools.drivers.values()]
    return [each._data.journals_beside for each in files]


def pool(folder: Path, **fields: Any) -> PoolConfig:
    folder.mkdir(parents=True, exist_ok=True)
    return PoolConfig(pool_id=folder.parent.name, path=folder, **fields)


async def test_a_pool_spares_the_journal_on_its_own_disk_only(journal, tmp_path, elsewhere):
    configs = [pool(tmp_path / "a/pool"), pool(elsewhere / "b/pool")]
    assert await beside_each(configs, journal) == [True, False]
    assert await beside_each(configs, elsewhere) == [False, False]


@pytest.mark.parametrize("driver", ["file", "btrfs"])
async def test_a_pool_in_a_file_spares_the_journal_beside_that_file(
    driver, journal, tmp_path, elsewhere
):
    for folder, expected in ((tmp_path, True), (elsewhere, False)):
        with mounted("btrfs", tmp_path / f"at-{expected}", image=folder / "image") as at:
            assert await beside(pool(at / "a/pool", driver=driver), journal) is expected


@pytest.mark.parametrize("said", [True, False])
async def test_what_the_administrator_says_of_journals_counts(said, journal, tmp_path, elsewhere):
    """The journals of others may lie on the disk, such as the coordinator's."""
    for folder in (tmp_path, elsewhere):
        assert await beside(pool(folder / "a/pool", journals_beside=said), journal) is said


class Away(FolderType):
    """A driver whose data lie where only it knows."""

    def folder(self, pool: PoolConfig) -> Path | None:
        """Returns none."""
        del pool
        return None


AWAY = Away(verbs=VERBS, opening=FILE.opening)


async def test_of_data_outside_the_pools_folder_nothing_is_believed(journal, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "third_party", sys.modules[__name__])
    drivers = Drivers([EntryPoint("away", "third_party:AWAY", GROUP)])
    config = pool(tmp_path / "a/pool", driver="away")
    assert await beside_each([config], journal, drivers) == [False]


async def test_whoever_has_no_journal_spares_none(tmp_path):
    """As an import, which copies one image and ends."""
    assert not await beside(pool(tmp_path / "a/pool"), None)


async def test_an_agent_says_of_which_pools_journals_lie_beside(journal, tmp_path, elsewhere):
    del journal  # only to have a disk
    host = Host(tmp_path, {"near": "", "far": "", "told": ",journals_beside=false"})
    host.paths = {"far": elsewhere}
    try:
        await (await host.start()).stop()
    finally:
        await host.clean_up()
    told = [json.loads(line) for line in (tmp_path / "agent.log").read_text().splitlines()]
    opened = [each for each in told if each["event"] == "pool.open"]
    assert {each["pool"]: each["journals_beside"] for each in opened} == {
        "near": True,
        "far": False,
        "told": False,
    }
