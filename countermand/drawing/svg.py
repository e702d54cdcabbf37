"""Draws a timeline as one self-contained SVG: no script, no font, no outside address.

Follows the reader's light or dark scheme. Rows are a list with a sentence each, bars carry a title;
states are words and glyphs, never colour alone. The same timeline always gives the same bytes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from countermand.drawing import captions, phrases, svg_header, svg_legend
from countermand.drawing.captions import Caption
from countermand.drawing.model import (
    PAUSES,
    Bar,
    LaneRow,
    Marker,
    Row,
    Segment,
    Timeline,
    Wait,
)
from countermand.drawing.scale import Scale, scale, ticks
from countermand.drawing.svg_flags import Flag, place_flags
from countermand.drawing.svg_parts import (
    cap,
    css,
    escape,
    fit,
    hatching,
    lines,
    number,
    tag,
    text,
    title,
    width_of,
)
from countermand.drawing.words import Look, Tone, attempt_look, task_look, workflow_look
from countermand.v1.attempt_pb2 import Attempt

WIDTH: Final = 1040.0
MARGIN: Final = 32.0
LANE_LEFT: Final = 14.0
PLOT_LEFT: Final = 286.0
PLOT_RIGHT: Final = 778.0
WORDS_LEFT: Final = 796.0
ROW: Final = 31.0
GROUP_ROW: Final = 25.0
BAR: Final = 16.0
WAIT: Final = 7.0  # waits are thinner than work: they must not drown it
BAR_MIN: Final = 3.0
NOW: Final = 36.0  # what the word takes, and a time beside it
CAP_GAP: Final = 18.0  # so many retries that their glyphs would touch are told by the last


@dataclass(slots=True)
class _Sheet:
    """One drawing under way: measures, and the pen's height."""

    timeline: Timeline
    scale: Scale
    prefix: str
    y: float
    # Where more is said about a task; None in a document of its own.
    link: Callable[[str], str] | None = None

    def x(self, time_s: float) -> float:
        """Returns the place of a time."""
        return PLOT_LEFT + self.scale(time_s) * (PLOT_RIGHT - PLOT_LEFT)


def draw(timeline: Timeline) -> str:
    """Returns the SVG document."""
    prefix = _prefix(timeline)
    header, y = svg_header.draw(timeline, MARGIN, WIDTH - MARGIN)
    sheet = _Sheet(timeline, scale(timeline), prefix, y)
    body = _body(sheet)
    height = sheet.y + 20
    card = tag("rect", x=0.5, y=0.5, width=WIDTH - 1, height=height - 1, rx=14, class_="card")
    parts = [tag("style", css()), hatching(prefix), card, header, *body]
    return _document(sheet, parts, height, width=WIDTH, height=height)


def embedded(timeline: Timeline, link: Callable[[str], str]) -> str:
    """Returns the chart alone, for a page that says in its own words how it ended.

    The page brings the style sheet (`svg_parts.css`), and its width; a task's name leads to more.
    """
    prefix = _prefix(timeline)
    sheet = _Sheet(timeline, scale(timeline), prefix, 10.0, link)
    parts = [hatching(prefix), *_body(sheet)]
    return _document(sheet, parts, sheet.y + 8, left=LANE_LEFT)


def _prefix(timeline: Timeline) -> str:
    """Returns what ids begin with; a file of somebody else's may say anything of a workflow."""
    return "cm-" + re.sub(r"[^A-Za-z0-9._-]", "-", timeline.workflow_id)


def _body(sheet: _Sheet) -> list[str]:
    """Returns everything from the ticks to the legend."""
    top = sheet.y
    chart = list(_chart(sheet))
    bottom = sheet.y
    moments = list(_moments(sheet, top + 22, bottom))
    timeline = sheet.timeline
    legend, sheet.y = svg_legend.draw(timeline, sheet.prefix, MARGIN, WIDTH - MARGIN, sheet.y)
    return [*_lane_ground(sheet, bottom), *moments, *_now(sheet, top + 22, bottom), *chart, legend]


def _document(
    sheet: _Sheet,
    parts: Sequence[str],
    bottom: float,
    left: float = 0.0,
    **attributes: str | float,
) -> str:
    timeline, prefix = sheet.timeline, sheet.prefix
    about = f"{captions.heading(timeline)}: {captions.verdict_look(timeline).word}"
    told = [
        tag("title", escape(about), id=f"{prefix}-title"),
        tag("desc", escape(timeline.verdict.sentence), id=f"{prefix}-desc"),
    ]
    return (
        tag(
            "svg",
            "\n" + lines([*told, *parts]) + "\n",
            xmlns="http://www.w3.org/2000/svg",
            class_="cm",
            role="group",
            aria_labelledby=f"{prefix}-title",
            aria_describedby=f"{prefix}-desc",
            viewBox=f"{number(left)} 0 {number(WIDTH - 2 * left)} {number(bottom)}",
            **attributes,
        )
        + "\n"
    )


def _chart(sheet: _Sheet) -> Iterator[str]:
    yield from _ticks(sheet)
    yield _ribbon(sheet)
    rows = sheet.timeline.rows
    places = {}
    actions = []
    for row in rows:
        places[row.task_id] = sheet.y + ROW / 2
        actions.append(_row(sheet, row))
    yield tag("g", "\n", lines(actions), "\n", role="list", aria_label="Actions")
    if not sheet.timeline.lane:
        return
    yield _lane_head(sheet)
    links, lane = [], []
    for made_up in sheet.timeline.lane:
        links.append(_link(sheet, made_up, places.get(made_up.task_id)))
        lane.append(_lane_row(sheet, made_up))
    yield lines(links)
    yield tag("g", "\n", lines(lane), "\n", role="list", aria_label="Compensations")
    sheet.y += 8


def _ticks(sheet: _Sheet) -> Iterator[str]:
    for time_s, words in ticks(sheet.scale, 0.11):
        x = sheet.x(time_s)
        if not sheet.timeline.settled and x > sheet.x(sheet.timeline.end_s) - NOW:
            continue
        anchor = "start" if x < PLOT_LEFT + 8 else "middle"
        yield text(words, x, sheet.y + 8, "small muted", anchor)
    sheet.y += 18


def _ribbon(sheet: _Sheet) -> str:
    """Returns the states that the workflow went through."""
    middle = sheet.y + 11
    parts = [text("workflow", MARGIN, middle + 4.5, "strong")]
    for phase in sheet.timeline.phases:
        look = workflow_look(phase.state)
        left, right = sheet.x(phase.start_s), sheet.x(phase.end_s)
        about = title(f"{look.word} for {phrases.duration(phase.end_s - phase.start_s)}")
        place = {"x": left + 1, "y": sheet.y, "width": max(right - left - 2, 2.0), "height": 22.0}
        parts.append(tag("rect", about, rx=5, class_=f"{look.tone} tint", **place))
        if phase.state in PAUSES:
            parts.append(tag("rect", rx=5, fill=f"url(#{sheet.prefix}-hatch)", **place))
        words = str(look)
        if width_of(words, 11.5) >= right - left - 12:
            words = look.glyph
        if width_of(words, 11.5) < right - left - 6:
            parts.append(text(words, left + 9, middle + 4, f"small strong {look.tone}"))
    look = captions.verdict_look(sheet.timeline)
    parts.append(text(str(look), WORDS_LEFT, middle + 4.5, f"strong {look.tone}"))
    sheet.y += 32
    return lines(parts)


def _row(sheet: _Sheet, row: Row) -> str:
    height = GROUP_ROW if row.is_group or row.folded else ROW
    middle = sheet.y + height / 2
    left = MARGIN + row.depth * 18
    look = task_look(row.state)
    parts = [title(captions.row_sentence(row))]
    if row.folded:
        parts += _folded(sheet, row.bars, captions.row_sentence(row), left, middle)
    elif row.is_group:
        parts.append(text(fit(row.task_id, 200), left, middle + 4.5, "muted"))
    else:
        parts += _names(sheet, row, look, left, middle)
        parts += [_wait(sheet, wait, middle) for wait in row.waits]
        parts += [_action(sheet, row, bar, middle) for bar in row.bars]
        caption = captions.of_row(row)
        words = fit(str(caption), WIDTH - MARGIN - WORDS_LEFT)
        parts.append(text(words, WORDS_LEFT, middle + 4.5, caption.tone))
    sheet.y += height
    return tag("g", *parts, role="listitem", aria_label=captions.row_sentence(row))


def _folded(
    sheet: _Sheet, bars: Sequence[Bar], about: str, left: float, middle: float
) -> Iterator[str]:
    """Yields what stands for tasks that came to a good end: how many, and when they worked."""
    yield text(fit(about, PLOT_LEFT - left - 12, 11.5), left + 18, middle + 4, "small muted")
    for bar in bars:
        x = sheet.x(bar.start_s)
        width = max(sheet.x(bar.end_s) - x, BAR_MIN)
        place = {"x": x, "y": middle - 3, "width": width, "height": 6.0, "rx": 3.0}
        tone = "made_up" if bar.compensates else "good"
        yield tag("rect", class_=f"{tone} faded on-{tone}", **place)


def _names(
    sheet: _Sheet, row: Row | LaneRow, look: Look | Caption, left: float, middle: float
) -> Iterator[str]:
    """Yields the words on the left: state, task, host."""
    host = fit(row.where, 130 if len(row.where) > len(row.host_id) else 90, 11.5)
    host_left = PLOT_LEFT - 18 - width_of(host, 11.5)
    yield text(look.glyph, left + 6, middle + 4.5, f"strong {look.tone}", "middle")
    name = text(fit(row.task_id, host_left - left - 24), left + 18, middle + 4.5)
    # Whoever has no pointer finds the same link in the table of tasks.
    yield tag("a", name, href=sheet.link(row.task_id), tabindex="-1") if sheet.link else name
    yield text(host, PLOT_LEFT - 18, middle + 4, "small muted", "end")


def _wait(sheet: _Sheet, wait: Wait, middle: float) -> str:
    left, right = sheet.x(wait.start_s), sheet.x(wait.end_s)
    about = f"{wait.words}, {phrases.duration(wait.end_s - wait.start_s)}"
    place = {"x": left, "y": middle - WAIT / 2, "width": max(right - left - 1, 1), "height": WAIT}
    fill = f"url(#{sheet.prefix}-hatch)"
    return tag("rect", title(about), role="img", aria_label=about, rx=1.5, fill=fill, **place)


def _action(sheet: _Sheet, row: Row, bar: Bar, middle: float) -> str:
    look = attempt_look(bar.state)
    faded = row.state in captions.MADE_UP_FOR and bar.state == Attempt.STATE_SUCCEEDED
    classes = f"{look.tone} faded on-{look.tone}" if faded else look.tone
    stretches = [_stretch(sheet, segment, classes, middle) for segment in bar.segments]
    end = cap(look.glyph, look.tone, _end(sheet, bar), middle)
    return _bar(bar, captions.bar_sentence(bar, row), stretches, end)


def _apart(places: Sequence[float]) -> set[int]:
    """Returns which glyphs of outcomes are drawn: the last, and before it what has room."""
    drawn: set[int] = set()
    free = WIDTH
    for index in reversed(range(len(places))):
        if places[index] <= free:
            drawn.add(index)
            free = places[index] - CAP_GAP
    return drawn


def _compensation(sheet: _Sheet, row: LaneRow, bar: Bar, middle: float, *, capped: bool) -> str:
    failed = bar.state == Attempt.STATE_FAILED
    tone: Tone = "bad" if failed else "made_up"
    end = cap("✗" if failed else "↺", tone, _end(sheet, bar), middle)
    classes = f"{tone} dashed on-{tone}"
    stretches = [_stretch(sheet, segment, classes, middle) for segment in bar.segments]
    return _bar(bar, captions.bar_sentence(bar, row), stretches, end if capped else "")


def _end(sheet: _Sheet, bar: Bar) -> float:
    """Returns where the glyph of the outcome goes: never off the start of a short bar."""
    return max(sheet.x(bar.end_s), sheet.x(bar.start_s) + 2)


def _bar(bar: Bar, about: str, stretches: list[str], end: str) -> str:
    """Returns one attempt: its stretches, and the glyph of its outcome once it has one."""
    under_way = bar.state in {Attempt.STATE_RUNNING, Attempt.STATE_STARTING}
    parts = [title(about), *stretches, "" if under_way else end]
    return tag("g", *parts, role="img", aria_label=about)


def _stretch(sheet: _Sheet, segment: Segment, classes: str, middle: float) -> str:
    left, right = sheet.x(segment.start_s), sheet.x(segment.end_s)
    place = {
        "x": left,
        "y": middle - BAR / 2,
        "width": max(right - left, BAR_MIN),
        "height": BAR,
        "rx": 4.0,
    }
    match segment.kind:
        case "run":
            return tag("rect", class_=classes, **place)
        case "stopping":
            return tag("rect", fill=f"url(#{sheet.prefix}-stripe)", **place)
        case "unknown":
            return tag("rect", class_="warn dashed on-warn", **place)


def _lane_head(sheet: _Sheet) -> str:
    sheet.y += 12
    y = sheet.y + 21
    parts = [text("↶ Compensation", MARGIN, y, "strong made_up")]
    if sheet.scale.remark:
        words = f"{sheet.scale.remark} here"
        parts.append(text(words, WIDTH - MARGIN, y, "small muted", "end"))
    words = "each effect is made up for where it was made, in reverse order"
    parts.append(text(words, MARGIN + 134, y, "small muted halo"))
    sheet.y += 32
    return lines(parts)


def _lane_row(sheet: _Sheet, row: LaneRow) -> str:
    middle = sheet.y + ROW / 2
    caption = captions.of_lane_row(row)
    about = captions.lane_sentence(row)
    parts = [title(about)]
    if row.folded:
        parts += _folded(sheet, row.bars, about, MARGIN, middle)
        sheet.y += ROW
        return tag("g", *parts, role="listitem", aria_label=about)
    parts += _names(sheet, row, caption, MARGIN, middle)
    if row.blocked:
        parts.append(_blocked(sheet, row.blocked, middle))
    parts += [_wait(sheet, wait, middle) for wait in row.waits]
    capped = _apart([_end(sheet, bar) for bar in row.bars])
    parts += [
        _compensation(sheet, row, bar, middle, capped=index in capped)
        for index, bar in enumerate(row.bars)
    ]
    took = phrases.duration(row.bars[-1].end_s - row.bars[0].start_s)
    words = caption.words if caption.tone == "bad" else f"{row.phrase}, {took}"
    words = fit(f"{caption.glyph} {words}", WIDTH - MARGIN - WORDS_LEFT)
    parts.append(text(words, WORDS_LEFT, middle + 4.5, caption.tone))
    sheet.y += ROW
    return tag("g", *parts, role="listitem", aria_label=about)


def _blocked(sheet: _Sheet, span: tuple[float, float], middle: float) -> str:
    """Returns the ground of the time in which it needs somebody."""
    left, right = (sheet.x(time_s) for time_s in span)
    about = f"blocked for {phrases.duration(span[1] - span[0])}: needs somebody"
    place = {"x": left, "y": middle - 12, "width": max(right - left, BAR_MIN), "height": 24.0}
    return tag("rect", title(about), role="img", aria_label=about, class_="bad tint", **place)


def _link(sheet: _Sheet, row: LaneRow, from_y: float | None) -> str:
    """Returns the thread from an effect to what makes up for it.

    It runs along the row's own free time and then straight down: by then every action is at rest,
    so it crosses none.
    """
    if from_y is None or row.folded:
        return ""
    left, x = sheet.x(row.effect_s) + 9, sheet.x(row.bars[0].start_s)
    bend = max(x - 6, left)
    down = sheet.y + ROW / 2 - BAR / 2
    start = f"M{number(left)} {number(from_y)}"
    corner = f"H{number(bend)}Q{number(x)} {number(from_y)} {number(x)} {number(from_y + 6)}"
    return tag("path", d=f"{start}{corner}V{number(down)}", class_="link")


def _lane_ground(sheet: _Sheet, bottom: float) -> Iterator[str]:
    """Yields the ground of the compensation lane."""
    rows = len(sheet.timeline.lane)
    if rows:
        height = rows * ROW + 40
        width = WIDTH - 2 * LANE_LEFT
        place = {"x": LANE_LEFT, "y": bottom - height, "width": width, "height": height}
        yield tag("rect", rx=10, class_="lane", **place)


def _moments(sheet: _Sheet, top: float, bottom: float) -> Iterator[str]:
    """Yields a line through the chart per moment, and its words below."""
    markers = sorted(sheet.timeline.markers, key=lambda marker: marker.at_s, reverse=True)
    words = [captions.of_marker(marker) for marker in markers]
    flags = place_flags(
        [
            (sheet.x(marker.at_s), width_of(said, 11.5))
            for marker, said in zip(markers, words, strict=True)
        ],
        WIDTH - MARGIN / 2,
    )
    for marker, said, flag in zip(markers, words, flags, strict=True):
        yield _moment(marker, said, flag, top, bottom + 17 + flag.level * 18)
    levels = 1 + max((flag.level for flag in flags), default=-1)
    sheet.y = bottom + 18 * levels + 8


def _now(sheet: _Sheet, top: float, bottom: float) -> Iterator[str]:
    """Yields the line of now, where what is drawn goes on."""
    if sheet.timeline.settled:
        return
    x = sheet.x(sheet.timeline.end_s)
    yield tag("path", d=f"M{number(x)} {number(top - 14)}V{number(bottom)}", class_="now")
    yield text("now", x, top - 16, "small strong busy", "middle")


def _moment(marker: Marker, words: str, flag: Flag, top: float, y: float) -> str:
    tone: Tone = "bad" if marker.kind == "failure" else "warn"
    glyph = "✗" if marker.kind == "failure" else "▴"
    x = flag.x
    line = tag("path", d=f"M{number(x)} {number(top)}V{number(y - 10)}", class_=f"moment on-{tone}")
    side = (x - 10, "end") if flag.to_left else (x + 10, "start")
    room = x - 10 if flag.to_left else WIDTH - MARGIN / 2 - x - 10
    said = text(fit(words, room, 11.5), side[0], y, f"small {tone}", side[1])
    return line + text(glyph, x, y + 0.5, f"small strong {tone}", "middle") + said
