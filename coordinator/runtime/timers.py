"""The times that open workflows wait for: each is said once, unless its workflow settles before."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from coordinator.runtime.ports import Clock
from coordinator.saga.commands import SetTimer, Timer
from coordinator.saga.events import TimerFired

# A longer wait is cut here and looked at again: a clock that was set right, or a machine that
# slept, then costs a day at most.
WAIT_S_MAX = 86_400.0

# Said before it is over by the clock, the core would make nothing of it, and wait for ever.
_BY_THE_CLOCK = frozenset({Timer.RUN, Timer.WORKFLOW})

Say = Callable[[str, TimerFired], None]  # (workflow id, fact)


class Timers:
    """Says `TimerFired` when a time has come; a later one of the same timer and task counts."""

    def __init__(self, *, clock: Clock, say: Say) -> None:
        """Keeps its ports; begins without any."""
        self._clock = clock
        self._say = say
        self._waiting: dict[str, dict[tuple[Timer, int], asyncio.TimerHandle]] = {}

    def __len__(self) -> int:
        """Returns how many times are waited for."""
        return sum(len(handles) for handles in self._waiting.values())

    def set(self, workflow_id: str, command: SetTimer) -> None:
        """Waits for a time, in the place of an earlier one of the same timer and task."""
        handles = self._waiting.setdefault(workflow_id, {})
        key = (command.timer, command.task)
        if previous := handles.pop(key, None):
            previous.cancel()
        wait_s = max(0.0, (command.time - self._clock.now()).total_seconds())
        call, due = (self._fire, wait_s) if wait_s <= WAIT_S_MAX else (self.set, WAIT_S_MAX)
        handles[key] = asyncio.get_running_loop().call_later(due, call, workflow_id, command)

    def cancel(self, workflow_id: str) -> None:
        """Waits for nothing of a workflow any more."""
        for handle in self._waiting.pop(workflow_id, {}).values():
            handle.cancel()

    def _fire(self, workflow_id: str, command: SetTimer) -> None:
        if command.timer in _BY_THE_CLOCK and self._clock.now() < command.time:
            self.set(workflow_id, command)
            return
        handles = self._waiting[workflow_id]
        del handles[command.timer, command.task]
        if not handles:
            del self._waiting[workflow_id]
        fired = TimerFired(timer=command.timer, task=command.task, number=command.number)
        self._say(workflow_id, fired)
