"""The traces of real processes as they arrive, with an independent collector on the way.

The coordinator is killed while a workflow is made up for; its next life goes on with the trace. A
real Jaeger is asked for it as well, where a `jaeger` of version 2 is on the PATH, or one is named:
COUNTERMAND_JAEGER="http://127.0.0.1:4317 http://127.0.0.1:16686", where it takes spans and where it
shows them.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from coordinator.runtime.crash_points import AFTER_COMPENSATION_COMMIT
from countermand.client.spec import sequence, task, workflow_spec
from countermand.rpc.collector import GRPC, HTTP
from countermand.rpc.names import attempt_name
from countermand.v1.verb_pb2 import Noop
from countermand.v1.workflow_pb2 import Workflow
from tests.api.calls import state
from tests.endtoend.cluster import SMALL, Cluster, copy, free_address, running, until
from tests.endtoend.lives import Lives
from tests.endtoend.plans import BASE
from tests.traces import rules
from tests.traces.collector import Collector, collector

pytestmark = pytest.mark.slow

HOSTS = {"a": {"pool-a": ""}, "b": {"pool-b": ""}}


@contextmanager
def rotel(to: Collector, folder: Path) -> Iterator[dict[str, str]]:
    """Yields where an independent collector listens, by protocol; it passes everything on."""
    found = importlib.util.find_spec("rotel")
    assert found is not None, "rotel comes with the extra dev"
    assert found.origin is not None
    program = Path(found.origin).with_name("rotel-agent")
    listens = {GRPC: free_address(), HTTP: free_address()}
    arguments = [
        str(program), "start",
        "--pid-file", str(folder / "pid"),
        "--otlp-grpc-endpoint", listens[GRPC],
        "--otlp-http-endpoint", listens[HTTP],
        "--exporter", "otlp",
        "--otlp-exporter-endpoint", to.endpoint,
        "--otlp-exporter-protocol", "grpc",
    ]  # fmt: skip
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(arguments, stdout=log, stderr=log)
    try:
        yield {protocol: f"http://{address}" for protocol, address in listens.items()}
    finally:
        process.terminate()
        process.wait()


def listens(endpoint: str) -> bool:
    host, _, port = endpoint.removeprefix("http://").rpartition(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == 0


def whole(to: Collector, workflow: Workflow) -> bool:
    """Returns whether everything of a settled workflow has arrived."""
    spans = to.of(workflow.trace_id)
    known = {span.span_id for span in spans}
    return any(not span.parent_span_id for span in spans) and all(
        span.parent_span_id in known for span in spans if span.parent_span_id
    )


def work(spans: Sequence[Span]) -> dict[str, Span]:
    """Returns the spans of what agents did, by the attempt."""
    return {
        each.value.string_value: span
        for span in spans
        if span.name.startswith("agent.")
        for each in span.attributes
        if each.key == "countermand.attempt"
    }


@contextmanager
def environment(monkeypatch: pytest.MonkeyPatch, endpoint: str, protocol: str) -> Iterator[Lives]:
    """Yields what starts processes that send their spans somewhere."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")  # of agents' own spans
    with Lives() as lives:  # in this environment
        yield lives


@pytest.mark.parametrize("protocol", [GRPC, HTTP])
async def test_a_workflow_is_one_trace_whoever_is_killed(protocol, tmp_path, monkeypatch):
    """From the engine's span over the coordinator's to the agents'; S-H2 for what is seen."""
    async with collector(GRPC) as to:
        with rotel(to, tmp_path) as endpoints:
            await until(lambda: listens(endpoints[protocol]), "rotel")
            with environment(monkeypatch, endpoints[protocol], protocol) as lives:
                async with running(lives, tmp_path, HOSTS, base=SMALL) as cluster:
                    workflow = await _failing(cluster)
                    await until(lambda: whole(to, workflow), "the trace")
                    # An agent sends its own spans, in its own time.
                    await until(lambda: work(to.of(workflow.trace_id)).keys() == DONE, "the work")
    spans = to.of(workflow.trace_id)
    rules.check(spans, settled=True)
    named = {span.name: span for span in spans}
    assert named["compensate first"].links[0].span_id == named["first"].span_id
    assert named["last"].status.message == "as asked"
    assert "taken over" in named
    # The agent's work hangs below the attempt that the coordinator has projected.
    attempts = {span.span_id for span in spans if span.kind == Span.SPAN_KIND_CLIENT}
    done = work(spans)
    for span in done.values():
        said = {each.key: each.value.string_value for each in span.attributes}
        assert said["countermand.workflow"] == workflow.name
        assert said["countermand.host"] in HOSTS
    assert {span.parent_span_id for span in done.values()} <= attempts
    assert {"countermand-coordinator", "countermand-agent"} <= to.services


DONE = {
    attempt_name("traced", task_id, number)
    for task_id, number in (("first", 1), ("second", 1), ("last", 1), ("second", 2), ("first", 2))
}


async def _failing(cluster: Cluster) -> Workflow:
    """Returns a workflow that was made up for by two lives of a coordinator."""
    spec = workflow_spec(
        "traced",
        sequence(
            "all",
            copy("first", "a", BASE, "pool-a/first"),
            copy("second", "b", BASE, "pool-b/second"),
            task("last", host="a", action=Noop(failure_message="as asked")),
        ),
    )
    await cluster.coordinator.kill()
    await cluster.coordinator.start(AFTER_COMPENSATION_COMMIT)
    async with cluster.client() as client:
        await client.submit(spec, workflow_id="traced")
        await cluster.coordinator.died()
        await cluster.coordinator.start()
        settled = await cluster.settled("traced")
    assert state(settled) == "COMPENSATED"
    return settled


# -- Jaeger ---------------------------------------------------------------------------------------


@contextmanager
def jaeger(folder: Path) -> Iterator[tuple[str, str]]:
    """Yields where a real Jaeger takes spans, and where it shows them."""
    if named := os.environ.get("COUNTERMAND_JAEGER"):
        takes, _, shows = named.partition(" ")
        yield takes, shows
        return
    program = shutil.which("jaeger")
    if program is None:
        pytest.skip("SKIPPED: no jaeger on the PATH, and COUNTERMAND_JAEGER names none")
    takes, shows, unused = free_address(), free_address(), free_address()
    settings = {
        "service": {
            "extensions": ["jaeger_storage", "jaeger_query"],
            "pipelines": {
                "traces": {"receivers": ["otlp"], "exporters": ["jaeger_storage_exporter"]}
            },
            "telemetry": {"metrics": {"level": "none"}},
        },
        "extensions": {
            "jaeger_storage": {"backends": {"memory": {"memory": {"max_traces": 100}}}},
            "jaeger_query": {
                "storage": {"traces": "memory"},
                "http": {"endpoint": shows},
                "grpc": {"endpoint": unused},
            },
        },
        "receivers": {"otlp": {"protocols": {"grpc": {"endpoint": takes}}}},
        "exporters": {"jaeger_storage_exporter": {"trace_storage": "memory"}},
    }
    config = folder / "jaeger.json"
    config.write_text(json.dumps(settings))
    with (
        (folder / "jaeger.log").open("wb") as log,
        subprocess.Popen([program, "--config", str(config)], stdout=log, stderr=log) as process,
    ):
        try:
            yield f"http://{takes}", f"http://{shows}"
        finally:
            process.terminate()


def shown(url: str, trace_id: str) -> list[dict[str, Any]]:
    """Returns the spans that Jaeger shows of a trace; none while it knows of none."""
    try:
        with urlopen(f"{url}/api/traces/{trace_id}") as answer:
            (trace,) = json.load(answer)["data"]
    except (HTTPError, ConnectionError):
        return []
    spans: list[dict[str, Any]] = trace["spans"]
    return spans


def parent_of(span: dict[str, Any]) -> str:
    """Returns the id of a span's parent as Jaeger's page finds it: the first reference of all."""
    own = [each for each in span["references"] if each["traceID"] == span["traceID"]]
    return str(own[0]["spanID"]) if own else ""


async def test_jaeger_shows_a_whole_trace(tmp_path, monkeypatch):
    with jaeger(tmp_path) as (takes, shows):
        await until(lambda: listens(takes), "jaeger")
        with environment(monkeypatch, takes, GRPC) as lives:
            async with running(lives, tmp_path, HOSTS, base=SMALL) as cluster:
                workflow = await _failing(cluster)

                def is_whole() -> bool:
                    found = shown(shows, workflow.trace_id)
                    ids = {span["spanID"] for span in found}
                    return bool(found) and sum(parent_of(s) not in ids for s in found) == 1

                await until(is_whole, "the trace in Jaeger")
        spans = shown(shows, workflow.trace_id)

    by_id = {span["spanID"]: span for span in spans}
    assert len(by_id) == len(spans), "a span that came twice is kept twice"
    assert [(span["operationName"], span["warnings"]) for span in spans if span["warnings"]] == []
    names = {span["operationName"]: span for span in spans}
    (root,) = [span for span in spans if not span["references"]]
    assert root["operationName"] == "workflow traced"
    undone = by_id[parent_of(names["compensate first attempt 2"])]
    assert undone["operationName"] == "compensate first"
    assert by_id[parent_of(undone)]["operationName"] == "compensation"
