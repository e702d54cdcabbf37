"""Signs of life: of everything that this process works on, many in one call.

They go on while the work is stopped, cleaned up and ended: an attempt is alive until its end was
answered. Each goes at a third of the attempt's heartbeat timeout, so that two may be lost.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Iterator
from typing import Protocol

from countermand.client.calls import Calls
from countermand.rpc.errors import CountermandError
from countermand.v1.attempt_pb2 import Attempt
from countermand.v1.external_task_pb2 import ExternalRequest, HeartbeatExternalTasksRequest

log = logging.getLogger(__name__)

BEATS_MAX = 1000  # the coordinator's bound of one call
# Of an attempt without a timeout: it is told of a stop that its watch has missed.
BEAT_EVERY_S_MAX = 60.0
# After a call that failed, at most: a restart must not cost an attempt its timeout.
RETRY_DELAY_S_MAX = 1.0
CALL_TIMEOUT_S_MIN = 1.0
CALL_TIMEOUT_S_MAX = 10.0


class Alive(Protocol):
    """Something that is worked on."""

    @property
    def request(self) -> ExternalRequest:
        """Returns what is asked."""
        ...

    def ask_stop(self) -> None:
        """Hears that it is to stop."""
        ...

    def close(self) -> None:
        """Hears that nobody waits for it any more."""
        ...


class Heartbeats:
    """Says that work is alive, and hears what became of it."""

    def __init__(self, calls: Calls) -> None:
        """Has nothing to say yet."""
        self._calls = calls
        self._alive: dict[str, Alive] = {}
        self._due: dict[str, float] = {}
        self._next_s = math.inf  # when the first of them is due
        self._woken = asyncio.Event()

    def add(self, name: str, alive: Alive) -> None:
        """Begins to say that an attempt is alive."""
        self._alive[name] = alive
        self._due[name] = due_s = self._now() + every_s(alive.request)
        if due_s < self._next_s:  # else it is looked at in time
            self._woken.set()

    def drop(self, name: str) -> None:
        """Says so no more."""
        self._alive.pop(name, None)
        self._due.pop(name, None)

    def hurry(self, name: str) -> None:
        """Asks at once what has become of an attempt."""
        if name in self._due:
            self._due[name] = 0.0
            self._woken.set()

    async def run(self) -> None:
        """Sends what is due, until cancelled."""
        while True:
            self._woken.clear()
            self._next_s = min(self._due.values(), default=math.inf)
            try:
                async with asyncio.timeout_at(None if self._next_s == math.inf else self._next_s):
                    await self._woken.wait()
            except TimeoutError:
                await self._send_due()

    async def _send_due(self) -> None:
        names = list(self._take_due())
        for start in range(0, len(names), BEATS_MAX):
            await self._send(names[start : start + BEATS_MAX])

    def _take_due(self) -> Iterator[str]:
        """Yields what is due, and what soon will be: few calls for many attempts."""
        now = self._now()
        for name, due_s in self._due.items():
            interval_s = every_s(self._alive[name].request)
            if due_s <= now + interval_s / 4:
                self._due[name] = now + interval_s
                yield name

    async def _send(self, names: list[str]) -> None:
        request = HeartbeatExternalTasksRequest()
        shortest_s = BEAT_EVERY_S_MAX
        for name in names:
            if (alive := self._alive.get(name)) is not None:
                token = alive.request.capability_token
                request.heartbeats.add(attempt=name, capability_token=token)
                shortest_s = min(shortest_s, every_s(alive.request))
        timeout_s = min(max(shortest_s, CALL_TIMEOUT_S_MIN), CALL_TIMEOUT_S_MAX)
        method = self._calls.external_tasks.HeartbeatExternalTasks
        try:
            answer = await self._calls.unary(method, request, timeout_s=timeout_s)
        except CountermandError as error:
            log.info("heartbeat.failed", extra={"reason": error.reason, "attempts": len(names)})
            soon = self._now() + min(shortest_s, RETRY_DELAY_S_MAX)
            for name in names:
                if name in self._due:
                    self._due[name] = min(self._due[name], soon)
            return
        for each in answer.answers:
            if each.refused:  # the watch shows another token; until then nothing is over
                log.warning("heartbeat.refused", extra={"attempt": each.attempt})
            elif (told := self._alive.get(each.attempt)) is not None:
                _tell(told, each.state)

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()


def _tell(alive: Alive, state: Attempt.State.ValueType) -> None:
    match state:
        case Attempt.STATE_CANCELLING:
            alive.ask_stop()
        case Attempt.STATE_STARTING | Attempt.STATE_RUNNING | Attempt.STATE_UNKNOWN:
            pass  # this very heartbeat brings an UNKNOWN one back to life
        case _:
            alive.close()


def every_s(request: ExternalRequest) -> float:
    """Returns how often an attempt's sign of life is sent."""
    if not request.HasField("heartbeat_timeout"):
        return BEAT_EVERY_S_MAX
    third_s = request.heartbeat_timeout.ToTimedelta().total_seconds() / 3
    return min(third_s, BEAT_EVERY_S_MAX)
