"""What it costs a coordinator to be seen: W1 with and without its log, and with collectors.

Four coordinators, each with an agent of its own, are loaded in turn, round by round: one as it is,
one whose log says warnings only, and two that have a collector of traces. The one that hangs takes
connections and never answers; the other one is a process that counts spans and throws them away.
What matters is that a dead one costs nothing, and that nobody waits for it; nor, when a coordinator
ends, for those who look at its page, call it as JSON, or have connected and say nothing.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import grpc.aio
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as otlp
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as otlp_grpc

from countermand.client import Client
from countermand.client.spec import external_task, sequence, workflow_spec
from countermand.v1.annotation_pb2 import Effect
from tests.bench.figures import Figure, at_least, at_most, ratio
from tests.bench.processes import Process, start, start_agent, start_coordinator
from tests.bench.workloads import HOST, WARM_UP_S, WORKLOADS, Bench, Load

NONE, HANGS, TAKES = "no collector", "one that hangs", "one that takes all"
SILENT = "no collector, warnings only"
LOOKED_AT = "pages and calls open"
_HEAD = b"Host: localhost\r\n"
_WAIT = b'{"name": "workflows/w", "waitTimeout": "60s"}'
WATCHES = b"GET /live/workflows HTTP/1.1\r\n" + _HEAD + b"\r\n"
WAITS = (
    b"POST /countermand.v1.WorkflowService/WaitWorkflow HTTP/1.1\r\n"
    + _HEAD
    + b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(_WAIT), _WAIT)
)
IN_FLIGHT = 16
KEEPS_UP = at_least(0.95)
STOP_S_MAX = at_most(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """How a coordinator is started; without a collector's address it has none."""

    arguments: Sequence[str] = ()
    collector: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """One coordinator under load."""

    bench: Bench
    loads: list[Load]


def measure(folder: Path, rounds: int, seconds: float) -> list[Figure]:
    """Returns rates, their ratios, and how long an end takes while a collector hangs."""
    with _hanging() as hangs, start(["tests.bench.seeing"], folder / "collector.log") as takes:
        ways = {
            SILENT: Way(arguments=("--log-level", "warning")),
            NONE: Way(),
            HANGS: Way(collector=hangs),
            TAKES: Way(collector=takes.address),
        }
        loads = asyncio.run(_measure(folder, ways, rounds, seconds))
        stops = {
            name: tuple(
                _stop_s(folder / f"{number}-{address or 'none'}", address)
                for number in range(rounds)
            )
            for name, address in ((NONE, ""), (HANGS, hangs))
        } | {LOOKED_AT: tuple(_stop_looked_at_s(folder / f"{n}-looked-at") for n in range(rounds))}
    rates = {
        name: Figure(name=f"W1 at {IN_FLIGHT}, {name}", unit="workflows/s", runs=_rates(found))
        for name, found in loads.items()
    }
    cpu = (
        Figure(
            name=f"coordinator CPU, {name}",
            unit="ms/task",
            runs=tuple(load.coordinator_cpu_ms for load in found),
        )
        for name, found in loads.items()
    )
    return [
        *rates.values(),
        ratio(f"log lines ÷ {SILENT}", rates[NONE], rates[SILENT]),
        ratio(f"{HANGS} ÷ {NONE}", rates[HANGS], rates[NONE], goals=(KEEPS_UP,)),
        ratio(f"{TAKES} ÷ {NONE}", rates[TAKES], rates[NONE]),
        *cpu,
        *(
            Figure(
                name=f"from SIGTERM to the end, {name}", unit="s", runs=found, goals=(STOP_S_MAX,)
            )
            for name, found in stops.items()
        ),
    ]


async def _measure(
    folder: Path, ways: Mapping[str, Way], rounds: int, seconds: float
) -> dict[str, list[Load]]:
    workload = next(w for w in WORKLOADS if (w.name, w.in_flight) == ("W1", IN_FLIGHT))
    async with AsyncExitStack() as stack:
        subjects = {}
        for name, way in ways.items():
            place = folder / name.replace(" ", "-")
            place.mkdir()
            agent = stack.enter_context(start_agent(place))
            coordinator = stack.enter_context(
                start_coordinator(place, *way.arguments, environment=_environment(way.collector))
            )
            client = await stack.enter_async_context(Client(coordinator.address))
            await client.hosts.add(HOST, agent.address)
            subjects[name] = Subject(bench=Bench(client, coordinator, agent), loads=[])
        for subject in subjects.values():
            await subject.bench.check(workload)
        for _ in range(rounds):
            for subject in subjects.values():
                await subject.bench.run(workload, WARM_UP_S)
                subject.loads.append(await subject.bench.run(workload, seconds))
        return {name: subject.loads for name, subject in subjects.items()}


def _rates(loads: list[Load]) -> tuple[float, ...]:
    return tuple(load.per_s for load in loads)


def _environment(address: str) -> dict[str, str]:
    return {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{address}"} if address else {}


@contextmanager
def _hanging() -> Iterator[str]:
    """Yields the address of somebody who takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"127.0.0.1:{listening.getsockname()[1]}"


def _stop_s(folder: Path, collector: str) -> float:
    """Returns how long a coordinator takes to end while spans wait for a collector that hangs."""
    folder.mkdir()
    with (
        start_agent(folder) as agent,
        start_coordinator(folder, environment=_environment(collector)) as coordinator,
    ):
        asyncio.run(_once(coordinator, agent))
        return _end_s(coordinator)


def _stop_looked_at_s(folder: Path) -> float:
    """Returns how long it takes while ten each watch, wait, have said half a call, or nothing."""
    folder.mkdir()
    with start_coordinator(folder, "--web", "127.0.0.1:0") as coordinator, ExitStack() as open_:
        asyncio.run(_wait_for_vendor(coordinator))
        for said in (WATCHES, WAITS, WAITS[:-10], b"") * 10:
            url = urlsplit(coordinator.web)
            line = open_.enter_context(socket.create_connection((url.hostname, url.port)))
            line.sendall(said)
            if said == WATCHES:
                line.recv(1)  # it is being told
        return _end_s(coordinator)


def _end_s(coordinator: Process) -> float:
    began = time.perf_counter()
    os.kill(coordinator.pid, signal.SIGTERM)
    while Path(f"/proc/{coordinator.pid}/cmdline").read_bytes():  # a zombie has none
        time.sleep(0.001)
    return time.perf_counter() - began


async def _wait_for_vendor(coordinator: Process) -> None:
    waits = external_task("a", owner="v", kind="k", effect=Effect.EFFECT_READ_ONLY)
    async with Client(coordinator.address) as client:
        await client.submit(workflow_spec("w", sequence("all", waits)), workflow_id="w")


async def _once(coordinator: Process, agent: Process) -> None:
    async with Client(coordinator.address) as client:
        await client.hosts.add(HOST, agent.address)
        run = await client.submit(WORKLOADS[0].spec, workflow_id="once")
        await run.wait()


# -- the collector that takes all -----------------------------------------------------------------


class _Servicer(otlp_grpc.TraceServiceServicer):
    async def Export(self, request, context):
        return otlp.ExportTraceServiceResponse()


async def _serve() -> None:
    server = grpc.aio.server()
    otlp_grpc.add_TraceServiceServicer_to_server(_Servicer(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(json.dumps({"address": f"127.0.0.1:{port}"}), flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(_serve())
