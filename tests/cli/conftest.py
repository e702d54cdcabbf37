"""Fixtures of the tests of the command line.

Each file has coordinators of its own: what one leaves there is nothing to another, which may come
before it or after it.
"""

import re

import pytest
from click.testing import CliRunner

from countermand.cli.main import main
from tests.cli.processes import served
from tests.cli.shell import Shell, coordinating


@pytest.fixture(scope="module")
def coordinator():
    with served() as (_, address):
        yield address


@pytest.fixture
def run(coordinator):
    def invoke(*args, given=None):
        environment = {"COUNTERMAND_COORDINATOR": coordinator}
        return CliRunner().invoke(main, args, input=given, env=environment)

    return invoke


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """Yields the address of a real coordinator, with no host."""
    with coordinating(tmp_path_factory.mktemp("coordinator")) as address:
        yield address


@pytest.fixture
def shell(real, request):
    name = request.node.name.removeprefix("test_")
    return Shell(real, re.sub(r"[^A-Za-z0-9]+", "-", name)[-40:].strip("-").lower())
