"""How the client calls: deadlines, typed errors, trace context, and patience with a restart.

Patience is only for what is safe to repeat: reads, watches that resume by sequence, submits and
forks, which the new workflow's id makes harmless, and the verbs, whose request ids are remembered.
It ends: a coordinator that stays away becomes an error.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

from google.protobuf.message import Message
from grpc import StatusCode
from grpc.aio import AioRpcError, Channel

from countermand.client.shown import show, show_error
from countermand.rpc import status
from countermand.rpc.channel import CHANGE_TIMEOUT_S, READ_TIMEOUT_S, open_channel
from countermand.rpc.errors import (
    Busy,
    CoordinatorUnavailable,
    CountermandError,
    HostUnreachable,
    WatcherTooSlow,
)
from countermand.rpc.interceptors import trace_metadata
from countermand.v1.workflow_pb2_grpc import WorkflowServiceStub

if TYPE_CHECKING:
    from countermand.v1.doctor_pb2_grpc import DoctorServiceAsyncStub
    from countermand.v1.external_task_pb2_grpc import ExternalTaskServiceAsyncStub
    from countermand.v1.host_pb2_grpc import HostServiceAsyncStub
    from countermand.v1.webhook_pb2_grpc import WebhookServiceAsyncStub

log = logging.getLogger(__name__)

# A restart takes a second or two; the first try again should not wait for the last.
RETRY_DELAY_S = 0.1
RETRY_DELAY_S_MAX = 5.0

# Whether it is over or was never heard is not known: ask again where asking is harmless.
_WORTH_ASKING_AGAIN = (StatusCode.UNAVAILABLE, StatusCode.DEADLINE_EXCEEDED)

Request_contra = TypeVar("Request_contra", contravariant=True)
Answer_co = TypeVar("Answer_co", covariant=True)
Request = TypeVar("Request")
Answer = TypeVar("Answer")
Value = TypeVar("Value")


class _Paged(Protocol):
    page_token: str


class _Page(Protocol):
    next_page_token: str


Paged = TypeVar("Paged", bound=_Paged)
Page = TypeVar("Page", bound=_Page)


class Method(Protocol[Request_contra, Answer_co]):
    """A unary call of a generated stub."""

    def __call__(
        self,
        request: Request_contra,
        *,
        timeout: float | None = None,
        metadata: tuple[tuple[str, str], ...] | None = None,
    ) -> Awaitable[Answer_co]:
        """Sends the request."""
        ...


class Calls:
    """One channel to one coordinator."""

    def __init__(
        self,
        address: str,
        *,
        patience: timedelta,
        randomness: random.Random,
        for_people: bool = False,
    ) -> None:
        """Opens the channel, which connects at the first call.

        For people, every text of every answer is made visible before anybody has it.
        """
        self.address = address
        self._patience = patience
        self._random = randomness
        self._for_people = for_people
        self._channel = open_channel(address)
        channel = cast("Channel", _Shown(self._channel)) if for_people else self._channel
        self._stubs = channel
        self.workflows = WorkflowServiceStub(channel)

    # Which of the other services a command needs is known when it asks: a start loads no more.

    @cached_property
    def hosts(self) -> HostServiceAsyncStub:
        """Returns the calls about hosts."""
        from countermand.v1.host_pb2_grpc import HostServiceStub  # noqa: PLC0415 - as above

        return HostServiceStub(self._stubs)

    @cached_property
    def doctor(self) -> DoctorServiceAsyncStub:
        """Returns the calls of the doctor."""
        from countermand.v1.doctor_pb2_grpc import DoctorServiceStub  # noqa: PLC0415 - as above

        return DoctorServiceStub(self._stubs)

    @cached_property
    def webhooks(self) -> WebhookServiceAsyncStub:
        """Returns the calls about webhooks."""
        from countermand.v1.webhook_pb2_grpc import WebhookServiceStub  # noqa: PLC0415 - as above

        return WebhookServiceStub(self._stubs)

    @cached_property
    def external_tasks(self) -> ExternalTaskServiceAsyncStub:
        """Returns the calls of owners."""
        from countermand.v1.external_task_pb2_grpc import (  # noqa: PLC0415 - as above
            ExternalTaskServiceStub,
        )

        return ExternalTaskServiceStub(self._stubs)

    async def close(self) -> None:
        """Closes the channel; calls in flight are cancelled, their workflows go on."""
        await self._channel.close(None)

    async def unary(
        self, method: Method[Request, Answer], request: Request, *, timeout_s: float
    ) -> Answer:
        """Returns the answer, or raises an error of the table."""
        try:
            return await method(request, timeout=timeout_s, metadata=trace_metadata())
        except AioRpcError as raised:
            raise self.error(raised, timeout_s) from None

    async def pages(self, method: Method[Paged, Page], request: Paged) -> AsyncIterator[Page]:
        """Yields every page of a list; asks for further ones as they are needed."""
        while True:
            page = await self.unary(method, request, timeout_s=READ_TIMEOUT_S)
            yield page
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def change(
        self, method: Method[Request, Answer], request: Request, *, limit_s: float | None = None
    ) -> Answer:
        """Returns the answer to a change that is harmless to repeat, as by its request id."""
        return await self.patiently(
            lambda: self.unary(method, request, timeout_s=CHANGE_TIMEOUT_S), limit_s=limit_s
        )

    async def removal(
        self, method: Method[Request, object], request: Request, gone: type[CountermandError]
    ) -> None:
        """Removes something; what a repeat finds no more was removed by an earlier try."""
        tries = 0

        async def once() -> None:
            nonlocal tries
            tries += 1
            try:
                await self.unary(method, request, timeout_s=CHANGE_TIMEOUT_S)
            except gone:
                if tries == 1:
                    raise

        await self.patiently(once)

    def error(self, raised: AioRpcError, timeout_s: float = 0) -> CountermandError:
        """Returns the typed error, with words for what gRPC itself only names."""
        error = self._typed(raised, timeout_s)
        if self._for_people:
            show_error(error)
        return error

    def _typed(self, raised: AioRpcError, timeout_s: float) -> CountermandError:
        error = status.error_from_rpc(raised)
        if not isinstance(error, status.RemoteError):
            return error
        match error.code:
            case StatusCode.UNAVAILABLE:
                return CoordinatorUnavailable(address=self.address)
            case StatusCode.DEADLINE_EXCEEDED:
                message = (
                    f"The coordinator at {self.address} did not answer within {timeout_s:g} s. "
                    "What was asked may have happened all the same: look before asking again."
                )
            case StatusCode.UNIMPLEMENTED:
                message = (
                    f"The coordinator at {self.address} does not serve this call "
                    f"({error.message}): it may be older than this client."
                )
            case _:
                return error
        return status.RemoteError(
            code=error.code, reason=error.reason, message=message, metadata=error.metadata
        )

    def patience(self, limit_s: float | None = None) -> Patience:
        """Returns a fresh patience, no longer than the client's."""
        whole_s = self._patience.total_seconds()
        return Patience(whole_s if limit_s is None else min(limit_s, whole_s), self._random)

    async def patiently(
        self, call: Callable[[], Awaitable[Value]], *, limit_s: float | None = None
    ) -> Value:
        """Returns what the call returns; repeats it while the coordinator is away or full."""
        patience = self.patience(limit_s)
        while True:
            try:
                return await call()
            except CountermandError as error:
                await patience.wait_or_raise(error)


class _Shown:
    """A channel whose answers are made visible as they arrive: nobody has to think of it later."""

    def __init__(self, channel: Channel) -> None:
        """Keeps the channel that carries the calls."""
        self._channel = channel

    def __getattr__(self, kind: str) -> Callable[..., object]:
        """Returns what makes calls of one kind, as a generated stub asks for it."""
        make = getattr(self._channel, kind)

        def made(
            method: str,
            *,
            response_deserializer: Callable[[bytes], Message],
            **more: Any,  # noqa: ANN401 - handed on as it came
        ) -> object:
            def read(content: bytes) -> Message:
                answer = response_deserializer(content)
                show(answer)
                return answer

            return make(method, response_deserializer=read, **more)

        return made


class Patience:
    """How often and how long one caller asks again."""

    def __init__(self, limit_s: float, randomness: random.Random) -> None:
        """Starts with no failure seen."""
        self._limit_s = limit_s
        self._random = randomness
        self._told = False
        self.reset()

    def reset(self) -> None:
        """Forgets the failures: something worked."""
        self._delay_s = RETRY_DELAY_S
        self._give_up_at: float | None = None

    async def wait_or_raise(self, error: CountermandError) -> None:
        """Waits before the next try, or raises the error if asking again is no use."""
        if isinstance(error, Busy):
            delay_s = error.retry_delay.total_seconds()
        elif isinstance(error, WatcherTooSlow):
            delay_s = 0.0
        elif isinstance(error, HostUnreachable):
            raise error  # the coordinator has answered: its host does not
        elif error.code in _WORTH_ASKING_AGAIN:
            # Half of it at random: a thousand clients must not come back in one instant.
            delay_s = self._delay_s * (0.5 + self._random.random() / 2)
            self._delay_s = min(self._delay_s * 2, RETRY_DELAY_S_MAX)
        else:
            raise error
        now = asyncio.get_running_loop().time()
        if self._give_up_at is None:
            self._give_up_at = now + self._limit_s
            if self._limit_s > 0 and not self._told:
                self._told = True  # once: somebody wonders why nothing happens
                log.info(
                    "client.waits", extra={"reason": error.reason, "patience_s": self._limit_s}
                )
        if now + delay_s > self._give_up_at:
            if self._limit_s > 0:
                error.add_note(
                    f"Asked again and again for {self._limit_s:g} s, the patience given."
                )
            raise error
        await asyncio.sleep(delay_s)
