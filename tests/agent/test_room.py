"""A pool's account: what is reserved is there to be written, and nobody waits for too long."""

from __future__ import annotations

import errno

import pytest

from agent.drivers.room import PAID_BYTES, WAIT_S_MAX, Bandwidth, Room, Shortage, Writer


def room(*, quota: int | None = None, storage: int = 1000) -> Room:
    return Room(quota_bytes=quota, bandwidth_bytes_per_s=None, storage_free=lambda: storage)


def test_what_one_has_reserved_no_other_can():
    pool = room(quota=100)
    pool.reserve("a", 70)
    with pytest.raises(Shortage) as raised:
        pool.reserve("b", 31)
    assert (raised.value.needed_bytes, raised.value.left_bytes) == (31, 30)
    with pytest.raises(OSError, match="No space") as full:
        pool.take("b", 31)
    assert full.value.errno == errno.ENOSPC
    pool.reserve("b", 30)
    assert (pool.used_bytes, pool.reserved_bytes, pool.free_bytes()) == (0, 100, 0)


def test_what_the_storage_has_left_counts_as_well():
    pool = room(quota=5000, storage=1000)
    pool.reserve("a", 900)
    with pytest.raises(Shortage):
        pool.reserve("b", 101)
    assert pool.free_bytes() == 100


def test_what_is_written_comes_out_of_the_reservation():
    pool = room(quota=100)
    pool.reserve("a", 80)
    pool.take("a", 50)
    assert (pool.used_bytes, pool.reserved_bytes, pool.free_bytes()) == (50, 30, 20)
    pool.settle("a", 60)  # it takes more than was counted
    assert (pool.used_bytes, pool.reserved_bytes) == (60, 20)
    pool.take("a", 40)  # more than it had reserved, and there is room
    with pytest.raises(OSError, match="No space"):
        pool.take("a", 1)


def test_what_goes_on_reserves_only_what_is_missing():
    pool = room(quota=100)
    pool.settle("a", 60)  # written by an earlier life
    pool.reserve("a", 90)
    assert (pool.used_bytes, pool.reserved_bytes, pool.free_bytes()) == (60, 30, 10)


@pytest.mark.parametrize(
    "end",
    [
        lambda pool: pool.release("a"),
        lambda pool: pool.settle("a", 0),
        lambda pool: pool.move("a", "images/a"),
    ],
    ids=["released", "gone", "published"],
)
def test_a_reservation_ends_with_its_attempt(end):
    pool = room(quota=100)
    pool.reserve("a", 90)
    pool.take("a", 10)
    end(pool)
    assert pool.reserved_bytes == 0
    pool.release("a")  # nothing is fine
    pool.reserve("b", 90)


# -- bandwidth ----------------------------------------------------------------------------------


class Clock:
    """Time that passes as somebody waits."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_who_writes_alone_has_the_whole_bandwidth():
    clock = Clock()
    writer = Writer(Bandwidth(1000, clock))
    for _ in range(10):
        clock.now += 0.05  # the write itself takes a part of it
        waits = writer.waits(100)
        assert all(wait <= WAIT_S_MAX for wait in waits)
        clock.now += sum(waits)
    assert clock.now == pytest.approx(1.0, abs=0.06)


def test_writers_share_by_what_they_write_and_not_by_how_often():
    """One writes in pieces eight times as small as the other's."""
    clock = Clock()
    bandwidth = Bandwidth(16 * PAID_BYTES, clock)
    sizes = {"large": PAID_BYTES, "small": PAID_BYTES // 8}
    writers = {name: Writer(bandwidth) for name in sizes}
    free_at = dict.fromkeys(sizes, 0.0)
    written = dict.fromkeys(sizes, 0)
    while clock.now < 60:
        name = min(free_at, key=free_at.__getitem__)
        clock.now = max(clock.now, free_at[name])
        written[name] += sizes[name]
        free_at[name] = clock.now + sum(writers[name].waits(sizes[name]))
    assert written["small"] == pytest.approx(written["large"], rel=0.05)
    assert sum(written.values()) == pytest.approx(60 * 16 * PAID_BYTES, rel=0.05)


def test_without_a_limit_nobody_waits():
    assert Writer(Bandwidth(None, Clock())).waits(1 << 40) == []
