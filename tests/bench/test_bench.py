"""The bench itself: what it says of figures is true, and it runs to its end."""

import io
import json
import os
import shutil
import subprocess
import sys

import pytest
from rich.console import Console

from tests.bench.__main__ import PARTS
from tests.bench.figures import Figure, at_least, at_most, judge, ratio, write


def test_a_goal_is_judged_by_the_median():
    goals = (at_least(10), at_most(10), at_least(11), at_most(9))

    figure = Figure(name="rate", unit="calls/s", runs=(1.0, 10.0, 100.0), goals=goals)

    assert figure.missed == (at_least(11), at_most(9))


def test_a_ratio_is_taken_round_by_round():
    ours = Figure(name="ours", unit="workflows/s", runs=(10.0, 20.0))
    limit = Figure(name="limit", unit="calls/s", runs=(100.0, 100.0))

    assert ratio("share", ours, limit, 5).runs == (0.5, 1.0)
    assert ratio("share", ours, limit, goals=(at_most(0.1),)).missed == (at_most(0.1),)


def test_a_missed_goal_is_said_plainly():
    said = io.StringIO()
    slow = Figure(name="start", unit="ms", runs=(300.0,), goals=(at_most(250),))

    judge([slow], Console(file=said, width=100))

    assert said.getvalue().splitlines() == [
        "0 of 1 goals met.",
        "  NOT MET  start: 300 ms, goal ≤ 250",
    ]


def test_figures_are_written_with_all_their_runs(tmp_path):
    file = tmp_path / "folder" / "figures.json"
    figure = Figure(name="start", unit="ms", runs=(3.0, 1.0, 2.0), goals=(at_most(2),))

    write(file, {"cores": 2}, {"starting": [figure]})

    (told,) = json.loads(file.read_text())["parts"]["starting"]
    assert (told["median"], told["min"], told["max"]) == (2, 1, 3)
    assert (told["runs"], told["goals"]) == ([3, 1, 2], [{"goal": "≤ 2.00", "met": True}])


LONG = {"external", "replicas"}
ALL = "COUNTERMAND_EVERY_PASSING" in os.environ  # as for what is killed everywhere
BRIEF = {
    "external": ("--external-tasks", "50", "--external-seconds", "1"),
    "settled": ("--settled", "2000"),
    "web": ("--web-settled", "100", "--web-tasks", "200"),
    "replicas": ("--replica-open", "50"),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "part",
    [
        # Half of the time of all; the soak and the tests of vendors do the same, and more of it.
        pytest.param(part, marks=pytest.mark.skipif(part in LONG and not ALL, reason="long"))
        for part in PARTS
    ],
)
def test_every_part_runs(tmp_path, part):
    file = tmp_path / "figures.json"
    brief = ["--rounds", "1", "--seconds", "0.1", "--starts", "1", *BRIEF.get(part, ())]

    done = subprocess.run(
        [sys.executable, "-m", "tests.bench", "--only", part, *brief, "--json", str(file)],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    parts = json.loads(file.read_text())["parts"]
    assert tuple(parts) == (part,)
    if part == "external":
        judged = [each["median"] for each in parts[part] if "wrongly judged" in each["name"]]
        assert judged == [0, 0], "with each its own layout"
    assert "goals met." in done.stdout or not any(each["goals"] for each in parts[part])


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("qemu-io") is None, reason="qemu-utils is not installed")
def test_every_row_of_the_data_path_runs(tmp_path):
    file = tmp_path / "io.json"
    brief = ["--runs", "1", "--size", "16MiB", "--folder", str(tmp_path / "disk")]

    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.io", *brief, "--json", str(file)],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    rows = {"full", "sparse", "holes", "digest", "flatten", "clone", "cancel", "latency"}
    assert set(json.loads(file.read_text())["parts"]) >= rows
    assert "goals met." in done.stdout
