"""What can be done about a workflow, a task or a host as it stands: links to the forms. Pure.

A link is an offer, no promise: what is so when the form is sent is the coordinator's to say.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from coordinator.web.forms.outlook import ACTING
from coordinator.web.shown import host_url, task_url, workflow_url
from countermand.drawing.tasks import GROUPS, IN_FLIGHT, SETTLED, task_id
from countermand.v1.host_pb2 import Host
from countermand.v1.task_pb2 import Task
from countermand.v1.workflow_pb2 import Workflow
from countermand.v1.workflow_state_pb2 import WorkflowState as W


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """One thing that can be done."""

    url: str
    label: str
    is_first: bool = False  # what somebody most likely came for
    is_grave: bool = False


_HELD: Final = frozenset({W.WORKFLOW_STATE_PAUSING, W.WORKFLOW_STATE_PAUSED})
_CANCELLABLE: Final = _HELD | {W.WORKFLOW_STATE_RUNNING, W.WORKFLOW_STATE_BLOCKED}
_PAUSABLE: Final = frozenset(
    {W.WORKFLOW_STATE_RUNNING, W.WORKFLOW_STATE_BLOCKED, W.WORKFLOW_STATE_COMPENSATING}
)
# Whose outcome nobody can tell: such a task may be given up, too.
UNTOLD: Final = frozenset({Task.STATE_UNKNOWN, Task.STATE_CANCELLING})
# Whom nobody hears of, and who does not stop: reasons of a need.
_OWNER_AWAY: Final = frozenset({"OWNER_SILENT", "STOPS_LATE"})
_NEEDS_MAX: Final = 5  # beyond that the tasks have their own; a fan-out may fail by the thousand
_WAITING: Final = frozenset({Task.STATE_PENDING, Task.STATE_READY, Task.STATE_RETRY_WAIT})


def of_workflow(workflow: Workflow) -> list[Offer]:
    """Returns what can be done about a workflow."""
    return list(_of_workflow(workflow))


def _of_workflow(workflow: Workflow) -> Iterator[Offer]:
    url, goes_back = workflow_url(workflow.name), workflow.HasField("cause")
    settled = workflow.state in SETTLED
    blocked = [need.task for need in workflow.needs if need.reason == "COMPENSATION_BLOCKED"]
    for task in filter(None, blocked[:_NEEDS_MAX]):
        label = f"Decide about {task_id(task)}"
        yield Offer(url=f"{task_url(task)}/compensation", label=label, is_first=True)
    if workflow.state in _HELD or (workflow.state == W.WORKFLOW_STATE_BLOCKED and not goes_back):
        yield Offer(url=f"{url}/resume", label="Resume", is_first=True)
    if workflow.state in _PAUSABLE:
        yield Offer(url=f"{url}/pause", label="Pause")
    if can_cancel(workflow):
        yield Offer(url=f"{url}/cancel", label="Cancel", is_grave=True)
    away = [need.task for need in workflow.needs if need.reason in _OWNER_AWAY]
    for task in away[:_NEEDS_MAX]:
        yield Offer(url=f"{task_url(task)}/end", label=f"End {task_id(task)} for its owner")
        label = f"Give up {task_id(task)}"
        yield Offer(url=f"{task_url(task)}/compensation", label=label, is_grave=True)
    if workflow.owner_id and not settled:
        yield Offer(url=f"{url}/end", label="End by force", is_grave=True)
    if not workflow.owner_id:
        yield Offer(url=f"{url}/fork", label="Fork")
    yield Offer(url=f"{url}/bundle", label="Download")


def can_cancel(workflow: Workflow) -> bool:
    """Returns whether a cancel is taken, unless something took effect that nothing makes up for."""
    return workflow.state in _CANCELLABLE and not workflow.HasField("cause")


def of_task(task: Task, workflow: Workflow) -> list[Offer]:
    """Returns what can be done about one task."""
    return list(_of_task(task, workflow))


def _of_task(task: Task, workflow: Workflow) -> Iterator[Offer]:
    if workflow.state in SETTLED:
        return
    url = task_url(task.name)
    resume = f"{workflow_url(workflow.name)}/resume?task={task.name.rpartition('/')[2]}"
    goes_back = workflow.HasField("cause")
    held = workflow.state in _HELD or (workflow.state == W.WORKFLOW_STATE_BLOCKED and not goes_back)
    if task.kind in GROUPS:
        if held and not goes_back and task.HasField("failure"):
            yield Offer(
                url=f"{resume}&decide=rerun", label="Rerun what failed in it", is_first=True
            )
            yield Offer(url=f"{resume}&decide=skip", label="Skip what failed in it")
        return
    open_ = task.needs_decision or (task.state in _WAITING and not task.end_action)
    if held and open_ and not goes_back and task.state not in ACTING:
        again = "Rerun" if task.needs_decision else "Change"
        yield Offer(url=f"{resume}&decide=rerun", label=again, is_first=task.needs_decision)
        yield Offer(url=f"{resume}&decide=skip", label="Skip")
    if task.state == Task.STATE_COMPENSATION_BLOCKED or (
        task.state == Task.STATE_COMPENSATING and task.HasField("compensation_failure")
    ):
        label = "Decide about its compensation"
        yield Offer(url=f"{url}/compensation", label=label, is_first=True)
        if not task.owner_id:
            yield Offer(url=f"{url}/replacement", label="Replace it")
    elif task.state in UNTOLD or (task.end_action and task.state in ACTING | _WAITING):
        yield Offer(url=f"{url}/compensation", label="Give it up", is_grave=True)
    if task.state in IN_FLIGHT and task.owner_id:
        yield Offer(url=f"{url}/end", label=f"End it for {task.owner_id}")
    if task.state in IN_FLIGHT and not task.owner_id and task.host_id:
        yield Offer(url=f"{url}/fence", label="Fence")


def of_host(host: Host) -> list[Offer]:
    """Returns what can be done about a host."""
    return list(_of_host(host))


def _of_host(host: Host) -> Iterator[Offer]:
    url = host_url(host.name)
    if host.state == Host.STATE_QUARANTINED:
        yield Offer(url=f"{url}/accept", label="Accept it as it is", is_grave=True, is_first=True)
    if host.state in {Host.STATE_DRAINING, Host.STATE_DRAINED}:
        yield Offer(url=f"{url}/undrain", label="Undrain", is_first=True)
    else:
        yield Offer(url=f"{url}/drain", label="Drain")
    yield Offer(url=f"{url}/remove", label="Remove", is_grave=True)
