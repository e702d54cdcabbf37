"""Every call of the services has its command, and every answer its form for programs."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from typing import Any

import click
import pytest
import yaml
from google.protobuf import json_format
from google.protobuf.message import Message

from countermand.cli.main import main
from countermand.client.spec import dump_spec, sequence, task, workflow_spec
from countermand.v1 import (
    attempt_pb2,
    event_pb2,
    external_task_pb2,
    host_pb2,
    task_pb2,
    webhook_pb2,
    workflow_pb2,
)
from countermand.v1.verb_pb2 import Noop
from tests.cli.shell import Shell

SERVED = ("workflow", "external_task", "host", "webhook", "doctor")  # the agents' is for hosts only

COMMANDS = {
    "WorkflowService.StartWorkflow": "workflow submit",
    "WorkflowService.PlanWorkflow": "workflow plan",
    "WorkflowService.GetWorkflow": "workflow get",
    "WorkflowService.ListWorkflows": "workflow list",
    "WorkflowService.GetTask": "workflow task",
    "WorkflowService.ListTasks": "workflow tasks",
    "WorkflowService.ListEvents": "workflow events",
    "WorkflowService.WatchWorkflow": "workflow watch",
    "WorkflowService.WatchEvents": "events",
    "WorkflowService.WaitWorkflow": "workflow wait",
    "WorkflowService.PauseWorkflow": "workflow pause",
    "WorkflowService.ResumeWorkflow": "workflow resume",
    "WorkflowService.GetResumeRequirements": "workflow requirements",
    "WorkflowService.CancelWorkflow": "workflow cancel",
    "WorkflowService.DecideCompensation": "workflow compensation retry",
    "WorkflowService.FenceTask": "workflow fence",
    "WorkflowService.ForkWorkflow": "workflow fork",
    "ExternalTaskService.StartExternalWorkflow": "external start",
    "ExternalTaskService.AddExternalTask": "external add",
    "ExternalTaskService.ListExternalTasks": "external list",
    "ExternalTaskService.ListExternalOwners": "external owners",
    "ExternalTaskService.WatchExternalTasks": "external watch",
    "ExternalTaskService.AcceptExternalTask": "external accept",
    "ExternalTaskService.ReportExternalTask": "external progress",
    "ExternalTaskService.HeartbeatExternalTasks": "external heartbeat",
    "ExternalTaskService.EndExternalTask": "external end",
    "ExternalTaskService.EndExternalWorkflow": "external finish",
    "ExternalTaskService.ClearExternalWorkflow": "external clear",
    "HostService.AddHost": "host add",
    "HostService.GetHost": "host get",
    "HostService.ListHosts": "host list",
    "HostService.DrainHost": "host drain",
    "HostService.AcceptHost": "host accept",
    "HostService.RemoveHost": "host remove",
    "HostService.ListHostEvents": "host events",
    "WebhookService.AddWebhook": "webhook add",
    "WebhookService.GetWebhook": "webhook get",
    "WebhookService.ListWebhooks": "webhook list",
    "WebhookService.PingWebhook": "webhook ping",
    "WebhookService.ResumeWebhook": "webhook resume",
    "WebhookService.RotateWebhookSecret": "webhook rotate-secret",
    "WebhookService.RemoveWebhook": "webhook remove",
    "WebhookService.ListWebhookChanges": "webhook changes",
    "DoctorService.Diagnose": "doctor",
    "DoctorService.Repair": "doctor",
}


def calls() -> Iterator[str]:
    for module in SERVED:
        file = importlib.import_module(f"countermand.v1.{module}_pb2").DESCRIPTOR
        for service in file.services_by_name.values():
            yield from (f"{service.name}.{method.name}" for method in service.methods)


def command(words: str) -> click.Command | None:
    found: click.Command | None = main
    for word in words.split():
        assert isinstance(found, click.Group), words
        found = found.get_command(click.Context(found), word)
    return found


def leaves(group: click.Group, *lead: str) -> Iterator[tuple[str, ...]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        found = group.get_command(context, name)
        if isinstance(found, click.Group):
            yield from leaves(found, *lead, name)
        else:
            yield (*lead, name)


def test_every_call_has_its_command():
    assert set(calls()) == set(COMMANDS)
    assert [words for words in COMMANDS.values() if command(words) is None] == []


# -- forms for programs ---------------------------------------------------------------------------

# Command → the message that it answers with: one, a list of them, or one a line.
READS: dict[str, type[Message] | list[type[Message]] | tuple[type[Message]]] = {
    "workflow plan {spec}": workflow_pb2.PlanWorkflowResponse,
    "workflow get held": workflow_pb2.Workflow,
    "workflow list": [workflow_pb2.Workflow],
    "workflow task held make": task_pb2.Task,
    "workflow tasks held": [task_pb2.Task],
    "workflow events held": (event_pb2.HistoryEvent,),
    "workflow events over --follow": (event_pb2.HistoryEvent,),
    "workflow requirements held": [workflow_pb2.ResumeRequirement],
    "workflow wait over": workflow_pb2.Workflow,
    "workflow wait over --for compensated": workflow_pb2.Workflow,
    "workflow watch over": (event_pb2.HistoryEvent,),
    "events --after 0": (event_pb2.HistoryEvent,),
    "external owners": [external_task_pb2.ExternalOwner],
    "external list --owner json": [external_task_pb2.ExternalRequest],
    "host get host-j": host_pb2.Host,
    "host list": [host_pb2.Host],
    "host events": [host_pb2.HostEvent],
    "webhook get hook": webhook_pb2.Webhook,
    "webhook list": [webhook_pb2.Webhook],
    "webhook changes": [webhook_pb2.WebhookChange],
}
# In their order: what one leaves is what the next one finds.
CHANGES: dict[str, type[Message] | list[type[Message]]] = {
    "workflow submit {spec} --id new": workflow_pb2.Workflow,
    "workflow fork new --id forked": workflow_pb2.Workflow,
    "workflow pause waiting --reason x": workflow_pb2.Workflow,
    "workflow resume waiting --reason x": workflow_pb2.ResumeWorkflowResponse,
    "workflow resume held --rerun make --reason x --dry-run": workflow_pb2.ResumeWorkflowResponse,
    "external accept waiting/one": external_task_pb2.AcceptExternalTaskResponse,
    "external progress waiting/one 1/2": attempt_pb2.Attempt,
    "external end waiting/one": attempt_pb2.Attempt,
    "workflow cancel held --reason x": workflow_pb2.Workflow,
    "external start own --kind job": external_task_pb2.StartExternalWorkflowResponse,
    "host add host-k 127.0.0.1:57 --unreachable-allowed": host_pb2.Host,
    "host drain host-k --reason x": host_pb2.Host,
    "host undrain host-k --reason x": host_pb2.Host,
    "host accept host-k --reason x": host_pb2.Host,
    "host remove host-k --reason x": host_pb2.RemoveHostResponse,
    "webhook add other http://127.0.0.1:9/in": webhook_pb2.AddWebhookResponse,
    "webhook resume other --reason x": webhook_pb2.Webhook,
    "webhook rotate-secret other": webhook_pb2.RotateWebhookSecretResponse,
    "webhook remove other --reason x": webhook_pb2.RemoveWebhookResponse,
}
# Forms that are no message's, with the keys that they have.
OWN: dict[str, set[str]] = {
    "version": {"countermand", "python", "grpcio", "protobuf"},
    "config show": {"profile", "coordinator", "output", "timeout", "color"},
}
# What answers in no form, or is looked at elsewhere.
ELSEWHERE = {
    "demo",  # a story
    "completion",  # a script
    "config check",
    "config sample",
    "workflow lint",  # tests/cli/test_templates.py
    "workflow timeline",  # a drawing
    "workflow bundle",  # a file
    "open",
    "workflow fence",  # needs shared storage: tests/endtoend/test_fences.py
    "workflow compensation retry",  # all as `workflow cancel`, and tests/endtoend
    "workflow compensation replace",
    "workflow compensation done",
    "workflow compensation abandon",
    "external watch",  # never ends: tests/cli/test_external.py
    "external heartbeat",
    "external add",
    "external finish",
    "external clear",
    "webhook ping",  # tests/cli/test_webhook.py
    "doctor",  # tests/cli/test_doctor.py
    "events",
    "template list",  # tests/cli/test_templates.py
    "template show",
    "template render",
}


@pytest.fixture(scope="module")
def world(real: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Shell, str]:
    """Workflows of each kind, a host that does not answer, and a webhook."""
    shell = Shell(real, "json")
    shell.held("held")
    shell.held("over")
    shell("workflow", "cancel", "over", "--reason", "for a test")
    shell("workflow", "wait", "over", code=3)
    shell.submit(shell.task("one"), workflow_id="waiting")
    shell("host", "add", "host-j", "127.0.0.1:17", "--unreachable-allowed")
    shell("webhook", "add", "hook", "http://127.0.0.1:9/in")
    spec = tmp_path_factory.mktemp("spec") / "spec.json"
    spec.write_text(dump_spec(workflow_spec("drill", sequence("all", task("one", action=Noop())))))
    return shell, str(spec)


def asked(world: tuple[Shell, str], words: str, form: str) -> str:
    shell, spec = world
    done = shell.run(*words.format(spec=spec).split(), "-o", form)
    assert done.exit_code in (0, 3), done.output
    return done.stdout


def assert_lossless(message: type[Message], value: Any) -> None:
    """Checks that a value is the message in canonical JSON, and nothing else."""
    read = json_format.ParseDict(value, message())
    assert json_format.MessageToDict(read, preserving_proto_field_name=True) == value


def check(message: Any, text: str) -> None:
    if isinstance(message, tuple):
        values = [json.loads(line) for line in text.splitlines()]
    else:
        values = json.loads(text) if isinstance(message, list) else [json.loads(text)]
    each = message[0] if isinstance(message, list | tuple) else message
    assert values
    for value in values:
        assert_lossless(each, value)


@pytest.mark.parametrize("words", READS)
def test_an_answer_is_the_contracts_json_in_either_form(world, words):
    text = asked(world, words, "json")
    check(READS[words], text)

    if words.startswith(("host", "workflow wait")):
        return  # what is told of silence and time moves meanwhile
    as_yaml = asked(world, words, "yaml")
    if isinstance(READS[words], tuple):
        assert list(yaml.safe_load_all(as_yaml)) == [json.loads(one) for one in text.splitlines()]
    else:
        assert yaml.safe_load(as_yaml) == json.loads(text)


@pytest.mark.parametrize("words", [one for one, form in READS.items() if isinstance(form, list)])
def test_a_list_has_names_and_a_wide_table(world, words):
    names = asked(world, words, "name").splitlines()
    narrow, wide = (asked(world, words, form).splitlines() for form in ("table", "wide"))

    assert names
    assert len(wide) == len(narrow) or "requirements" in words
    assert wide[0].split()[-1] == narrow[0].split()[-1]


def test_what_changes_answers_in_the_contracts_json(world):
    for words, message in CHANGES.items():
        check(message, asked(world, words, "json"))


@pytest.mark.parametrize("words", OWN)
def test_what_is_no_message_has_its_keys(world, words):
    assert set(json.loads(asked(world, words, "json"))) == OWN[words]
    assert set(yaml.safe_load(asked(world, words, "yaml"))) == OWN[words]


def test_no_command_is_forgotten():
    looked_at = {" ".join(leaf) for leaf in leaves(main)}
    tables = [*READS, *CHANGES, *OWN]
    known = {
        leaf for leaf in looked_at if any(f"{words} ".startswith(f"{leaf} ") for words in tables)
    }

    assert looked_at - known - ELSEWHERE == set()
