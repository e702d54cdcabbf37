"""What is measured of the data path: each row one piece of work, and what it is compared with.

One more comparison is one more entry of `ROWS`. Times are ours and the peer's of the same round, a
ratio above 1 means that we are faster.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import quantiles

from countermand.client.spec import image
from countermand.rpc.errors import StateForbids
from countermand.v1.image_pb2 import IMAGE_FORMAT_QCOW2
from countermand.v1.verb_pb2 import CloneImage, CopyImage
from tests.bench.figures import Figure, Goal, at_least, at_most, ratio
from tests.bench.io_peers import Peer, bare_loop, flushed_ms, nbdcopy_over_tls, program, qemu_img
from tests.bench.io_stack import FAR, FAR_POOL, HOST, POOL, Stack

# Cancelled copies, and no-ops beside copies, in each round.
CANCELS = 10
NOOPS = 100
COPIES_BESIDE = 4

# Bare flushes, about as often as no-ops make them.
FLUSHES = 100
FLUSH_INTERVAL_S = 0.01

RAW = ("raw", "raw")
FLAT = ("qcow2", "qcow2")

# Takes something of one round: seconds, or what its figure says. Caches are dropped before.
Take = Callable[[Stack], Awaitable[float]]

Runs = Mapping[str, tuple[float, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One piece of work."""

    name: str
    takes: Mapping[str, Take]  # in the order in which they take turns
    figures: Callable[[Runs], Iterator[Figure]]


def copied(source: str, **fields: object) -> Take:
    """Returns a copy by the whole stack."""

    async def take(stack: Stack) -> float:
        target = f"{source}-copy"
        action = CopyImage(source=image(f"{POOL}/{source}"), target=image(f"{POOL}/{target}"))
        for name, value in fields.items():
            setattr(action, name, value)
        began = time.perf_counter()
        await stack.make(action)
        took_s = time.perf_counter() - began
        await stack.remove(target)
        return took_s

    return take


def by(peer: Peer, source: str) -> Take:
    """Returns the same work by somebody else."""

    async def take(stack: Stack) -> float:
        target = stack.scratch / f"{source}-copy"
        with suppress(FileNotFoundError):
            target.unlink()
        began = time.perf_counter()
        await asyncio.to_thread(peer, stack.data(source), target)
        took_s = time.perf_counter() - began
        target.unlink()
        return took_s

    return take


async def pulled(stack: Stack) -> float:
    """Returns a copy by the whole stack, to a host that shares no storage with the source's."""
    target = image(f"{FAR_POOL}/full-pulled")
    began = time.perf_counter()
    action = CopyImage(source=image(f"{POOL}/full"), target=target, source_host_id=HOST)
    await stack.make(action, host=FAR)
    took_s = time.perf_counter() - began
    await stack.remove("full-pulled", pool=FAR_POOL, host=FAR)
    return took_s


async def pulled_by_nbdcopy(stack: Stack) -> float:
    """Returns the same by NBD over TLS."""
    return await by(nbdcopy_over_tls(stack.certificates), "full")(stack)


async def holes_kept(stack: Stack) -> float:
    """Returns how much room a sparse image's copy takes, against the image's own."""
    target = f"{POOL}/sparse-holes"
    await stack.make(CopyImage(source=image(f"{POOL}/sparse"), target=image(target)))
    share = _allocated(stack.data("sparse-holes")) / _allocated(stack.data("sparse"))
    await stack.remove("sparse-holes")
    return share


def cloned(source: str) -> Take:
    """Returns a clone by the whole stack."""

    async def take(stack: Stack) -> float:
        target = f"{POOL}/{source}-clone"
        began = time.perf_counter()
        await stack.make(CloneImage(source=image(f"{POOL}/{source}"), target=image(target)))
        took_s = time.perf_counter() - began
        await stack.remove(f"{source}-clone")
        return took_s

    return take


async def cancelled_p99(stack: Stack) -> float:
    """Returns the 99th percentile of the seconds from a cancel until all is settled."""
    whole_s = await copied("full")(stack)
    took_s: list[float] = []
    for number in range(CANCELS):
        target = image(f"{POOL}/full-cancelled")
        run = await stack.run(CopyImage(source=image(f"{POOL}/full"), target=target))
        await asyncio.sleep(whole_s * number / CANCELS)
        began = time.perf_counter()
        try:
            await run.cancel("bench")
        except StateForbids:  # it was faster than the one before
            await stack.remove("full-cancelled")
            continue
        await run.wait()
        took_s.append(time.perf_counter() - began)
        assert "full-cancelled" not in stack.images()
    return _p99(took_s)


async def idle_p99(stack: Stack) -> float:
    """Returns the 99th percentile of a no-op's milliseconds, while nothing else happens."""
    return _p99(await stack.latencies_ms(NOOPS))


async def busy_p99(stack: Stack) -> float:
    """Returns the same while copies run."""
    took_ms: list[float] = []
    async with copies_beside(stack) as copies:
        while not any(copy.done() for copy in copies):
            took_ms += await stack.latencies_ms(1)
    return _p99(took_ms)


async def idle_flush_p99(stack: Stack) -> float:
    """Returns the 99th percentile of a bare flush's milliseconds, while nothing else happens."""
    return _p99([await _flush_ms(stack) for _ in range(FLUSHES)])


async def busy_flush_p99(stack: Stack) -> float:
    """Returns the same while copies run."""
    took_ms: list[float] = []
    async with copies_beside(stack) as copies:
        while not any(copy.done() for copy in copies):
            took_ms.append(await _flush_ms(stack))
    return _p99(took_ms)


async def _flush_ms(stack: Stack) -> float:
    await asyncio.sleep(FLUSH_INTERVAL_S)
    return await asyncio.to_thread(flushed_ms, stack.scratch)


@asynccontextmanager
async def copies_beside(stack: Stack) -> AsyncIterator[list[asyncio.Task[None]]]:
    """Yields copies that are running; awaits and removes them in the end."""
    targets = [f"full-{number}" for number in range(COPIES_BESIDE)]
    copies = [
        asyncio.create_task(
            stack.make(CopyImage(source=image(f"{POOL}/full"), target=image(f"{POOL}/{target}")))
        )
        for target in targets
    ]
    yield copies
    await asyncio.gather(*copies)
    for target in targets:
        await stack.remove(target)


def _p99(values: list[float]) -> float:
    return quantiles(values, n=100, method="inclusive")[98]


def _allocated(path: Path) -> int:
    return path.stat().st_blocks


def against(work: str, goals: Mapping[str, Goal]) -> Callable[[Runs], Iterator[Figure]]:
    """Returns what makes figures of our times and those of the peers, each with its ratio."""

    def figures(runs: Runs) -> Iterator[Figure]:
        times = {
            name: Figure(name=f"{work}: {name}", unit="s", runs=each) for name, each in runs.items()
        }
        yield from times.values()
        for peer, goal in goals.items():
            yield ratio(f"{work} ÷ {peer}", times[peer], times["ours"], goals=(goal,))

    return figures


def just(unit: str, goals: Mapping[str, Goal]) -> Callable[[Runs], Iterator[Figure]]:
    """Returns what makes a figure of each thing as it was taken."""

    def figures(runs: Runs) -> Iterator[Figure]:
        for name, each in runs.items():
            goal = (goals[name],) if name in goals else ()
            yield Figure(name=name, unit=unit, runs=each, goals=goal)

    return figures


def clone_figures(runs: Runs) -> Iterator[Figure]:
    """Yields the times of both clones, and how much longer the larger one takes."""
    small, large = (
        Figure(name=f"clone of {size}", unit="s", runs=runs[size], goals=(at_most(0.1),))
        for size in ("1 GiB", "100 GiB")
    )
    yield small
    yield large
    yield ratio("clone of 100 GiB ÷ 1 GiB", large, small, goals=(at_most(1.5),))


def latency_figures(runs: Runs) -> Iterator[Figure]:
    """Yields both latencies, and how much longer the one beside copies is.

    After them the same of one bare flush, which is what a no-op waits for several times: what no
    journal on that disk can be quicker than.
    """
    for what, prefix, goals in (("no-op", "", (at_most(2),)), ("bare flush", "flush ", ())):
        idle = Figure(name=f"{what} p99, idle", unit="ms", runs=runs[f"{prefix}idle"])
        name = f"{what} p99, {COPIES_BESIDE} copies beside"
        busy = Figure(name=name, unit="ms", runs=runs[f"{prefix}busy"])
        yield idle
        yield busy
        yield ratio(f"{what} p99, busy ÷ idle", busy, idle, goals=goals)


ROWS = (
    Row(
        name="full",
        takes={
            "ours": copied("full"),
            "qemu-img": by(qemu_img(RAW), "full"),
            "cp": by(program("cp"), "full"),
            "bare loop": by(bare_loop, "full"),
        },
        figures=against(
            "raw copy",
            {"qemu-img": at_least(1.5), "cp": at_least(4), "bare loop": at_least(0.92)},
        ),
    ),
    Row(
        name="sparse",
        takes={
            "ours": copied("sparse"),
            "qemu-img -W -m 16": by(qemu_img(RAW, "-W", "-m", "16"), "sparse"),
        },
        figures=against("sparse copy", {"qemu-img -W -m 16": at_least(1.0)}),
    ),
    Row(
        name="holes",
        takes={"room of a sparse copy ÷ its source's": holes_kept},
        figures=just("x", {"room of a sparse copy ÷ its source's": at_most(1.01)}),
    ),
    Row(
        name="digest",
        takes={"ours": copied("full", take_digest=True), "without": copied("full")},
        figures=against("raw copy with digest", {"without": at_least(0.9)}),
    ),
    Row(
        name="flatten",
        takes={
            "ours": copied("top", flatten=True, format=IMAGE_FORMAT_QCOW2),
            "qemu-img -W -m 8": by(qemu_img(FLAT, "-W", "-m", "8"), "top"),
            "qemu-img -W -m 16": by(qemu_img(FLAT, "-W", "-m", "16"), "top"),
        },
        figures=against(
            "chain of 2 flattened",
            {"qemu-img -W -m 8": at_least(0.95), "qemu-img -W -m 16": at_least(0.95)},
        ),
    ),
    Row(
        name="clone",
        takes={"1 GiB": cloned("small"), "100 GiB": cloned("large")},
        figures=clone_figures,
    ),
    Row(
        name="cancel",
        takes={"cancel of a copy p99": cancelled_p99},
        figures=just("s", {"cancel of a copy p99": at_most(1)}),
    ),
    Row(
        name="across",
        takes={"ours": pulled, "nbdcopy over TLS": pulled_by_nbdcopy},
        figures=against("raw copy across hosts", {"nbdcopy over TLS": at_least(1.0)}),
    ),
    Row(
        name="latency",
        takes={
            "idle": idle_p99,
            "busy": busy_p99,
            "flush idle": idle_flush_p99,
            "flush busy": busy_flush_p99,
        },
        figures=latency_figures,
    ),
)
