"""From options of `workflow resume` to the contract's decisions. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from google.protobuf import json_format

from countermand.rpc import names
from countermand.v1.workflow_pb2 import ResumeDecision


def decisions(
    workflow: str,
    *,
    reruns: Iterable[str],
    skips: Mapping[str, Mapping[str, object] | None],
    give_ups: Iterable[str],
) -> list[ResumeDecision]:
    """Returns one decision per task that was named."""
    workflow_id = names.parse_workflow(workflow) or workflow

    def whole(task: str) -> str:
        return task if "/" in task else names.task_name(workflow_id, task)

    made = [ResumeDecision(task=whole(task), rerun=ResumeDecision.Rerun()) for task in reruns]
    for task, outputs in skips.items():
        skip = ResumeDecision.Skip()
        if outputs is not None:
            json_format.ParseDict(dict(outputs), skip.outputs)
        made.append(ResumeDecision(task=whole(task), skip=skip))
    made += [ResumeDecision(task=whole(task), give_up=ResumeDecision.GiveUp()) for task in give_ups]
    return made
