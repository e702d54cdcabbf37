"""The same for programs of threads: an `Owner` on a thread of its own, and nothing else.

    with BlockingOwner("127.0.0.1:7700", "acme") as owner:
        owner.serve({"clone-volume": Handler(start=clone, compensate=delete)})

Nothing is decided here: every call is one of the asyncio client, waited for.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Self, TypeVar, Unpack

from countermand.client.external import serving
from countermand.client.external.added import Words, WorkflowWords
from countermand.client.external.blocking_task import (
    BlockingBlock,
    BlockingTask,
    CleanUp,
    called,
    waited,
)
from countermand.client.external.owner import FOR_EVER, Owner
from countermand.client.external.task import Block
from countermand.v1.external_task_pb2 import ExternalRequest
from countermand.v1.task_pb2 import Task
from countermand.v1.workflow_pb2 import Workflow

__all__ = ["BlockingOwner", "BlockingTask"]

Value = TypeVar("Value")


class BlockingOwner:
    """What `Owner` is, for any thread; use it in `with`. `Owner` says what everything means.

    Signs of life go on whatever the threads do. A stop does not interrupt a thread: `task.check()`
    and `task.report()` raise TaskStopped. A `clean_up` is a function, which is given a
    BlockingTask.
    """

    def __init__(
        self, address: str | Sequence[str], owner_id: str, *, patience: timedelta = FOR_EVER
    ) -> None:
        """Keeps the address; connects when it is entered."""
        self._owner = Owner(address, owner_id, patience=patience)
        self.address = self._owner.address
        self.owner_id = owner_id
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="owner", daemon=True)

    def __enter__(self) -> Self:
        """Starts the thread, and connects."""
        self._thread.start()
        self._wait(self._owner.__aenter__())
        return self

    def __exit__(self, *error: object) -> None:
        """Disconnects; what is being worked on waits for the next life.

        It returns once no thread works on anything here any more.
        """
        self._wait(_all_left())
        self._wait(self._owner.__aexit__(*error))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _wait(self, what: Coroutine[object, object, Value]) -> Value:
        return waited(what, self._loop)

    def _block(self, block: Block) -> BlockingBlock:
        return BlockingBlock(block, self._loop)

    # -- what waits -----------------------------------------------------------------------------

    def serve(
        self,
        handlers: Mapping[str, serving.Handler],
        *,
        concurrency_max: int = serving.CONCURRENCY_MAX,
    ) -> None:
        """Has everything that waits done by the handler of its kind.

        Until it is interrupted, or another thread leaves the `with`. Either ends once every thread
        that a handler runs on has heard of it: where it looks.
        """
        with suppress(asyncio.CancelledError):
            self._wait(self._owner.serve(handlers, concurrency_max=concurrency_max))

    def requests(self) -> Iterator[ExternalRequest]:
        """Yields what waits and is not worked on here, then whatever is new or has changed."""
        requests = self._owner.requests()
        try:
            while True:
                yield self._wait(_next(requests))
        finally:
            self._wait(requests.aclose())  # type: ignore[attr-defined]

    def accept(self, request: ExternalRequest, *, clean_up: CleanUp | None = None) -> BlockingBlock:
        """Takes on what is asked, to be worked on within a `with`."""
        clean = called(clean_up)
        return self._block(self._owner.accept(request, clean_up=clean, interrupt=False))

    # -- what is added --------------------------------------------------------------------------

    def add(
        self, group: str, kind: str, *, clean_up: CleanUp | None = None, **wanted: Unpack[Words]
    ) -> BlockingBlock:
        """Adds a task to an open group, to be done and ended within a `with`."""
        clean = called(clean_up)
        return self._block(self._owner.add(group, kind, clean_up=clean, interrupt=False, **wanted))

    def add_for(
        self, owner_id: str, parent: str, kind: str, *, token: str = "", **wanted: Unpack[Words]
    ) -> Task:
        """Adds a task that another owner does, and returns it."""
        return self._wait(self._owner.add_for(owner_id, parent, kind, token=token, **wanted))

    # -- workflows of one's own -----------------------------------------------------------------

    def workflow(
        self, workflow_id: str, kind: str, **wanted: Unpack[WorkflowWords]
    ) -> BlockingBlock:
        """Starts a workflow of one's own, to be done and ended within a `with`."""
        return self._block(self._owner.workflow(workflow_id, kind, interrupt=False, **wanted))

    def end_workflow(
        self, workflow_id: str, token: str, *, failure: Exception | None = None, force: bool = False
    ) -> Workflow:
        """Ends a workflow of one's own from outside of its block."""
        return self._wait(
            self._owner.end_workflow(workflow_id, token, failure=failure, force=force)
        )

    def clear_workflow(self, workflow_id: str, token: str) -> None:
        """Removes a settled workflow of one's own before its retention time is over."""
        self._wait(self._owner.clear_workflow(workflow_id, token))


async def _all_left() -> None:
    """Ends whatever other threads wait for, such as a `serve`."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for each in others:
        each.cancel()
    await asyncio.gather(*others, return_exceptions=True)


async def _next(requests: AsyncIterator[ExternalRequest]) -> ExternalRequest:
    return await anext(requests)
