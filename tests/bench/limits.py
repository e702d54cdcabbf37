"""What no coordinator in Python could exceed here: bare gRPC calls, and durable commits.

Both run in the same rounds as the workloads, so that a slow moment of the machine slows all.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sqlite3
import time
from pathlib import Path

import grpc
import grpc.aio

from countermand.rpc.channel import open_channel
from countermand.v1.workflow_pb2 import WaitWorkflowRequest, WaitWorkflowResponse

ROWS = 100


SERVICE, METHOD = "bench.Bare", "Call"


async def answer(_request: WaitWorkflowRequest, _context: object) -> WaitWorkflowResponse:
    """Says nothing; what is left is gRPC."""
    return WaitWorkflowResponse(reached=True)


async def serve() -> None:
    """Serves until SIGTERM: no interceptor, no health, nothing."""
    server = grpc.aio.server()
    handler = grpc.unary_unary_rpc_method_handler(
        answer,
        request_deserializer=WaitWorkflowRequest.FromString,
        response_serializer=WaitWorkflowResponse.SerializeToString,
    )
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(SERVICE, {METHOD: handler}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    print(json.dumps({"address": f"127.0.0.1:{port}"}), flush=True)
    await stop.wait()
    await server.stop(None)


async def calls_per_s(address: str, in_flight: int, seconds: float) -> float:
    """Returns how many unary calls come back, with so many in flight on one channel."""
    async with open_channel(address) as channel:
        bare = channel.unary_unary(
            f"/{SERVICE}/{METHOD}",
            request_serializer=WaitWorkflowRequest.SerializeToString,
            response_deserializer=WaitWorkflowResponse.FromString,
        )
        request = WaitWorkflowRequest(name="workflows/bench")
        await bare(request)
        began = time.perf_counter()

        async def call() -> int:
            calls = 0
            while time.perf_counter() - began < seconds:
                await bare(request)
                calls += 1
            return calls

        calls = sum(await asyncio.gather(*(call() for _ in range(in_flight))))
        return calls / (time.perf_counter() - began)


def commits_per_s(folder: Path, rows: int, seconds: float) -> float:
    """Returns how many transactions of so many rows become durable, as the store makes them so."""
    path = folder / f"commits-{rows}.sqlite"
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("CREATE TABLE IF NOT EXISTS t (id INTEGER PRIMARY KEY, text TEXT)")
        values = [("x" * 200,)] * rows
        commits = 0
        began = time.perf_counter()
        while time.perf_counter() - began < seconds:
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany("INSERT INTO t (text) VALUES (?)", values)
            connection.execute("COMMIT")
            commits += 1
        return commits / (time.perf_counter() - began)
    finally:
        connection.close()


if __name__ == "__main__":
    asyncio.run(serve())
