"""The door to a coordinator."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Self

from google.protobuf import json_format
from google.protobuf.struct_pb2 import Struct
from grpc.aio import AioRpcError

from countermand.client.calls import Calls
from countermand.client.coordinators import addresses_of
from countermand.client.run import PAGE_SIZE, Run, new_request_id
from countermand.rpc import names
from countermand.rpc.addresses import together
from countermand.rpc.channel import READ_TIMEOUT_S, REQUEST_BYTES_MAX
from countermand.rpc.errors import CoordinatorUnavailable, PayloadTooLarge
from countermand.rpc.interceptors import trace_metadata
from countermand.v1.event_pb2 import HistoryEvent
from countermand.v1.task_pb2 import Task
from countermand.v1.workflow_pb2 import (
    ListWorkflowsRequest,
    PlanWorkflowRequest,
    PlanWorkflowResponse,
    StartWorkflowRequest,
    WatchEventsRequest,
    Workflow,
)
from countermand.v1.workflow_spec_pb2 import WorkflowSpec
from countermand.v1.workflow_state_pb2 import WorkflowState

if TYPE_CHECKING:
    from countermand.client.all_coordinators import AllCoordinators
    from countermand.client.doctor import Doctor
    from countermand.client.hosts import Hosts
    from countermand.client.webhooks import Webhooks

# As long as an engine lets a coordinator restart before it tells somebody.
PATIENCE = timedelta(minutes=1)


class Client:
    """A connection to one coordinator, or to several that share a store; use it in `async with`.

    Every error of the table in `countermand.rpc.errors` is raised as its own class.
    """

    def __init__(
        self,
        address: str | Sequence[str],
        *,
        patience: timedelta = PATIENCE,
        randomness: random.Random | None = None,
        for_people: bool = False,
    ) -> None:
        """Keeps the address; connects at the first call.

        Args:
            address: "host:port" of the coordinator; of several a list, or one text with commas.
                Calls go round among those that answer, and a watch goes on at another one where
                it was.
            patience: How long submits, cancels, waits and watches bear with a coordinator that is
                away, before they raise CoordinatorUnavailable; a minute unless told otherwise. With
                none running at all, a first submit takes that long to say so: give
                `timedelta(0)` to hear of it at once. Reads never wait.
            randomness: Where jitter comes from; for tests.
            for_people: Of every text that comes back, what it would do to a terminal is written
                out, as `countermand.rpc.visible` says.

        Raises:
            FieldInvalid: Something else is given than addresses.
        """
        self.address = together(addresses_of(address))
        self._patience = patience
        self._random = randomness or random.Random()  # noqa: S311  # jitter, not a secret
        self._for_people = for_people
        self._opened: Calls | None = None

    async def __aenter__(self) -> Self:
        self._opened = Calls(
            self.address,
            patience=self._patience,
            randomness=self._random,
            for_people=self._for_people,
        )
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._calls.close()
        self._opened = None

    @property
    def _calls(self) -> Calls:
        if self._opened is None:
            raise RuntimeError(
                "the client is not open: use it as `async with Client(...) as client`"
            )
        return self._opened

    @property
    def hosts(self) -> Hosts:
        """Returns the door to the hosts."""
        from countermand.client.hosts import Hosts  # noqa: PLC0415 - of those who ask for them

        return Hosts(self._calls)

    @property
    def webhooks(self) -> Webhooks:
        """Returns the door to the webhooks."""
        from countermand.client.webhooks import Webhooks  # noqa: PLC0415 - as above

        return Webhooks(self._calls)

    @property
    def coordinators(self) -> AllCoordinators:
        """Returns the door to what is known of the coordinators that share a store."""
        from countermand.client.all_coordinators import AllCoordinators  # noqa: PLC0415 - as above

        return AllCoordinators(self._calls)

    @property
    def doctor(self) -> Doctor:
        """Returns the door to the differences between coordinator, journals and disks."""
        from countermand.client.doctor import Doctor  # noqa: PLC0415 - as above

        return Doctor(self._calls)

    def run(self, name: str) -> Run:
        """Returns a workflow by its id or its whole name; asks nothing."""
        return Run(self._calls, name if "/" in name else names.workflow_name(name))

    async def submit(
        self,
        spec: WorkflowSpec,
        *,
        workflow_id: str,
        input: Mapping[str, object] | None = None,  # noqa: A002  # the contract's word
        labels: Mapping[str, str] | None = None,
        patience: timedelta | None = None,
    ) -> Run:
        """Starts a workflow and returns once it is durable.

        Repeatable: the same id with the same spec and input is the same workflow, so it is
        sent again by itself while the coordinator is away, for as long as the client's patience
        or this one: where none is running, that is how long this takes to fail.

        Raises:
            CoordinatorUnavailable: It stayed away for as long as that.
            PayloadTooLarge: Spec, input and labels are together larger than a request may be.
            WorkflowIdTaken: The id names a workflow with another spec or input, or one that has
                been removed.
        """
        request = StartWorkflowRequest(
            workflow_id=workflow_id,
            spec=spec,
            input=_struct(input),
            labels=labels,
            request_id=new_request_id(),
        )
        _check_size(request)
        method = self._calls.workflows.StartWorkflow
        limit_s = None if patience is None else patience.total_seconds()
        answer = await self._calls.change(method, request, limit_s=limit_s)
        return self.run(answer.workflow.name)

    async def plan(
        self,
        spec: WorkflowSpec,
        *,
        input: Mapping[str, object] | None = None,  # noqa: A002  # the contract's word
    ) -> list[Task]:
        """Returns the tasks that a spec would become, with what would make up for each."""
        return list((await self.plan_with_locks(spec, input=input)).tasks)

    async def plan_with_locks(
        self,
        spec: WorkflowSpec,
        *,
        input: Mapping[str, object] | None = None,  # noqa: A002  # the contract's word
    ) -> PlanWorkflowResponse:
        """Returns what a spec would become, and which images it would hold meanwhile."""
        request = PlanWorkflowRequest(spec=spec, input=_struct(input))
        _check_size(request)
        method = self._calls.workflows.PlanWorkflow
        return await self._calls.unary(method, request, timeout_s=READ_TIMEOUT_S)

    async def list(
        self,
        *,
        states: Sequence[WorkflowState.ValueType] = (),
        labels: Mapping[str, str] | None = None,
        kind: str = "",
        host_id: str = "",
        min_age: timedelta | None = None,
        needs_attention: bool = False,
        id_prefix: str = "",
        page_size: int = PAGE_SIZE,
    ) -> AsyncIterator[Workflow]:
        """Yields workflows that fit, newest first; asks for further pages as they are needed."""
        request = ListWorkflowsRequest(
            states=states,
            labels=labels,
            kind=kind,
            host_id=host_id,
            needs_attention=needs_attention,
            id_prefix=id_prefix,
            page_size=page_size,
        )
        if min_age is not None:
            request.min_age.FromTimedelta(min_age)
        async for page in self._calls.pages(self._calls.workflows.ListWorkflows, request):
            for workflow in page.workflows:
                yield workflow

    # -- everything that happens ------------------------------------------------------------------

    async def events(self, after: int | None = None) -> AsyncIterator[HistoryEvent]:
        """Yields what happens to all workflows, in order of position, for ever.

        After a lost connection it goes on by itself: no event is missing, none comes twice. Keep
        the position of the last one, and go on after it another time.

        Args:
            after: Only events after this position; none: from now on.
        """
        seen = after
        patience = self._calls.patience()
        while True:
            call = self._calls.workflows.WatchEvents(
                WatchEventsRequest(after_position=seen), metadata=trace_metadata()
            )
            try:
                async for update in call:
                    patience.reset()
                    if update.HasField("event"):
                        if seen is not None and update.event.position <= seen:
                            continue  # sent again after a reconnect
                        seen = update.event.position
                        patience.has_news()
                        yield update.event
                    else:
                        seen = update.bookmark
                # A server that shuts down may end the stream as if all were said.
                await patience.wait_or_raise(CoordinatorUnavailable(address=self.address))
            except AioRpcError as raised:
                await patience.wait_or_raise(self._calls.error(raised))
            finally:
                call.cancel()

    async def position(self) -> int:
        """Returns the position of the last event so far."""
        patience = self._calls.patience(0)
        while True:
            call = self._calls.workflows.WatchEvents(
                WatchEventsRequest(), timeout=READ_TIMEOUT_S, metadata=trace_metadata()
            )
            try:
                async for update in call:
                    return update.bookmark
                await patience.wait_or_raise(CoordinatorUnavailable(address=self.address))
            except AioRpcError as raised:
                await patience.wait_or_raise(self._calls.error(raised, READ_TIMEOUT_S))
            finally:
                call.cancel()


def _check_size(request: StartWorkflowRequest | PlanWorkflowRequest) -> None:
    """Refuses what the coordinator would refuse by its size, in words."""
    size_bytes = request.ByteSize()
    if size_bytes > REQUEST_BYTES_MAX:
        raise PayloadTooLarge(
            field="The spec with its input", size_bytes=size_bytes, size_bytes_max=REQUEST_BYTES_MAX
        )


def _struct(fields: Mapping[str, object] | None) -> Struct | None:
    """Returns the message for an input; none differs from an empty one."""
    if fields is None:
        return None
    struct = Struct()
    json_format.ParseDict(dict(fields), struct)
    return struct
