"""Folds a timeline that is too long to be looked at: what came to a good end stands together.

What failed, is under way, waits or was made up for keeps its row. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Final

from countermand.drawing.model import Bar, LaneRow, Row, Timeline
from countermand.v1.task_pb2 import Task

RUN_MIN: Final = 3  # fewer in a row take no more room than a row that says how many
QUIET: Final = frozenset(
    {Task.STATE_SUCCEEDED, Task.STATE_SKIPPED, Task.STATE_PENDING, Task.STATE_CANCELLED}
)


def folded(timeline: Timeline, rows_max: int) -> Timeline:
    """Returns the timeline with at most so many rows in each part, folded where it must be."""
    rows: Sequence[Row] = timeline.rows
    lane: Sequence[LaneRow] = timeline.lane
    if len(rows) > rows_max:
        rows = tuple(_fold_rows(rows))
    if len(lane) > rows_max:
        lane = tuple(_fold_lane(lane))
    # Whatever is left is news, and still too much to be read: the table of tasks has all of it.
    return replace(timeline, rows=tuple(rows[:rows_max]), lane=tuple(lane[:rows_max]))


def _fold_rows(rows: Sequence[Row]) -> Iterator[Row]:
    for (depth, state), run in groupby(rows, _fold_key):
        together = list(run)
        if state is None or len(together) < RUN_MIN:
            yield from together
            continue
        yield replace(
            together[0],
            depth=depth,
            folded=len(together),
            waits=(),
            bars=_span([bar for row in together for bar in row.bars]),
        )


def _fold_key(row: Row) -> tuple[int, int | None]:
    """Returns what neighbours must share to stand together."""
    quiet = row.state in QUIET and not row.is_group and len(row.bars) <= 1
    return row.depth, row.state if quiet else None


def _fold_lane(rows: Sequence[LaneRow]) -> Iterator[LaneRow]:
    for done, run in groupby(rows, lambda row: row.state == Task.STATE_COMPENSATED):
        together = list(run)
        if not done or len(together) < RUN_MIN:
            yield from together
            continue
        bars = _span([bar for row in together for bar in row.bars])
        yield replace(together[0], folded=len(together), waits=(), bars=bars)


def _span(bars: Sequence[Bar]) -> tuple[Bar, ...]:
    """Returns one bar from the first beginning to the last end."""
    if not bars:
        return ()
    start_s, end_s = min(bar.start_s for bar in bars), max(bar.end_s for bar in bars)
    return (replace(bars[0], start_s=start_s, end_s=end_s, segments=()),)
