"""What a held workflow needs to go on, worked out whole before anything is changed.

`requirements` says what is needed; `violations` what a request lacks or gets wrong; `changes` what
it would change. Nothing here moves anything: `advance` does, once there are no violations.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from coordinator.saga.spec import Value


class Kind(StrEnum):
    """What kind of thing is needed, or wrong."""

    DECISION = "DECISION"  # a failed task needs a decision
    OUTPUT = "OUTPUT"  # if the task is skipped, this output must be given
    OUTCOME = "OUTCOME"  # its outcome must be known first
    COMPENSATING = "COMPENSATING"  # nothing goes forward any more
    MISFIT = "MISFIT"  # a decision that does not fit its task


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirement:
    """One thing that a resume needs, or that is wrong with one."""

    kind: Kind
    task: int  # -1: the workflow itself
    key: str = ""  # of an output: its path
    type: str = ""  # of an output: "str", "int", "bool", "float"
    consumers: tuple[int, ...] = ()  # of an output: the tasks that are bound to it
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One value that a resume changes."""

    task: int  # -1: the input of the workflow
    key: str
    before: Value
    after: Value
