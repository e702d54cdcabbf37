"""An accepted task for programs of threads: the same object, asked from another thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, TypeAlias, TypeVar, Unpack

from countermand.client.external.task import AcceptedTask, Block
from countermand.client.external.task import CleanUp as AsyncCleanUp
from countermand.v1.external_task_pb2 import ExternalRequest

if TYPE_CHECKING:
    from countermand.client.external.added import Words

Value = TypeVar("Value")
Outputs: TypeAlias = Mapping[str, object] | None
Function: TypeAlias = Callable[["BlockingTask"], Outputs]
CleanUp: TypeAlias = Callable[["BlockingTask"], object]


class BlockingTask:
    """What `AcceptedTask` is, for one thread at a time; it says there what everything means."""

    def __init__(self, task: AcceptedTask, loop: asyncio.AbstractEventLoop) -> None:
        """Keeps the task, and the loop that it lives in."""
        self._task = task
        self._loop = loop
        self.attempt = task.attempt
        self.name = task.name
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

    def part(
        self, kind: str, *, clean_up: CleanUp | None = None, **wanted: Unpack[Words]
    ) -> BlockingBlock:
        """Adds a task under this one, to be done and ended within a `with`."""
        block = self._task.part(kind, clean_up=called(clean_up), **wanted)
        return BlockingBlock(block, self._loop)


class BlockingBlock:
    """A `with` around an `async with`; nothing is decided here."""

    def __init__(self, block: Block, loop: asyncio.AbstractEventLoop) -> None:
        """Keeps the block, and the loop that it lives in."""
        self._block = block
        self._loop = loop

    def __enter__(self) -> BlockingTask:
        """Enters the block."""
        return BlockingTask(waited(self._block.__aenter__(), self._loop), self._loop)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Leaves the block as it was left here."""
        waited(self._block.__aexit__(kind, error, traceback), self._loop)


# -- between threads ------------------------------------------------------------------------------


def waited(what: Coroutine[object, object, Value], loop: asyncio.AbstractEventLoop) -> Value:
    """Returns what a coroutine returns, which is run by the loop of another thread.

    Raises:
        asyncio.CancelledError: It was cancelled: this process goes.
    """
    answer: Future[Value] = Future()
    begun: list[asyncio.Task[Value]] = []

    def begin() -> None:
        begun.append(loop.create_task(what))
        begun[0].add_done_callback(partial(_hand_over, answer=answer))

    def stop() -> None:
        begun[0].cancel()

    loop.call_soon_threadsafe(begin)
    try:
        return answer.result()
    except BaseException:
        if not answer.done():  # KeyboardInterrupt or the like, of the thread that waits
            loop.call_soon_threadsafe(stop)
            wait([answer])  # until it has come to its end; a second interrupt leaves it
        raise


def _hand_over(task: asyncio.Task[Value], answer: Future[Value]) -> None:
    """Passes on how a coroutine has ended."""
    if task.cancelled():
        answer.set_exception(asyncio.CancelledError())
    elif (error := task.exception()) is not None:
        answer.set_exception(error)
    else:
        answer.set_result(task.result())


async def on_thread(function: Callable[[BlockingTask], Value], task: AcceptedTask) -> Value:
    """Returns what a function returns, which is called on a thread of its own."""
    loop = asyncio.get_running_loop()
    facade = BlockingTask(task, loop)
    own = ThreadPoolExecutor(max_workers=1)  # while it waits here, others may have to clean up
    doing = loop.run_in_executor(own, copy_context().run, function, facade)
    own.shutdown(wait=False)
    try:
        return await asyncio.shield(doing)
    except asyncio.CancelledError:
        # This process goes: the thread hears of it where it looks, and nothing is said of it.
        task.leave()
        while not doing.done():
            with suppress(asyncio.CancelledError):  # a thread cannot be ended
                await asyncio.wait([doing])
        doing.exception()  # whatever it is: the next life does the work again
        raise


def called(clean_up: CleanUp | None) -> AsyncCleanUp | None:
    """Returns what calls a function on a thread of its own."""
    return None if clean_up is None else partial(on_thread, clean_up)
