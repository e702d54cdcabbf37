"""What must hold of any workflow at rest, whatever its plan: read from disks, journals, database.

`checks.assert_clean` knows plans that end as they began or whole. Here a task may have been run
again, skipped, made up for and begun anew, or given up: the caller says which images must be there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator

from countermand.v1.event_pb2 import HistoryEvent, Intervention
from countermand.v1.task_pb2 import Task
from countermand.v1.workflow_state_pb2 import WorkflowState
from tests.endtoend.checks import (
    Recorded,
    check_history,
    check_journals,
    database,
    labels,
    read,
    recorded,
    staged,
)
from tests.endtoend.cluster import Cluster, until

KEPT = {"SUCCEEDED", "ABANDONED"}  # tasks whose effect stays


def assert_at_rest(
    cluster: Cluster, workflow_id: str, state: str, images: Collection[str] = ()
) -> Recorded:
    """Checks a workflow that has settled: exactly these images ("pool/image") are left of it."""
    workflow = recorded(cluster, workflow_id)
    assert workflow.state == state, (workflow_id, workflow.state)
    check_history(workflow)
    check_journals(cluster, workflow_id, workflow)
    assert_chained(workflow)
    assert_made_up_for_once(workflow)
    assert_images(cluster, workflow, workflow_id, images)
    assert locks_of(cluster, workflow_id) == []  # S-V33
    return workflow


def assert_chained(workflow: Recorded) -> None:
    """Checks I7: each change of a state begins where the one before it ended, to the last one."""
    now: dict[str, str] = {}
    for event in workflow.events:
        task_id = event.task.rpartition("/")[2]
        if event.HasField("task_state_changed"):
            moved = event.task_state_changed
            before, after = (Task.State.Name(state) for state in (moved.before, moved.after))
        elif event.HasField("workflow_state_changed"):
            changed = event.workflow_state_changed
            before, after = (WorkflowState.Name(state) for state in (changed.before, changed.after))
        else:
            continue
        assert now.get(task_id, before) == before, f"{task_id or 'it'} moved unseen: {event}"
        now[task_id] = after
    last = now.pop("", f"WORKFLOW_STATE_{workflow.state}")
    assert last == f"WORKFLOW_STATE_{workflow.state}"
    assert now == {name: f"STATE_{workflow.tasks[name]}" for name in now}


def assert_made_up_for_once(workflow: Recorded) -> None:
    """Checks I2, and that whatever may have taken effect is kept, or made up for, or spoken for."""
    done = Counter(
        attempt.compensates
        for attempt in workflow.attempts.values()
        if (attempt.kind, attempt.state) == ("COMPENSATION", "SUCCEEDED")
    )
    assert set(done.values()) <= {1}, done
    kept = dict(_kept(workflow))
    assert not done.keys() & set(kept.values()), (done, kept)
    by_hand = {event.task.rpartition("/")[2] for event in workflow.events if _marked_done(event)}
    for attempt in workflow.attempts.values():
        took_effect = attempt.kind == "ACTION" and attempt.state in {"SUCCEEDED", "UNKNOWN"}
        if took_effect and attempt.task not in by_hand:
            assert attempt.name in done or attempt.name in kept.values(), attempt


def _marked_done(event: HistoryEvent) -> bool:
    return event.intervention.verb == "mark-compensated"


def _kept(workflow: Recorded) -> Iterator[tuple[str, str]]:
    """Yields each task whose effect stays, with the attempt that made it."""
    for name, state in workflow.tasks.items():
        actions = [
            attempt
            for attempt in workflow.attempts.values()
            if attempt.kind == "ACTION" and attempt.task == name
        ]
        if state in KEPT and actions:
            yield name, max(actions, key=lambda attempt: attempt.number).name


def assert_images(
    cluster: Cluster, workflow: Recorded, workflow_id: str, images: Collection[str]
) -> None:
    """Checks I3 and I11: what is left of a workflow is what is said, and is spoken for."""
    mine = {
        address: label["attempt"]
        for address, label in labels(cluster).items()
        if label["attempt"].startswith(f"workflows/{workflow_id}/")
    }
    assert set(mine) == set(images), (mine, images)
    kept = dict(_kept(workflow))
    listed = {
        event.task.rpartition("/")[2]
        for event in workflow.events
        if event.HasField("leftover_recorded")
    }
    for address, attempt in mine.items():
        task_id = workflow.attempts[attempt].task
        assert kept.get(task_id) == attempt, (address, attempt, kept)
        if workflow.state != "SUCCEEDED":
            assert task_id in listed, f"{address} is left of {attempt} and not listed"
    assert not [one for one in staged(cluster) if f"@{workflow_id}@" in one]


def locks_of(cluster: Cluster, workflow_id: str) -> list[tuple[str, bool]]:
    """Returns the rows of the images that a workflow holds or waits for: "pool/image", held."""
    rows = read(
        database(cluster),
        "SELECT pool_id, image_id, held FROM locks JOIN workflows ON workflow_key = key"
        " WHERE id = ? ORDER BY pool_id, image_id",
        workflow_id,
    )
    return [(f"{row['pool_id']}/{row['image_id']}", bool(row["held"])) for row in rows]


async def purged(cluster: Cluster) -> None:
    """Returns once what was deleted is gone from the disks."""
    await until(lambda: not staged(cluster), "what was deleted is purged")


def attempts(workflow: Recorded, task_id: str, kind: str = "ACTION") -> list[str]:
    """Returns the states of a task's attempts of one kind, in order."""
    of_task = [a for a in workflow.attempts.values() if a.task == task_id]
    return [a.state for a in sorted(of_task, key=lambda a: a.number) if a.kind == kind]


def interventions(workflow: Recorded) -> list[Intervention]:
    """Returns what people asked for, in order; what a policy asked is left out."""
    asked = (event.intervention for event in workflow.events if event.HasField("intervention"))
    return [one for one in asked if one.principal != "policy"]


def verbs(workflow: Recorded) -> list[str]:
    """Returns the verbs of what people asked for, in order."""
    return [one.verb for one in interventions(workflow)]
