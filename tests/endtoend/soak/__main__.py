"""Runs it: `python -m tests.endtoend.soak --minutes 10 --seed 1 [--postgres]`.

Prints what happened and a verdict; the exit code is 1 if anything was violated.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import shutil
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

from tests.endtoend.checks import read, staged
from tests.endtoend.cluster import SMALL, Cluster, HangError, until
from tests.endtoend.lives import Lives
from tests.endtoend.soak.load import Load
from tests.endtoend.soak.outages import Outages
from tests.endtoend.soak.trouble import Trouble
from tests.endtoend.soak.verdict import violations
from tests.endtoend.soak.watching import Watch
from tests.postgres import Server
from tests.proxy import Proxy

SHOWN_MAX = 40
SLOW = "bandwidth=16KiB"  # a copy takes some seconds
SESSIONS = "SELECT id FROM sessions WHERE NOT ended ORDER BY id"


def say(text: str) -> None:
    """Prints a line at once: it may be read while it runs."""
    print(text, flush=True)


async def soak(options: argparse.Namespace, folder: Path, lives: Lives) -> list[str]:
    """Returns what was violated."""
    chance, complain = random.Random(options.seed), list[str]()
    server = Server(fsync=True, settings=("autovacuum=on", "max_connections=100"))
    async with AsyncExitStack() as stack:
        ways = [await stack.enter_async_context(Proxy(server.socket)) for _ in range(3)]
        outages = Outages(server, ways, random.Random(chance.random()), options.lease)
        stack.push_async_callback(outages.end)
        await outages.start()
        url = server.new_database()
        name = url.partition("@/")[2].partition("?")[0]
        through = [f"postgresql://postgres@{way.address}/{name}" for way in ways]
        cluster = Cluster(
            lives,
            folder,
            {
                f"h{number}": {f"pool-h{number}": "", f"slow-h{number}": SLOW}
                for number in range(options.agents)
            },
            options={"coordinator": ("--session-lasts", f"{options.lease:g}s")},
            database=url,
            databases=through if options.postgres else [url] * 3,
        )
        stack.push_async_callback(cluster.end)
        await cluster.add_template("base", **SMALL, extent_kib=16)
        await cluster.start()
        load = Load(cluster, random.Random(chance.random()), complain)
        watch = Watch(cluster, complain)
        trouble = Trouble(cluster, url, random.Random(chance.random()), options.lease, complain)
        sessions = read(url, SESSIONS)
        await _work(options, load, watch, trouble, outages)
        if options.postgres and (now := read(url, SESSIONS)) != sessions:
            complain.append(f"sessions were {sessions}, and are {now}")
        try:
            await until(lambda: not staged(cluster), "the purge of what was deleted")
        except HangError as error:
            complain.append(f"there is no end: {error}")
        await asyncio.sleep(1)  # what is told last is still on its way to who watches
        for line in _report(options, load, watch, trouble, outages):
            say(line)
        return [*complain, *violations(cluster, url, load, watch)]


async def _work(
    options: argparse.Namespace, load: Load, watch: Watch, trouble: Trouble, outages: Outages
) -> None:
    """Has it all happen for the time, and waits until everybody has heard of the end."""
    watching = [
        asyncio.create_task(work)
        for work in (watch.follow(), watch.look_at_agents(), trouble.watch(), _tell(load, watch))
    ]
    no_more = asyncio.Event()
    troubling = asyncio.create_task((outages if options.postgres else trouble).run(no_more))
    working = asyncio.create_task(load.run(options.engines))
    try:
        await asyncio.wait(
            [troubling, working, *watching],
            timeout=options.minutes * 60,
            return_when=asyncio.FIRST_EXCEPTION,
        )
        no_more.set()
        await troubling  # it ends first: what is under way must end without further trouble
        load.stop.set()
        await working
    finally:
        for task in [troubling, working, *watching]:
            task.cancel()
        for ended in await asyncio.gather(*watching, return_exceptions=True):
            if isinstance(ended, Exception):
                load.complain.append(f"the soak itself failed: {ended!r}")


async def _tell(load: Load, watch: Watch) -> None:
    """Says now and then how it goes."""
    began, shown = time.monotonic(), 0
    while True:
        await asyncio.sleep(20)
        for line in load.complain[shown:][:SHOWN_MAX]:
            say(f"  VIOLATED: {line[:1500]}")
        shown = len(load.complain)
        say(
            f"{time.monotonic() - began:6.0f} s: {len(load.accepted)} accepted,"
            f" {len(watch.settled)} settled, {shown} violations"
        )


# -- what is told at the end ----------------------------------------------------------------------


def _report(
    options: argparse.Namespace, load: Load, watch: Watch, trouble: Trouble, outages: Outages
) -> Iterator[str]:
    yield f"seed {options.seed}, {options.minutes:g} min, sessions last {options.lease:g} s"
    kinds: defaultdict[str, int] = defaultdict(int)
    for workflow_id in load.accepted:
        kinds[load.handed_in[workflow_id].kind] += 1
    told = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    yield f"workflows: {len(load.accepted)} accepted ({told}), {len(load.ended)} ended as told"
    yield f"from submit to end:        {_spread(load.latencies_s)}"
    yield f"settled each second:       {len(watch.settled) / (options.minutes * 60):.1f}"
    for kind in sorted({each.kind for each in trouble.incidents}):
        yield from _take_overs(kind, watch, trouble)
    if outages.outages:
        yield from _backs(watch, outages)


def _take_overs(kind: str, watch: Watch, trouble: Trouble) -> Iterator[str]:
    """Yields how long nobody decided about what the victims of one kind of incident had."""
    incidents = [each for each in trouble.incidents if each.kind == kind]
    took_s, never = [], 0
    for incident in incidents:
        for workflow_id in incident.owned if incident.others else ():
            told = watch.told.get(workflow_id)
            after = [when for when, _ in (told.decided if told else ()) if when > incident.time]
            took_s += [after[0] - incident.time] if after else []
            never += not after  # it settled before the victim was struck
    alone = sum(not each.others for each in incidents)
    yield f"{kind}: {len(incidents)} times, of which {alone} with all others at once"
    yield f"  until the new owner decided: {_spread(took_s)} ({never} had settled)"
    if kind == "SIGTERM":
        yield f"  until the process had ended: {_spread([each.took_s for each in incidents])}"


def _backs(watch: Watch, outages: Outages) -> Iterator[str]:
    """Yields how soon work went on after each outage."""
    first_s, usual_s = [], []
    for outage in outages.outages:
        before = sum(outage.began - 10 <= when < outage.began for when in watch.settled) / 10
        after = [when for when in watch.settled if when >= outage.ended]
        first_s += [after[0] - outage.ended] if after else []
        for when in after:
            if sum(when <= other < when + 5 for other in after) / 5 >= 0.8 * before:
                usual_s.append(when - outage.ended)
                break
    lasted = [each.ended - each.began for each in outages.outages]
    yield f"PostgreSQL killed: {len(lasted)} times; away for {_spread(lasted)}"
    yield f"  until a workflow settled:      {_spread(first_s)}"
    yield f"  until 80 % of the throughput:  {_spread(usual_s)}"
    yield f"connections cut at COMMIT: {outages.cuts}"


def _spread(some_s: Sequence[float]) -> str:
    if not some_s:
        return "-"
    ordered = sorted(some_s)
    at = {
        share: ordered[min(len(ordered) - 1, int(len(ordered) * share / 100))] for share in (50, 99)
    }
    return f"p50 {at[50]:6.2f} s, p99 {at[99]:6.2f} s, most {ordered[-1]:6.2f} s, of {len(ordered)}"


def main(arguments: Sequence[str]) -> int:
    """Runs it, and returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.endtoend.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--postgres", action="store_true", help="trouble for the database instead")
    parser.add_argument("--lease", type=float, default=5.0, help="how long sessions last, in s")
    parser.add_argument("--agents", type=int, default=8)
    parser.add_argument("--engines", type=int, default=24)
    parser.add_argument("--keep", action="store_true", help="leave the folder where it is")
    options = parser.parse_args(arguments)
    os.environ.setdefault("COUNTERMAND_WEB", "off")
    folder = Path(tempfile.mkdtemp(prefix="countermand-soak-"))
    say(f"in {folder}")
    try:
        with Lives() as lives:
            found = asyncio.run(soak(options, folder, lives))
    finally:
        if not options.keep:
            shutil.rmtree(folder, ignore_errors=True)
    for line in found[:SHOWN_MAX]:
        say(f"VIOLATED: {line}")
    say(f"verdict: {f'{len(found)} violations' if found else 'nothing was violated'}")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
