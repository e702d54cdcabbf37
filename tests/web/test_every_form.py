"""Every call of the services that changes something has its form, or a reason why it needs none."""

from __future__ import annotations

import inspect
import sys

from coordinator.web.forms import desk
from tests.contract import calls

READS = {
    "WorkflowService": {
        "PlanWorkflow",
        "GetWorkflow",
        "ListWorkflows",
        "GetTask",
        "ListTasks",
        "ListEvents",
        "WatchWorkflow",
        "WatchEvents",
        "WaitWorkflow",
        "GetResumeRequirements",
    },
    "ExternalTaskService": {"ListExternalTasks", "ListExternalOwners", "WatchExternalTasks"},
    "HostService": {"GetHost", "ListHosts", "ListHostEvents"},
    "WebhookService": {"GetWebhook", "ListWebhooks", "ListWebhookChanges"},
    "DoctorService": {"Diagnose"},
    "CoordinatorService": {"ListCoordinators"},
}
TASK = "/workflows/{workflow}/tasks/{task}"
# Call → the forms that send it, of a decision each of its ways.
FORMS = {
    "WorkflowService.PauseWorkflow": ["/workflows/{workflow}/pause"],
    "WorkflowService.ResumeWorkflow": ["/workflows/{workflow}/resume"],
    "WorkflowService.CancelWorkflow": ["/workflows/{workflow}/cancel"],
    "WorkflowService.ForkWorkflow": ["/workflows/{workflow}/fork"],
    "WorkflowService.DecideCompensation": [f"{TASK}/compensation", f"{TASK}/replacement"],
    "WorkflowService.FenceTask": [f"{TASK}/fence"],
    "ExternalTaskService.EndExternalTask": [f"{TASK}/end"],
    "ExternalTaskService.EndExternalWorkflow": ["/workflows/{workflow}/end"],
    "HostService.AddHost": ["/add-host"],
    "HostService.DrainHost": ["/hosts/{host}/drain", "/hosts/{host}/undrain"],
    "HostService.AcceptHost": ["/hosts/{host}/accept"],
    "HostService.RemoveHost": ["/hosts/{host}/remove"],
    "WebhookService.AddWebhook": ["/add-webhook"],
    "WebhookService.RotateWebhookSecret": ["/webhooks/{webhook}/secret"],
    "WebhookService.ResumeWebhook": ["/webhooks/{webhook}/resume"],
    "WebhookService.RemoveWebhook": ["/webhooks/{webhook}/remove"],
}
OWNERS = "done by an owner's program, in its own name; a person would only get in its way"
NO_FORM = {
    "WorkflowService.StartWorkflow": "files are read by the client, which services do not use; to "
    "start one again, there is the fork",
    "ExternalTaskService.StartExternalWorkflow": OWNERS,
    "ExternalTaskService.AddExternalTask": OWNERS,
    "ExternalTaskService.AcceptExternalTask": OWNERS,
    "ExternalTaskService.ReportExternalTask": OWNERS,
    "ExternalTaskService.HeartbeatExternalTasks": OWNERS,
    "ExternalTaskService.ClearExternalWorkflow": "its owner's right; else its retention does it",
    "CoordinatorService.ConfirmRecovery": "who goes on has looked with the doctor before, at a "
    "terminal",
    "WebhookService.PingWebhook": "changes nothing: for who writes a receiver, at a terminal",
    "DoctorService.Repair": "the doctor looks first, through every host: at a terminal",
}


def test_every_call_that_changes_something_has_a_form_or_a_reason() -> None:
    reads = {f"{service}.{name}" for service, names in READS.items() for name in names}
    assert {*calls()} - reads == {*FORMS, *NO_FORM}
    assert not {*FORMS} & {*NO_FORM}


def test_every_form_sends_the_call_that_it_is_listed_under() -> None:
    """Each of the forms, and no other; what a form sends stands in the file that it is made in."""
    senders = {
        deed.path: inspect.getsource(sys.modules[deed.act.__module__]) for deed in desk.DEEDS
    }
    assert sorted(path for paths in FORMS.values() for path in paths) == sorted(senders)
    for call, paths in FORMS.items():
        method = call.partition(".")[2]
        for path in paths:
            assert f".{method}" in senders[path], (call, path)
