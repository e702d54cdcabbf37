"""The file systems that tests mount: they are what they are called, and go with their maker."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from agent.drivers.files import RealFiles
from tests.agent.mounts import KINDS, MIB, mounted

SHARES = {"btrfs": True, "xfs": True, "ext4": False, "tmpfs": False}


def mount_points() -> list[str]:
    return [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_mounted_and_unmounted(kind, tmp_path):
    with mounted(kind, tmp_path / "here") as folder:
        assert str(folder) in mount_points()
        files = RealFiles()
        (folder / "source").write_bytes(b"data" * 2**14)
        source = files.open_to_read(folder / "source")
        target = files.open_to_write(folder / "target")
        try:
            assert files.share(source, target) == SHARES[kind]
        finally:
            files.close(source)
            files.close(target)
    assert str(folder) not in mount_points()


def test_a_small_one_can_be_filled(mount):
    folder = mount("tmpfs", size_bytes=MIB)
    with pytest.raises(OSError, match="No space left"):
        (folder / "large").write_bytes(bytes(2 * MIB))


class FailedError(Exception):
    """A test has failed."""


@pytest.mark.parametrize("at", ["while it is mounted", "just after it was mounted"])
def test_one_is_unmounted_when_its_test_fails(at, tmp_path, monkeypatch):
    run = subprocess.run

    def mounts_and_fails(*arguments, **others):
        run(*arguments, **others)
        raise FailedError

    with mounted("tmpfs", tmp_path / "probe"):  # skips where nothing can be mounted
        pass
    if at == "just after it was mounted":
        monkeypatch.setattr(subprocess, "run", mounts_and_fails)
    with pytest.raises(FailedError), mounted("tmpfs", tmp_path / "here"):
        raise FailedError
    assert str(tmp_path / "here") not in mount_points()


def test_one_is_unmounted_when_its_maker_is_killed(tmp_path):
    maker = (
        "import pathlib, sys; from tests.agent.mounts import mounted\n"
        "with mounted('tmpfs', pathlib.Path(sys.argv[1])): print('mounted', flush=True); input()"
    )
    with mounted("tmpfs", tmp_path / "probe"):  # skips where nothing can be mounted
        pass
    folder = tmp_path / "here"
    with subprocess.Popen(
        [sys.executable, "-c", maker, folder],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "mounted\n"
        # Whoever unmounts holds the same output: it ends when both have gone.
        process.kill()
        assert process.stdout.read() == ""
    assert str(folder) not in mount_points()
