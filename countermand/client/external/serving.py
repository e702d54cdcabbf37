"""The loop of an owner: whatever waits is done by the handler of its kind, in any number of lives.

What an earlier life had accepted waits like everything else, and its handler is called again: so a
handler finds what it has made before, by `task.action`. One process at a time serves a kind.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeAlias, TypeGuard, cast

from countermand.client.external.blocking_task import Function, Outputs, on_thread
from countermand.client.external.outcome import TaskFailed, TaskStopped
from countermand.client.external.task import AcceptedTask, CleanUp, Terms
from countermand.client.external.ties import Ties
from countermand.rpc.errors import AttemptClosed
from countermand.v1.external_task_pb2 import ExternalRequest

log = logging.getLogger(__name__)

# As many as a process does at once, of each sort; the others wait without being accepted.
CONCURRENCY_MAX = 16
# After a request that could not be handled for no fault of the work's, such as a bug of ours.
AGAIN_DELAY_S = 1.0
AGAIN_DELAY_S_MAX = 60.0

Coroutine: TypeAlias = Callable[[AcceptedTask], Awaitable[Outputs]]
Work: TypeAlias = Coroutine | Function


@dataclass(frozen=True, slots=True)
class Handler:
    """What an owner does for one kind of task.

    A task that a block adds, by `task.part`, `owner.add` or `owner.workflow`, is begun by that
    block: its kind needs no `start`. It may have to be made up for in a later life, in which the
    code around that block does not run: so, if it has an effect, its kind needs a `compensate`.

    Both may be coroutine functions, which are given an AcceptedTask and are interrupted when they
    are to stop; or functions, which are called on a thread with a BlockingTask and look for
    themselves, by `task.check()`.

    Attributes:
        start: Does the work; returns the outputs, or None for those in `task.outputs`. Called again
            for the same attempt after a crash. None for what only blocks begin.
        compensate: Takes back exactly what the attempt `task.action` did; that nothing is there is
            a success. Called when the owner is asked for it, and besides before work is said to
            have FAILED or to be CANCELLED, so that nothing is left behind: also of a block, unless
            it has a `clean_up` of its own. None for what is READ_ONLY.
    """

    start: Work | None = None
    compensate: Work | None = None

    def __post_init__(self) -> None:
        if self.start is None and self.compensate is None:
            raise ValueError("a Handler does something: give it `start`, `compensate`, or both")


def beside(ties: Ties, terms: Terms, kind: str, *, asks: bool = False) -> Terms:
    """Returns the terms of a block that stands beside a loop: what makes up for its kind cleans up.

    Args:
        ties: Those of the owner.
        terms: As the block was asked for.
        kind: Of the task that the block adds.
        asks: Whether its owner will be asked to make up for it.

    Raises:
        TaskFailed: The loop does not fit, which nobody would see before something goes wrong: it
            would begin the task as well, or nobody would make up for it.
    """
    if not ties.served:
        return terms  # whoever does it all by blocks sees to it
    handler = next((handlers[kind] for handlers in ties.served if kind in handlers), None)
    if asks and (handler is None or handler.compensate is None):
        missing = f"{{{kind!r}: Handler(compensate=...)}}"
        message = f"Nothing here makes up for {kind}: serve {missing} as well."
        raise TaskFailed("NO_COMPENSATION", message)
    is_left_to_block = terms.whole is not None  # of a part, by any loop
    if handler is not None and handler.start is not None and not is_left_to_block:
        message = (
            f"This process serves {kind}, and would begin in its next life what this block adds: "
            "name another kind, whose Handler is without `start`."
        )
        raise TaskFailed("KIND_SERVED", message)
    if handler is None or terms.clean_up is not None:
        return terms
    return replace(terms, clean_up=_clean_up_of(handler))


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

    async def see_to(name: str, handler: Handler) -> None:
        try:
            await _see_to(ties, name, handler, slots)
        finally:
            del running[name]  # at once: else a change that comes now would be passed over

    ties.served.append(handlers)
    try:
        async for name in ties.waiting.changes():
            asked = ties.waiting.offered(name)
            if asked is None or name in running:
                continue
            handler = handlers.get(asked.task_kind)
            if handler is None or not _does(handler, asked):
                if asked.task_kind not in unhandled:
                    unhandled.add(asked.task_kind)
                    log.info("owner.unhandled", extra={"kind": asked.task_kind, "attempt": name})
                continue
            running[name] = asyncio.create_task(see_to(name, handler), name=name)
    finally:
        ties.served.remove(handlers)
        tasks = list(running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _does(handler: Handler, asked: ExternalRequest) -> bool:
    """Returns whether a handler does what is asked, if only to say that it cannot."""
    return asked.kind != ExternalRequest.KIND_START or handler.start is not None


async def _see_to(
    ties: Ties,
    name: str,
    handler: Handler,
    slots: Mapping[ExternalRequest.Kind.ValueType, asyncio.Semaphore],
) -> None:
    """Handles an attempt until it waits no more, or somebody else here works on it."""
    delay_s = AGAIN_DELAY_S
    while (asked := ties.waiting.offered(name)) is not None:
        async with slots[asked.kind]:
            now = ties.waiting.offered(name)
            if now is None or now.kind != asked.kind:
                continue  # while it waited for its turn
            try:
                await _handle(ties, now, handler)
            except (TaskStopped, AttemptClosed):
                ties.waiting.over(name)
                return
            except Exception:  # a vendor's own code, which may raise anything: others go on
                if ties.waiting.offered(name) is None:
                    log.info("owner.failed", extra={"attempt": name}, exc_info=True)
                    return  # it has been said, or its end was refused
                log.exception("owner.again", extra={"attempt": name, "delay_s": delay_s})
            else:
                return
        await asyncio.sleep(delay_s)
        delay_s = min(delay_s * 2, AGAIN_DELAY_S_MAX)


async def _handle(ties: Ties, asked: ExternalRequest, handler: Handler) -> None:
    is_compensation = asked.kind == ExternalRequest.KIND_COMPENSATE
    work = handler.compensate if is_compensation else handler.start
    clean_up = None if is_compensation else _clean_up_of(handler)
    # A thread cannot be interrupted: what runs on one looks for itself.
    interrupt = work is not None and _is_coroutine(work)
    async with AcceptedTask(ties, asked, Terms(clean_up=clean_up, interrupt=interrupt)) as task:
        if work is None:
            message = f"This owner has nothing that makes up for {task.kind}: do it by hand."
            raise TaskFailed("NO_COMPENSATION", message)
        task.outputs.update(await _do(work, task) or {})


def _clean_up_of(handler: Handler) -> CleanUp | None:
    """Returns what leaves nothing behind of the work: what makes up for it finds the same."""
    return None if handler.compensate is None else partial(_do, handler.compensate)


async def _do(work: Work, task: AcceptedTask) -> Outputs:
    if _is_coroutine(work):
        return await work(task)
    return await on_thread(cast("Function", work), task)


def _is_coroutine(work: Work) -> TypeGuard[Coroutine]:
    return inspect.iscoroutinefunction(work)
