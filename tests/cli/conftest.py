"""Fixtures of the tests of the command line."""

import pytest
from click.testing import CliRunner

from countermand.cli.main import main
from tests.cli.processes import served


@pytest.fixture(scope="session")
def coordinator():
    with served() as (_, address):
        yield address


@pytest.fixture
def run(coordinator):
    def invoke(*args, given=None):
        environment = {"COUNTERMAND_COORDINATOR": coordinator}
        return CliRunner().invoke(main, args, input=given, env=environment)

    return invoke
