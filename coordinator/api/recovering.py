"""The gate of a coordinator whose database went back in time: it shows, and decides nothing.

A wrapper around the servicers, for a life in which an operator has to look first. Agents have acted
on what such a database has lost, so whatever would be decided from it may be wrong. What is in the
table shows something, or is plainly safe, and is answered; everything else is refused, also what is
added to the contract later. It is the outermost: nobody owns a workflow in such a life, so a call
about one must not wait for an owner first.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from google.protobuf.descriptor_pool import Default

from coordinator.api.requests import Context
from coordinator.api.routing import Routed
from coordinator.runtime.ports import Recovery
from countermand.rpc.errors import RecoveryRequired
from countermand.rpc.server import Service

# Not here, though they only read: to show an owner what waits for it is to ask it for that, and it
# may have done it long ago.
#   countermand.v1.ExternalTaskService/ListExternalTasks, /WatchExternalTasks
ANSWERED: Final = frozenset(
    {
        "countermand.v1.WorkflowService/PlanWorkflow",
        "countermand.v1.WorkflowService/GetWorkflow",
        "countermand.v1.WorkflowService/ListWorkflows",
        "countermand.v1.WorkflowService/GetTask",
        "countermand.v1.WorkflowService/ListTasks",
        "countermand.v1.WorkflowService/ListEvents",
        "countermand.v1.WorkflowService/WatchWorkflow",
        "countermand.v1.WorkflowService/WatchEvents",
        "countermand.v1.WorkflowService/WaitWorkflow",
        "countermand.v1.WorkflowService/GetResumeRequirements",
        "countermand.v1.HostService/AddHost",  # those that came since the backup are missing
        "countermand.v1.HostService/GetHost",
        "countermand.v1.HostService/ListHosts",
        "countermand.v1.HostService/DrainHost",  # before new work is taken again
        "countermand.v1.HostService/ListHostEvents",
        "countermand.v1.ExternalTaskService/ListExternalOwners",
        "countermand.v1.DoctorService/Diagnose",
        "countermand.v1.WebhookService/GetWebhook",
        "countermand.v1.WebhookService/ListWebhooks",
        "countermand.v1.WebhookService/ListWebhookChanges",
        "countermand.v1.CoordinatorService/ListCoordinators",
        "countermand.v1.CoordinatorService/ConfirmRecovery",
    }
)


def around(services: Sequence[Service], recovery: Recovery) -> list[Service]:
    """Returns services that show what is stored, and refuse everything else."""
    return [
        replace(service, servicer=Routed(service.servicer, _refusing(service.name, recovery)))
        for service in services
    ]


def _refusing(service: str, recovery: Recovery) -> Mapping[str, Callable[..., Any]]:
    """Returns what is called instead of a servicer's own, by the method."""

    async def refused(_request: object, _context: Context) -> object:
        raise RecoveryRequired(why=recovery.why)

    async def refused_stream(request: object, context: Context) -> AsyncIterator[object]:
        yield await refused(request, context)

    return {
        method.name: refused_stream if method.server_streaming else refused
        for method in Default().FindServiceByName(service).methods
        if f"{service}/{method.name}" not in ANSWERED
    }
