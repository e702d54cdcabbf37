"""Images that an administrator brings in, while an agent is at work in the same pool."""

from __future__ import annotations

import errno
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner

from agent.__main__ import main
from agent.drivers.driver import Format, PoolConfig, Work
from agent.drivers.file import FileDriver
from agent.drivers.files import RealFiles
from agent.executors import InlineExecutor
from agent.importing import name_of_import
from agent.journal import InlineJournal, Journal, open_connection
from agent.recovery import replay
from countermand.rpc import crash
from countermand.rpc.errors import ImageExists, StorageFailed


async def test_a_starting_agent_leaves_an_import_alone(tmp_path: Path) -> None:
    """An agent that starts sweeps what is nobody's, not what is just being imported."""
    (tmp_path / "fast").mkdir()
    pool = FileDriver(PoolConfig(pool_id="fast", path=tmp_path / "fast"), RealFiles())
    half_made = pool.layout.staged(name_of_import("gold", unique="one"))
    nobodys = pool.layout.staged("workflows/w/tasks/t/attempts/1")
    for folder in (half_made, nobodys):
        folder.mkdir(parents=True)
        (folder / "data.raw").write_bytes(b"half")
    journal = InlineJournal(Journal(open_connection(tmp_path / "journal"), new_id=lambda: "one"))

    await replay(journal, {"fast": pool}, InlineExecutor(), now=lambda: datetime.now(UTC))

    assert (half_made / "data.raw").exists()
    assert not nobodys.exists()
    await journal.close()


def test_of_two_imports_of_one_image_one_counts(tmp_path: Path) -> None:
    """Neither writes into what the other has begun; nothing of the one that lost is left."""
    pool, files = tmp_path / "fast", [tmp_path / "first", tmp_path / "second"]
    pool.mkdir()
    for path in files:
        path.write_bytes(path.name.encode() * 1024)
    command = ["import", f"--pool=fast={pool}", "--format=raw"]
    driver = FileDriver(PoolConfig(pool_id="fast", path=pool), RealFiles())
    slow = driver.import_file(
        Work(
            attempt=name_of_import("gold", unique="slow"),
            cluster_id="",
            note="",
            now=lambda: datetime.now(UTC),
            crash=crash.never,
        ),
        files[0],
        "gold",
        image_format=Format.RAW,
    )
    while not next(slow).last:
        pass
    killed = driver.layout.staged(name_of_import("gold", unique="killed"))
    others = driver.layout.staged(name_of_import("golden", unique="other"))
    for folder in (killed, others):
        folder.mkdir(parents=True)
    done = CliRunner().invoke(main, [*command, "--image=gold", str(files[1])])
    assert done.exit_code == 0, done.output
    assert driver.staged() == [name_of_import("golden", unique="other")]
    with pytest.raises((ImageExists, StorageFailed)):
        next(slow)
    assert (pool / "images/gold/data.raw").read_bytes() == files[1].read_bytes()
    assert driver.staged() == [name_of_import("golden", unique="other")]


def test_an_import_is_done_though_what_others_left_cannot_be_removed(tmp_path, monkeypatch):
    def fails(_driver: FileDriver) -> list[str]:
        raise OSError(errno.EIO, "gone")

    monkeypatch.setattr(FileDriver, "staged", fails)
    (tmp_path / "fast").mkdir()
    (tmp_path / "disk").write_bytes(b"x" * 1024)
    arguments = [f"--pool=fast={tmp_path}/fast", "--image=gold", "--format=raw"]
    done = CliRunner().invoke(main, ["import", *arguments, str(tmp_path / "disk")])
    assert done.exit_code == 0, done.output
    assert "Imported" in done.stdout
