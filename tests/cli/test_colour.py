"""Whether there is colour is decided once, for tables and drawings alike."""

import json
import re

import pytest
from click.testing import CliRunner

from countermand.cli.main import main
from tests.cli.terminal import Terminal

LOOKS = {
    "table": ("workflow", "get", "made-up"),
    "timeline": ("workflow", "timeline", "made-up"),
    "watch": ("workflow", "watch", "made-up"),
}
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
NONE = {"NO_COLOR": "", "FORCE_COLOR": "", "TERM": "xterm", "COLUMNS": "100"}


def on_a_terminal(address: str, *words: str, **environment: str) -> str:
    with Terminal(address, *words, env=NONE | environment) as terminal:
        terminal.end()
    return terminal.raw


def piped(address: str, *words: str, **environment: str) -> str:
    known = NONE | {"COUNTERMAND_COORDINATOR": address} | environment
    return CliRunner().invoke(main, words, env=known).stdout


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize(
    ("environment", "is_coloured"),
    [
        ({"TERM": "dumb"}, False),
        ({"NO_COLOR": "1", "FORCE_COLOR": "1"}, False),
        ({"TERM": "dumb", "FORCE_COLOR": "1"}, True),
    ],
    ids=["dumb", "both", "forced"],
)
def test_all_looks_are_coloured_or_none_is(coordinator, look, environment, is_coloured):
    shown = on_a_terminal(coordinator, *LOOKS[look], **environment)

    assert bool(COLOUR.search(shown)) == is_coloured


@pytest.mark.parametrize("look", LOOKS)
def test_colour_goes_through_a_pipe_where_it_is_forced(coordinator, look):
    assert not COLOUR.search(piped(coordinator, *LOOKS[look]))
    assert COLOUR.search(piped(coordinator, *LOOKS[look], FORCE_COLOR="1"))
    assert not COLOUR.search(piped(coordinator, *LOOKS[look], "--no-color", FORCE_COLOR="1"))


def test_a_terminal_that_can_only_write_gets_lines_and_no_tree(coordinator):
    assert "\x1b" not in on_a_terminal(coordinator, *LOOKS["watch"], TERM="dumb")


@pytest.mark.parametrize(
    ("environment", "words", "shown"),
    [
        ({}, (), (True, "default")),
        ({"NO_COLOR": "1"}, (), (False, "NO_COLOR")),
        ({"FORCE_COLOR": "1"}, (), (True, "FORCE_COLOR")),
        ({"TERM": "dumb"}, (), (False, "TERM")),
        ({"FORCE_COLOR": "1"}, ("--no-color",), (False, "--no-color")),
    ],
)
def test_whether_there_is_colour_is_a_setting_with_an_origin(environment, words, shown):
    command = ("config", "show", "--origin", "-o", "json", *words)
    said = json.loads(CliRunner().invoke(main, command, env=NONE | environment).stdout)["color"]

    assert (said["value"], said["origin"]) == shown
