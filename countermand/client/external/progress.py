"""Progress on its way to the coordinator: few words of many, and always the last."""

from __future__ import annotations

import asyncio
import logging

from countermand.client.external.heartbeats import Alive
from countermand.client.external.ties import Ties
from countermand.rpc.errors import AttemptClosed, CountermandError
from countermand.v1.attempt_pb2 import Attempt, Progress
from countermand.v1.external_task_pb2 import ReportExternalTaskRequest

log = logging.getLogger(__name__)

# People see no more than two changes a second, and each one is written to a disk.
REPORT_EVERY_S = 0.5


class Reports:
    """What is said of one attempt's progress."""

    def __init__(self, ties: Ties, about: Alive) -> None:
        """Has nothing to say yet."""
        self._ties = ties
        self._about = about
        self._said: Progress | None = None
        self._heard: Progress | None = None  # by the coordinator
        self._sending: asyncio.Task[None] | None = None

    def say(self, progress: Progress) -> None:
        """Takes the latest; returns at once. A unit that was said stays until another is."""
        if not progress.unit and self._said is not None:
            progress.unit = self._said.unit
        self._said = progress
        if self._sending is None or self._sending.done():
            self._sending = asyncio.create_task(self._send_now_and_then())

    def add(self, message: str) -> None:
        """Says something for people beside what was said last."""
        said = Progress()
        said.CopyFrom(self._said or self._about.request.progress)
        said.message = message
        self.say(said)

    async def flush(self) -> None:
        """Returns once the last was sent."""
        if self._sending is not None:
            self._sending.cancel()
            await asyncio.gather(self._sending, return_exceptions=True)
        if self._said is not self._heard:
            await self._send()

    def drop(self) -> None:
        """Says nothing more."""
        if self._sending is not None:
            self._sending.cancel()

    async def _send_now_and_then(self) -> None:
        while self._said is not self._heard:
            await self._send()
            await asyncio.sleep(REPORT_EVERY_S)

    async def _send(self) -> None:
        """Sends the latest, also of what is said while the coordinator is away."""
        said = self._said

        def request() -> ReportExternalTaskRequest:
            nonlocal said
            said = self._said
            asked = self._about.request
            return ReportExternalTaskRequest(
                attempt=asked.attempt, capability_token=asked.capability_token, progress=said
            )

        method = self._ties.calls.external_tasks.ReportExternalTask
        try:
            answer = await self._ties.ask_anew(method, request)
        except AttemptClosed:
            self._about.close()
        except CountermandError as error:  # a word too long must not end hours of work
            name = self._about.request.attempt
            log.warning("report.refused", extra={"attempt": name, "why": error.message})
        else:
            if answer.attempt.state == Attempt.STATE_CANCELLING:
                self._about.ask_stop()
        self._heard = said
