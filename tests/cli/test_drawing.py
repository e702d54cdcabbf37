"""The drawings of a workflow: one model, two renderings, the same words."""

import io
import itertools
import os
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from rich.console import Console

from countermand.drawing import captions, svg, terminal
from countermand.drawing.model import Timeline
from countermand.drawing.scale import scale, ticks
from countermand.drawing.svg_flags import place_flags
from countermand.drawing.timeline import timeline
from countermand.v1.attempt_pb2 import Attempt
from countermand.v1.event_pb2 import Intervention
from countermand.v1.failure_pb2 import Failure
from countermand.v1.task_pb2 import Task
from countermand.v1.workflow_state_pb2 import WorkflowState
from tests.cli.histories import (
    Tale,
    blocked,
    cancelled,
    compensated,
    hybrid,
    no_space,
    paused,
    succeeded,
)

PICTURE = Path(__file__).parents[2] / "docs/images/compensated-workflow.svg"
SVG = "{http://www.w3.org/2000/svg}"


def drawn(tale: Tale) -> Timeline:
    return timeline(*tale.told())


def printed(tale: Tale, width: int = 110) -> str:
    console = Console(file=io.StringIO(), width=width)
    terminal.draw(drawn(tale), console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


# -- the model -----------------------------------------------------------------------------------


def test_rows_follow_the_tree_and_the_root_is_the_phases() -> None:
    picture = drawn(compensated())
    assert [(row.task_id, row.depth, row.is_group) for row in picture.rows] == [
        ("create-data-disk", 0, False),
        ("disks", 0, True),
        ("copy-disk-1", 1, False),
        ("copy-disk-2", 1, False),
        ("copy-disk-3", 1, False),
        ("hand-over", 0, False),
    ]
    assert [(phase.start_s, phase.end_s) for phase in picture.phases] == [(0.0, 4.1), (4.1, 6.42)]


def test_the_lane_holds_what_was_made_up_for_in_the_order_it_happened() -> None:
    picture = drawn(compensated())
    assert [(row.task_id, row.host_id, row.phrase) for row in picture.lane] == [
        ("copy-disk-1", "host-a", "delete the copy"),
        ("create-data-disk", "host-a", "delete the image"),
    ]
    assert [bar.compensates for row in picture.lane for bar in row.bars] == [1, 1]
    assert [row.effect_s for row in picture.lane] == [3.3, 0.6]


def test_time_before_work_is_a_wait_and_not_part_of_the_bar() -> None:
    row = drawn(compensated()).rows[4]
    (wait,) = row.waits
    (bar,) = row.bars
    assert (wait.start_s, wait.end_s) == (0.62, 1.1)
    assert (bar.start_s, bar.end_s, bar.state) == (1.1, 4.1, Attempt.STATE_FAILED)


def test_an_attempt_that_is_stopped_shows_since_when() -> None:
    (bar,) = drawn(compensated()).rows[3].bars
    assert [(part.kind, part.start_s, part.end_s) for part in bar.segments] == [
        ("run", 0.74, 4.1),
        ("stopping", 4.1, 4.45),
    ]


def test_markers_tell_the_failure_and_the_restart() -> None:
    picture = drawn(compensated())
    assert [(marker.kind, marker.at_s) for marker in picture.markers] == [
        ("failure", 4.1),
        ("restart", 5.9),
    ]


def test_the_first_owner_is_no_restart() -> None:
    tale = succeeded()
    tale.restart(0.0, epoch=1)
    assert drawn(tale).markers == ()


def test_retries_are_bars_of_one_row_with_the_wait_between() -> None:
    tale = Tale("vm-3")
    tale.plant("copy", host="host-a")
    tale.begin()
    tale.starts(0.0, "copy", run_s=0.1)
    why = Failure(reason="STORAGE_FAILED", message="Pool fast answered EIO.", retriable=True)
    tale.ends(1.0, "copy", "FAILED", failure=why, to=Task.STATE_RETRY_WAIT)
    tale.retry(1.0, "copy", 2, why, to=Task.STATE_RETRY_WAIT)
    tale.starts(2.0, "copy", n=2, run_s=2.1)
    tale.ends(3.0, "copy", "SUCCEEDED", n=2)
    (row,) = drawn(tale).rows
    assert [(bar.number, bar.start_s, bar.end_s) for bar in row.bars] == [(1, 0.1, 1), (2, 2.1, 3)]
    assert [(wait.start_s, wait.end_s) for wait in row.waits] == [(0.0, 0.1), (1.0, 2.1)]


def moved() -> Tale:
    """Tells a copy that fails on one host after a minute, and is done on another in no time."""
    tale = Tale("vm-5")
    task = tale.plant("copy", host="host-a")
    tale.begin()
    tale.starts(63.02, "copy", run_s=63.03)
    tale.ends(63.1, "copy", "FAILED", failure=no_space("vm-5", "copy", "host-a"))
    task.host_id = "host-b"
    tale.starts(63.15, "copy", n=2, run_s=63.16)
    tale.ends(63.4, "copy", "SUCCEEDED", n=2)
    return tale


def test_a_row_says_on_which_hosts_its_attempts_were() -> None:
    (row,) = drawn(moved()).rows
    assert [bar.host_id for bar in row.bars] == ["host-a", "host-b"]
    assert "host-a → host-b" in printed(moved(), 120)
    picture = svg.draw(drawn(moved()))
    assert "host-a → host-b" in picture
    assert "copy on host-a, then host-b: copied in" in picture
    assert "copy on host-a, attempt 1" in picture


def test_an_open_attempt_lasts_until_now() -> None:
    tale = Tale("vm-4")
    tale.plant("copy", host="host-a")
    tale.begin()
    tale.starts(0.0, "copy", run_s=0.5)
    tale.restart(2.0)
    (bar,) = drawn(tale).rows[0].bars
    assert (bar.end_s, bar.state) == (2.0, Attempt.STATE_RUNNING)


def test_an_unknown_outcome_is_a_stretch_of_its_own() -> None:
    tale = Tale("vm-5")
    tale.plant("copy", host="host-a")
    tale.begin()
    tale.starts(0.0, "copy", run_s=0.5)
    tale.ends(1.0, "copy", "UNKNOWN")
    tale.ends(2.0, "copy", "SUCCEEDED")
    (bar,) = drawn(tale).rows[0].bars
    assert [part.kind for part in bar.segments] == ["run", "unknown"]
    assert bar.state == Attempt.STATE_SUCCEEDED


def test_an_outcome_is_unknown_only_until_there_is_a_sign_of_life() -> None:
    tale = Tale("vm-14")
    tale.plant("clone", kind=Task.KIND_EXTERNAL, owner_id="acme")
    tale.begin()
    tale.starts(0.0, "clone", run_s=0.5)
    tale.task(2.0, "clone", Task.STATE_UNKNOWN, n=1)
    tale.task(3.0, "clone", Task.STATE_RUNNING, n=1)
    tale.task(4.0, "clone", Task.STATE_CANCELLING, n=1)
    tale.ends(5.0, "clone", "CANCELLED")
    tale.moves(5.0, WorkflowState.WORKFLOW_STATE_COMPENSATED)
    bar = drawn(tale).rows[0].bars[0]
    assert [(part.kind, part.start_s, part.end_s) for part in bar.segments] == [
        ("run", 0.5, 2.0),
        ("unknown", 2.0, 3.0),
        ("run", 3.0, 4.0),
        ("stopping", 4.0, 5.0),
    ]


# -- the verdict ---------------------------------------------------------------------------------


def test_the_verdict_says_what_failed_where_why_and_what_is_left() -> None:
    verdict = drawn(compensated()).verdict
    assert verdict.sentence == (
        "copy-disk-3 failed on host-c: pool fast is full: the copy needs 152 MiB, 86 MiB are left. "
        "Made up for: copy-disk-1 on host-a and create-data-disk on host-a; nothing is left."
    )
    assert [fact.task_id for fact in verdict.clean] == ["copy-disk-2", "copy-disk-3"]
    assert verdict.left == ()


def test_what_was_tried_again_is_no_failure_of_the_whole() -> None:
    """Neither in what failed, nor as a red line: only that after which nothing came is."""
    slow = Failure(reason="SLOW", message="It was slow.", retriable=True)
    tale = Tale("retries")
    for task_id in ("copy", "clone"):
        tale.plant(task_id, host="host-a")
    tale.begin()
    for task_id in ("copy", "clone"):
        tale.starts(0.1, task_id, run_s=0.2)
        tale.ends(1.0, task_id, "FAILED", failure=slow, to=Task.STATE_RETRY_WAIT)
        tale.retry(1.0, task_id, 2, slow, Task.STATE_RETRY_WAIT)
        tale.starts(2.0, task_id, n=2, run_s=2.1)
    tale.ends(2.5, "clone", "SUCCEEDED", n=2)
    tale.ends(3.0, "copy", "FAILED", n=2, failure=slow)
    cause = Failure(reason="SLOW", message="It was slow.", host_id="host-a")
    cause.attempt = "workflows/retries/tasks/copy/attempts/2"
    tale.moves(3.0, WorkflowState.WORKFLOW_STATE_COMPENSATED, cause)
    picture = drawn(tale)
    assert [fact.task_id for fact in picture.verdict.failed] == ["copy"]
    marks = [(mark.kind, mark.text, mark.at_s, mark.count) for mark in picture.markers]
    assert sorted(marks) == [
        ("failure", "copy: SLOW", 3.0, 1),
        ("retry", "clone: SLOW", 1.0, 1),
        ("retry", "copy: SLOW", 1.0, 1),
    ]


def test_the_verdict_of_success_counts() -> None:
    assert drawn(succeeded()).verdict.sentence == (
        "3 tasks on 3 hosts took effect, 418 MiB copied."
    )


def test_a_cancelled_workflow_did_not_fail() -> None:
    picture = drawn(cancelled())
    assert picture.verdict.sentence == (
        "Cancelled by local: wrong template. Ask Ann. "
        "Made up for: copy-disk-1 on host-a; nothing is left."
    )
    text = svg.draw(picture)
    assert "WHY IT ENDED" in text
    assert ">cancelled by local<" in text
    assert "✗" not in text


def test_what_was_made_up_for_is_in_the_order_in_which_it_was_done() -> None:
    tale = Tale("vm-8")
    for number in (1, 2):
        tale.plant(f"copy-{number}", host=f"host-{number}")
    tale.begin()
    for number in (1, 2):
        tale.starts(0.0, f"copy-{number}", run_s=0.0)
        tale.ends(1.0, f"copy-{number}", "SUCCEEDED")
        tale.makes_up(2.0 + number / 10, f"copy-{number}")
    cause = Failure(reason="CANCELLED", message="Cancelled by ann: no.")
    tale.moves(2.0, WorkflowState.WORKFLOW_STATE_COMPENSATING, cause)
    for number, end_s in ((1, 4.0), (2, 3.0)):
        tale.ends(end_s, f"copy-{number}", "SUCCEEDED", n=2, to=Task.STATE_COMPENSATED)
    tale.moves(4.1, WorkflowState.WORKFLOW_STATE_COMPENSATED)
    verdict = drawn(tale).verdict
    assert [fact.task_id for fact in verdict.made_up_for] == ["copy-2", "copy-1"]
    assert "copy-2 on host-2 and copy-1 on host-1" in verdict.sentence


def test_what_is_skipped_after_a_failure_is_skipped_at_its_row() -> None:
    tale = Tale("vm-11")
    for name in ("copy-1", "copy-2"):
        tale.plant(name, host="host-a")
        tale.starts(0.0, name, run_s=0.0)
    tale.ends(1.0, "copy-1", "SUCCEEDED")
    tale.ends(1.0, "copy-2", "FAILED", failure=no_space("vm-11", "copy-2", "host-a"))
    tale.task(2.0, "copy-2", Task.STATE_SKIPPED)
    tale.moves(3.0, WorkflowState.WORKFLOW_STATE_SUCCEEDED)
    picture = drawn(tale)
    assert str(captions.of_row(picture.rows[1])) == "» skipped after NO_SPACE"
    assert picture.verdict.sentence == "1 task on 1 host took effect; 1 skipped."


def test_where_nothing_has_begun_no_host_is_counted() -> None:
    tale = Tale("vm-12")
    tale.plant("copy-1")
    tale.moves(1.0, WorkflowState.WORKFLOW_STATE_PAUSED)
    picture = drawn(tale)
    assert picture.verdict.sentence == "0 of 1 task done; it is paused."
    assert captions.heading(picture) == "add-vm-from-template vm-12, 0 ms"
    assert "0 hosts" not in svg.draw(picture)


# -- what needs somebody -------------------------------------------------------------------------


def test_failures_that_come_again_are_one_moment() -> None:
    assert [(marker.text, marker.count, marker.at_s) for marker in drawn(blocked()).markers] == [
        ("copy-disk-3: NO_SPACE", 1, 4.1),
        ("↶ copy-disk-1: STORAGE_FAILED", 8, 4.33),
    ]
    assert "STORAGE_FAILED 8 times since 4.3 s" in printed(blocked())


def test_a_blocked_compensation_shows_since_when_and_its_waits() -> None:
    (row,) = drawn(blocked()).lane
    assert row.blocked == pytest.approx((19.33, 95.33))
    assert len(row.waits) == 7
    assert {wait.words for wait in row.waits} == {"waited before the next attempt"}
    text = svg.draw(drawn(blocked()))
    assert "blocked for 1 min 16 s: needs somebody" in text
    assert "! blocked after 8 attempts" in text


def test_what_could_not_be_made_up_for_stands_apart() -> None:
    picture = drawn(blocked())
    (stuck,) = picture.verdict.blocked
    assert (stuck.task_id, stuck.host_id) == ("copy-disk-1", "host-a")
    assert stuck.words == "delete the copy: pool fast answered EIO"
    assert picture.verdict.made_up_for == ()
    text = svg.draw(picture)
    assert "WHAT COULD NOT BE MADE UP FOR" in text
    assert "nothing so far" in text
    assert "WHAT IS LEFT" not in text  # nobody knows before it has ended


def test_what_still_stands_is_named_until_its_turn_has_come() -> None:
    tale = Tale("vm-13")
    for number in (1, 2):
        tale.plant(f"copy-{number}", host="host-a")
        tale.starts(0.0, f"copy-{number}", run_s=0.0)
        tale.ends(number, f"copy-{number}", "SUCCEEDED")
    tale.plant("verify", host="host-a", opposite="")  # nothing makes up for what only reads
    tale.task(2.1, "verify", Task.STATE_SUCCEEDED)
    cause = no_space("vm-13", "attach", "host-b")
    tale.moves(3.0, WorkflowState.WORKFLOW_STATE_COMPENSATING, cause)
    tale.makes_up(3.0, "copy-2")
    assert drawn(tale).verdict.sentence.endswith("Making up for it: 0 of 2 done.")
    tale.ends(4.0, "copy-2", "FAILED", n=2, to=Task.STATE_COMPENSATION_BLOCKED)
    tale.moves(4.0, WorkflowState.WORKFLOW_STATE_BLOCKED)
    picture = drawn(tale)
    assert [fact.task_id for fact in picture.verdict.to_make_up] == ["copy-1"]
    assert picture.verdict.brief.endswith(
        "Somebody must decide. Still to be made up for: copy-1 on host-a."
    )
    assert "still to be: copy-1" in svg.draw(picture)
    tale.moves(5.0, WorkflowState.WORKFLOW_STATE_FAILED)
    assert drawn(tale).verdict.to_make_up == ()  # it was kept


def test_what_waits_for_a_decision_is_said_first() -> None:
    tale = Tale("vm-9")
    for number in (1, 2, 3):
        tale.plant(f"copy-{number}", host="host-a")
    tale.begin()
    for number in (1, 2):
        tale.starts(0.0, f"copy-{number}", run_s=0.0)
        cause = no_space("vm-9", f"copy-{number}", "host-a")
        tale.ends(1.0, f"copy-{number}", "FAILED", failure=cause)
        tale.workflow.needs.add(task=f"workflows/vm-9/tasks/copy-{number}", reason="DECISION")
    held = Intervention(verb="on-failure", principal="policy", reason="copy-1")
    tale.say(1.0, "copy-1", intervention=held)
    tale.moves(1.1, WorkflowState.WORKFLOW_STATE_PAUSED)
    picture = drawn(tale)
    assert picture.verdict.sentence.startswith("copy-1 failed on host-a: ")
    assert picture.verdict.sentence.endswith(
        ". copy-2 on host-a failed, too. 0 of 3 tasks done on 1 host; it is paused."
    )
    marks = [marker.text for marker in picture.markers if marker.kind == "intervention"]
    assert marks == ["copy-1: held by its policy, as it failed"]


def test_all_that_failed_is_named_after_the_cause() -> None:
    tale = Tale("vm-10")
    for name in ("copy-1", "copy-2"):
        tale.plant(name, host="host-a")
    tale.begin()
    for name in ("copy-1", "copy-2"):
        tale.starts(0.0, name, run_s=0.0)
        cause = no_space("vm-10", name, "host-a")
        tale.ends(1.0, name, "FAILED", failure=cause)
    tale.moves(1.1, WorkflowState.WORKFLOW_STATE_COMPENSATED, no_space("vm-10", "copy-1", "host-a"))
    assert drawn(tale).verdict.sentence.endswith(
        ". copy-2 on host-a failed, too. Nothing had taken effect; nothing is left."
    )


def test_retries_get_room_and_no_untrue_remark() -> None:
    picture = drawn(blocked())
    place = scale(picture)
    (row,) = picture.lane
    widths = [place(wait.end_s) - place(wait.start_s) for wait in row.waits]
    assert place(picture.lane_start_s or 0.0) == pytest.approx(0.45)
    assert min(widths) > 0.02
    assert place.remark == "long waits are drawn short"
    assert "wider" not in printed(blocked())


@pytest.mark.parametrize("tries", [5, 8, 60])
def test_many_retries_can_be_drawn(tries) -> None:
    ET.fromstring(svg.draw(drawn(blocked(tries))))
    assert max(map(len, printed(blocked(tries)).splitlines())) <= 110


def test_leftovers_are_named() -> None:
    tale = compensated()
    tale.workflow.state = WorkflowState.WORKFLOW_STATE_FAILED
    leftover = tale.workflow.leftovers.add(host_id="host-a", description="image disk-1")
    leftover.task = "workflows/vm-2/tasks/copy-disk-1"
    verdict = drawn(tale).verdict
    assert verdict.sentence.endswith("1 effect left behind.")
    assert [(fact.task_id, fact.host_id, fact.words) for fact in verdict.left] == [
        ("copy-disk-1", "host-a", "image disk-1")
    ]
    assert "image disk-1" in printed(tale)
    assert "image disk-1" in svg.draw(drawn(tale))


# -- the scale -----------------------------------------------------------------------------------


def test_a_night_of_waiting_does_not_drown_the_run() -> None:
    tale = Tale("vm-6")
    tale.plant("copy", host="host-a")
    tale.begin()
    tale.task(0.0, "copy", Task.STATE_READY, "lock of image disk-1")
    tale.starts(36_000.0, "copy", run_s=36_000.1)
    tale.ends(36_005.0, "copy", "SUCCEEDED")
    tale.moves(36_005.0, WorkflowState.WORKFLOW_STATE_SUCCEEDED)
    place = scale(drawn(tale))
    assert place(36_000.1) < 0.1
    assert place(36_005.0) == pytest.approx(1.0)


def test_a_short_compensation_gets_a_readable_share() -> None:
    tale = Tale("vm-7")
    tale.plant("copy", host="host-a")
    tale.plant("other", host="host-b")
    tale.begin()
    tale.starts(0.0, "copy", run_s=0.0)
    tale.starts(0.0, "other", run_s=0.0)
    tale.ends(500.0, "copy", "SUCCEEDED")
    why = Failure(reason="NO_SPACE", message="Pool fast is full.")
    tale.ends(600.0, "other", "FAILED", failure=why)
    tale.moves(600.0, WorkflowState.WORKFLOW_STATE_COMPENSATING, why)
    tale.makes_up(600.0, "copy")
    tale.ends(600.05, "copy", "SUCCEEDED", n=2, to=Task.STATE_COMPENSATED)
    tale.moves(600.06, WorkflowState.WORKFLOW_STATE_COMPENSATED)
    picture = drawn(tale)
    place = scale(picture)
    assert place(600.06) - place(600.0) == pytest.approx(0.3)
    assert place.magnified > 1000
    assert "times wider" in printed(tale)
    assert "times wider" in printed(tale, 80)


@pytest.mark.parametrize("tale", [succeeded, compensated])
def test_ticks_are_apart_and_places_grow_with_time(tale) -> None:
    place = scale(drawn(tale()))
    places = [place(time_s) for time_s, _ in ticks(place, 0.1)]
    assert len(places) >= 4
    assert all(right - left >= 0.0999 for left, right in itertools.pairwise(places))


def test_ticks_can_be_told_apart_however_late_they_are() -> None:
    words = [words for _, words in ticks(scale(drawn(moved())), 0.1)]
    assert (words[0], "1:03.10" in words) == ("0 s", True)
    assert len(set(words)) == len(words) >= 4


# -- the terminal --------------------------------------------------------------------------------


def test_a_pipe_gets_words_and_glyphs_but_no_colour() -> None:
    text = printed(compensated())
    assert "\x1b" not in text
    for words in (
        "COMPENSATED",
        "✗ NO_SPACE at 86.0 MiB",
        "⊘ stopped at 131 MiB",
        "✓ copied 118 MiB in 2.6 s",
        "never started",
        "compensation",
        "delete the copy",
        "coordinator restarted",
        "nothing is left.",
    ):
        assert words in text, words


@pytest.mark.parametrize("width", [40, 60, 80, 100, 200])
@pytest.mark.parametrize("tale", [succeeded, compensated, paused])
def test_every_width_holds(tale, width: int) -> None:
    lines = printed(tale(), width).splitlines()
    assert max(map(len, lines)) <= width
    assert any("━" in line for line in lines)
    assert all(line == line.rstrip() for line in lines)


def test_a_pause_shows_with_who_ended_it_and_how() -> None:
    """One moment for a resume and all its decisions; a round and a skipped task show, too."""
    tale = drawn(paused())
    asked = [marker.text for marker in tale.markers if marker.kind == "intervention"]
    assert asked == ['resume by ann: "space freed", rerun copy-disk-2, skip copy-disk-3']
    text = printed(paused())
    for words in (
        "├╌",
        "╌‖╌",
        "» skipped",
        "↻ round 2",
        "2 tasks on 2 hosts took effect, 248 MiB copied; 1 skipped.",
    ):
        assert words in text, words
    assert "├╌" not in printed(succeeded())


@pytest.mark.parametrize("width", [60, 80, 100])
def test_the_words_of_a_moment_keep_to_its_line(width: int) -> None:
    """What somebody wrote may be long: it is cut rather than wrapped under something else."""
    [line] = [line for line in printed(paused(), width).splitlines() if "▴" in line]
    assert "resume by ann" in line
    assert line.endswith(("skip copy-disk-3 ▴", "… ▴", "…")), line


# -- the SVG -------------------------------------------------------------------------------------


def test_the_svg_is_self_contained_and_well_formed() -> None:
    text = svg.draw(drawn(compensated()))
    tree = ET.fromstring(text)
    assert tree.tag == f"{SVG}svg"
    assert not re.search(r"<script|@import|@font-face|href|url\((?!#)", text)
    assert "prefers-color-scheme:dark" in text
    numbers = [float(x) for x in re.findall(r' (?:x|y|width|height)="(-?[0-9.]+)"', text)]
    assert min(numbers) >= 0


def test_the_svg_says_to_a_screen_reader_what_it_shows() -> None:
    tree = ET.fromstring(svg.draw(drawn(compensated())))
    lists = [node.get("aria-label") for node in tree.iter() if node.get("role") == "list"]
    assert lists == ["Actions", "Compensations"]
    rows = [node.get("aria-label") for node in tree.iter() if node.get("role") == "listitem"]
    assert rows[-2:] == [
        "compensation of copy-disk-1 on host-a: delete the copy, made up for in 1.6 s",
        "compensation of create-data-disk on host-a: delete the image, made up for in 0.3 s",
    ]
    bars = [node for node in tree.iter() if node.get("role") == "img"]
    assert all(bar.find(f"{SVG}title") is not None for bar in bars)


def test_a_pause_is_hatched() -> None:
    def hatched(tale: Tale) -> int:
        ribbon = [line for line in svg.draw(drawn(tale)).splitlines() if 'height="22"' in line]
        return sum("-hatch)" in line for line in ribbon)

    assert hatched(paused()) == hatched(succeeded()) + 2  # pausing, paused


def test_words_are_escaped() -> None:
    tale = compensated()
    tale.workflow.cause.message = 'Pool <fast> & "slow" is full.'
    ET.fromstring(svg.draw(drawn(tale)))


def test_no_words_of_moments_are_crossed_by_a_line() -> None:
    flags = place_flags([(700, 200), (690, 150), (400, 320)], 1000)
    assert [(flag.level, flag.to_left) for flag in flags] == [(0, False), (1, False), (0, True)]


@pytest.mark.parametrize(
    "moments",
    [
        [(700, 200), (700, 200), (700, 200), (700, 200)],
        [(900, 5000), (10, 5000)],
        [(950, 90), (940, 900), (930, 900), (20, 300)],
    ],
)
def test_moments_that_cannot_be_told_apart_still_get_a_place(moments) -> None:
    flags = place_flags(moments, 1000)
    assert [flag.x for flag in flags] == [x for x, _ in moments]


def test_the_picture_in_the_documentation_is_up_to_date() -> None:
    """COUNTERMAND_REWRITE=1 draws it anew; `make docs` does."""
    text = svg.draw(drawn(compensated()))
    if os.environ.get("COUNTERMAND_REWRITE"):
        PICTURE.parent.mkdir(parents=True, exist_ok=True)
        PICTURE.write_text(text, encoding="utf-8")
    assert PICTURE.read_text(encoding="utf-8") == text


# -- external tasks ------------------------------------------------------------------------------


def test_an_owner_stands_where_a_host_does_and_is_none() -> None:
    """S-V26: parts below what they are parts of; what nobody accepted has never begun."""
    picture = drawn(hybrid())
    assert (picture.hosts, picture.owners) == (("host-a",), ("acme", "engine"))
    shown = [(row.task_id, row.depth, row.host_id, row.verb) for row in picture.rows]
    assert shown == [
        ("coalesce", 0, "host-a", "copy_image"),
        ("clone", 0, "acme", "clone-volume"),
        ("shelf-1", 1, "acme", "copy-shelf"),
        ("shelf-2", 1, "acme", "copy-shelf"),
        ("create-vm", 0, "engine", "create-vm"),
    ]
    assert picture.rows[3].bars == ()
    assert [wait.words for wait in picture.rows[3].waits] == ["waited for acme to accept it"]


def test_what_an_owner_counts_is_never_shown_as_bytes() -> None:
    text = printed(hybrid(), width=130)
    assert "✓ 40 volumes in 2.4 s" in text
    assert "✓ succeeded in 1.7 s" in text  # of hundredths nothing need be said
    assert " B " not in text


def test_both_drawings_say_with_whom() -> None:
    text = " ".join(printed(hybrid(), width=130).split())
    assert "rapid-clone vm-43, 6.9 s, 1 host, 2 owners" in text
    said = "create-vm failed with engine: no host has room. Made up for: clone with acme and"
    assert f"{said} coalesce on host-a; nothing is left." in text
    picture = svg.draw(drawn(hybrid()))
    for words in ("6.9 s on 1 host and with 2 owners", "create-vm with engine", "asking acme"):
        assert words in picture


@pytest.mark.parametrize(
    ("opposite", "whom"), [("asking acme", "acme"), ("people, by its checklist", "people")]
)
def test_what_is_blocked_with_an_owner_says_who_is_waited_for(opposite, whom) -> None:
    tale = Tale("vm-44", kind="rapid-clone")
    owned: dict[str, Any] = {"verb": "acme/clone-volume", "owner_id": "acme", "opposite": opposite}
    tale.plant("clone", kind=Task.KIND_EXTERNAL, **owned)
    tale.begin()
    tale.starts(0.0, "clone", run_s=0.1)
    tale.ends(1.0, "clone", "SUCCEEDED", done=3, unit="volumes")
    tale.moves(1.0, WorkflowState.WORKFLOW_STATE_COMPENSATING, cause=Failure(reason="CANCELLED"))
    tale.makes_up(1.0, "clone")
    tale.task(2.0, "clone", Task.STATE_COMPENSATION_BLOCKED, n=2)
    tale.moves(2.0, WorkflowState.WORKFLOW_STATE_BLOCKED)

    assert f"! blocked: waits for {whom}" in printed(tale)
