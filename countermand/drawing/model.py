"""The timeline of one workflow as plain values: what both renderers draw, and all they know.

Times are seconds since the workflow was accepted. States are the numbers of the protos' enums.
Pure; made by `timeline.py`, drawn by `terminal.py` and `svg.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import Literal

from countermand.drawing import phrases

SegmentKind = Literal["run", "stopping", "unknown"]
# A retry is a failure after which the task is tried again: nothing of the whole fails by it.
MarkerKind = Literal["failure", "retry", "restart", "intervention"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A stretch of an attempt: at work, being stopped, or with an outcome that nobody knows."""

    kind: SegmentKind
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One attempt."""

    number: int
    host_id: str  # or the owner, if it is an external one
    start_s: float
    end_s: float
    state: int
    segments: tuple[Segment, ...]
    done: int = 0
    unit: str = "bytes"
    is_external: bool = False
    reason: str = ""
    message: str = ""
    # For a compensation: the number of the attempt that it makes up for.
    compensates: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """Time before an attempt: for a slot, a lock, a delay, an agent's answer."""

    start_s: float
    end_s: float
    words: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One task or group, in the order of the tree."""

    task_id: str
    depth: int
    state: int
    host_id: str = ""
    verb: str = ""
    opposite: str = ""
    waits: tuple[Wait, ...] = ()
    bars: tuple[Bar, ...] = ()
    is_group: bool = False
    # The round that a group is in, from 1.
    round: int = 0
    is_external: bool = False  # its host is an owner then
    # How many tasks that came to a good end this row stands for, in the place of a task.
    folded: int = 0

    @property
    def places(self) -> tuple[str, ...]:
        """Returns where its attempts were, in their order; or where it is to be, if anywhere."""
        moves = (place for place, _ in groupby(bar.host_id for bar in self.bars))
        return tuple(moves) if self.bars else tuple(filter(None, (self.host_id,)))

    @property
    def where(self) -> str:
        """Returns the same in little room: "host-a → host-b"."""
        return " → ".join(self.places)


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneRow:
    """One task in the compensation lane: what makes up for it, and the attempts at that."""

    task_id: str
    state: int
    host_id: str
    phrase: str
    # Where its effect came to be: the end of the attempt that is made up for.
    effect_s: float
    waits: tuple[Wait, ...]
    bars: tuple[Bar, ...]
    # Since when it needs somebody, and until when; None if it never did.
    blocked: tuple[float, float] | None = None
    is_external: bool = False
    folded: int = 0  # as of a row

    @property
    def where(self) -> str:
        """Returns where it is made up for: its attempts go where their action was."""
        return self.host_id


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """How long the workflow was in one state."""

    state: int
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Marker:
    """A moment that explains the picture."""

    kind: MarkerKind
    at_s: float
    text: str
    task_id: str = ""
    # How often it happened; `at_s` is the first time.
    count: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """One line of how it ended: a task, where, and what became of it."""

    task_id: str
    host_id: str
    words: str
    is_external: bool = False
    state: int = 0  # the task's, of what is made up for

    @property
    def where(self) -> str:
        """Returns where, as the end of some words."""
        return phrases.on(self.host_id, is_owner=self.is_external)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The answer in ten seconds: what failed, where, why, what was made up for, what is left."""

    state: int
    sentence: str
    brief: str = ""  # the sentence, without what somebody must decide
    failed: tuple[Fact, ...] = ()
    made_up_for: tuple[Fact, ...] = ()
    # What could not be made up for so far: somebody must decide about each.
    blocked: tuple[Fact, ...] = ()
    # What took effect and still stands, of one that goes back: its turn is still to come.
    to_make_up: tuple[Fact, ...] = ()
    # Attempts that began and left nothing by themselves: stopped, or failed for certain.
    clean: tuple[Fact, ...] = ()
    left: tuple[Fact, ...] = ()
    # Nothing failed at first: somebody stopped it, and is the first of `failed`.
    is_order: bool = False
    # Somebody said that some of it was made up for by hand, or may have: nobody has looked.
    is_by_hand: bool = False

    @property
    def nothing_left(self) -> str:
        """Returns what is said where nothing is listed as left."""
        return "nothing is known to be left" if self.is_by_hand else "nothing is left"


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """One workflow."""

    workflow_id: str
    kind: str
    end_s: float
    settled: bool
    verdict: Verdict
    phases: tuple[Phase, ...]
    rows: tuple[Row, ...]
    lane: tuple[LaneRow, ...]
    markers: tuple[Marker, ...]

    @property
    def bars(self) -> tuple[Bar, ...]:
        """Returns every attempt, actions first."""
        actions = (bar for row in self.rows for bar in row.bars)
        return (*actions, *(bar for row in self.lane for bar in row.bars))

    @property
    def hosts(self) -> tuple[str, ...]:
        """Returns every host that worked for it, in order of their ids."""
        found = {bar.host_id for bar in self.bars if not bar.is_external}
        return tuple(sorted(found - {""}))

    @property
    def owners(self) -> tuple[str, ...]:
        """Returns every owner that worked for it, in order of their ids."""
        return tuple(sorted({bar.host_id for bar in self.bars if bar.is_external}))

    @property
    def lane_start_s(self) -> float | None:
        """Returns when making up began; None if it never did."""
        starts = [phase.start_s for phase in self.phases if phase.state == COMPENSATING]
        starts += [bar.start_s for row in self.lane for bar in row.bars]
        return min(starts, default=None)


COMPENSATING = 4  # WorkflowState.WORKFLOW_STATE_COMPENSATING; the model knows no protos
# WorkflowState.WORKFLOW_STATE_PAUSING and PAUSED
PAUSES = frozenset({2, 3})
