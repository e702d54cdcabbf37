"""What settled long ago goes; what is open, and what settled lately, stays."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import click
import pytest

from coordinator.__main__ import Retention
from coordinator.runtime import retention
from tests.runtime.rig import Agent, coordinator, noop, series, until


class Later:
    """A clock that is ahead of the coordinator's."""

    def __init__(self, ahead: timedelta) -> None:
        self._ahead = ahead

    def now(self) -> datetime:
        return datetime.now(UTC) + self._ahead


async def test_what_settled_before_the_retention_time_is_removed_in_small_batches(
    tmp_path, monkeypatch
) -> None:
    """S-V33: the result stays readable for the retention time."""
    monkeypatch.setattr(retention, "BATCH_MAX", 2)
    monkeypatch.setattr(retention, "REST_S", 0.0)
    agent = Agent()
    month = timedelta(days=30)
    async with coordinator(tmp_path, {"a": agent}) as one:
        for number in range(5):
            await one.start(f"done-{number}", series(noop("only", "a")))
        await until(lambda: len(agent.sent) == 5)
        for name in tuple(agent.sent):
            agent.end(name)
        await until(lambda: all(one.known(f"done-{number}").settled for number in range(5)))
        await one.start("open", series(noop("only", "a")))

        async def sweep(ahead: timedelta) -> int:
            return await retention.sweep(
                store=one.store, loop=one.loop, clock=Later(ahead), retention=month
            )

        assert await sweep(month - timedelta(hours=1)) == 0
        assert one.loop.settled("done-0") is not None
        assert await sweep(month + timedelta(seconds=1)) == 5
        assert one.loop.settled("done-0") is None
        assert await one.store.load("done-0") is None
        assert await one.store.load("open") is not None


@pytest.mark.parametrize(
    ("text", "span"),
    [
        ("30d", timedelta(days=30)),
        ("12h", timedelta(hours=12)),
        ("1.5m", timedelta(seconds=90)),
        ("0", timedelta(0)),
        ("0d", timedelta(0)),
    ],
)
def test_a_retention_is_written_as_people_write_it(text, span) -> None:
    assert Retention().convert(text, None, None) == span


@pytest.mark.parametrize("text", ["", "30", "-1d", "d", "30 d", "1w", "99999999d", "nan"])
def test_what_is_no_retention_is_refused_with_an_example(text) -> None:
    with pytest.raises(click.BadParameter, match="write 30d, 12h, or 0 for ever"):
        Retention().convert(text, None, None)
