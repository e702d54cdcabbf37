"""From time to place: a straight scale, but for two honest bends.

Making up takes milliseconds where copying took minutes, and a lock may be waited for all night. So
the compensation phase always gets a readable share of the width, and stretches in which no attempt
worked are folded. Both are marked in the drawing, and ticks keep the true times. Pure.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import log1p
from typing import Final

from countermand.drawing.model import Timeline

LANE_SHARE_MIN: Final = 0.30  # enough for three deletions and a restart to be told apart
LANE_SHARE_MAX: Final = 0.55  # beyond it the actions are the small ones
FOLD_ABOVE: Final = 0.35  # a quiet stretch longer than this share of the busy time is folded
FOLDED_SHARE: Final = 0.08  # ... to this share of it
RETRIES_MIN: Final = 3  # so many folds in one phase are the waits between retries
WAITED_SHARE: Final = 2.0  # ... which are its story: together they get this much of the busy time
MAGNIFIED_MIN: Final = 1.5  # less is not seen
_EPSILON_S: Final = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A stretch of time that is drawn to one scale."""

    start_s: float
    end_s: float
    weight: float
    folded: bool = False
    in_lane: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """Places between 0 and 1 for times between 0 and the end."""

    pieces: tuple[Piece, ...]
    # Where each piece starts, and 1 at the end.
    starts: tuple[float, ...]

    def __call__(self, time_s: float) -> float:
        """Returns the place of a time."""
        index = bisect_right([piece.start_s for piece in self.pieces], time_s) - 1
        index = max(index, 0)
        piece = self.pieces[index]
        share = (time_s - piece.start_s) / max(piece.end_s - piece.start_s, _EPSILON_S)
        left, right = self.starts[index], self.starts[index + 1]
        return left + (right - left) * min(max(share, 0.0), 1.0)

    @property
    def magnified(self) -> float:
        """Returns how many times wider a second of making up is than one of going forward."""
        rates = {
            lane: sum(piece.weight for piece in pieces)
            / max(sum(piece.end_s - piece.start_s for piece in pieces), _EPSILON_S)
            for lane in (False, True)
            if (pieces := [p for p in self.pieces if p.in_lane is lane and not p.folded])
        }
        return rates[True] / rates[False] if len(rates) == 2 and rates[False] else 1.0  # noqa: PLR2004 - both

    @property
    def remark(self) -> str:
        """Returns how time is drawn while making up, where that differs from going forward."""
        if any(piece.folded and piece.in_lane for piece in self.pieces):
            return "long waits are drawn short"
        if self.magnified >= MAGNIFIED_MIN:
            return f"time is drawn {self.magnified:.0f} times wider"
        if self.magnified <= 1 / MAGNIFIED_MIN:
            return f"time is drawn {1 / self.magnified:.0f} times narrower"
        return ""


def scale(timeline: Timeline) -> Scale:
    """Returns the scale that suits a timeline."""
    end_s = max(timeline.end_s, 0.001)
    turn_s = timeline.lane_start_s
    if turn_s is None or not 0.0 < turn_s < end_s:
        pieces = list(_fold(_busy(timeline, 0.0, end_s), 0.0, end_s))
    else:
        forward = list(_fold(_busy(timeline, 0.0, turn_s), 0.0, turn_s))
        lane = list(_fold(_busy(timeline, turn_s, end_s), turn_s, end_s))
        pieces = _share(forward, [replace(piece, in_lane=True) for piece in lane])
    total = sum(piece.weight for piece in pieces)
    starts = [0.0]
    for piece in pieces:
        starts.append(starts[-1] + piece.weight / total)
    return Scale(pieces=tuple(pieces), starts=tuple(starts))


def ticks(drawn: Scale, share_min: float) -> Iterator[tuple[float, str]]:
    """Yields the beginning and round times in words, at least a share of the width apart."""
    yield 0.0, _tick_words(0.0, 1.0)
    last = 0.0
    for index, piece in enumerate(drawn.pieces):
        if piece.folded:
            continue
        share = drawn.starts[index + 1] - drawn.starts[index]
        step = _round_step(share_min * (piece.end_s - piece.start_s) / max(share, _EPSILON_S))
        number = int(piece.start_s / step + 1 - _EPSILON_S)
        while (time_s := number * step) <= piece.end_s + _EPSILON_S:
            place = drawn(time_s)
            if place - last >= share_min:
                yield time_s, _tick_words(time_s, step)
                last = place
            number += 1


def _busy(timeline: Timeline, start_s: float, end_s: float) -> list[tuple[float, float]]:
    """Returns the stretches within bounds in which at least one attempt worked, merged."""
    bars = sorted(
        (max(bar.start_s, start_s), min(bar.end_s, end_s))
        for bar in timeline.bars
        if bar.end_s >= start_s and bar.start_s <= end_s
    )
    merged: list[tuple[float, float]] = []
    for left, right in bars:
        if merged and left <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], right))
        else:
            merged.append((left, right))
    return merged


def _fold(busy: list[tuple[float, float]], start_s: float, end_s: float) -> Iterator[Piece]:
    """Yields the pieces of one phase, long quiet stretches folded."""
    worked_s = sum(right - left for left, right in busy)
    cut = start_s  # everything before it has been yielded
    quiet = zip(
        [start_s, *(right for _, right in busy)], [*(left for left, _ in busy), end_s], strict=True
    )
    long = [
        (left, right)
        for left, right in quiet
        if worked_s > 0 and right - left > FOLD_ABOVE * worked_s
    ]
    for (left, right), share in zip(long, _shares(long, worked_s), strict=True):
        if left > cut:
            yield Piece(start_s=cut, end_s=left, weight=left - cut)
        yield Piece(start_s=left, end_s=right, weight=share * worked_s, folded=True)
        cut = right
    if end_s > cut:
        yield Piece(start_s=cut, end_s=end_s, weight=end_s - cut)


def _shares(long: list[tuple[float, float]], worked_s: float) -> list[float]:
    """Returns what of the busy time each fold gets: a longer wait looks longer, but not as much."""
    if len(long) < RETRIES_MIN:
        return [FOLDED_SHARE] * len(long)
    weights = [log1p((right - left) / worked_s) for left, right in long]
    return [WAITED_SHARE * weight / sum(weights) for weight in weights]


def _share(forward: list[Piece], lane: list[Piece]) -> list[Piece]:
    """Returns the pieces of both phases, the lane's widened or narrowed to a readable share."""
    ahead, behind = (sum(piece.weight for piece in pieces) for pieces in (forward, lane))
    retried = sum(piece.folded for piece in lane) >= RETRIES_MIN
    least = LANE_SHARE_MAX if retried else LANE_SHARE_MIN
    share = min(max(behind / (ahead + behind), least), LANE_SHARE_MAX)
    factor = ahead * share / (1 - share) / behind
    return forward + [replace(piece, weight=piece.weight * factor) for piece in lane]


def _round_step(step_s: float) -> float:
    """Returns the next round step of time."""
    for unit, steps in ((1.0, (1, 2, 5, 10, 15, 30)), (60.0, (1, 2, 5, 10, 15, 30))):
        if unit == 1.0 and step_s < 1.0:
            break
        for candidate in steps:
            if unit * candidate >= step_s:
                return unit * candidate
    power = 0.001 if step_s < 1.0 else 3600.0
    while True:
        for candidate in (1, 2, 5):
            if power * candidate >= step_s:
                return power * candidate
        power *= 10


def _tick_words(time_s: float, step_s: float) -> str:
    """Returns a time as exactly as its neighbours need to be told from it."""
    if not time_s:
        return "0 s"
    digits = 0 if step_s >= 1 else 1 if step_s >= 0.1 else 2 if step_s >= 0.01 else 3  # noqa: PLR2004
    if step_s < 60 and time_s < 60:  # noqa: PLR2004 - minutes
        return f"{time_s:.{digits}f} s"
    minutes, rest = divmod(round(time_s * 10**digits), 60 * 10**digits)
    hours, minutes = divmod(minutes, 60)
    seconds = f"{rest / 10**digits:0{digits + 3 if digits else 2}.{digits}f}"
    return f"{hours}:{minutes:02}:{seconds}" if hours else f"{minutes}:{seconds}"
