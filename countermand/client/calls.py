"""How the client calls: deadlines, typed errors, trace context, and patience with a restart.

Patience is only for what is safe to repeat: reads, watches that resume by sequence, submits and
forks, which the new workflow's id makes harmless, and the verbs, whose request ids are remembered.
It ends: a coordinator that stays away becomes an error. Where there are several, what is safe to
repeat is asked of the next one at once, within the time that the call has.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Protocol, TypeVar, cast

from grpc import StatusCode
from grpc.aio import AioRpcError, Channel

from countermand.client.coordinators import Coordinator, Coordinators, addresses_of, in_words
from countermand.client.patience import Patience
from countermand.client.shown import Shown, show_error
from countermand.rpc import status
from countermand.rpc.addresses import is_name, together
from countermand.rpc.channel import (
    CHANGE_TIMEOUT_S,
    READ_TIMEOUT_S,
    open_channel,
    open_channel_of_several,
)
from countermand.rpc.errors import CoordinatorUnavailable, CountermandError
from countermand.rpc.interceptors import trace_metadata
from countermand.v1.workflow_pb2_grpc import WorkflowServiceStub

if TYPE_CHECKING:
    from countermand.v1.coordinator_pb2_grpc import CoordinatorServiceAsyncStub
    from countermand.v1.doctor_pb2_grpc import DoctorServiceAsyncStub
    from countermand.v1.external_task_pb2_grpc import ExternalTaskServiceAsyncStub
    from countermand.v1.host_pb2_grpc import HostServiceAsyncStub
    from countermand.v1.webhook_pb2_grpc import WebhookServiceAsyncStub

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
    """One channel to one coordinator, or what stands for one to several."""

    def __init__(
        self,
        address: str | Sequence[str],
        *,
        patience: timedelta,
        randomness: random.Random,
        for_people: bool = False,
        bears_with: tuple[type[CountermandError], ...] = (),
    ) -> None:
        """Opens the channel, which connects at the first call.

        For people, every text of every answer is made visible before anybody has it. What is borne
        with is waited for as a coordinator is that is away.

        Raises:
            FieldInvalid: Something else is given than addresses.
        """
        addresses = addresses_of(address)
        self.address = together(addresses)
        self._patience = patience
        self._random = randomness
        self._for_people = for_people
        self._bears_with = bears_with
        # One address costs what one connection costs.
        is_one = len(addresses) == 1 and not is_name(addresses[0])
        self._several = None if is_one else _several(addresses, randomness)
        # Of a channel stubs use what Coordinators and Shown have, too.
        self._channel = cast("Channel", self._several or open_channel(self.address))
        channel = cast("Channel", Shown(self._channel)) if for_people else self._channel
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
    def coordinators(self) -> CoordinatorServiceAsyncStub:
        """Returns the calls about the coordinators that share a store."""
        from countermand.v1.coordinator_pb2_grpc import (  # noqa: PLC0415 - as above
            CoordinatorServiceStub,
        )

        return CoordinatorServiceStub(self._stubs)

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

    async def once(
        self, method: Method[Request, Answer], request: Request, *, timeout_s: float
    ) -> Answer:
        """Returns the answer to what is asked of one coordinator and not repeated, or raises."""
        try:
            return await method(request, timeout=timeout_s, metadata=trace_metadata())
        except AioRpcError as raised:
            raise self.error(raised, timeout_s) from None

    async def unary(
        self, method: Method[Request, Answer], request: Request, *, timeout_s: float
    ) -> Answer:
        """Returns the answer to what is harmless to repeat, or raises an error of the table.

        It is asked of each of several coordinators before it fails, all within that time.
        """
        if self._several is None:
            return await self.once(method, request, timeout_s=timeout_s)
        patience = self.patience(0)
        return await self._in_turn(method, request, timeout_s=timeout_s, patience=patience)

    async def _in_turn(
        self,
        method: Method[Request, Answer],
        request: Request,
        *,
        timeout_s: float,
        patience: Patience,
    ) -> Answer:
        clock = asyncio.get_running_loop().time
        give_up_at = clock() + timeout_s
        while True:
            try_s = give_up_at - clock()
            if self._several is not None and not patience.is_last:
                try_s = self._several.try_s(try_s)
            try:
                return await self.once(method, request, timeout_s=try_s)
            except CountermandError as error:
                await patience.wait_or_raise(error)
                if clock() >= give_up_at:  # there must be time for another
                    raise patience.all_said(error) from None

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
        failures = 0

        async def once() -> None:
            nonlocal failures
            patience = self.patience(0)
            try:
                await self._in_turn(method, request, timeout_s=CHANGE_TIMEOUT_S, patience=patience)
            except gone:
                if failures + patience.failures == 1:  # this very answer
                    raise
            finally:
                failures += patience.failures

        await self.patiently(once)

    def error(self, raised: AioRpcError, timeout_s: float = 0) -> CountermandError:
        """Returns the typed error, with words for what gRPC itself only names."""
        asked_at: str | None = getattr(raised, "asked_at", None)
        error = self._typed(raised, timeout_s, asked_at)
        error.asked_at = asked_at
        if self._for_people:
            show_error(error)
        return error

    def _typed(
        self, raised: AioRpcError, timeout_s: float, asked_at: str | None
    ) -> CountermandError:
        error = status.error_from_rpc(raised)
        address = asked_at or self.address
        if not isinstance(error, status.RemoteError):
            return error
        match error.code:
            # What we cancel ourselves never comes here: one that ends has cancelled what it had.
            case StatusCode.UNAVAILABLE | StatusCode.CANCELLED:
                if asked_at is None:
                    return CoordinatorUnavailable(address=address)
                return CoordinatorUnavailable(address=address, why=in_words(raised))
            case StatusCode.DEADLINE_EXCEEDED:
                message = (
                    f"The coordinator at {address} did not answer within {timeout_s:g} s. "
                    "What was asked may have happened all the same: look before asking again."
                )
            case StatusCode.UNIMPLEMENTED:
                message = (
                    f"The coordinator at {address} does not serve this call "
                    f"({error.message}): it may be older than this client."
                )
            case _:
                return error
        return status.RemoteError(
            code=error.code, reason=error.reason, message=message, metadata=error.metadata
        )

    def patience(self, limit_s: float | None = None) -> Patience:
        """Returns a fresh patience, no longer than the client's, which first asks all others."""
        others = self._several.others if self._several is not None else 0
        return self._patience_of(self._limit_s(limit_s), others)

    def _patience_of(self, limit_s: float, others: int = 0) -> Patience:
        return Patience(limit_s, self._random, others=others, bears_with=self._bears_with)

    def _limit_s(self, limit_s: float | None) -> float:
        whole_s = self._patience.total_seconds()
        return whole_s if limit_s is None else min(limit_s, whole_s)

    async def patiently(
        self, call: Callable[[], Awaitable[Value]], *, limit_s: float | None = None
    ) -> Value:
        """Returns what the call returns; repeats it while the coordinator is away or full.

        Of several, each try has asked all of them.
        """
        patience = self._patience_of(self._limit_s(limit_s))
        while True:
            try:
                return await call()
            except CountermandError as error:
                await patience.wait_or_raise(error)


def _several(addresses: Sequence[str], randomness: random.Random) -> Coordinators:
    return Coordinators(
        [Coordinator(each, open_channel_of_several(each)) for each in addresses], randomness
    )
