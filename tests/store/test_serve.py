"""The service's command says once where the store is kept, and shows no password."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

SERVE = ("serve", "--listen", "127.0.0.1:0")
WITHOUT_DRIVER = (
    "import sys; sys.modules['psycopg'] = None\n"
    "from coordinator.__main__ import main\n"
    "main(prog_name='countermand-coordinator')"
)


def environment(**said: str) -> dict[str, str]:
    return {**os.environ, "COUNTERMAND_WEB": "off", **said}


def refused(*arguments: str, code: tuple[str, ...] = ("-m", "coordinator"), **said: str) -> str:
    """Runs the command, which must end by itself with a usage error or a failure, in few words."""
    ended = subprocess.run(
        [sys.executable, *code, *SERVE, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=environment(**said),
    )
    assert ended.returncode in (1, 2)
    assert "Traceback" not in ended.stderr
    assert ended.stdout == ""
    return ended.stderr


@pytest.mark.parametrize("database", ["", "postgresql://host/db"])
def test_where_it_is_kept_is_said_once(database: str, tmp_path: Path):
    said = ("--data", str(tmp_path), "--database", database) if database else ()

    assert "say once where to keep what must not be lost" in refused(*said)

    if database:  # wherever it is said
        words = refused(COUNTERMAND_DATA=str(tmp_path), COUNTERMAND_DATABASE=database)
        assert "--data FOLDER or --database URL" in words


def test_a_url_that_is_none_is_not_repeated():
    words = refused(COUNTERMAND_DATABASE="postgresql://u:hunter2@x@host/db")
    assert "the URL of the database is none" in words
    assert "hunter2" not in words


def test_what_is_not_installed_is_named():
    words = refused("--database", "postgresql://host/db", code=("-c", WITHOUT_DRIVER))
    assert "pip install 'countermand[postgres]'" in words


def test_a_server_that_is_not_there_is_an_error_in_one_line(tmp_path: Path):
    words = refused("--database", f"postgresql://u:hunter2@/db?host={tmp_path}")
    assert "Error: The coordinator's store failed: the database failed: connection" in words
    assert "hunter2" not in words


def test_it_serves_from_a_database_on_postgresql(postgres_url: str):
    """With a password from the environment; the second life takes the next epoch."""
    lives = []
    for _ in range(2):
        with subprocess.Popen(
            [sys.executable, "-m", "coordinator", *SERVE],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(COUNTERMAND_DATABASE=postgres_url, PGPASSWORD="hunter2"),
        ) as service:
            assert service.stdout
            ready = json.loads(service.stdout.readline())
            service.send_signal(signal.SIGTERM)
            _, told = service.communicate()
        assert service.returncode == 0
        assert ready["event"] == "coordinator.ready"
        assert "hunter2" not in told
        lines = [json.loads(line) for line in told.splitlines()]
        lives += [each["owner_epoch"] for each in lines if each["event"] == "coordinator.ready"]
    assert lives == [1, 2]
