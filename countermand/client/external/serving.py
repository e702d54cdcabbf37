"""The loop of an owner: whatever waits is done by the handler of its kind, in any number of lives.

What an earlier life had accepted waits like everything else, and its handler is called again: so a
handler finds what it has made before, by `task.action`. One process at a time serves a kind.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias, TypeGuard, cast

from countermand.client.external.blocking_task import BlockingTask
from countermand.client.external.outcome import TaskFailed, TaskStopped
from countermand.client.external.task import AcceptedTask
from countermand.client.external.ties import Ties
from countermand.rpc.errors import AttemptClosed
from countermand.v1.external_task_pb2 import ExternalRequest

log = logging.getLogger(__name__)

# As many as a process does at once, of each sort; the others wait without being accepted.
CONCURRENCY_MAX = 16
# After a request that could not be handled for no fault of the work's, such as a bug of ours.
AGAIN_DELAY_S = 1.0
AGAIN_DELAY_S_MAX = 60.0

Outputs: TypeAlias = Mapping[str, object] | None
Coroutine: TypeAlias = Callable[[AcceptedTask], Awaitable[Outputs]]
Function: TypeAlias = Callable[[BlockingTask], Outputs]
Work: TypeAlias = Coroutine | Function


@dataclass(frozen=True, slots=True)
class Handler:
    """What an owner does for one kind of task.

    Both may be coroutine functions, which are given an AcceptedTask and are interrupted when they
    are to stop; or functions, which are called on a thread with a BlockingTask and look for
    themselves, by `task.check()`.

    Attributes:
        start: Does the work; returns the outputs, or None for those in `task.outputs`. Called again
            for the same attempt after a crash.
        compensate: Takes back exactly what the attempt `task.action` did; that nothing is there is
            a success. Called when the owner is asked for it, and besides before work is said to
            have FAILED or to be CANCELLED, so that nothing is left behind. None for what is
            READ_ONLY.
    """

    start: Work
    compensate: Work | None = None


async def serve(ties: Ties, handlers: Mapping[str, Handler], concurrency_max: int) -> None:
    """Handles what waits, until cancelled; what is being worked on is then left to the next life.

    Raises:
        CountermandError: The watch was refused for good.
    """
    slots = {
        ExternalRequest.KIND_START: asyncio.Semaphore(concurrency_max),
        ExternalRequest.KIND_COMPENSATE: asyncio.Semaphore(concurrency_max),
        # To stop what an earlier life has begun must not wait behind what begins.
        ExternalRequest.KIND_CANCEL: asyncio.Semaphore(concurrency_max),
    }
    running: dict[str, asyncio.Task[None]] = {}
    unhandled: set[str] = set()
    try:
        async for name in ties.waiting.changes():
            asked = ties.waiting.requests.get(name)
            if asked is None or name in running or ties.waiting.is_held(name):
                continue
            handler = handlers.get(asked.task_kind)
            if handler is None:
                if asked.task_kind not in unhandled:
                    unhandled.add(asked.task_kind)
                    log.info("owner.unhandled", extra={"kind": asked.task_kind, "attempt": name})
                continue
            task = asyncio.create_task(_see_to(ties, name, handler, slots), name=name)
            running[name] = task
            task.add_done_callback(lambda _, name=name: running.pop(name, None))  # type: ignore[misc]
    finally:
        for task in list(running.values()):
            task.cancel()
        await asyncio.gather(*running.values(), return_exceptions=True)


async def _see_to(
    ties: Ties,
    name: str,
    handler: Handler,
    slots: Mapping[ExternalRequest.Kind.ValueType, asyncio.Semaphore],
) -> None:
    """Handles an attempt until it waits no more."""
    delay_s = AGAIN_DELAY_S
    while (asked := ties.waiting.requests.get(name)) is not None:
        async with slots[asked.kind]:
            now = ties.waiting.requests.get(name)
            if now is None or now.kind != asked.kind:
                continue  # while it waited for its turn
            try:
                await _handle(ties, now, handler)
            except (TaskStopped, AttemptClosed):
                ties.waiting.over(name)
                return
            except Exception:
                if name not in ties.waiting.requests:
                    log.info("owner.failed", extra={"attempt": name}, exc_info=True)
                    return  # it has been said
                log.exception("owner.again", extra={"attempt": name, "delay_s": delay_s})
            else:
                return
        await asyncio.sleep(delay_s)
        delay_s = min(delay_s * 2, AGAIN_DELAY_S_MAX)


async def _handle(ties: Ties, asked: ExternalRequest, handler: Handler) -> None:
    compensate = handler.compensate
    is_compensation = asked.kind == ExternalRequest.KIND_COMPENSATE
    work = compensate if is_compensation else handler.start
    clean_up = None
    if compensate is not None and not is_compensation:

        async def clean_up(task: AcceptedTask) -> None:  # the same names, so it is in one place
            await _do(compensate, task)

    # A thread cannot be interrupted: what runs on one looks for itself.
    interrupt = work is not None and _is_coroutine(work)
    async with AcceptedTask(ties, asked, clean_up=clean_up, interrupt=interrupt) as task:
        if work is None:
            message = f"This owner has nothing that makes up for {task.kind}: do it by hand."
            raise TaskFailed("NO_COMPENSATION", message)
        task.outputs.update(await _do(work, task) or {})


async def _do(work: Work, task: AcceptedTask) -> Outputs:
    if _is_coroutine(work):
        return await work(task)
    facade = BlockingTask(task, asyncio.get_running_loop())
    doing = asyncio.ensure_future(asyncio.to_thread(cast("Function", work), facade))
    try:
        return await asyncio.shield(doing)
    except asyncio.CancelledError:
        # This process goes: the thread hears of it where it looks, and nothing is said of it.
        task.leave()
        await asyncio.wait([doing])
        raise


def _is_coroutine(work: Work) -> TypeGuard[Coroutine]:
    return inspect.iscoroutinefunction(work)
