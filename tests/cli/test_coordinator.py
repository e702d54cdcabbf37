"""How several coordinators are shown, and how they go on when their database went back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click import unstyle

from coordinator.store.database import FILE, sqlite
from coordinator.store.run import Inline
from coordinator.store.sql import SqlStore
from countermand.cli.coordinator import HEADS, _lapses, _row
from countermand.rpc.crash import never
from countermand.v1.coordinator_pb2 import Coordinator
from tests.cli.answers import check
from tests.cli.shell import Shell, coordinating
from tests.cli.terminal import Terminal


def made(state: Coordinator.State.ValueType, **said) -> Coordinator:
    found = Coordinator(name="coordinators/7", state=state, version="1.0", **said)
    found.start_time.FromDatetime(datetime.now(UTC) - timedelta(hours=3))
    return found


def cells(found: Coordinator) -> list[str]:
    return [unstyle(str(cell)) for cell in _row(found)]


def test_the_one_that_keeps_the_house_and_answers_is_told_apart():
    found = made(
        Coordinator.STATE_ALIVE, keeps_house=True, answers=True, open_workflows=12, place="a:7700"
    )
    assert len(cells(found)) == len(HEADS)
    assert [cells(found)[0], *cells(found)[2:3], *cells(found)[4:]] == [
        "7",
        "12",
        "1.0",
        "keeps the house, answers here",
        "a:7700",
    ]
    assert "alive" in str(_row(found)[1])


def test_one_that_has_ended_does_nothing():
    found = made(Coordinator.STATE_ENDED, place="b\x1b[31m:1")
    assert cells(found)[5] == "-"
    assert "\x1b" not in cells(found)[6]
    assert _lapses(found) == "-"
    found.expire_time.FromDatetime(datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))
    assert _lapses(found) == "2026-01-02 03:04:05Z"


# -- a database that went back in time ------------------------------------------------------------

WHY = "host-a has heard of epoch 9, and 4 was given"


async def go_back(data: Path) -> None:
    """Notes in a store that it went back."""
    store = SqlStore(sqlite(data / FILE), Inline(), new_id=str, crash=never)
    await store.open()
    assert await store.require_recovery(WHY)
    await store.close()


@contextmanager
def at(data: Path) -> Iterator[Shell]:
    with coordinating(data) as address:
        yield Shell(address, "went-back")


@pytest.fixture(scope="module")
def back(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """Yields a shell at a coordinator whose database went back, with two workflows open."""
    data = tmp_path_factory.mktemp("went-back")
    with at(data) as shell:
        for workflow_id in ("one", "two"):
            shell.submit(shell.task("one"), workflow_id=workflow_id)
    asyncio.run(go_back(data))
    with at(data) as shell:
        yield shell


def test_a_list_says_why_nothing_is_decided_and_what_to_do(back):
    said = back("coordinator", "list")
    assert f"The database went back in time: {WHY}." in said
    assert "Open in it: 2 workflows." in said
    assert said.endswith('  countermand doctor\n  countermand coordinator recover --reason "…"\n')

    text = back.run("coordinator", "list", "-o", "json").stdout
    check("coordinator list", text)
    told = json.loads(text)
    assert (told["recovery"]["why"], told["recovery"]["open_workflows"]) == (WHY, "2")
    assert len(told["coordinators"]) == 1
    names = back.run("coordinator", "list", "-o", "name")
    assert (names.stdout.count("\n"), WHY in names.stderr) == (1, True)


def test_nobody_goes_on_before_they_have_said_so(back):
    asked = back("coordinator", "recover", "--reason", "noon", code=2)
    assert "2 workflows would be paused" in asked
    assert "--yes" in asked
    with Terminal(back.address, "coordinator", "recover", "--reason", "noon") as terminal:
        terminal.until("Pause 2 workflows, with their compensations, and go on?")
        terminal.type("n")
        assert terminal.end() == 1
    assert "Nothing has changed." in terminal.raw
    assert "recovery" in back.json("coordinator", "list")


def test_who_goes_on_is_told_what_is_paused_and_what_to_do_next(tmp_path):
    """It ends what every coordinator has begun: the next look is at another life."""
    with at(tmp_path) as shell:
        shell.submit(shell.task("one"), workflow_id="one")
    asyncio.run(go_back(tmp_path))
    with at(tmp_path) as shell:
        said = shell("coordinator", "recover", "--reason", "noon", "--yes")
    assert "What is open is paused, with its compensations: 1 workflow." in said
    assert "countermand workflow list --state paused" in said

    with at(tmp_path) as shell:
        assert "recovery" not in shell.json("coordinator", "list")
        again = shell.run("coordinator", "recover", "--reason", "noon", "-o", "json")
    assert again.exit_code == 1
    assert json.loads(again.stderr)["error"]["reason"] == "RECOVERY_NOT_REQUIRED"

    asyncio.run(go_back(tmp_path))
    with at(tmp_path) as shell:
        text = shell("coordinator", "recover", "--reason", "again", "--yes", "-o", "json")
    check("coordinator recover", text)
    assert json.loads(text)["paused_workflows"] == "1"
