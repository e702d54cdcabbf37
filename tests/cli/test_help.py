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

LEAVES = [
    (group, name)
    for group in (workflow, external, host, webhook)
    for name, command in group.commands.items()
    if not isinstance(command, click.Group)
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
    script = f"""
import sys
from countermand.cli.main import main
try:
    main({args!r})
except SystemExit:
    pass
heavy = {{"grpc", "google.protobuf", "rich", "asyncio", "opentelemetry"}} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr


def test_the_version_is_told_in_every_form():
    for form in ("table", "json", "name"):
        done = CliRunner().invoke(main, ["version", "-o", form])
        assert (done.exit_code, "0." in done.stdout) == (0, True)


def test_every_command_takes_the_shared_options():
    for group, name in LEAVES:
        options = {
            option
            for parameter in group.commands[name].params
            if isinstance(parameter, click.Option)
            for option in parameter.opts
        }
        assert {"--coordinator", "-o", "--timeout", "--no-color"} <= options, name
