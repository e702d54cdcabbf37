"""Effects that were knowingly left on hosts, found from the tasks alone."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Leftover:
    """One effect that stays."""

    task: int
    attempt: int  # 0: of nobody's attempt, what should have been removed is still there
    host: str
    reason: str
    time: datetime
