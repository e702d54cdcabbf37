"""Those who see what has become durable: they count it, or write it into the log.

They stand beside the loop and change nothing. What they are told is small and already done; they
must be as quick as a few additions, since every decision passes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from coordinator.saga.turn import Decision
from coordinator.saga.workflow import Workflow


class Observer(Protocol):
    """Sees what is committed, in its order."""

    def opened(self, workflow: Workflow) -> None:
        """Sees an open workflow as it was found when the coordinator began."""

    def committed(self, decisions: Sequence[Decision], took_s: float) -> None:
        """Sees what one transaction has made durable, and how long that took."""

    def failed(self) -> None:
        """Sees that the store did not take a transaction."""
