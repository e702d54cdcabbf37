"""One attempt of an external task while its owner works on it.

`async with` takes it on, says that it is alive, and ends it: as SUCCEEDED when the body is done, as
FAILED when an exception leaves it, as CANCELLED once it has stopped as it was asked. Both FAILED
and CANCELLED promise that no effect is left behind: `clean_up` is called before they are said, and
without one the body itself must have seen to it. What is no `Exception` (KeyboardInterrupt, a
cancelled asyncio task) means that this process goes: nothing is said, and its next life goes on.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeAlias, Unpack

from countermand.client.external.interrupt import Interrupt
from countermand.client.external.outcome import (
    TaskStopped,
    cut,
    failure_of,
    left_by,
    values_of,
)
from countermand.client.external.part_ids import PartIds
from countermand.client.external.progress import Reports
from countermand.client.external.ties import Ties
from countermand.rpc.errors import (
    AttemptClosed,
    FieldInvalid,
    PayloadTooLarge,
    StateForbids,
)
from countermand.v1.annotation_pb2 import EFFECT_READ_ONLY
from countermand.v1.attempt_pb2 import Progress
from countermand.v1.external_task_pb2 import (
    AcceptExternalTaskRequest,
    EndExternalTaskRequest,
    ExternalRequest,
)

if TYPE_CHECKING:
    from countermand.client.external.added import Words

log = logging.getLogger(__name__)

# What is left behind may need somebody: it is tried again, for as long as that takes.
CLEAN_UP_DELAY_S = 1.0
CLEAN_UP_DELAY_S_MAX = 60.0

CleanUp: TypeAlias = Callable[["AcceptedTask"], Awaitable[object]]


Block: TypeAlias = AbstractAsyncContextManager["AcceptedTask"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """On which terms a block works on a task; `Owner.accept` says what they mean."""

    clean_up: CleanUp | None = None
    interrupt: bool = True
    whole: AcceptedTask | None = None  # what it is a part of


class AcceptedTask:
    """What is asked about one attempt, and what its owner says of it; use it in `async with`."""

    def __init__(self, ties: Ties, request: ExternalRequest, terms: Terms) -> None:
        """Keeps what is asked; nothing is said of it yet."""
        self._ties = ties
        self._terms = terms
        self._whole = terms.whole
        self.request = request
        # Whether an earlier life of this process has accepted it, and may have begun.
        self.resumed = request.accepted
        # Whether it has SUCCEEDED before, or was skipped, of one that is added by a repeat: do
        # nothing. It has its attempt, arguments and outputs; nothing is said of it any more.
        self.done = False
        # What it leaves; later tasks may be bound to it. `request.outputs` says what was promised.
        self.outputs: dict[str, object] = {}
        outer = terms.whole._interrupt if terms.whole else None  # noqa: SLF001 - its own class
        self._interrupt: Interrupt = Interrupt(outer)
        # Set when it is to stop.
        self.stopping = self._interrupt.asked
        self._closed = False  # nobody waits for it any more
        self._left = False  # this process goes, and leaves it to its next life
        self._ending = False
        self._reports = Reports(ties, self)
        self._part_ids = PartIds(request.attempt)

    # -- what is asked --------------------------------------------------------------------------

    @property
    def attempt(self) -> str:
        """Returns the name of this attempt."""
        return self.request.attempt

    @property
    def name(self) -> str:
        """Returns the name of the task, workflows/{workflow}/tasks/{task}."""
        return self.request.attempt.rpartition("/attempts/")[0]

    @property
    def action(self) -> str:
        """Returns the attempt whose effect is meant: in a compensation, the one to make up for.

        Mark with it whatever is made, so that exactly that is found again and taken back.
        """
        return self.request.compensates or self.request.attempt

    @property
    def kind(self) -> str:
        """Returns what to do, in the owner's own words."""
        return self.request.task_kind

    @property
    def arguments(self) -> Mapping[str, str]:
        """Returns the arguments, bindings resolved."""
        return self.request.arguments

    @property
    def left(self) -> dict[str, object]:
        """Returns the outputs of the action, in a compensation; empty if it gave none."""
        return values_of(self.request.output)

    @property
    def is_compensation(self) -> bool:
        """Returns whether it is to make up for an attempt."""
        return self.request.kind == ExternalRequest.KIND_COMPENSATE

    # -- stopping -------------------------------------------------------------------------------

    @property
    def stop_requested(self) -> bool:
        """Returns whether the work is to stop, also because what it is a part of is, or all is."""
        whole = self._whole is not None and self._whole.stop_requested
        return self.stopping.is_set() or whole or self.is_left

    def check(self) -> None:
        """Raises TaskStopped if the work is to stop; call it wherever that is possible."""
        if self.stop_requested:
            raise TaskStopped(self.attempt)

    @property
    def is_left(self) -> bool:
        """Returns whether this process goes, and leaves the work to its next life."""
        whole = self._whole is not None and self._whole.is_left
        return self._left or whole or self._ties.leaving

    def leave(self) -> None:
        """Leaves the work to the next life of this process, where it looks for a stop."""
        self._left = True

    def ask_stop(self) -> None:
        """Hears that it is to stop."""
        if not self.stopping.is_set() and not self._ending:
            self._interrupt.ask()

    def close(self) -> None:
        """Hears that nobody waits for it any more. A compensation goes on: it does no harm."""
        self._closed = True
        if not self.is_compensation:
            self.ask_stop()

    # -- parts ----------------------------------------------------------------------------------

    def part(self, kind: str, *, clean_up: CleanUp | None = None, **wanted: Unpack[Words]) -> Block:
        """Adds a task under this one, to be done and ended within an `async with`.

        async with task.part("copy-metadata", weight=3) as copying:
            copying.report(5, 10, unit="files")

        Args:
            kind: What it is, in the owner's own words.
            clean_up: As of `Owner.accept`; by default what makes up for its kind, if that is served
                here.
            wanted: What else is said of it, see `Words`; its id is "<id of this>.<kind>" unless
                `task_id` says otherwise, and "<id of this>.<kind>-2" of the second one of a kind.
                In every life they are called for in the same order; else give each its `task_id`,
                made of what it is about. Of a later attempt any id ends in its number: ".2".

        Raises:
            TaskFailed: Its `task_id` was said before, of another part in this life. Or it is
                `reversible`, and nothing that is served here makes up for it. It may have to be
                made up for in a later life, in which this block does not run.
        """
        from countermand.client.external.added import part  # noqa: PLC0415 - made of these itself

        terms = Terms(clean_up=clean_up, interrupt=self._terms.interrupt, whole=self)
        words: Words = {**wanted, "task_id": self._part_ids.next(kind, wanted.get("task_id", ""))}
        return part(self._ties, self, kind, words, terms)

    # -- progress -------------------------------------------------------------------------------

    def report(self, done: int, total: int = 0, *, unit: str = "", message: str = "") -> None:
        """Says how far the work is; returns at once. At most two a second are sent, and the last.

        Args:
            done: Work done, in the unit. It never goes back: less than before is not shown until it
                is more again, such as of what a next life has to do anew; the message is.
            total: All the work; 0: not known.
            unit: What is counted, such as "volumes"; said once, it stays. "parts" unless it is
                said; of another unit, progress begins anew.
            message: A word for people, at most 4 KiB.
        """
        if not self.done:  # else there is nobody to tell
            self._reports.say(Progress(done=done, total=total, unit=unit, message=message))

    # -- taking on ------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """Takes the attempt on.

        Raises:
            TaskStopped: It is to be stopped; that was done, and said.
        """
        if self.is_compensation and self._ties.waiting.is_held(self.action):
            # What is to be made up for has not stopped yet. Without a sign of life meanwhile, it is
            # shown as BLOCKED if that takes too long.
            await self._ties.waiting.released(self.action)
        self._ties.waiting.hold(self.attempt, self)
        try:
            with self._interrupt.put_off():
                await self._accept()
                if self.stopping.is_set() and (self._terms.clean_up or not self.resumed):
                    await self._fail(TaskStopped(self.attempt))
                    self.check()
        except BaseException:
            self._let_go()
            raise
        if self._terms.interrupt and not self.is_compensation and not self.stopping.is_set():
            self._interrupt.reach()
        return self

    async def _accept(self) -> None:
        if self.request.kind == ExternalRequest.KIND_CANCEL:
            self.stopping.set()
            return
        request = AcceptExternalTaskRequest(
            attempt=self.attempt, capability_token=self.request.capability_token
        )
        method = self._ties.calls.external_tasks.AcceptExternalTask
        try:
            self.request = (await self._ties.ask(method, request)).request
        except StateForbids:  # it is to be stopped
            self.stopping.set()
        except AttemptClosed:
            self._ties.waiting.over(self.attempt)
            raise TaskStopped(self.attempt, "is over") from None

    # -- ending ---------------------------------------------------------------------------------

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Ends the attempt, unless this process goes."""
        ours = False
        try:
            ours = await self._interrupt.has_caused(error)
            with self._interrupt.put_off():
                if ours:
                    await self._fail(TaskStopped(self.attempt))
                elif error is None:
                    await self._succeed()
                elif isinstance(error, Exception) and not self._is_left_to_next_life(error):
                    await self._fail(error)
        finally:
            self._let_go()
        if ours:
            raise TaskStopped(self.attempt) from None

    def _is_left_to_next_life(self, error: Exception) -> bool:
        return isinstance(error, TaskStopped) and self.is_left and not self.stopping.is_set()

    async def _succeed(self) -> None:
        outputs = {} if self.is_compensation else self.outputs  # nobody could be bound to those
        try:
            output = left_by(outputs, self.request.outputs)
            await self._end(EndExternalTaskRequest(output=output))
        except (FieldInvalid, PayloadTooLarge) as refused:
            # Not what was promised: it has taken effect all the same.
            if self._leaves_nothing:
                await self._fail(refused)
            else:
                await self._stand_still(refused)
            raise

    @property
    def _leaves_nothing(self) -> bool:
        """Returns whether work that is done can be said to have FAILED.

        Of what has an effect that would be a lie, and nobody would look for it any more.
        """
        return self._terms.clean_up is not None or self.request.effect == EFFECT_READ_ONLY

    async def _stand_still(self, refused: FieldInvalid | PayloadTooLarge) -> None:
        """Says that an end was refused, to people too, and leaves the attempt as open as it is.

        The next life of this process, mended, does it anew; or somebody ends it by hand, or cancels
        its workflow.
        """
        log.error("owner.end_refused", extra={"attempt": self.attempt, "why": refused.message})
        self._ties.waiting.refused(self.request)
        self._reports.add(cut(f"It is done, but its end was refused: {refused.message}"))
        await self._reports.flush()

    async def _fail(self, error: Exception) -> None:
        """Says that the work has failed, or stopped as asked; nothing is left behind by then."""
        if self._closed:
            return  # somebody has decided what becomes of it
        if not self.is_compensation:
            await self._cleaned()
        request = EndExternalTaskRequest(failure=failure_of(error))
        is_stop = isinstance(error, TaskStopped) and self.stop_requested
        if is_stop and not self.is_compensation:
            request = EndExternalTaskRequest(cancelled=True)
        try:
            await self._end(request)
        except AttemptClosed as closed:
            log.info("end.late", extra={"attempt": self.attempt, "why": closed.message})
        except (FieldInvalid, PayloadTooLarge) as refused:
            await self._stand_still(refused)

    async def _cleaned(self) -> None:
        """Returns once nothing is left behind of what the body has done."""
        delay_s = CLEAN_UP_DELAY_S
        while self._terms.clean_up is not None and not self._closed:
            try:
                await self._terms.clean_up(self)
            except Exception:  # a vendor's own code, which may raise anything: it must succeed once
                log.exception("clean_up.failed", extra={"attempt": self.attempt})
                await asyncio.sleep(delay_s)
                delay_s = min(delay_s * 2, CLEAN_UP_DELAY_S_MAX)
            else:
                return

    async def _end(self, request: EndExternalTaskRequest) -> None:
        """Ends the attempt; with one report id, however often it must be said."""
        self._ending = True
        await self._reports.flush()
        request.attempt = self.attempt
        request.capability_token = self.request.capability_token
        request.report_id = str(uuid.uuid4())
        await self._ties.ask(self._ties.calls.external_tasks.EndExternalTask, request)
        self._ties.waiting.over(self.attempt)

    def _let_go(self) -> None:
        self._reports.drop()
        self._ties.waiting.let_go(self.attempt)
