"""What a scrape of real services has: all that the tables list, and all that anybody asks for."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator

import pytest
import yaml

from agent import metrics as agents
from coordinator.metrics import table
from countermand.client import Client
from countermand.client.spec import external_task, image, parallel, sequence, task, workflow_spec
from countermand.rpc.metrics import Kind
from countermand.v1.annotation_pb2 import Effect
from countermand.v1.image_pb2 import IMAGE_FORMAT_RAW
from countermand.v1.verb_pb2 import CopyImage, CreateImage, Noop
from tests.metrics import services
from tests.metrics.services import ROOT, Service, names, promtool, value

DEPLOY = ROOT / "deploy"
ALERTS = yaml.safe_load((DEPLOY / "prometheus/alerts.yaml").read_text())
RULES = [rule for group in ALERTS["groups"] for rule in group["rules"]]
DASHBOARD = json.loads((DEPLOY / "grafana/countermand.json").read_text())
OF_THE_LIBRARY = {"process_cpu_seconds_total", "process_resident_memory_bytes"}
OF_PROMETHEUS = {"up", "ALERTS"}
MIB = 2**20


def expressions() -> Iterator[str]:
    """Yields what alerts and dashboard ask for."""
    yield from (rule["expr"] for rule in RULES)
    for panel in DASHBOARD["panels"]:
        yield from (
            target["expr"].replace("$__rate_interval", "5m") for target in panel.get("targets", ())
        )
    yield from (each["expr"] for each in DASHBOARD["annotations"]["list"])


@pytest.fixture(scope="module")
def both(tmp_path_factory) -> Iterator[tuple[Service, Service]]:
    """Yields services in which one workflow went well, and one was made up for."""
    folder = tmp_path_factory.mktemp("metrics")
    collector = {"OTEL_EXPORTER_OTLP_ENDPOINT": services.NOWHERE}
    with services.coordinator(folder, **collector) as coordinator, services.agent(folder) as agent:
        asyncio.run(run_two(coordinator, agent))
        yield coordinator, agent


async def run_two(coordinator: Service, agent: Service) -> None:
    ok = [task(f"t{n}", host="h1", action=Noop()) for n in range(3)]
    made = CreateImage(target=image("fast/a"), format=IMAGE_FORMAT_RAW, virtual_size_bytes=MIB)
    copied = CopyImage(source=image("fast/a"), target=image("fast/b"))
    images = [
        task("make", host="h1", action=made),
        task("copy", host="h1", action=copied),
    ]
    fails = task("fails", host="h1", action=Noop(failure_message="as asked"))
    async with Client(coordinator.ready["address"]) as client:
        await client.hosts.add("h1", agent.ready["address"])
        for name, tasks in (("good", [*ok, *images]), ("bad", [*ok, fails])):
            spec = workflow_spec(name, sequence("all", *tasks))
            await (await client.submit(spec, workflow_id=name)).wait()


@pytest.mark.slow
async def test_a_scrape_has_every_metric_of_the_tables(both):
    coordinator, agent = both
    for service, rows in ((coordinator, table.TABLE), (agent, agents.TABLE)):
        page = service.scrape()
        of_rows = set()
        for row in rows:
            ends = ("_bucket", "_sum", "_count") if row.kind is Kind.HISTOGRAM else ("",)
            of_rows |= {f"{row.name}{end}" for end in ends}
        shown = names(page)
        assert {name for name in shown if name.startswith("countermand_")} == of_rows
        assert shown >= OF_THE_LIBRARY


@pytest.mark.slow
async def test_promtool_finds_nothing_wrong_with_a_scrape(both):
    for service in both:
        promtool("check", "metrics", text=service.scrape())


@pytest.mark.slow
async def test_whatever_alerts_and_dashboard_ask_for_is_in_a_scrape(both):
    coordinator, agent = both
    shown = names(coordinator.scrape()) | names(agent.scrape()) | OF_PROMETHEUS
    for expression in expressions():
        bare = re.sub(r'"[^"]*"', "", expression)
        asked = set(re.findall(r"\b(?:countermand_|process_)\w+|\bup\b|\bALERTS\b", bare))
        assert asked, expression
        assert asked <= shown, expression


@pytest.mark.slow
async def test_numbers_say_what_has_happened(both):
    coordinator, agent = both
    page = coordinator.scrape()
    assert value(page, table.STARTED) == 2
    assert value(page, table.SETTLED, state="succeeded") == 1
    assert value(page, table.SETTLED, state="compensated") == 1
    assert value(page, table.ATTEMPTS, verb="noop", kind="action", outcome="succeeded") == 6
    assert value(page, table.ATTEMPTS, verb="noop", kind="action", outcome="failed") == 1
    assert value(page, table.ATTEMPTS, verb="noop", kind="compensation", outcome="succeeded") == 3
    assert value(page, table.DONE, verb="copy_image") == MIB
    assert value(page, f"{table.DURATIONS}_count", verb="noop", kind="action") == 7
    assert value(page, table.HOST_UP, host="h1") == 1
    assert value(page, table.POOL_UP, host="h1", pool="fast") == 1
    capacity = value(page, table.POOL_CAPACITY, host="h1", pool="fast")
    assert 0 < value(page, table.POOL_FREE, host="h1", pool="fast") < capacity
    assert value(page, table.ATTENTION_OLDEST) == value(page, table.IN_LINE_OLDEST) == 0
    assert value(page, table.STORE_POSITION) == value(page, table.TRACES_BEHIND) > 0
    ours = agent.scrape()
    assert value(ours, agents.ATTEMPTS, verb="noop", kind="action", outcome="succeeded") == 6
    assert value(ours, agents.ATTEMPTS, verb="noop", kind="compensation", outcome="succeeded") == 3
    assert value(ours, agents.DONE) >= MIB
    assert value(ours, f"{agents.POOL_FLUSHES}_count", pool="fast") > 0
    assert value(ours, agents.POOL_FREE, pool="fast") > 0
    assert value(ours, f"{agents.COMMITS}_count") > 0


@pytest.mark.slow
async def test_both_forms_are_spoken(both):
    for service in both:
        assert service.scrape("application/openmetrics-text; version=1.0.0").endswith("# EOF\n")


@pytest.mark.slow
async def test_a_form_that_is_none_is_the_plain_one(both):
    coordinator, _ = both
    for accept in ("application/openmetrics-text; version=x", "text/plain; version=a.b.c"):
        assert names(coordinator.scrape(accept)) == names(coordinator.scrape())


@pytest.mark.slow
async def test_the_log_has_a_line_for_what_people_look_for(both):
    coordinator, agent = both
    said = [line for line in coordinator.lines() if line.get("workflow") == "workflows/bad"]
    assert [line["event"] for line in said] == [
        "workflow.running",
        *["task.succeeded"] * 3,
        "task.failed",
        "workflow.compensating",
        *["task.compensating", "task.compensated"] * 3,
        "workflow.compensated",
    ]
    failed = next(line for line in said if line["event"] == "task.failed")
    trace_id = failed.pop("trace_id")
    assert {line.get("trace_id", trace_id) for line in said} == {trace_id}
    assert failed.pop("time")
    assert failed == {
        "level": "info",
        "event": "task.failed",
        "workflow": "workflows/bad",
        "task": "workflows/bad/tasks/fails",
        "attempt": "workflows/bad/tasks/fails/attempts/1",
        "host": "h1",
        "before": "RUNNING",
        "after": "FAILED",
        "reason": "DRILL",
        "error": "as asked",
    }
    [of_agent] = [line for line in agent.lines() if line["event"] == "attempt.failed"]
    assert (
        of_agent.items()
        >= {key: failed[key] for key in ("workflow", "task", "attempt", "reason", "error")}.items()
    )
    assert of_agent["trace_id"] == trace_id
    [ready] = [line for line in coordinator.lines() if line["event"] == "coordinator.ready"]
    assert ready["open"] == 0


@pytest.mark.slow
async def test_after_a_crash_what_is_open_counts_and_what_was_starts_anew(tmp_path):
    wanted = {
        (table.WORKFLOWS, "state", "running"): 1,
        (table.TASKS, "state", "starting"): 2,
        (table.OWNER_WAITING, "owner", "acme"): 2,
    }

    def found(page: str) -> dict[tuple[str, str, str], float]:
        return {key: value(page, key[0], **{key[1]: key[2]}) for key in wanted}

    with services.coordinator(tmp_path) as first:
        async with Client(first.ready["address"]) as client:
            tasks = [
                external_task(name, owner="acme", kind="zone", effect=Effect.EFFECT_REVERSIBLE)
                for name in ("a", "b")
            ]
            await client.submit(workflow_spec("x", parallel("all", *tasks)), workflow_id="w")
        assert found(first.scrape()) == wanted
        assert value(first.scrape(), table.STARTED) == 1
        first.process.kill()
        first.process.wait()
    with services.coordinator(tmp_path) as second:
        assert found(second.scrape()) == wanted
        assert value(second.scrape(), table.STARTED) == 0


def test_no_label_is_what_there_may_be_any_number_of():
    bounded = {
        *("state", "verb", "kind", "outcome", "host", "pool", "owner", "webhook"),
        *("version", "python"),
    }
    for row in (*table.TABLE, *agents.TABLE):
        assert set(row.labels) <= bounded, row
        assert row.name.endswith("_total") == (row.kind is Kind.COUNTER), row
        assert row.help.endswith("."), row
