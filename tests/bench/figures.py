"""What was measured: several runs of one thing, its goals, and how both are shown.

A figure is the median of its runs, with the lowest and the highest beside it: on a shared machine
the spread says how far the median may be believed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from statistics import median

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table


class Bound(StrEnum):
    """On which side of a goal a figure should be."""

    AT_LEAST = "≥"
    AT_MOST = "≤"


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """What we want of a figure."""

    bound: Bound
    value: float
    note: str = ""  # "with unary calls only"

    def met(self, value: float) -> bool:
        """Returns whether a value is on the right side."""
        return value >= self.value if self.bound is Bound.AT_LEAST else value <= self.value

    def __str__(self) -> str:
        return f"{self.bound} {_short(self.value)}{f' {self.note}' if self.note else ''}"


def at_least(value: float, note: str = "") -> Goal:
    """Returns a goal for what should be high."""
    return Goal(bound=Bound.AT_LEAST, value=value, note=note)


def at_most(value: float, note: str = "") -> Goal:
    """Returns a goal for what should be low."""
    return Goal(bound=Bound.AT_MOST, value=value, note=note)


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One thing, measured several times."""

    name: str
    unit: str
    runs: tuple[float, ...]
    goals: tuple[Goal, ...] = ()

    def __post_init__(self) -> None:
        """Refuses a figure without a run."""
        assert self.runs, self.name

    @property
    def value(self) -> float:
        """Returns the median."""
        return median(self.runs)

    @property
    def missed(self) -> tuple[Goal, ...]:
        """Returns the goals that the median does not reach."""
        return tuple(goal for goal in self.goals if not goal.met(self.value))


def ratio(
    name: str, part: Figure, whole: Figure, factor: float = 1.0, goals: tuple[Goal, ...] = ()
) -> Figure:
    """Returns how much of one figure another is, run by run."""
    pairs = zip(part.runs, whole.runs, strict=True)
    runs = tuple(factor * ours / theirs for ours, theirs in pairs)
    return Figure(name=name, unit="x", runs=runs, goals=goals)


def show(title: str, figures: Sequence[Figure], console: Console) -> None:
    """Draws the figures of one part."""
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    table.add_column("figure", no_wrap=True)
    for name in ("median", "min to max", "runs"):
        table.add_column(name, justify="right", no_wrap=True)
    for name in ("unit", "goal", ""):
        table.add_column(name, no_wrap=True)
    for figure in figures:
        table.add_row(
            figure.name,
            _short(figure.value),
            f"{_short(min(figure.runs))} … {_short(max(figure.runs))}",
            str(len(figure.runs)),
            figure.unit,
            "\n".join(map(str, figure.goals)),
            "\n".join("NOT MET" if goal in figure.missed else "met" for goal in figure.goals),
        )
    console.print(table)


def judge(figures: Iterable[Figure], console: Console) -> None:
    """Says plainly which goals are not met."""
    goals = [(figure, goal) for figure in figures for goal in figure.goals]
    missed = [(figure, goal) for figure, goal in goals if goal in figure.missed]
    console.print(f"{len(goals) - len(missed)} of {len(goals)} goals met.")
    for figure, goal in missed:
        console.print(
            f"  NOT MET  {figure.name}: {_short(figure.value)} {figure.unit}, goal {goal}"
        )


def write(path: Path, machine: dict[str, object], parts: dict[str, Sequence[Figure]]) -> None:
    """Writes all figures as JSON."""
    told = {
        "machine": machine,
        "parts": {part: [_plain(figure) for figure in figures] for part, figures in parts.items()},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(told, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _plain(figure: Figure) -> dict[str, object]:
    return {
        "name": figure.name,
        "unit": figure.unit,
        "median": figure.value,
        "min": min(figure.runs),
        "max": max(figure.runs),
        "runs": figure.runs,
        "goals": [{"goal": str(goal), "met": goal not in figure.missed} for goal in figure.goals],
    }


def _short(value: float) -> str:
    """Returns three digits that count."""
    if abs(value) >= 100 or value == 0:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
