"""The timeline of any workflow, asked of a coordinator."""

from xml.etree import ElementTree as ET

import pytest
from click.testing import CliRunner

from countermand.cli.main import main


def test_the_terminal_shows_the_lane_and_the_verdict(run):
    done = run("workflow", "timeline", "made-up")

    assert done.exit_code == 0, done.output
    for words in (
        "COMPENSATED",
        "copy-1",
        "copy-2",
        "pool fast",
        "compensation",
        "delete the copy",
    ):
        assert words in done.stdout, words
    assert "\x1b" not in done.stdout


def test_the_picture_is_one_file(run, tmp_path):
    picture = tmp_path / "made-up.svg"
    done = run("workflow", "timeline", "made-up", "--svg", str(picture))

    assert (done.exit_code, done.stdout) == (0, f"Wrote {picture}.\n")
    assert ET.parse(picture).getroot().tag.endswith("svg")


def test_what_still_runs_is_drawn_so_far(run):
    done = run("workflow", "timeline", "blocked")

    assert done.exit_code == 0, done.output
    assert "BLOCKED" in done.stdout


def test_a_workflow_that_is_not_there_is_an_error(run):
    done = run("workflow", "timeline", "nobody")

    assert done.exit_code == 1
    assert "WORKFLOW_NOT_FOUND" in done.stderr


@pytest.mark.parametrize("form", ["json", "name"])
def test_a_drawing_is_neither_json_nor_a_name(form):
    done = CliRunner().invoke(main, ["workflow", "timeline", "made-up", "-o", form])

    assert done.exit_code == 2
    assert "events -o json" in done.stderr


@pytest.mark.parametrize("command", [["workflow", "timeline", "made-up"], ["demo"]])
def test_a_folder_that_does_not_exist_is_not_made(run, tmp_path, command):
    done = run(*command, "--svg", str(tmp_path / "pictures" / "made-up.svg"))

    assert done.exit_code == 2
    assert "there is no folder" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_picture_that_cannot_be_written_says_why(run, tmp_path):
    picture = tmp_path / ("x" * 300)
    done = run("workflow", "timeline", "made-up", "--svg", str(picture))

    assert done.exit_code == 1
    assert "File name too long" in done.stderr
