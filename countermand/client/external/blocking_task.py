"""An accepted task for programs of threads: the same object, asked from another thread."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar, Unpack

from countermand.client.external.task import AcceptedTask
from countermand.v1.external_task_pb2 import ExternalRequest

if TYPE_CHECKING:
    from countermand.client.external.added import Words

Value = TypeVar("Value")


class BlockingTask:
    """What `AcceptedTask` is, for one thread at a time; it says there what everything means."""

    def __init__(self, task: AcceptedTask, loop: asyncio.AbstractEventLoop) -> None:
        """Keeps the task, and the loop that it lives in."""
        self._task = task
        self._loop = loop
        self.attempt = task.attempt
        self.action = task.action
        self.kind = task.kind
        self.resumed = task.resumed
        self.done = task.done
        self.outputs = task.outputs
        self.is_compensation = task.is_compensation

    @property
    def request(self) -> ExternalRequest:
        """Returns all that is asked."""
        return self._task.request

    @property
    def arguments(self) -> Mapping[str, str]:
        """Returns the arguments, bindings resolved."""
        return self._task.arguments

    @property
    def left(self) -> dict[str, object]:
        """Returns the outputs of the action, in a compensation; empty if it gave none."""
        return self._task.left

    @property
    def stop_requested(self) -> bool:
        """Returns whether the work is to stop."""
        return self._task.stop_requested

    def check(self) -> None:
        """Raises TaskStopped if the work is to stop: nothing else interrupts a thread."""
        self._task.check()

    def report(self, done: int, total: int = 0, *, unit: str = "", message: str = "") -> None:
        """Says how far the work is; returns at once.

        Raises:
            TaskStopped: The work is to stop.
        """
        self._loop.call_soon_threadsafe(self._report, done, total, unit, message)
        if not self.is_compensation:
            self.check()

    def _report(self, done: int, total: int, unit: str, message: str) -> None:
        self._task.report(done, total, unit=unit, message=message)

    def part(self, kind: str, **wanted: Unpack[Words]) -> BlockingBlock:
        """Adds a task under this one, to be done and ended within a `with`."""
        return BlockingBlock(self._task.part(kind, **wanted), self._loop)


class BlockingBlock:
    """A `with` around an `async with`; nothing is decided here."""

    def __init__(
        self, block: AbstractAsyncContextManager[AcceptedTask], loop: asyncio.AbstractEventLoop
    ) -> None:
        """Keeps the block, and the loop that it lives in."""
        self._block = block
        self._loop = loop

    def __enter__(self) -> BlockingTask:
        """Enters the block."""
        return BlockingTask(self._wait(self._block.__aenter__()), self._loop)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Leaves the block as it was left here."""
        self._wait(self._block.__aexit__(kind, error, traceback))

    def _wait(self, what: Coroutine[object, object, Value]) -> Value:
        return asyncio.run_coroutine_threadsafe(what, self._loop).result()
