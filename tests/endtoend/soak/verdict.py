"""What must hold at the end, read from disks, logs and the database, not from any service."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator

from coordinator.runtime.ports import LETTERS_LAST
from countermand.rpc.names import parse_attempt
from tests.endtoend.checks import SETTLED, labels, read, same, staged
from tests.endtoend.cluster import Cluster
from tests.endtoend.soak.load import BASE, SUCCEEDED, Load
from tests.endtoend.soak.watching import Watch

LETTERS_SWEPT_S = LETTERS_LAST.total_seconds() * 1.2
OLD_LETTERS = (
    "SELECT count(*) AS rows FROM letters"
    " WHERE post_time_us < (extract(epoch FROM now()) - ?) * 1000000"
)


def violations(cluster: Cluster, url: str, load: Load, watch: Watch) -> Iterator[str]:
    """Yields what is wrong."""
    states = {row["id"]: row["state"] for row in read(url, "SELECT id, state FROM workflows")}
    yield from _workflows(load, watch, states)
    yield from _disks(cluster, load, states)
    yield from _agents(cluster, states)
    [held] = read(url, "SELECT count(*) AS rows FROM locks")
    if held["rows"]:
        yield f"{held['rows']} images are still held"
    # Letters of those who were killed are swept later.
    [old] = read(url, OLD_LETTERS, LETTERS_SWEPT_S)
    if old["rows"]:
        yield f"{old['rows']} letters are never removed"


def _workflows(load: Load, watch: Watch, states: dict[str, str]) -> Iterator[str]:
    for workflow_id in sorted(load.accepted - states.keys()):
        yield f"{workflow_id} was accepted, and is lost"
    for workflow_id, state in states.items():
        plan = load.handed_in[workflow_id]
        if state not in SETTLED:
            yield f"{workflow_id} ({plan.kind}) has not settled: {state}"
        elif state not in plan.ends:
            yield f"{workflow_id} ({plan.kind}) is {state}"
        told = watch.told.get(workflow_id)
        if told is None or told.state != state:
            yield f"{workflow_id} is {state}; who watched heard {told and told.state}"
    for workflow_id, state in load.ended.items():
        if states.get(workflow_id) != state:
            yield f"{workflow_id}: its engine was told {state}, stored is {states[workflow_id]}"


def _disks(cluster: Cluster, load: Load, states: dict[str, str]) -> Iterator[str]:
    """Checks that what is on the disks is what workflows that succeeded have made, no more."""
    wanted = {
        address: workflow_id
        for workflow_id, state in states.items()
        if state == SUCCEEDED
        for address in load.handed_in[workflow_id].images
    }
    found = {
        address: label["attempt"].split("/")[1]
        for address, label in labels(cluster).items()
        if label["attempt"] and not label["attempt"].startswith("import/")
    }
    for address in sorted(wanted.keys() | found.keys()):
        if wanted.get(address) != found.get(address):
            yield f"{address} is of {found.get(address)}, and should be of {wanted.get(address)}"
        elif not same(cluster.data_of(BASE), cluster.data_of(address)):
            yield f"{address} is not as its source"
    for name in staged(cluster):
        yield f"{name} is half made"


def _agents(cluster: Cluster, states: dict[str, str]) -> Iterator[str]:
    """Checks by the agents' logs that nothing was worked on, nor took effect, twice."""
    ran: Counter[str] = Counter()
    effects: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    for agent in cluster.agents.values():
        for event in agent.events():
            name = str(event.get("attempt", ""))
            parts = parse_attempt(name)
            if parts is None:
                continue
            ran[name] += event["event"] == "attempt.running"
            if (event["event"], event["kind"]) == ("attempt.succeeded", "action"):
                effects[parts.workflow_id, parts.task_id].add(name)
    for name, times in ran.items():
        if times > 1:
            yield f"{name} was worked on {times} times"
    for (workflow_id, task_id), names in effects.items():
        if states.get(workflow_id) == SUCCEEDED and len(names) != 1:
            yield f"{workflow_id}/{task_id} took effect {len(names)} times"
        if workflow_id not in states:
            yield f"an agent worked for {workflow_id}, which is not stored"
