"""What is said beside, above and about each row and bar: the same words in each rendering."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from countermand.drawing import phrases
from countermand.drawing.model import Bar, LaneRow, Marker, Row, Timeline
from countermand.drawing.words import Look, Tone, attempt_look, task_look, workflow_look
from countermand.v1.attempt_pb2 import Attempt
from countermand.v1.task_pb2 import Task

MADE_UP_FOR: Final = frozenset(
    {
        Task.STATE_COMPENSATING,
        Task.STATE_COMPENSATED,
        Task.STATE_COMPENSATION_BLOCKED,
        Task.STATE_ABANDONED,
    }
)


@dataclass(frozen=True, slots=True)
class Caption:
    """A glyph, some words, and their tone."""

    glyph: str
    words: str
    tone: Tone

    def __str__(self) -> str:
        """Returns glyph and words."""
        return f"{self.glyph} {self.words}".strip()


def heading(timeline: Timeline) -> str:
    """Returns what is drawn: kind, id, duration and hosts."""
    where = phrases.places(len(timeline.hosts), len(timeline.owners))
    about = f"{timeline.kind} {timeline.workflow_id}"
    return ", ".join(filter(None, (about, phrases.duration(timeline.end_s), where)))


def verdict_look(timeline: Timeline) -> Look:
    """Returns how the workflow's state looks."""
    return workflow_look(timeline.verdict.state)


def of_row(row: Row) -> Caption:
    """Returns what became of a task's action; what makes up for it is said in its own lane."""
    if row.is_group:
        words = f"round {row.round}" if row.round > 1 else ""
        return Caption("↻" if words else "", words, "quiet")
    look = task_look(row.state)
    if not row.bars:
        never = row.state in {Task.STATE_CANCELLED, Task.STATE_PENDING}
        return Caption(look.glyph, "never started" if never else look.word, "quiet")
    bar = row.bars[-1]
    if row.state == Task.STATE_SKIPPED:  # how its last attempt ended is not how it stands
        after = f" after {bar.reason}" if bar.state == Attempt.STATE_FAILED and bar.reason else ""
        return Caption(look.glyph, f"{look.word}{after}", look.tone)
    look = attempt_look(bar.state)
    tries = f", attempt {bar.number}" if len(row.bars) > 1 else ""
    return Caption(look.glyph, of_bar(bar, row.verb) + tries, look.tone)


def of_bar(bar: Bar, verb: str) -> str:
    """Returns what one attempt of an action came to."""
    amount = _amount(bar)
    took = phrases.duration(bar.end_s - bar.start_s)
    match bar.state:
        case Attempt.STATE_SUCCEEDED:
            done = " ".join(filter(None, (phrases.did(verb), amount))) or "succeeded"
            return f"{done} in {took}"
        case Attempt.STATE_FAILED:
            return f"{bar.reason or 'failed'}" + (f" at {amount}" if amount else "")
        case Attempt.STATE_CANCELLED:
            return "stopped" + (f" at {amount}" if amount else "")
        case _:
            return attempt_look(bar.state).word + (f", {amount}" if amount else "")


def of_lane_row(row: LaneRow) -> Caption:
    """Returns how the making up for one task stands."""
    look = task_look(row.state)
    if row.state == Task.STATE_COMPENSATION_BLOCKED and row.is_external:
        # Nothing is tried again and again: somebody is waited for.
        people = row.phrase.startswith("people")
        whom = "people" if people else row.host_id
        return Caption(look.glyph, f"blocked: waits for {whom}", look.tone)
    if row.state == Task.STATE_COMPENSATION_BLOCKED:
        tries = phrases.count(len(row.bars), "attempt")
        return Caption(look.glyph, f"blocked after {tries}", look.tone)
    if row.state != Task.STATE_COMPENSATED:
        return Caption(look.glyph, look.word, look.tone)
    took = phrases.duration(row.bars[-1].end_s - row.bars[0].start_s)
    return Caption(look.glyph, f"made up for in {took}", look.tone)


def row_sentence(row: Row) -> str:
    """Returns a row in one sentence, for people who do not see the drawing."""
    if row.folded:
        return f"{row.folded} more that {task_look(row.state).word}"
    if row.is_group:
        again = f", round {row.round}" if row.round > 1 else ""
        return f"group {row.task_id}: {task_look(row.state).word}{again}"
    again = f"; since then {task_look(row.state).word}" if row.state in MADE_UP_FOR else ""
    places = ", then ".join(row.places) or "no host yet"
    where = phrases.on(places, is_owner=row.is_external)
    return f"{row.task_id}{where}: {of_row(row).words}{again}"


def of_marker(marker: Marker) -> str:
    """Returns a moment: what, and when; of one that came again and again, since when."""
    when = phrases.duration(marker.at_s)
    if marker.count > 1:
        return f"{marker.text} {marker.count} times since {when}"
    return f"{marker.text} at {when}"


def lane_sentence(row: LaneRow) -> str:
    """Returns a row of the compensation lane in one sentence."""
    if row.folded:
        return f"{row.folded} more that were made up for"
    about = f"compensation of {row.task_id}{phrases.on(row.host_id, is_owner=row.is_external)}"
    return f"{about}: {row.phrase}, {of_lane_row(row).words}"


def bar_sentence(bar: Bar, row: Row | LaneRow) -> str:
    """Returns an attempt in one sentence, as its tooltip says it."""
    look = attempt_look(bar.state)
    times = f"{phrases.duration(bar.start_s)} to {phrases.duration(bar.end_s)}"
    match row:
        case LaneRow():
            what = f"attempt {bar.number}: {row.phrase}, makes up for attempt {bar.compensates}"
        case _:
            what = f"attempt {bar.number}: {row.verb}"
    amount = f", {_amount(bar)}" if bar.done else ""
    cause = f". {bar.message}" if bar.message else ""
    where = phrases.on(bar.host_id, is_owner=bar.is_external)
    return f"{row.task_id}{where}, {what}, {look.word}, {times}{amount}{cause}"


def _amount(bar: Bar) -> str:
    if bar.unit == phrases.PERCENT and bar.state == Attempt.STATE_SUCCEEDED:
        return ""  # all of it, whatever was said last
    return phrases.amount(bar.done, bar.unit) if bar.done else ""
