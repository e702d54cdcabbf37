"""Every call of the services has its command, and every answer its form for programs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
import yaml
from jsonschema import ValidationError

from countermand.cli.main import main
from countermand.client.spec import dump_spec, sequence, task, workflow_spec
from countermand.v1.verb_pb2 import Noop
from tests.cli.answers import COMMANDS, NO_FORM, check, check_error, command_of, leaves
from tests.cli.shell import Shell
from tests.contract import calls

CALLS = {
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
    "CoordinatorService.ListCoordinators": "coordinator list",
    "CoordinatorService.ConfirmRecovery": "coordinator recover",
}


def command(words: str) -> click.Command | None:
    found: click.Command | None = main
    for word in words.split():
        assert isinstance(found, click.Group), words
        found = found.get_command(click.Context(found), word)
    return found


def test_every_call_has_its_command():
    assert set(calls()) == set(CALLS)
    assert [words for words in CALLS.values() if command(words) is None] == []


# -- forms for programs ---------------------------------------------------------------------------

# Each is run with -o json, and its answer checked against docs/reference/answers.schema.json.
READS = (
    "workflow plan {spec}",
    "workflow lint {spec}",
    "workflow lint {wrong}",
    "workflow lint {broken}",
    "workflow get held",
    "workflow list",
    "workflow task held make",
    "workflow tasks held",
    "workflow events held",
    "workflow events over --follow",
    "workflow requirements held",
    "workflow wait over",
    "workflow wait over --for compensated",
    "workflow watch over",
    "events --after 0",
    "external owners",
    "external list --owner json",
    "host get host-j",
    "host list",
    "host events",
    "webhook get hook",
    "webhook list",
    "webhook changes",
    "webhook ping hook",
    "doctor",
    "coordinator list",
    "config show",
    "config check",
    "config check {broken}",
    "version",
    "template list",
    "template show move-disk",
    "template render clone-vm",
)
# In their order: what one leaves is what the next one finds.
CHANGES = (
    "workflow submit {spec} --id new",
    "workflow fork new --id forked",
    "workflow pause waiting --dry-run",
    "workflow pause waiting --reason x",
    "workflow resume waiting --reason x",
    "workflow resume held --rerun make --reason x --dry-run",
    "external accept waiting/one",
    "external progress waiting/one 1/2",
    "external heartbeat waiting/one",
    "external end waiting/one",
    "workflow cancel held --dry-run",
    "workflow cancel held --reason x",
    "external start own --kind job",
    "external add own task --kind step",
    "external finish own --force",
    "external clear own --token {token}",
    "host add host-k 127.0.0.1:57 --unreachable-allowed",
    "host drain host-k --reason x",
    "host drain host-k --wait --reason x",
    "host undrain host-k --reason x",
    "host remove host-k --reason x",
    "webhook add other http://127.0.0.1:9/in",
    "webhook resume other --reason x",
    "webhook rotate-secret other",
    "webhook remove other --reason x",
    "workflow bundle over {bundle}",
    "open {bundle}",
    "open {bundle} --task make",
    "open {bundle} --events",
)
BULK = (
    "workflow pause many-1 many-2 --dry-run",
    "workflow pause many-1 many-2 --reason x",
    "workflow pause many-1 over --reason x",
    "workflow resume --label many=yes --dry-run",
    "workflow resume --label many=yes --yes --reason x",
    "workflow cancel --label many=yes --dry-run",
    "workflow cancel --label many=yes --yes --reason x",
    "workflow cancel --label many=no --yes --reason x",
)
# These need hosts that fail: a coordinator with a script has their answers.
SCRIPTED = (
    "workflow fence made-up copy-1 --reason x",
    "workflow compensation retry made-up copy-1 --reason x",
    "workflow compensation replace made-up copy-1 --reason x --with {{}}",
    "workflow compensation done made-up copy-1 --reason x",
    "workflow compensation abandon made-up copy-1 --reason x",
    "host accept host-s --reason x",
    "doctor",
    "doctor --fix --yes --reason x",
)
# Tried where there is something to recover: tests/cli/test_coordinator.py.
ELSEWHERE = ("coordinator recover",)
ENDLESS = ("external watch --owner json", "events --after 0 --follow")
# A failure is an answer of these, too; 3 and 4 are the ends of workflows.
FAILING = ("webhook ping", "workflow lint", "config check", "workflow pause", "workflow cancel")


class World:
    """A coordinator with workflows of each kind, a host that does not answer, and a webhook."""

    def __init__(self, address: str, folder: Path) -> None:
        self.shell = shell = Shell(address, "json")
        shell.held("held")
        shell.held("over")
        shell("workflow", "cancel", "over", "--reason", "for a test")
        shell("workflow", "wait", "over", code=3)
        shell.submit(shell.task("one"), workflow_id="waiting")
        for number in (1, 2):
            shell.submit(shell.task("one"), workflow_id=f"many-{number}", labels=["many=yes"])
        shell("host", "add", "host-j", "127.0.0.1:17", "--unreachable-allowed")
        shell("webhook", "add", "hook", "http://127.0.0.1:9/in")
        spec = workflow_spec("drill", sequence("all", task("one", action=Noop())))
        files = {"spec": dump_spec(spec), "wrong": '{"spec": {"kindd": "x"}}', "broken": "a: [b"}
        self.given = {"bundle": str(folder / "over.zip"), "token": ""}
        for name, text in files.items():
            (folder / name).write_text(text)
            self.given[name] = str(folder / name)

    def asked(self, words: str, form: str = "json") -> str:
        """Returns what a command answers in a form."""
        filled = [word.format(**self.given) for word in words.split()]
        done = self.shell.run(*filled, "-o", form)
        failing = done.exit_code == 1 and words.startswith(FAILING)
        assert failing or done.exit_code in (0, 3, 4), done.output
        if words.startswith("external start"):
            self.given["token"] = json.loads(done.stdout)["capability_token"]
        return done.stdout


@pytest.fixture(scope="module")
def world(real: str, tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(real, tmp_path_factory.mktemp("world"))


@pytest.mark.parametrize("words", READS)
def test_an_answer_is_as_the_schema_says_in_either_form(world, words):
    command = command_of(words)
    text = world.asked(words)
    check(command, text)

    if words.startswith(("host", "workflow wait", "webhook", "doctor", "config show", "events")):
        return  # what is told of silence and time moves meanwhile
    as_yaml = world.asked(words, "yaml")
    if "lines" in COMMANDS[command]:
        assert list(yaml.safe_load_all(as_yaml)) == [json.loads(one) for one in text.splitlines()]
    else:
        assert yaml.safe_load(as_yaml) == json.loads(text)


LISTS = [
    *(words for words in READS if "message" in COMMANDS[command_of(words)].get("items", {})),
    "coordinator list",
]


@pytest.mark.parametrize("words", LISTS)
def test_a_list_has_names_and_a_wide_table(world, words):
    names = world.asked(words, "name").splitlines()
    narrow, wide = (world.asked(words, form).splitlines() for form in ("table", "wide"))

    assert names
    assert len(wide) == len(narrow) or "requirements" in words
    assert wide[0].split()[-1] == narrow[0].split()[-1]


def test_what_changes_answers_as_the_schema_says(world):
    for words in CHANGES:
        check(command_of(words), world.asked(words))


def test_what_changes_many_answers_as_the_schema_says(world):
    for words in BULK:
        told = world.asked(words)
        assert isinstance(json.loads(told), list), words
        check(command_of(words), told)


@pytest.mark.parametrize("words", SCRIPTED)
def test_what_is_asked_of_hosts_answers_as_the_schema_says(run, words):
    run("host", "add", "host-s", "127.0.0.1:1")
    done = run(*words.format().split(), "-o", "json")

    assert done.exit_code in (0, 4), done.output
    check(command_of(words), done.stdout)


@pytest.mark.parametrize("words", ENDLESS)
def test_what_never_ends_answers_as_the_schema_says(world, words):
    command = [sys.executable, "-m", "countermand.cli", *words.split(), "-o", "json"]
    environment = os.environ | {"COUNTERMAND_COORDINATOR": world.shell.address}
    world.shell.submit(world.shell.task("one"), workflow_id="waits")  # a repeat is harmless
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        process.kill()
    check(command_of(words), line)


@pytest.mark.parametrize("words", sorted(COMMANDS))
def test_every_command_has_its_errors_in_that_form(run, words):
    done = run(*words.split(), "--nonsense", "-o", "json")

    assert (done.exit_code, done.stdout) == (2, "")
    assert check_error(done.stderr)["reason"] == "USAGE"


def test_no_command_is_forgotten():
    run_here = {
        command_of(words) for words in (*READS, *CHANGES, *BULK, *SCRIPTED, *ENDLESS)
    }.union(ELSEWHERE)

    assert run_here == set(COMMANDS)
    assert {name for name in COMMANDS if "--" not in name} == {
        " ".join(leaf) for leaf in leaves(main)
    } - NO_FORM


@pytest.mark.parametrize(
    ("command", "wrong"),
    [
        ("workflow get", {"name": "workflows/a", "nonsense": 1}),
        ("workflow get", {"lastSequence": "1"}),
        ("workflow list", [{"name": 1}]),
        ("workflow pause", [{"name": "workflows/a"}]),
        ("version", {"countermand": "1"}),
    ],
)
def test_the_schema_refuses_what_is_something_else(command, wrong):
    with pytest.raises(ValidationError):
        check(command, json.dumps(wrong))
