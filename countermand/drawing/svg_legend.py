"""The bottom of the SVG: what each texture means; only those that this drawing has. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from countermand.drawing.model import Timeline
from countermand.drawing.svg_parts import number, tag, text, width_of

SWATCH: Final = 26.0
THIN: Final = 7.0
THICK: Final = 12.0


def draw(
    timeline: Timeline, prefix: str, left: float, right: float, top: float
) -> tuple[str, float]:
    """Returns the legend, and the height at which it ends."""
    y = top + 22
    parts = [tag("path", d=f"M{number(left)} {number(top + 2)}H{number(right)}", class_="rule")]
    x = left
    for words, looks, height in _entries(timeline, prefix):
        place = {"x": x, "y": y - 4 - height / 2, "width": SWATCH, "height": height, "rx": 3.0}
        parts += [tag("rect", **place, **looks), text(words, x + SWATCH + 7, y, "small muted")]
        x += SWATCH + 25 + width_of(words, 11.5)
    return tag("g", *parts, aria_hidden="true"), y


def _entries(timeline: Timeline, prefix: str) -> Iterator[tuple[str, dict[str, str], float]]:
    """Yields words, looks and thickness."""
    kinds = {segment.kind for bar in timeline.bars for segment in bar.segments}
    yield "waits", {"fill": f"url(#{prefix}-hatch)"}, THIN
    yield "acts", {"class_": "good"}, THICK
    if timeline.lane:
        yield "acted, since made up for", {"class_": "good faded on-good"}, THICK
        yield "makes up for", {"class_": "made_up dashed on-made_up"}, THICK
    if "stopping" in kinds:
        yield "is being stopped", {"fill": f"url(#{prefix}-stripe)"}, THICK
    if "unknown" in kinds:
        yield "outcome is being asked for", {"class_": "warn dashed on-warn"}, THICK
