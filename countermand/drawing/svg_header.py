"""The top of the SVG: how it ended, for who has ten seconds. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from countermand.drawing import captions, phrases
from countermand.drawing.model import Fact, Timeline, Verdict
from countermand.drawing.svg_parts import escape, fit, lines, tag, text, width_of, wrap
from countermand.drawing.words import Tone, task_look

FACTS_MAX: Final = 3  # per column; the rows below show all
LINE: Final = 18.0


@dataclass(frozen=True, slots=True)
class _Column:
    """One of the questions that the top answers."""

    label: str
    glyph: str
    tone: Tone
    facts: Sequence[Fact]
    otherwise: str
    remark: str = ""
    is_good: bool = True  # that there is none


def draw(timeline: Timeline, left: float, right: float) -> tuple[str, float]:
    """Returns the top, and the height at which the chart begins."""
    look = captions.verdict_look(timeline)
    words = f"{look.glyph} {look.word.upper()}"
    pill = width_of(words, 18) + 20  # capitals are wide
    where = phrases.on_places(len(timeline.hosts), len(timeline.owners))
    about = f"{phrases.duration(timeline.end_s)} {where}".rstrip()
    parts = [
        tag("rect", x=left, y=26, width=pill, height=30, rx=15, class_=look.tone),
        tag(
            "text",
            escape(words),
            x=left + pill / 2,
            y=46,
            text_anchor="middle",
            style="font-size:14px;font-weight:700;fill:var(--on_tone)",
        ),
        text(timeline.workflow_id, left + pill + 16, 47.5, "title"),
        text(timeline.kind, left + pill + 30 + width_of(timeline.workflow_id, 20), 47, "muted"),
        text(about, right, 47, "muted", "end"),
    ]
    if not timeline.verdict.failed:
        said = wrap(timeline.verdict.sentence, right - left, 2)
        parts += [text(line, left, 84 + n * LINE) for n, line in enumerate(said)]
        return lines(parts), 84 + len(said) * LINE + 14
    columns, y = _columns(timeline, left, right)
    return lines([*parts, *columns]), y


def _columns(timeline: Timeline, left: float, right: float) -> tuple[list[str], float]:
    verdict = timeline.verdict
    nothing = "nothing is known to be" if verdict.is_by_hand else "nothing"
    rest = nothing if timeline.settled else "not known before it has ended"
    stuck = (*verdict.blocked, *verdict.left)
    is_open = bool(verdict.blocked or verdict.to_make_up)
    columns = (
        _Column("WHY IT ENDED", "⊘", "warn", verdict.failed, "nothing")
        if verdict.is_order
        else _Column("WHAT FAILED", "✗", "bad", verdict.failed, "nothing"),
        _Column(
            "WHAT WAS MADE UP FOR",
            "↺",
            "made_up",
            verdict.made_up_for,
            "nothing so far" if is_open else "nothing had taken effect",
            _still(verdict),
            is_good=not is_open,
        ),
        _Column("WHAT COULD NOT BE MADE UP FOR", "!", "bad", stuck, "")
        if verdict.blocked
        else _Column(
            "WHAT IS LEFT", "∅", "bad", verdict.left, rest, _stopped(timeline), timeline.settled
        ),
    )
    shares = (0.36, 0.36, 0.28)
    parts: list[str] = []
    bottom = 0.0
    x = left
    for column, share in zip(columns, shares, strict=True):
        width = (right - left) * share
        drawn = list(_column(column, x, width - 22))
        parts += [text(words, x_, y, class_) for words, x_, y, class_ in drawn]
        bottom = max(bottom, *(y for _, _, y, _ in drawn))
        x += width
    return parts, bottom + 32


def _column(column: _Column, x: float, width: float) -> Iterator[tuple[str, float, float, str]]:
    """Yields the lines of one column: words, place, class."""
    y = 88.0
    yield column.label, x, y, "label"
    y += 22
    if not column.facts:
        yield ("✓", x, y, "strong good") if column.is_good else ("▸", x, y, "strong busy")
        yield column.otherwise, x + 18, y, "strong"
        if column.remark:
            for line in wrap(column.remark, width - 18, 2):
                y += LINE
                yield line, x + 18, y, "muted"
        return
    for fact in column.facts[:FACTS_MAX]:
        glyph, tone = _look(column, fact)
        yield glyph, x, y, f"strong {tone}"
        where = fact.where
        yield fit(f"{fact.task_id or 'the workflow'}{where}", width - 18, 13.5), x + 18, y, "strong"
        for line in wrap(fact.words, width - 18, 2):
            y += LINE
            yield line, x + 18, y, "muted"
        y += LINE + 4
    if (more := len(column.facts) - FACTS_MAX) > 0:
        yield f"and {more} more", x + 18, y, "muted"


def _look(column: _Column, fact: Fact) -> tuple[str, Tone]:
    """Returns how a fact looks: as its task, if it says in which state that is."""
    if not fact.state:
        return column.glyph, column.tone
    look = task_look(fact.state)
    return look.glyph, look.tone


def _still(verdict: Verdict) -> str:
    """Returns what took effect and still stands, although all of it is to be made up for."""
    names = [fact.task_id for fact in verdict.to_make_up]
    return f"still to be: {phrases.some(names)}" if names else ""


def _stopped(timeline: Timeline) -> str:
    """Returns what needed no compensation although it had begun, besides what failed."""
    failed = {fact.task_id for fact in timeline.verdict.failed}
    stopped = [fact.task_id for fact in timeline.verdict.clean if fact.task_id not in failed]
    return f"{phrases.listing(stopped)} stopped in time" if stopped else ""
