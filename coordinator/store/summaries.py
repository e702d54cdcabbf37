"""What lists show of a workflow's tasks, worked out once: lists read no plan, task or attempt.

A settled workflow keeps it in its own row. Of an open one it is counted when it is asked for; those
are few, and what shows them mostly has them in memory.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from coordinator.runtime.ports import LeftoverSummary, WorkflowSummary
from coordinator.saga.leftovers import leftovers
from coordinator.saga.states import AttemptState, TaskState, WorkflowState
from coordinator.saga.workflow import BYTES, NO_VALUES, About, Retention, Workflow
from coordinator.store.texts import (
    decided_from,
    encode,
    failure_from,
    micros,
    time_from,
    time_or_none,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """What lists show of a workflow's tasks."""

    counts: Mapping[TaskState, int]
    done: int
    needs: int = 0
    leftovers: tuple[LeftoverSummary, ...] = ()


NOTHING = Tally(counts={}, done=0)


def tally_of(workflow: Workflow) -> Tally:
    """Returns what lists show of a workflow's tasks."""
    tasks = [task for _, task in workflow.tasks()]
    actions = (task.action for task in tasks)
    return Tally(
        counts=dict(Counter(task.state for task in tasks)),
        done=sum(
            a.done for a in actions if a and a.state is AttemptState.SUCCEEDED and a.unit == BYTES
        ),
        needs=0 if workflow.settled else sum(task.needs_somebody for task in tasks),
        leftovers=tuple(_left(workflow)) if workflow.settled else (),
    )


def _left(workflow: Workflow) -> Iterable[LeftoverSummary]:
    for each in leftovers(workflow):
        spec = workflow.plan.task(each.task)
        yield LeftoverSummary(
            task=spec.name,
            attempt=each.attempt,
            host=each.host,
            verb=spec.verb,
            reason=each.reason,
            time=each.time,
        )


def summary_of(workflow: Workflow) -> WorkflowSummary:
    """Returns what lists show of a workflow."""
    about, tally = workflow.about, tally_of(workflow)
    return WorkflowSummary(
        id=workflow.id,
        about=_shown(about, about.labels),
        state=workflow.state,
        version=workflow.version,
        sequence=workflow.sequence,
        owner_epoch=workflow.owner_epoch,
        cause=workflow.cause,
        verdict=workflow.verdict,
        locked=workflow.locked,
        pause=workflow.pause,
        create_time=workflow.create_time,
        update_time=workflow.update_time,
        end_time=workflow.end_time,
        counts=tally.counts,
        needs=tally.needs,
        done=tally.done,
        leftovers=tally.leftovers,
        retention=workflow.retention,
    )


def summary_from(
    row: Mapping[Any, Any], labels: Iterable[tuple[str, str]], counted: Tally
) -> WorkflowSummary:
    """Returns what lists show of a workflow, from its row and what was counted of an open one."""
    tally = _tally_from(row["summary"]) if row["summary"] else counted
    return WorkflowSummary(
        id=row["id"],
        about=_shown(_about_from(row), labels),
        state=WorkflowState(row["state"]),
        version=row["version"],
        sequence=row["sequence"],
        owner_epoch=row["owner_epoch"],
        cause=failure_from(row["cause"]),
        verdict=row["verdict"] and WorkflowState(row["verdict"]),
        locked=bool(row["locked"]),
        pause=decided_from(row["pause"]),
        create_time=time_from(row["create_time_us"]),
        update_time=time_from(row["update_time_us"]),
        end_time=time_or_none(row["end_time_us"]),
        counts=tally.counts,
        needs=tally.needs,
        done=tally.done,
        leftovers=tally.leftovers,
        retention=Retention(row["retention"]),
    )


def _about_from(row: Mapping[Any, Any]) -> About:
    return About(
        kind=row["kind"],
        principal=row["principal"],
        traceparent=row["traceparent"],
        forked_from=row["forked_from"],
        owner=row["owner"],
    )


def _shown(about: About, labels: Iterable[tuple[str, str]]) -> About:
    """Returns what lists show of what was said at the start; labels in order of their names."""
    return replace(about, labels=tuple(sorted(set(labels))), tracestate="", input=NO_VALUES)


def summary_text(workflow: Workflow) -> str:
    """Returns what lists show of a settled workflow's tasks, as its row keeps it."""
    tally = tally_of(workflow)
    left = [(i.task, i.attempt, i.host, i.verb, i.reason, micros(i.time)) for i in tally.leftovers]
    return encode({"counts": tally.counts, "done": tally.done, "leftovers": left})


def _tally_from(text: str) -> Tally:
    said = json.loads(text)
    return Tally(
        counts={TaskState(state): count for state, count in said["counts"].items()},
        done=said["done"],
        leftovers=tuple(
            LeftoverSummary(
                task=task,
                attempt=attempt,
                host=host,
                verb=verb,
                reason=reason,
                time=time_from(time_us),
            )
            for task, attempt, host, verb, reason, time_us in said["leftovers"]
        ),
    )
