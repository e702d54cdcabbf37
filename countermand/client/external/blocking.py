"""The same for programs of threads: an `Owner` on a thread of its own, and nothing else.

    with BlockingOwner("127.0.0.1:7700", "acme") as owner:
        owner.serve({"clone-volume": Handler(start=clone, compensate=delete)})

Nothing is decided here: every call is one of the asyncio client, waited for.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping
from datetime import timedelta
from types import TracebackType
from typing import Self, TypeVar, Unpack

from countermand.client.external import serving
from countermand.client.external.added import Words
from countermand.client.external.blocking_task import BlockingBlock, BlockingTask
from countermand.client.external.owner import FOR_EVER, Owner
from countermand.v1.external_task_pb2 import ExternalRequest

__all__ = ["BlockingOwner", "BlockingTask"]

Value = TypeVar("Value")


class BlockingOwner:
    """What `Owner` is, for any thread; use it in `with`. `Owner` says what everything means.

    Signs of life go on whatever the threads do. A stop does not interrupt a thread: `task.check()`
    and `task.report()` raise TaskStopped.
    """

    def __init__(self, address: str, owner_id: str, *, patience: timedelta = FOR_EVER) -> None:
        """Keeps the address; connects when it is entered."""
        self._owner = Owner(address, owner_id, patience=patience)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="owner", daemon=True)

    def __enter__(self) -> Self:
        """Starts the thread, and connects."""
        self._thread.start()
        self._wait(self._owner.__aenter__())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Disconnects; what is being worked on waits for the next life."""
        self._wait(self._owner.__aexit__(kind, error, traceback))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _wait(self, what: Coroutine[object, object, Value]) -> Value:
        future = asyncio.run_coroutine_threadsafe(what, self._loop)
        try:
            return future.result()
        except BaseException:  # such as KeyboardInterrupt, of the thread that waits
            future.cancel()
            raise

    def serve(
        self,
        handlers: Mapping[str, serving.Handler],
        *,
        concurrency_max: int = serving.CONCURRENCY_MAX,
    ) -> None:
        """Has everything that waits done by the handler of its kind, until interrupted."""
        self._wait(self._owner.serve(handlers, concurrency_max=concurrency_max))

    def requests(self) -> Iterator[ExternalRequest]:
        """Yields what waits and is not worked on here, then whatever is new or has changed."""
        requests = self._owner.requests()
        try:
            while True:
                yield self._wait(_next(requests))
        finally:
            self._wait(requests.aclose())  # type: ignore[attr-defined]

    def accept(self, request: ExternalRequest) -> BlockingBlock:
        """Takes on what is asked, to be worked on within a `with`."""
        return BlockingBlock(self._owner.accept(request, interrupt=False), self._loop)

    def add(self, group: str, kind: str, **wanted: Unpack[Words]) -> BlockingBlock:
        """Adds a task to an open group, to be done and ended within a `with`."""
        return BlockingBlock(self._owner.add(group, kind, interrupt=False, **wanted), self._loop)

    def workflow(
        self,
        workflow_id: str,
        kind: str,
        *,
        description: str = "",
        labels: Mapping[str, str] | None = None,
        heartbeat_timeout: timedelta | None = None,
        auto_clear: bool = True,
    ) -> BlockingBlock:
        """Starts a workflow of one's own, to be done and ended within a `with`."""
        block = self._owner.workflow(
            workflow_id,
            kind,
            description=description,
            labels=labels,
            heartbeat_timeout=heartbeat_timeout,
            auto_clear=auto_clear,
            interrupt=False,
        )
        return BlockingBlock(block, self._loop)


async def _next(requests: AsyncIterator[ExternalRequest]) -> ExternalRequest:
    return await anext(requests)
