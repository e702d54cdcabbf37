"""Drives a verb's generator: on a thread of its own, or step by step on the event loop.

The generator yields at every place where it may be stopped; there the guard looks at the flag, is
told the progress, and keeps notes. The simulation brings a third executor, on virtual time.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from typing import Protocol, TypeVar, cast

from agent.drivers.driver import ProcessEnds, Step, Steps
from countermand.rpc.errors import CountermandError

T = TypeVar("T")


class Interrupted(Exception):
    """The agent is stopping: the work is left as it is, and found again at the next start."""


class Guard(Protocol):
    """Who watches over the work."""

    def check(self, step: Step) -> None:
        """Takes note of a step; raises to stop the work. May be called on any thread."""
        ...

    async def keep(self, step: Step) -> None:
        """Returns once the step's note is durable, or need not be; raises when we are stopping."""
        ...


class Calls(Protocol):
    """Where functions are called that may take long."""

    async def call(self, function: Callable[[], T]) -> T:
        """Runs a function that may wait for a disk, or be somebody else's."""
        ...


class Executor(Calls, Protocol):
    """Where work is done."""

    async def drive(self, steps: Steps[T], guard: Guard) -> T:
        """Runs a generator to its end and returns what it returns."""
        ...

    def close(self) -> None:
        """Ends the threads; nothing is running any more."""
        ...


async def wait_as_told(step: Step) -> None:
    """Waits as long as a step says."""
    if step.wait_s:
        await asyncio.sleep(step.wait_s)


class InlineExecutor:
    """Does the work on the event loop: for what never waits for a disk, and for tests."""

    def __init__(self, between: Callable[[Step], Awaitable[None]] = wait_as_told) -> None:
        """Awaits `between` after each step; the simulation moves its clock there."""
        self._between = between

    async def drive(self, steps: Steps[T], guard: Guard) -> T:
        """Runs a generator to its end and returns what it returns."""
        with closing(steps):  # left as it is when we are stopping
            try:
                step = next(steps)
                while True:
                    if step.note:
                        await guard.keep(step)
                    await self._between(step)
                    stop = _stop(guard, step)
                    step = next(steps) if stop is None else steps.throw(stop)
            except StopIteration as end:
                value: T = end.value
                return value
            except ProcessEnds:
                raise Interrupted from None

    async def call(self, function: Callable[[], T]) -> T:
        """Runs a function."""
        return function()

    def close(self) -> None:
        """Has nothing to end."""


class ThreadExecutor:
    """Does each piece of work on a thread: copies never run on the event loop."""

    def __init__(self, threads_max: int, *, name: str) -> None:
        """Takes no thread before it is needed."""
        self._pool = ThreadPoolExecutor(threads_max, thread_name_prefix=name)

    async def drive(self, steps: Steps[T], guard: Guard) -> T:
        """Runs a generator to its end and returns what it returns."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, _pump, loop, steps, guard)

    async def call(self, function: Callable[[], T]) -> T:
        """Runs a function that may wait for a disk."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, function)

    def close(self) -> None:
        """Ends the threads."""
        self._pool.shutdown()


class DetachedCalls:
    """Calls functions that may never come back, each on a thread that no end of ours waits for."""

    def __init__(self, name: str) -> None:
        """Takes a thread for each call."""
        self._name = name

    async def call(self, function: Callable[[], T]) -> T:
        """Runs a function."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def deliver(value: T | None, error: BaseException | None) -> None:
            if future.done():
                return  # whoever asked has gone
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(cast("T", value))

        def run() -> None:
            value: T | None = None
            error: BaseException | None = None
            try:
                value = function()
            except StopIteration as raised:  # no future takes one, and whoever asked would wait
                error = RuntimeError(repr(raised))
            except BaseException as raised:  # noqa: BLE001 - it is handed to whoever asked
                error = raised
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(deliver, value, error)

        threading.Thread(target=run, name=self._name, daemon=True).start()
        return await future


def _pump(loop: asyncio.AbstractEventLoop, steps: Steps[T], guard: Guard) -> T:
    with closing(steps):  # left as it is when we are stopping
        try:
            step = next(steps)
            while True:
                if step.note:
                    asyncio.run_coroutine_threadsafe(guard.keep(step), loop).result()
                if step.wait_s:
                    time.sleep(step.wait_s)
                stop = _stop(guard, step)
                step = next(steps) if stop is None else steps.throw(stop)
        except StopIteration as end:
            value: T = end.value
            return value
        except ProcessEnds:
            raise Interrupted from None


def _stop(guard: Guard, step: Step) -> CountermandError | None:
    """Returns the error to stop the work with, if any."""
    try:
        guard.check(step)
    except CountermandError as error:
        return error
    return None
