"""Help teaches, and starting stays quick."""

import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from countermand.cli.compensation import compensation
from countermand.cli.external import external
from countermand.cli.host import host
from countermand.cli.main import main
from countermand.cli.webhook import webhook
from countermand.cli.workflow import workflow
from tests.cli.answers import leaves
from tests.cli.terminal import Terminal


def member(group: click.Group, name: str) -> click.Command:
    found = group.get_command(click.Context(group), name)
    assert found is not None, name
    return found


LEAVES = [
    (group, name)
    for group in (workflow, external, host, webhook)
    for name in group.list_commands(click.Context(group))
    if not isinstance(member(group, name), click.Group)
]


@pytest.mark.parametrize(
    ("group", "name"), LEAVES, ids=[f"{group.name}-{name}" for group, name in LEAVES]
)
def test_every_command_teaches_by_an_example(group, name):
    done = CliRunner().invoke(main, [group.name, name, "--help"])

    assert done.exit_code == 0
    assert "Examples:" in done.output
    assert f"countermand {group.name} {name}" in done.output


@pytest.mark.parametrize("name", compensation.commands)
def test_every_decision_about_a_compensation_teaches_by_an_example(name):
    done = CliRunner().invoke(main, ["workflow", "compensation", name, "--help"])

    assert done.exit_code == 0
    assert f"countermand workflow compensation {name}" in done.output


def test_the_demo_teaches_by_examples():
    done = CliRunner().invoke(main, ["demo", "--help"])

    assert "\n    countermand demo --fast --keep\n" in done.output


def test_the_first_help_names_every_command_and_exit_code():
    done = CliRunner().invoke(main, ["--help"])

    for word in ("demo", "workflow", "host", "version", "124", "compensated"):
        assert word in done.output


@pytest.mark.parametrize(
    "args",
    [["--help"], ["workflow", "--help"], ["external", "end", "--help"], ["host", "add", "--help"]],
)
def test_help_loads_nothing_heavy(args):
    assert not loaded(*args) & HEAVY


@pytest.mark.parametrize("args", [["config", "show"], ["completion", "fish"], ["version"]])
def test_what_asks_nobody_loads_nothing_to_ask_with(args):
    assert not loaded(*args) & HEAVY


@pytest.mark.parametrize(
    ("args", "others"),
    [
        (["workflow", "list"], {"cli.resume", "cli.bundle", "client.hosts", "v1.doctor_pb2_grpc"}),
        (["workflow", "get", "made-up"], {"cli.steer", "cli.submit", "v1.external_task_pb2_grpc"}),
        (["host", "list"], {"client.webhooks", "v1.webhook_pb2_grpc", "v1.doctor_pb2_grpc"}),
        (["external", "owners"], {"cli.external_own", "cli.external_reports", "v1.host_pb2_grpc"}),
    ],
)
def test_a_command_loads_what_it_needs_and_not_what_others_need(coordinator, args, others):
    found = loaded("--coordinator", coordinator, *args)

    assert "grpc" in found
    assert not found & ({"rich", "yaml", "opentelemetry"} | {f"countermand.{o}" for o in others})


HEAVY = {"grpc", "google.protobuf", "rich", "asyncio", "opentelemetry"}


def loaded(*args: str) -> set[str]:
    """Returns what a command has imported by its end."""
    script = """
import sys
from countermand.cli.main import main
try:
    main(sys.argv[1:])
except SystemExit:
    print("\\n", *sys.modules, file=sys.stderr)
"""
    done = subprocess.run(
        [sys.executable, "-c", script, *args], capture_output=True, text=True, check=False
    )
    return set(done.stderr.splitlines()[-1].split())


def test_the_version_is_told_in_every_form():
    for form in ("table", "json", "name"):
        done = CliRunner().invoke(main, ["version", "-o", form])
        assert (done.exit_code, "0." in done.stdout) == (0, True)


def test_every_command_takes_the_shared_options():
    for group, name in LEAVES:
        options = {
            option
            for parameter in member(group, name).params
            if isinstance(parameter, click.Option)
            for option in parameter.opts
        }
        assert {"--coordinator", "-o", "--timeout", "--no-color"} <= options, name


# Commands that end as a workflow does, or tell that somebody has to see to something.
FOLLOWED = {"submit", "watch", "wait", "resume"}
CODES: dict[tuple[str, ...], list[int]] = {("doctor",): [0, 1, 2, 4, 124]}
CODES |= {("workflow", name): [0, 1, 2, 3, 4, 124] for name in FOLLOWED}
CODES |= {("template", name): [0, 1, 2] for name in ("list", "show", "render")}
CODES |= {("config", name): [0, 1, 2] for name in ("show", "check", "sample")}
CODES |= {(name,): [0, 1, 2] for name in ("completion", "version", "demo", "open")}


@pytest.mark.parametrize("words", list(leaves(main)), ids=" ".join)
def test_every_command_says_what_its_exit_codes_mean(words):
    told = CliRunner().invoke(main, [*words, "--help"]).output.partition("Exit codes:\n")[2]

    codes = [int(line.split()[0]) for line in told.splitlines() if line.strip()]
    assert codes == CODES.get(words, [0, 1, 2, 3, 4, 124] if words[-1] == "fork" else PLAIN)


PLAIN = [0, 1, 2, 124]


@pytest.mark.parametrize(
    ("args", "environment"), [(["--no-color"], {}), ([], {"NO_COLOR": "1"})], ids=["flag", "env"]
)
def test_without_colour_there_is_none_on_a_terminal_either(coordinator, args, environment):
    shown = []
    for words in (["workflow", "get", "made-up"], ["workflow", "list"], ["workflow", "watch", "x"]):
        with Terminal(coordinator, *words, *args, env=environment) as terminal:
            terminal.end()
            shown.append(terminal.raw)

    assert all(shown)
    assert "\x1b[" not in "".join(shown)


def test_with_colour_there_is_some(coordinator):
    with Terminal(coordinator, "workflow", "get", "made-up", env={"NO_COLOR": ""}) as terminal:
        terminal.end()

    assert "\x1b[" in terminal.raw
