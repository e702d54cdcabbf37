"""Which host settles the attempt of a task in the place of its own."""

from __future__ import annotations

from coordinator.runtime.ports import Hosts
from coordinator.saga.states import IN_FLIGHT
from coordinator.saga.workflow import Task, Workflow
from coordinator.wire.actions import action_of
from countermand.rpc.errors import FieldInvalid, VerbForbidden, Violation
from countermand.rpc.names import task_name


def fencer(workflow: Workflow, index: int, wanted: str, hosts: Hosts) -> str:
    """Returns the host that fences the attempt of a task; nothing if it has none to be fenced.

    Raises:
        FieldInvalid: The host that is wanted cannot.
        VerbForbidden: No host can.
    """
    task = workflow.nodes[index]
    if not isinstance(task, Task) or task.state not in IN_FLIGHT:
        return ""  # the saga refuses it, and says why
    pools = target_pools(workflow, index)
    host, why = "", "the task leaves nothing in a pool"
    if pools:
        host, why = hosts.fencer(task.last.host, pools, wanted)
    if not host and wanted:
        raise FieldInvalid(Violation("host_id", why))
    if not host:
        name = task_name(workflow.id, workflow.plan.nodes[index].name)
        because = f"no host that is READY reaches what it works on as a shared pool: {why}"
        raise VerbForbidden(
            name=name, state=task.state, verb="fence", because=because, allowed="another host"
        )
    return host


def target_pools(workflow: Workflow, index: int) -> frozenset[str]:
    """Returns the pools in which the newest attempt of a task may leave something."""
    action = action_of(workflow, index, workflow.task(index).last)
    arguments = getattr(action, action.WhichOneof("verb") or "", None)
    if arguments is None or "target" not in arguments.DESCRIPTOR.fields_by_name:
        return frozenset()
    return frozenset({arguments.target.pool_id} - {""})
