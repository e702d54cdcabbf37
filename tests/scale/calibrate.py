"""Measures what `costs.py` lists, against a real PostgreSQL and real coordinators and agents.

One call at a time, on a machine that should do nothing else meanwhile; takes about two minutes.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import psycopg

from coordinator.runtime.floors import Floor
from coordinator.runtime.session import CLAIM_MAX
from coordinator.saga.events import OwnerChanged
from coordinator.store import queries, sessions
from coordinator.store.database import postgres
from coordinator.store.run import Inline
from coordinator.store.sql import SqlStore
from tests.bench.replicas import SETTINGS
from tests.postgres import Server
from tests.scale.costs import Cost
from tests.store.specs import three_tasks
from tests.store.walks import Walk

LASTS = timedelta(hours=1)  # nobody's session ends while it is measured
BASE = 5 * (1 << 22)  # intents are as long as they become
SESSIONS = 100
HOSTS = 10_000
OTHERS = 20_000  # open workflows of others
BATCH = 200
ADD_SESSIONS = """
INSERT INTO sessions SELECT 1000 + n, 'rack-' || n, version, schema, start_time_us,
  expire_time_us + 3600000000, false, %s FROM sessions, generate_series(1, {count}) n WHERE id = 1
"""
ADD_HOSTS = """
INSERT INTO hosts (id, address, draining, incarnation, heard_sequence, pools, lost_intent,
  accepted_intent, held, create_time_us)
SELECT 'host-' || n || '.site-a.example.com', 'host-' || n || '.site-a.example.com:7701', false,
  md5(n::text), n, '{{"pool-a": "' || md5('a' || n) || '"}}', 0, 0, '', 1700000000000000
FROM generate_series(1, {count}) n
"""
ADD_WORKFLOWS = """
INSERT INTO workflows (key, id, session, {columns})
SELECT 10000 + n, md5(n::text), 1001 + n % 99, {columns}
FROM workflows, generate_series(1, {count}) n WHERE id = 'w0'
"""
COLUMNS = """
SELECT string_agg(column_name, ',') FROM information_schema.columns
WHERE table_name = 'workflows' AND column_name NOT IN ('key', 'id', 'session')
"""

Call = Callable[[], Awaitable[object]]


class Bench:
    """One coordinator's store on a real database, and what its server computes."""

    def __init__(self, url: str) -> None:
        numbers = iter(range(1 << 30))
        self.store = SqlStore(postgres(url), Inline(), new_id=lambda: f"id-{next(numbers)}")
        self.database = psycopg.connect(url, autocommit=True)

    def execute(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        """Runs a statement; returns the rows that it says."""
        cursor = self.database.execute(sql.encode(), values or None)
        return cursor.fetchall() if cursor.description else []

    async def cost(self, work: Call, times: int, warm_up: int = 6) -> Cost:
        """Measures one of many, after the first few: psycopg prepares what comes back."""
        for _ in range(warm_up):
            await work()
        server_s, client_s, began = self.server_s(), time.thread_time(), time.perf_counter()
        for _ in range(times):
            await work()
        whole_s, client_s = time.perf_counter() - began, time.thread_time() - client_s
        server_s = self.server_s() - server_s
        found = Cost(server_ms=1000 * server_s, client_ms=1000 * client_s, whole_ms=1000 * whole_s)
        return found.times(1 / times)

    def server_s(self) -> float:
        """Returns what the server's processes have computed for this database so far."""
        mine = "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
        pids = [pid for (pid,) in self.execute(mine) if pid != self.database.info.backend_pid]
        spent = (Path(f"/proc/{pid}/schedstat").read_text().split()[0] for pid in pids)
        return sum(map(int, spent)) / 1e9


def floor_of(hosts: int, chance: Random) -> Floor:
    """Returns the floor of a coordinator with something under way on so many hosts."""
    names = (f"host-{number:05d}.site-a.example.com" for number in range(hosts))
    named = {name: BASE - chance.randrange(100_000) for name in names}
    return Floor(next_intent=BASE, hosts=named, fences=BASE - 100_000)


def _minus(one: Cost, other: Cost, share: float) -> Cost:
    """Returns what one takes more than the other, of which this is a share."""
    more = one.plus(other.times(-1)).times(1 / share)
    return Cost(
        server_ms=max(0.0, more.server_ms),
        client_ms=max(0.0, more.client_ms),
        whole_ms=max(0.0, more.whole_ms),
    )


async def measure_database() -> dict[str, object]:
    """Returns what calls to the store take, by the names in `Costs`."""
    server = Server(fsync=True, settings=SETTINGS)
    server.start()
    try:
        bench = Bench(server.new_database())
        await bench.store.open()
        found = {**await _commits(bench), **await _floors(bench), **await _looks(bench)}
        await bench.store.close()
        bench.database.close()
        return found
    finally:
        server.remove()


async def _commits(bench: Bench) -> dict[str, object]:
    store, walks = bench.store, [Walk(f"w{n}", spec=three_tasks()) for n in range(BATCH)]
    await store.commit([walk.change for walk in walks])
    columns = bench.execute(COLUMNS)[0][0]
    held: list[float] = []
    written = store._writing.write

    def write(connection: Any, batch: Any, fence: Any, check: Any) -> None:
        """Notes when the commit has got its position: what comes next is a check of images."""

        def noted(connection: Any) -> None:
            held.append(time.perf_counter())
            check(connection)

        written(connection, batch, fence, noted)

    store._writing.write = write  # type: ignore[method-assign]
    epochs = iter(range(2, 1 << 30))

    async def commit(some: list[Walk]) -> None:
        epoch = next(epochs)
        changes = [walk.must(OwnerChanged(owner_epoch=epoch)) for walk in some]
        await store.commit(changes)
        held[-1] = time.perf_counter() - held[-1]

    one = await bench.cost(lambda: commit(walks[:1]), 100)
    alone_ms = _median_ms(held[-100:])
    many = await bench.cost(lambda: commit(walks), 8, warm_up=2)
    together_ms = _median_ms(held[-8:])
    found: dict[str, object] = {
        "commit": one,
        "commit_more": _minus(many, one, BATCH - 1),
        "holds_ms": alone_ms,
        "holds_more_ms": max(0.0, together_ms - alone_ms) / (BATCH - 1),
    }
    keys = [key for (key,) in bench.execute("SELECT key FROM workflows ORDER BY key LIMIT 100")]
    found["load"] = await bench.cost(
        lambda: store._read(partial(queries.load_first, store._plans, keys, 10**9)), 10
    )
    idle = await bench.cost(lambda: store.moves(after=1 << 40, limit=2000), 200)
    full = await bench.cost(lambda: store.moves(after=0, limit=1000), 10)
    found |= {"moves": idle, "moves_row": _minus(full, idle, 1000)}
    bench.execute(ADD_SESSIONS.format(count=SESSIONS - 1), "[1, 1, {}]")
    bench.execute(ADD_WORKFLOWS.format(columns=columns, count=OTHERS))
    bench.execute("ANALYZE")
    return found


async def _floors(bench: Bench) -> dict[str, object]:
    store, wide = bench.store, floor_of(HOSTS, Random(1))
    empty = Floor(next_intent=BASE, hosts={}, fences=BASE)
    renew = await bench.cost(lambda: store.renew(LASTS, empty), 100)
    bare = await bench.cost(store.floors, 20)
    full = await bench.cost(lambda: store.renew(LASTS, wide), 20)
    text = sessions._text_of(wide)
    bench.execute("UPDATE sessions SET floor = %s WHERE id > 1000", text)
    all_full = await bench.cost(store.floors, 3, warm_up=1)
    bench.execute("UPDATE sessions SET floor = '[1, 1, {}]' WHERE id > 1000")
    return {
        "renew": renew,
        "renew_host": _minus(full, renew, HOSTS),
        "floors_host": _minus(all_full, bare, HOSTS * SESSIONS),
        "floor_bytes": len(text) / HOSTS,
    }


async def _looks(bench: Bench) -> dict[str, object]:
    store = bench.store
    found: dict[str, Any] = {
        "letters": await bench.cost(lambda: store.letters(16), 200),
        "look": await bench.cost(lambda: store.claim(CLAIM_MAX), 100),
        "keep_house": await bench.cost(store.keep_house, 100),
        "evidence": await bench.cost(lambda: store.evidence("host-1", below=9, limit=200), 200),
    }
    bench.execute(ADD_HOSTS.format(count=HOSTS))
    hosts = await bench.cost(store.hosts, 5, warm_up=1)
    found["hosts_row"] = hosts.times(1 / HOSTS)
    [first, *_] = await store.hosts()
    heard = iter(range(1 << 30))

    async def change() -> None:
        later = next(heard)
        await store.change_host(first.id, lambda host: replace(host, heard_sequence=later))

    found["change_host"] = await bench.cost(change, 100)
    bench.execute("UPDATE sessions SET ended = true WHERE id > 1000")
    wide = floor_of(HOSTS, Random(1))
    for name, floor in (("claim_wide", wide), ("claim", replace(wide, hosts={}))):
        await store.renew(LASTS, floor)
        found[name], found[f"{name}_holds_ms"] = await _claims(bench)
    many, few = found.pop("claim_wide"), found["claim"]
    found["claim_host"] = _minus(many, few, HOSTS)
    held_ms = found.pop("claim_wide_holds_ms") - found["claim_holds_ms"]
    found["claim_host_holds_ms"] = held_ms / HOSTS
    return found


async def _claims(bench: Bench) -> tuple[Cost, float]:
    """Returns what a claim takes, and how long it keeps others from getting their epochs."""
    holds: list[float] = []
    next_epoch = sessions.next_epoch

    def epoch(session: int, connection: Any) -> int:
        holds.append(time.perf_counter())
        return next_epoch(session, connection)

    sessions.next_epoch = epoch
    work = partial(bench.store._transactions.write, partial(sessions.claim, 1, CLAIM_MAX))

    async def claim() -> None:
        _, keys, _ = work()
        assert len(keys) == CLAIM_MAX
        holds[-1] = time.perf_counter() - holds[-1]

    cost = await bench.cost(claim, 60)
    sessions.next_epoch = next_epoch
    return cost, _median_ms(holds[-60:])


def _median_ms(seconds: list[float]) -> float:
    return 1000 * sorted(seconds)[len(seconds) // 2]
