"""Images that an administrator brings in, while an agent is at work in the same pool."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from agent.drivers.driver import PoolConfig
from agent.drivers.file import FileDriver
from agent.drivers.files import RealFiles
from agent.executors import InlineExecutor
from agent.journal import InlineJournal, Journal, open_connection
from agent.recovery import IMPORT_PREFIX, replay


async def test_a_starting_agent_leaves_an_import_alone(tmp_path: Path) -> None:
    """An agent that starts sweeps what is nobody's, not what is just being imported."""
    (tmp_path / "fast").mkdir()
    pool = FileDriver(PoolConfig(pool_id="fast", path=tmp_path / "fast"), RealFiles())
    half_made = pool.layout.staged(f"{IMPORT_PREFIX}gold")
    nobodys = pool.layout.staged("workflows/w/tasks/t/attempts/1")
    for folder in (half_made, nobodys):
        folder.mkdir(parents=True)
        (folder / "data.raw").write_bytes(b"half")
    journal = InlineJournal(Journal(open_connection(tmp_path / "journal"), new_id=lambda: "one"))

    await replay(journal, {"fast": pool}, InlineExecutor(), now=lambda: datetime.now(UTC))

    assert (half_made / "data.raw").exists()
    assert not nobodys.exists()
    await journal.close()
