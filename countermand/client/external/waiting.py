"""What waits for one owner, as its watch tells: kept whole over lost connections."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import contextmanager

from grpc.aio import AioRpcError

from countermand.client.calls import Calls
from countermand.client.external.heartbeats import Alive, Heartbeats
from countermand.rpc.errors import CoordinatorUnavailable, CountermandError
from countermand.rpc.interceptors import trace_metadata
from countermand.v1.external_task_pb2 import (
    ExternalRequest,
    WatchExternalTasksRequest,
    WatchExternalTasksResponse,
)

log = logging.getLogger(__name__)


class Waiting:
    """The latest that is asked about each attempt, and what of it this process works on."""

    def __init__(self, calls: Calls, owner_id: str, heartbeats: Heartbeats) -> None:
        """Knows of nothing yet."""
        self._calls = calls
        self._owner_id = owner_id
        self._heartbeats = heartbeats
        self.requests: dict[str, ExternalRequest] = {}
        self._held: dict[str, Alive] = {}
        self._begun_here: set[str] = set()  # tasks that blocks here are about to begin
        self._refused: dict[str, ExternalRequest.Kind.ValueType] = {}  # whose ends were, by attempt
        self._listeners: set[_Listener] = set()
        self._broken: CountermandError | None = None

    # -- what this process works on -------------------------------------------------------------

    def hold(self, name: str, alive: Alive) -> None:
        """Works on an attempt from now on.

        Raises:
            RuntimeError: This process does so already.
        """
        if name in self._held:
            raise RuntimeError(f"{name} is worked on in this process already")
        self._held[name] = alive
        self._heartbeats.add(name, alive)

    def let_go(self, name: str) -> None:
        """Works on an attempt no more; listeners look at it again, if it still waits."""
        self._held.pop(name, None)
        self._heartbeats.drop(name)
        self._tell(name)

    def offered(self, name: str) -> ExternalRequest | None:
        """Returns what is asked about an attempt, if whoever is free may take it on.

        A part is begun by the block that adds it, in its next life too; what another block adds,
        by that one.
        """
        asked = self.requests.get(name)
        if asked is None or name in self._held:
            return None
        if self._refused.get(name) == asked.kind:
            return None
        if asked.kind == ExternalRequest.KIND_START and (asked.part_of or self._is_begun(name)):
            return None
        return asked

    def _is_begun(self, name: str) -> bool:
        return name.rpartition("/attempts/")[0] in self._begun_here

    @contextmanager
    def begun_here(self, task: str) -> Iterator[None]:
        """Keeps a task for the block that adds it, until that holds an attempt of it.

        Raises:
            RuntimeError: Another one does so already.
        """
        if task in self._begun_here:
            raise RuntimeError(f"{task} is worked on in this process already")
        self._begun_here.add(task)
        try:
            yield
        finally:
            self._begun_here.discard(task)

    async def released(self, name: str) -> None:
        """Returns once this process does not work on an attempt."""
        async for _ in self.changes():
            if name not in self._held:
                return

    def is_held(self, name: str) -> bool:
        """Returns whether this process works on an attempt."""
        return name in self._held

    def over(self, name: str) -> None:
        """Hears that an attempt was ended: the watch will say so as well, later."""
        self.requests.pop(name, None)
        self._refused.pop(name, None)

    def refused(self, asked: ExternalRequest) -> None:
        """Hears that an end was refused: begun again, it would end the same. A stop is offered."""
        self._refused[asked.attempt] = asked.kind

    # -- listening ------------------------------------------------------------------------------

    async def changes(self) -> AsyncIterator[str]:
        """Yields the names of what waits, then of what changes, each at least once.

        Raises:
            CountermandError: The watch was refused for good.
        """
        listener = _Listener([*self.requests, *self._held])
        self._listeners.add(listener)
        try:
            while True:
                for name in listener.take():
                    yield name
                if self._broken is not None:
                    raise self._broken
                await listener.woken.wait()
        finally:
            self._listeners.discard(listener)

    def _tell(self, name: str) -> None:
        for listener in self._listeners:
            listener.names[name] = None
            listener.woken.set()

    # -- the watch ------------------------------------------------------------------------------

    async def follow(self) -> None:
        """Watches until cancelled, or refused for good."""
        patience = self._calls.patience()
        while True:
            call = self._calls.external_tasks.WatchExternalTasks(
                WatchExternalTasksRequest(owner_id=self._owner_id), metadata=trace_metadata()
            )
            life = _Life(frozenset(self._held))
            try:
                async for update in call:
                    patience.reset()
                    self._hear(life, update)
                # A server that shuts down may end a watch as if all were said.
                error: CountermandError = CoordinatorUnavailable(address=self._calls.address)
            except AioRpcError as raised:
                error = self._calls.error(raised)
            finally:
                call.cancel()
            try:
                await patience.wait_or_raise(error)
            except CountermandError as final:
                log.error("owner.watch_refused", extra={"reason": final.reason})  # noqa: TRY400
                self._broken = final
                for listener in self._listeners:
                    listener.woken.set()
                return

    def _hear(self, life: _Life, update: WatchExternalTasksResponse) -> None:
        match update.WhichOneof("update"):
            case "request":
                name = update.request.attempt
                life.named.add(name)
                self.requests[name] = update.request
                if (held := self._held.get(name)) is not None:
                    # Another coordinator may ask for another token.
                    held.request.capability_token = update.request.capability_token
                    if update.request.kind == ExternalRequest.KIND_CANCEL:
                        held.ask_stop()
                self._tell(name)
            case "closed":
                life.named.add(update.closed)
                self._closed(update.closed)
            case "bookmark" if not life.is_complete:
                life.is_complete = True
                for name in life.held_before - life.named:
                    self._heartbeats.hurry(name)  # it says for sure what became of it
                for name in self.requests.keys() - life.named - self._held.keys():
                    self._closed(name)

    def _closed(self, name: str) -> None:
        self.over(name)
        if (held := self._held.get(name)) is not None:
            held.close()
        self._tell(name)


class _Life:
    """One connection of the watch."""

    def __init__(self, held_before: frozenset[str]) -> None:
        self.held_before = held_before
        self.named: set[str] = set()
        self.is_complete = False


class _Listener:
    """Somebody who is told which names have changed since."""

    def __init__(self, names: Iterable[str]) -> None:
        self.names: dict[str, None] = dict.fromkeys(names)
        self.woken = asyncio.Event()

    def take(self) -> list[str]:
        names = list(self.names)
        self.names.clear()
        self.woken.clear()
        return names
