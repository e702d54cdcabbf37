"""What must hold once a workflow has settled, read from disks and journals, not from any service.

The coordinator's database and the agents' journals are opened read-only; the pools are listed.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from countermand.rpc.names import attempt_name, parse_attempt
from countermand.v1 import attempt_pb2
from countermand.v1.event_pb2 import HistoryEvent
from countermand.v1.verb_pb2 import Action
from countermand.v1.workflow_spec_pb2 import Group, WorkflowSpec
from tests.endtoend.cluster import Cluster

SETTLED = {"SUCCEEDED", "COMPENSATED", "FAILED"}
OUTCOMES = {"SUCCEEDED", "FAILED", "CANCELLED"}
DATA_AND_LABEL = (["data.raw", "image.json"], ["data.qcow2", "image.json"])
EFFECT_FREE = {"COMPENSATED", "FAILED", "CANCELLED"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """An attempt, as one side recorded it."""

    name: str
    kind: str
    state: str
    host: str
    compensates: str  # the name of an action's attempt, or nothing
    sequence: int = 0  # an agent's order of last changes
    received: bool = True

    @property
    def workflow(self) -> str:
        parts = parse_attempt(self.name)
        assert parts is not None, self.name
        return parts.workflow_id

    @property
    def task(self) -> str:
        parts = parse_attempt(self.name)
        assert parts is not None, self.name
        return parts.task_id

    @property
    def number(self) -> int:
        return int(self.name.rpartition("/")[2])


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """A workflow, as the coordinator's database holds it."""

    state: str
    sequence: int
    spec: WorkflowSpec
    tasks: dict[str, str]  # name → state
    attempts: dict[str, Attempt]
    events: list[HistoryEvent]


def read(place: Path | str, query: str, *arguments: object) -> list[dict[str, Any]]:
    """Returns the rows of a query on a file, or a URL, that somebody else may be writing to."""
    if isinstance(place, str):
        return _read_postgres(place, query, *arguments)
    with closing(sqlite3.connect(f"file:{place}?mode=ro", uri=True)) as connection:
        connection.row_factory = sqlite3.Row
        return [dict(row) for row in connection.execute(query, arguments)]


def _read_postgres(url: str, query: str, *arguments: object) -> list[dict[str, Any]]:
    import psycopg
    from psycopg.rows import dict_row

    with psycopg.connect(url, row_factory=dict_row) as connection:
        return connection.execute(query.replace("?", "%s").encode(), arguments).fetchall()


def database(cluster: Cluster) -> Path | str:
    """Returns the coordinators' database."""
    if url := cluster.database or cluster.coordinator.database:
        return url
    return cluster.coordinator.data / "coordinator.sqlite"


def recorded(cluster: Cluster, workflow_id: str) -> Recorded:
    """Returns what the coordinator has committed of a workflow."""
    path = database(cluster)
    [row] = read(
        path,
        "SELECT key, state, sequence, spec FROM workflows"
        " JOIN submissions ON workflow_key = key WHERE id = ?",
        workflow_id,
    )
    key = row["key"]
    names = {
        task["task_index"]: task
        for task in read(path, "SELECT * FROM tasks WHERE workflow_key = ?", key)
    }
    attempts = {}
    for each in read(path, "SELECT * FROM attempts WHERE workflow_key = ?", key):
        task = names[each["task_index"]]["name"]
        made_up_for = each["compensates"]
        attempt = Attempt(
            name=attempt_name(workflow_id, task, each["number"]),
            kind=each["kind"],
            state=each["state"],
            host=each["host"],
            compensates=attempt_name(workflow_id, task, made_up_for) if made_up_for else "",
        )
        attempts[attempt.name] = attempt
    events = "SELECT payload FROM events WHERE workflow_key = ? ORDER BY position"
    return Recorded(
        state=row["state"],
        sequence=row["sequence"],
        spec=WorkflowSpec.FromString(row["spec"]),
        tasks={task["name"]: task["state"] for task in names.values()},
        attempts=attempts,
        events=[HistoryEvent.FromString(event["payload"]) for event in read(path, events, key)],
    )


def journal(cluster: Cluster, host: str) -> dict[str, Attempt]:
    """Returns every attempt in an agent's journal."""
    rows = read(cluster.agents[host].data / "journal.sqlite", "SELECT * FROM attempts")
    return {
        row["name"]: Attempt(
            name=row["name"],
            kind=row["kind"],
            state=row["state"],
            host=host,
            compensates=row["compensates"],
            sequence=row["sequence"],
            received=bool(row["received"]),
        )
        for row in rows
    }


def journals(cluster: Cluster) -> dict[str, Attempt]:
    """Returns every attempt in any journal; none is in two."""
    found: dict[str, Attempt] = {}
    for host in cluster.agents:
        here = journal(cluster, host)
        assert not found.keys() & here.keys(), "an attempt is in two journals"
        found |= here
    return found


def labels(cluster: Cluster) -> dict[str, dict[str, Any]]:
    """Returns the label of every image, by "pool/image"; anything else in a pool is a failure."""
    found = {}
    for pool in cluster.pools:
        assert {entry.name for entry in pool.iterdir()} <= {"images", "staging", "pool.json"}, pool
        for folder in (pool / "images").iterdir():
            names = sorted(entry.name for entry in folder.iterdir())
            assert names in DATA_AND_LABEL, (folder, names)
            label = json.loads((folder / "image.json").read_text())
            found[f"{pool.name}/{folder.name}"] = label
    return found


def staged(cluster: Cluster) -> list[str]:
    """Returns what is half-made in any pool."""
    return [entry.name for pool in cluster.pools for entry in pool.glob("staging/*")]


def actions(group: Group) -> dict[str, Action]:
    """Returns the action of every task of a tree."""
    found: dict[str, Action] = {}
    for node in group.members:
        if node.HasField("group"):
            found |= actions(node.group)
        else:
            found[node.name] = node.task.action
    return found


def assert_clean(cluster: Cluster, workflow_id: str, *states: str) -> Recorded:
    """Checks the end of one workflow, and that nothing in any pool is anybody else's business."""
    workflow = recorded(cluster, workflow_id)
    assert workflow.state in states, (workflow_id, workflow.state, states)
    check_history(workflow)
    check_journals(cluster, workflow_id, workflow)
    _check_pools(cluster)
    if workflow.state == "SUCCEEDED":
        _check_succeeded(cluster, workflow)
    else:
        _check_compensated(cluster, workflow_id, workflow)
    return workflow


def check_history(workflow: Recorded) -> None:
    """Checks that the history has no gap, and that nothing is open any more."""
    sequences = [event.sequence for event in workflow.events]
    assert sequences == list(range(1, workflow.sequence + 1))
    forgiven = {attempt.compensates for attempt in workflow.attempts.values()}
    for attempt in workflow.attempts.values():
        # An action that was never received stays UNKNOWN beside its compensation; of what an
        # operator has abandoned, nobody asks any more.
        spoken_for = attempt.name in forgiven or workflow.tasks[attempt.task] == "ABANDONED"
        assert attempt.state in OUTCOMES or (spoken_for and attempt.state == "UNKNOWN"), attempt


def check_journals(cluster: Cluster, workflow_id: str, workflow: Recorded) -> None:
    """Checks I5, that both sides agree, and that each outcome was certain."""
    for attempt in journals(cluster).values():
        if attempt.workflow != workflow_id:
            continue
        intent = workflow.attempts.get(attempt.name)
        assert intent is not None, f"{attempt} was sent without an intent (I5)"
        # A compensation that is another verb goes out as that verb.
        other_verb = intent.kind == "COMPENSATION" and not attempt.compensates
        assert (intent.kind if not other_verb else "ACTION") == attempt.kind, (intent, attempt)
        assert intent.host == attempt.host, (intent, attempt)
        assert attempt.state in OUTCOMES, attempt
        if intent.state in OUTCOMES and attempt.received:
            # One that was too late has failed, though its agent has only stopped it.
            was_late = (intent.state, attempt.state) == ("FAILED", "CANCELLED")
            assert intent.state == attempt.state or was_late, (intent, attempt)


def _check_pools(cluster: Cluster) -> None:
    """Checks I3 and I11: every effect belongs to a workflow that succeeded."""
    assert staged(cluster) == []
    states = {
        row["id"]: row["state"]
        for row in read(database(cluster), "SELECT id, state FROM workflows")
    }
    [meta] = read(database(cluster), "SELECT cluster_id FROM meta")
    known = journals(cluster)
    for address, label in labels(cluster).items():
        if not label["attempt"] or label["attempt"].startswith("import/"):
            continue
        # What its agent has forgotten, or lost, the coordinator still knows.
        name = label["attempt"]
        made_by = known.get(name) or recorded(cluster, name.split("/")[1]).attempts[name]
        assert (made_by.kind, made_by.state) == ("ACTION", "SUCCEEDED"), (address, made_by)
        assert states[made_by.workflow] == "SUCCEEDED", (address, made_by)
        assert (label["cluster_id"], label["generation"]) == (meta["cluster_id"], 1), address


def _check_succeeded(cluster: Cluster, workflow: Recorded) -> None:
    """Checks that every task took effect exactly once, and every copy equals its source."""
    assert set(workflow.tasks.values()) == {"SUCCEEDED"}, workflow.tasks
    found = labels(cluster)
    for name, action in actions(workflow.spec.root).items():
        took_effect = [
            attempt.name
            for attempt in workflow.attempts.values()
            if f"/tasks/{name}/" in attempt.name and attempt.state == "SUCCEEDED"
        ]
        assert len(took_effect) == 1, took_effect
        if not action.HasField("copy_image"):
            continue
        source, target = (
            f"{each.pool_id}/{each.image_id}"
            for each in (action.copy_image.source, action.copy_image.target)
        )
        assert found[target]["attempt"] == took_effect[0]
        if source != "/":  # else it is bound
            assert same(cluster.data_of(source), cluster.data_of(target)), name


def _check_compensated(cluster: Cluster, workflow_id: str, workflow: Recorded) -> None:
    """Checks that nothing is left, and that each action was made up for once."""
    assert set(workflow.tasks.values()) <= EFFECT_FREE, workflow.tasks
    assert not any(f"workflows/{workflow_id}/" in str(label) for label in labels(cluster).values())
    done = Counter(
        attempt.compensates
        for attempt in workflow.attempts.values()
        if attempt.kind == "COMPENSATION" and attempt.state == "SUCCEEDED"
    )
    took_effect = {
        attempt.name
        for attempt in workflow.attempts.values()
        if attempt.kind == "ACTION" and attempt.state in {"SUCCEEDED", "UNKNOWN"}
    }
    assert set(done) >= took_effect, (done, took_effect)
    assert set(done.values()) <= {1}, done


def assert_ran_once(cluster: Cluster, workflow_id: str) -> None:
    """Checks by the agents' logs that each action was worked on once; for agents that never died.

    One that was killed finds out anew what it had begun, and says so: hence only these.
    """
    ran = Counter(
        str(event["attempt"])
        for agent in cluster.agents.values()
        for event in agent.events()
        if event["event"] in {"attempt.running", "attempt.succeeded"}
        and f"workflows/{workflow_id}/" in str(event.get("attempt"))
    )
    assert ran, "no agent has logged anything"
    assert set(ran.values()) == {2}, ran


def same(one: Path, other: Path) -> bool:
    """Returns whether two files have the same content."""
    return one.read_bytes() == other.read_bytes()


def assert_made_up_for_before(workflow: Recorded, later: str, earlier: str) -> None:
    """Checks I9: one task's compensation has ended before another's begins."""
    begun: dict[str, list[int]] = {later: [], earlier: []}
    ended = 0
    numbers = set()
    for event in workflow.events:
        task = event.task.rpartition("/")[2]
        started = event.attempt_started
        if started.kind == attempt_pb2.Attempt.KIND_COMPENSATION and task in begun:
            begun[task].append(event.sequence)
            numbers.add((task, started.attempt))
        if event.HasField("attempt_ended") and (task, event.attempt_ended.attempt) in numbers:
            ended = event.sequence if task == later else ended
    assert begun[later], later
    assert 0 < ended < min(begun[earlier]), (later, ended, earlier, begun)
