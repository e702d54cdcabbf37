"""The `btrfs` driver beyond the stories of all: what subvolumes give it, what it refuses."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

import pytest

from agent.config import parse_pool
from agent.drivers import qemu, subvolumes
from agent.drivers.driver import Format, LocalSource, PoolConfig, Steps, Work
from agent.drivers.file import FileDriver
from agent.drivers.plugins import ConfigInvalid, installed
from countermand.rpc import crash
from countermand.rpc.errors import Conflict, FieldInvalid, ImageUnsafe, NoSpace, StorageFailed
from tests.agent.mounts import MIB, mounted
from tests.agent.requests import CLUSTER, attempt_name

DRIVERS = installed()
NOBODY = 65534


def run(steps: Steps[object]) -> object:
    try:
        while True:
            next(steps)
    except StopIteration as end:
        return end.value


def work(name: str) -> Work:
    return Work(
        attempt=attempt_name(name),
        cluster_id=CLUSTER,
        note="",
        now=lambda: datetime(2030, 1, 1, tzinfo=UTC),
        crash=crash.never,
    )


def opened(folder: Path, options: str = "") -> FileDriver:
    """Returns the driver of a pool in a folder."""
    pool = parse_pool(f"fast={folder},driver=btrfs{options}", DRIVERS)
    return cast("FileDriver", DRIVERS.open(pool, ""))


@pytest.fixture
def folder(btrfs_mount) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(dir=btrfs_mount))
    yield folder
    shutil.rmtree(folder)


def create(driver: FileDriver, image_id: str, size_bytes: int = MIB) -> Path:
    steps = driver.create(
        work(image_id),
        image_id,
        image_format=Format.RAW,
        size_bytes=size_bytes,
        preallocated=False,
    )
    run(steps)
    return driver.layout.image(image_id) / "data.raw"


def allocated_bytes(path: Path) -> int:
    """Returns what a file system really holds."""
    subprocess.run(["sync", "-f", path], check=True)
    found = os.statvfs(path)
    return (found.f_blocks - found.f_bfree) * found.f_frsize


def test_a_clone_is_a_subvolume_that_shares_all_data(folder):
    driver = opened(folder)
    base = create(driver, "base", 8 * MIB)
    base.write_bytes(os.urandom(8 * MIB))
    before = allocated_bytes(folder)
    made = run(driver.clone(work("clone"), "base", "made", copy_allowed=False))
    image = driver.layout.image("made")
    assert subvolumes.is_subvolume(image)
    assert made.shared  # type: ignore[attr-defined]
    assert allocated_bytes(folder) - before < MIB
    assert sorted(path.name for path in image.iterdir()) == ["data.raw", "image.json"]
    assert (image / "data.raw").read_bytes() == base.read_bytes()
    (image / "data.raw").write_bytes(b"other")
    assert base.read_bytes()[:5] != b"other"


def test_a_revert_and_a_resize_exchange_subvolumes(folder):
    driver = opened(folder)
    base = create(driver, "base")
    base.write_bytes(b"old" + bytes(MIB - 3))
    run(driver.create_snapshot(work("snapshot"), "base", "old"))
    base.write_bytes(b"new" + bytes(MIB - 3))
    before = base.parent.stat()
    run(driver.revert(work("revert"), "base", "old", safety_id="safe"))
    found = driver.find("base")
    data, _ = driver.layout.data("base", driver.layout.label("base"))
    assert data.read_bytes()[:3] == b"old"
    assert base.parent.stat().st_dev != before.st_dev  # each subvolume has a device of its own
    assert [one.snapshot_id for one in found.snapshots] == ["old", "safe"]
    run(driver.resize(work("grow"), "base", size_bytes=2 * MIB, shrink_allowed=False))
    assert driver.find("base").virtual_size_bytes == 2 * MIB
    assert driver.find("base").generation == found.generation + 1
    assert driver.staged() == []


def test_what_somebody_put_beside_an_image_does_not_go_with_a_revert(folder):
    driver = opened(folder)
    notes = create(driver, "base").with_name("notes.txt")
    run(driver.create_snapshot(work("snapshot"), "base", "old"))
    notes.write_text("somebody's")
    with pytest.raises(ImageUnsafe, match=r"notes\.txt"):
        run(driver.revert(work("revert"), "base", "old", safety_id=""))
    run(driver.resize(work("grow"), "base", size_bytes=2 * MIB, shrink_allowed=False))
    assert notes.read_text() == "somebody's"
    assert driver.staged() == []


def test_a_change_by_somebody_else_is_no_ones_loss(folder):
    driver = opened(folder)
    create(driver, "base")
    run(driver.create_snapshot(work("snapshot"), "base", "old"))
    steps = driver.revert(work("revert"), "base", "old", safety_id="")
    while not next(steps).last:
        pass
    run(driver.resize(work("grow"), "base", size_bytes=2 * MIB, shrink_allowed=False))
    with pytest.raises(Conflict):
        run(steps)
    assert driver.find("base").virtual_size_bytes == 2 * MIB
    assert driver.staged() == []


def test_a_pool_of_the_file_driver_is_taken_over(folder):
    files = cast("FileDriver", DRIVERS.open(PoolConfig(pool_id="fast", path=folder), ""))
    base = create(files, "base")
    content = b"data" * (base.stat().st_size // 4)
    base.write_bytes(content)
    run(files.create_snapshot(work("snapshot"), "base", "old"))
    driver = opened(folder)
    run(driver.clone(work("clone"), "base", "made", copy_allowed=False))
    assert (driver.layout.image("made") / "data.raw").read_bytes() == content
    assert not subvolumes.is_subvolume(driver.layout.image("base"))
    run(driver.revert(work("revert"), "base", "old", safety_id=""))
    assert subvolumes.is_subvolume(driver.layout.image("base"))
    run(driver.delete(work("delete"), "made"))
    assert [image.image_id for image in driver.list_images(after="", count_max=9)] == ["base"]


@pytest.mark.skipif(not qemu.is_installed(), reason="qemu-img is not installed")
def test_a_pool_that_holds_qcow2_images_is_not_taken_over(folder):
    """They would be listed, and no verb could serve them: better told at the start than then."""
    files = cast("FileDriver", DRIVERS.open(PoolConfig(pool_id="fast", path=folder), ""))
    create(files, "plain")
    for name in ("one", "two"):
        steps = files.create(
            work(name), name, image_format=Format.QCOW2, size_bytes=MIB, preallocated=False
        )
        run(steps)
    (folder / "images/damaged").mkdir()  # one that cannot be read is told of elsewhere
    (folder / "images/damaged/image.json").write_text("{")
    with pytest.raises(ConfigInvalid, match=r"2 qcow2 images \(one, two\).*driver=file"):
        opened(folder)
    for name in ("one", "two"):
        run(files.delete(work(f"delete-{name}"), name))
    opened(folder)


def test_new_images_are_overwritten_in_place_if_that_is_asked(folder):
    driver = opened(folder, ",nocow")
    data = create(driver, "base")
    flags = subprocess.check_output(["lsattr", data], text=True).split()[0]
    assert "C" in flags


def test_only_raw_images_are_kept(folder, tmp_path):
    driver = opened(folder)
    assert driver.report().formats == (Format.RAW,)
    with pytest.raises(FieldInvalid, match="must be raw in pool fast"):
        run(
            driver.create(
                work("make"), "a", image_format=Format.QCOW2, size_bytes=512, preallocated=False
            )
        )
    (tmp_path / "files").mkdir()
    files = cast(
        "FileDriver", DRIVERS.open(PoolConfig(pool_id="slow", path=tmp_path / "files"), "")
    )
    data = create(files, "raw")
    data.write_bytes(b"x" * MIB)
    run(
        driver.copy(
            work("copy"),
            LocalSource(files, "raw"),
            "copied",
            image_format=None,
            take_digest=True,
        )
    )
    copied = driver.layout.image("copied")
    assert subvolumes.is_subvolume(copied)
    assert (copied / "data.raw").read_bytes() == b"x" * MIB
    assert driver.staged() == []


CHANGES: Mapping[str, tuple[Callable[[FileDriver], Steps[object]], str, int]] = {
    "clone": (
        lambda driver: driver.clone(work("do"), "base", "made", copy_allowed=False),
        "made",
        1,
    ),
    "snapshot": (lambda driver: driver.create_snapshot(work("do"), "base", "made"), "base@made", 1),
    "revert": (lambda driver: driver.revert(work("do"), "base", "old", safety_id=""), "base", 2),
    "grow": (
        lambda driver: driver.resize(work("do"), "base", size_bytes=2 * MIB, shrink_allowed=False),
        "base",
        2,
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_was_told_to_be_done_survives_a_power_cut(change, tmp_path):
    """The power is cut at once, and takes with it what the kernel had not yet written."""
    act, name, generation = CHANGES[change]
    disk, left = tmp_path / "disk", tmp_path / "left"
    with mounted("btrfs", tmp_path / "before", size_bytes=32 * MIB, image=disk) as folder:
        driver = opened(folder)
        create(driver, "base")
        run(driver.create_snapshot(work("snapshot"), "base", "old"))
        os.sync()
        shutil.copyfile(disk, tmp_path / "untouched")
        run(act(driver))
        shutil.copyfile(disk, left)
    with mounted("btrfs", tmp_path / "after", image=left) as folder:
        driver = opened(folder)
        label = driver.layout.label(name)
        assert label.generation == generation
        assert driver.layout.data(name, label)[1].size_bytes == label.virtual_size_bytes
    with mounted("btrfs", tmp_path / "earlier", image=tmp_path / "untouched") as folder:
        found = opened(folder).layout.owner(name)
        assert found is None or found.generation < generation  # else nothing was cut off


@pytest.mark.skipif(not qemu.is_installed(), reason="qemu-img is not installed")
def test_a_qcow2_image_comes_in_as_raw_and_leaves_as_qcow2(folder, tmp_path):
    driver = opened(folder)
    files = cast("FileDriver", DRIVERS.open(PoolConfig(pool_id="slow", path=tmp_path), ""))
    run(
        files.create(
            work("make"), "base", image_format=Format.QCOW2, size_bytes=MIB, preallocated=False
        )
    )

    def copy(target: FileDriver, source: LocalSource, image_id: str, wanted: Format | None) -> None:
        steps = target.copy(
            work(image_id), source, image_id, image_format=wanted, take_digest=False
        )
        run(steps)

    with pytest.raises(FieldInvalid, match="must be raw in pool fast"):
        copy(driver, LocalSource(files, "base"), "kept", None)
    copy(driver, LocalSource(files, "base"), "made", Format.RAW)
    assert (driver.layout.image("made") / "data.raw").read_bytes() == bytes(MIB)
    copy(files, LocalSource(driver, "made"), "back", Format.QCOW2)
    assert files.find("back").virtual_size_bytes == MIB
    assert (driver.staged(), files.staged()) == ([], [])


def test_nothing_is_written_through_a_link_that_was_planted(folder, tmp_path):
    driver = opened(folder)
    create(driver, "base")
    own = driver.layout.own(attempt_name("copy"))
    own.mkdir()
    (own / "image").symlink_to(tmp_path)
    steps = driver.copy(
        replace(work("copy"), note='{"source": "an earlier one", "offset": 0}'),
        LocalSource(driver, "base"),
        "made",
        image_format=None,
        take_digest=False,
    )
    with pytest.raises(StorageFailed):
        run(steps)
    assert list(tmp_path.iterdir()) == []


def test_a_clone_takes_nothing_along_that_was_planted(folder):
    driver = opened(folder)
    base = create(driver, "base")
    (base.parent / "planted").mkdir()
    (base.parent / "planted/file").touch()
    (base.parent / "link").symlink_to("/etc")
    run(driver.clone(work("clone"), "base", "made", copy_allowed=False))
    image = driver.layout.image("made")
    assert sorted(path.name for path in image.iterdir()) == ["data.raw", "image.json"]


def test_a_full_file_system_is_a_failure_that_leaves_nothing(mount):
    folder = mount("btrfs", size_bytes=32 * MIB)
    driver = opened(folder)
    steps = driver.create(
        work("make"), "large", image_format=Format.RAW, size_bytes=64 * MIB, preallocated=True
    )
    with pytest.raises(NoSpace):
        run(steps)
    assert (driver.staged(), driver.list_images(after="", count_max=9)) == ([], [])


def test_a_folder_on_another_file_system_is_refused(tmpfs_mount):
    with pytest.raises(ConfigInvalid, match="needs a folder on btrfs; is it mounted"):
        opened(tmpfs_mount)


AS_NOBODY = f"""
import os, sys
from pathlib import Path
from tests.agent import test_btrfs as told
os.setgid({NOBODY}); os.setuid({NOBODY})
driver = told.opened(Path(sys.argv[1]))
told.create(driver, "base")
told.run(driver.clone(told.work("clone"), "base", "made", copy_allowed=False))
told.run(driver.create_snapshot(told.work("snapshot"), "base", "old"))
told.run(driver.revert(told.work("revert"), "base", "old", safety_id=""))
told.run(driver.delete_snapshot(told.work("forget"), "base", "old"))
told.run(driver.delete(told.work("delete"), "base"))
assert driver.staged() == []
print([image.image_id for image in driver.list_images(after="", count_max=9)])
"""


def test_whoever_owns_the_folder_needs_no_privileges():
    """Makes, clones, snapshots, reverts and deletes as nobody."""
    with (
        tempfile.TemporaryDirectory() as parent,  # those of the tests are closed to others
        mounted("btrfs", Path(parent) / "fast", size_bytes=32 * MIB) as folder,
    ):
        Path(parent).chmod(0o755)
        os.chown(folder, NOBODY, NOBODY)
        done = subprocess.run(
            [sys.executable, "-c", AS_NOBODY, folder], check=False, capture_output=True, text=True
        )
    assert done.stdout == "['made']\n", done.stderr
