"""Where the words of moments go below the chart, so that no words are crossed by a line. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Final

GAP: Final = 14.0  # between a line and its words, and around words


@dataclass(frozen=True, slots=True)
class Flag:
    """One moment: its line's place, how deep the line goes, the side of its words."""

    x: float
    level: int
    to_left: bool
    # What its words take.
    left: float
    right: float


def place_flags(moments: Sequence[tuple[float, float]], right_max: float) -> list[Flag]:
    """Returns a place for each moment, given its line and the width of its words.

    Takes them from the right; each gets the highest level, and there the right side if it can.
    Where no place is free of crossings, the lowest level is taken: a drawing always ends.
    """
    flags: list[Flag] = []
    for index, (x, width) in enumerate(moments):
        to_come = [other for other, _ in moments[index + 1 :]]
        places = list(_places(x, width, levels=index + 1, right_max=right_max))
        free = (flag for flag in places if _is_free(flag, flags, to_come))
        flags.append(next(free, places[-1]))
    return flags


def _places(x: float, width: float, *, levels: int, right_max: float) -> Iterator[Flag]:
    """Yields where a flag fits, best first; the last one is always there."""
    for level, to_left in product(range(levels + 1), (False, True)):
        left = x - GAP - width if to_left else x - GAP / 2
        right = x + GAP / 2 if to_left else x + GAP + width
        if (left >= 0 and right <= right_max) or level == levels:
            yield Flag(x, level, to_left, left, right)


def _is_free(flag: Flag, flags: Sequence[Flag], to_come: Sequence[float]) -> bool:
    """Returns whether neither words nor lines would cross."""
    for other in flags:
        same = other.level == flag.level and flag.left < other.right and other.left < flag.right
        crossed = other.level >= flag.level and flag.left < other.x < flag.right
        crosses = other.level < flag.level and other.left < flag.x < other.right
        if same or crossed or crosses:
            return False
    return not any(flag.left < x < flag.right for x in to_come)
