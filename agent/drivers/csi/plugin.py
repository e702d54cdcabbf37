"""A CSI plug-in behind its socket: asked with a deadline each time, and what its answers mean.

    pending   it still works on just that, or its answer got lost: ask the same again, for as long
              as whoever wants it does
    away      it cannot be reached: ask the same again for a while
    broken    it has a fault: ask the same again a few times; many say so of whatever they refuse
    refused   it has not done it, and says why

Anything but what was refused may have taken effect all the same. What is made is asked for by
its name, so asking again never makes it twice: that is the interface's own promise.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol, TypeVar

import grpc

from agent.drivers.csi.v1.csi_pb2_grpc import ControllerStub, IdentityStub, NodeStub
from agent.drivers.driver import Step, Steps
from countermand.rpc.errors import CountermandError, ImageInUse, StorageFailed

log = logging.getLogger(__name__)

# One call; a plug-in that needs longer goes on by itself, and says ABORTED when asked meanwhile.
CALL_S = 60.0

# And one of somebody who has no patience at all.
CALL_S_MIN = 1.0

# Who fails so often in a row means it.
BROKEN_MAX = 3

# The longest wait for an answer between two looks at whether it is still wanted.
LOOK_S = 0.2

# Between two calls, growing: an array that is busy is not made busier.
PAUSE_S, PAUSE_S_MAX = 0.05, 2.0

# Waits are cut into pieces, so that nobody waits long to be heard.
PIECE_S = 0.25

CHANNEL_OPTIONS = (
    # A plug-in that was restarted is found at once.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # Nobody else's socket is used, whatever the environment says of proxies.
    ("grpc.enable_http_proxy", 0),
)


class Kind(StrEnum):
    """What an answer that is no success means."""

    PENDING = "PENDING"
    AWAY = "AWAY"
    BROKEN = "BROKEN"
    REFUSED = "REFUSED"


KINDS: Mapping[grpc.StatusCode, Kind] = {
    grpc.StatusCode.ABORTED: Kind.PENDING,
    grpc.StatusCode.DEADLINE_EXCEEDED: Kind.PENDING,
    grpc.StatusCode.CANCELLED: Kind.AWAY,
    grpc.StatusCode.UNAVAILABLE: Kind.AWAY,
    grpc.StatusCode.DATA_LOSS: Kind.BROKEN,
    grpc.StatusCode.INTERNAL: Kind.BROKEN,
    grpc.StatusCode.UNKNOWN: Kind.BROKEN,
}


class Answer(Exception):
    """A plug-in did not do what it was asked for."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        """Keeps what it said."""
        self.code = code
        self.details = details
        super().__init__(f"{code.name}: {details}")

    @property
    def kind(self) -> Kind:
        """Returns what it means."""
        return KINDS.get(self.code, Kind.REFUSED)


class NotSettled(StorageFailed):
    """Pool {pool} answered {error} while working on {image}: look at the storage."""

    kind = Kind.AWAY

    def as_failed(self) -> StorageFailed:
        """Returns the error that says the same of an attempt that has ended."""
        return StorageFailed(**self.metadata)


class StillWritten(ImageInUse):
    """{image} in pool {pool} may still be written to by {holder} ({why}).

    Start the agent there again; once that machine is off for good, or was started anew, empty
    `nodes` in {record}, and try again.
    """


T = TypeVar("T")
R = TypeVar("R")
T_co = TypeVar("T_co", covariant=True)


class Call(Protocol[T_co]):
    """A call that is under way."""

    def result(self, timeout: float | None = None) -> T_co:
        """Returns the answer."""
        ...


# Sends a request, with a deadline in seconds.
Send = Callable[[float], Call[T]]


class Patience:
    """How long somebody goes on asking the same; counted in waits, so that it needs no clock."""

    def __init__(self, left_s: float, *, pending_counts: bool) -> None:
        """Begins with all of it."""
        self._left_s = left_s
        self._broken = 0
        self._pending_counts = pending_counts

    def bears(self, answer: Answer, pause_s: float) -> bool:
        """Returns whether to ask again after a pause."""
        match answer.kind:
            case Kind.REFUSED:
                return False
            case Kind.BROKEN:
                self._broken += 1
                return self._broken < BROKEN_MAX
            case Kind.PENDING if not self._pending_counts:
                return True
            case Kind.PENDING | Kind.AWAY:
                self._left_s -= pause_s
                return self._left_s > 0


class Plugin:
    """One plug-in; used from several threads."""

    def __init__(
        self, pool_id: str, socket: Path, *, secrets: Mapping[str, str], patience_s: float
    ) -> None:
        """Connects when it is first asked."""
        self.pool_id = pool_id
        self.secrets = dict(secrets)
        self._patience_s = patience_s
        channel = grpc.insecure_channel(f"unix:{socket}", options=CHANNEL_OPTIONS)
        self.identity = IdentityStub(channel)
        self.controller = ControllerStub(channel)
        self.node = NodeStub(channel)

    def steps(self, send: Send[T]) -> Steps[T]:
        """Asks until there is an answer that counts, stoppable all the while.

        Who is stopped waits for the call that is under way: what it does is not to come after what
        makes up for it.

        Raises:
            Answer: The plug-in refuses, or is away for too long.
        """
        patience = Patience(self._patience_s, pending_counts=False)
        for pause_s in pauses():
            try:
                return (yield from _follow(send(CALL_S)))
            except Answer as answer:
                if not patience.bears(answer, pause_s):
                    raise
            yield from waiting(pause_s)
        raise AssertionError("pauses never end")

    def ask(self, send: Send[T], *, patience_s: float | None = None) -> T:
        """Asks for as long as there is patience; for what must not be stopped.

        Raises:
            Answer: The plug-in refuses, or has not done it so far.
        """
        allowed_s = self._patience_s if patience_s is None else patience_s
        patience = Patience(allowed_s, pending_counts=True)
        for pause_s in pauses():
            try:
                return _result(send(min(CALL_S, max(allowed_s, CALL_S_MIN))))
            except Answer as answer:
                if not patience.bears(answer, pause_s):
                    raise
            time.sleep(pause_s)
        raise AssertionError("pauses never end")

    def failed(self, answer: Answer, image: str) -> CountermandError:
        """Returns our error for what a plug-in refused, or could not be asked."""
        return StorageFailed(pool=self.pool_id, error=str(answer), image=image)

    def not_settled(self, answer: Answer, image: str) -> NotSettled:
        """Returns the error that says that an effect may be there, or still come."""
        error = NotSettled(pool=self.pool_id, error=str(answer), image=image)
        error.kind = answer.kind
        return error


def sending(method: grpc.UnaryUnaryMultiCallable[R, T], request: R) -> Send[T]:
    """Returns what sends a request."""
    return lambda timeout_s: method.future(request, timeout=timeout_s)


def _result(call: Call[T], timeout_s: float | None = None) -> T:
    try:
        return call.result(timeout_s)
    except grpc.FutureTimeoutError:
        raise
    except grpc.RpcError as error:
        said: Any = error  # the errors of calls are calls too, which their type does not say
        raise Answer(said.code(), said.details() or "") from error


def _follow(call: Call[T]) -> Steps[T]:
    """Waits for the answer to a call; who is stopped waits all the same, and is told it no more."""
    while True:
        try:
            return _result(call, LOOK_S)
        except grpc.FutureTimeoutError:
            pass
        try:
            yield Step()
        except CountermandError:
            with suppress(Answer):
                _result(call)
            raise


def pauses() -> Iterator[float]:
    """Yields the seconds between two calls, for ever."""
    pause_s = PAUSE_S
    while True:
        yield pause_s
        pause_s = min(2 * pause_s, PAUSE_S_MAX)


def waiting(wait_s: float) -> Steps[None]:
    """Waits on the work's own thread: to whoever looks out for a stall, nothing moves meanwhile."""
    while wait_s > 0:
        time.sleep(min(wait_s, PIECE_S))
        wait_s -= PIECE_S
        yield Step()
