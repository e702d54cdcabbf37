"""A restart that is really made, beside the same one as it is played.

On one machine: three coordinators are killed with many open workflows, whose agents do not answer.
One is started again, and claims everything.
"""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import psycopg

from countermand.client import Client
from tests.bench.processes import start_agent
from tests.bench.replicas import HOSTS, SETTINGS, _submit, replicas
from tests.postgres import Server
from tests.scale.costs import MEASURED
from tests.scale.site import Size, all_killed

BEGUN = "SELECT max(id) FROM sessions WHERE NOT ended AND id > %s"
LEFT = "SELECT count(*) FROM workflows WHERE end_time_us IS NULL AND session <> %s"
PATIENCE_S = 60.0


def compare(opened: int = 5000) -> None:
    """Prints how long it takes until all is owned, really and as it is played."""
    size = Size(
        replicas=1,
        owners=3,
        hosts=HOSTS,
        open=opened,
        cores=os.cpu_count() or 1,
        one_machine=True,
        decisions_a_second=0,
    )
    played = all_killed(size, MEASURED)
    print(f"{opened} open, owned: {_really(opened):.2f} s; as played {played.owned_s:.2f} s")


def _really(opened: int) -> float:
    server = Server(fsync=True, settings=SETTINGS)
    server.start()
    try:
        with tempfile.TemporaryDirectory() as folder:
            return asyncio.run(_restart(Path(folder), server, opened))
    finally:
        server.remove()


async def _restart(folder: Path, server: Server, opened: int) -> float:
    url = server.new_database()
    with ExitStack() as stack:
        agents = []
        for number in range(HOSTS):
            place = folder / f"agent-{number}"
            place.mkdir()
            agents.append(stack.enter_context(start_agent(place)))
        try:
            with replicas(folder, url, 3) as before:
                addresses = [each.address for each in before]
                async with Client(addresses) as client:
                    for number, agent in enumerate(agents):
                        await client.hosts.add(f"host-{number}", agent.address)
                for agent in agents:
                    os.kill(agent.pid, signal.SIGSTOP)
                await _submit(addresses, opened)
                for each in before:
                    os.kill(each.pid, signal.SIGKILL)
            with psycopg.connect(url, autocommit=True) as database:
                database.execute("UPDATE sessions SET ended = true")
                with ThreadPoolExecutor(1) as thread:  # which begins before there is a session
                    watching = thread.submit(_watch, database)
                    with replicas(folder, url, 1):
                        return watching.result()
        finally:
            for agent in agents:
                os.kill(agent.pid, signal.SIGCONT)


def _watch(database: psycopg.Connection[tuple[int, ...]]) -> float:
    """Returns when all was owned, after the session began that has it."""
    last = database.execute("SELECT max(id) FROM sessions").fetchone()
    session: int | None = None
    while session is None:
        time.sleep(0.01)
        found = database.execute(BEGUN, last).fetchone()
        session = found[0] if found else None
    began = time.perf_counter()
    while True:
        elapsed_s = time.perf_counter() - began
        assert elapsed_s < PATIENCE_S, "not all is claimed"
        if database.execute(LEFT.encode(), (session,)).fetchone() == (0,):
            return elapsed_s
        time.sleep(0.02)
