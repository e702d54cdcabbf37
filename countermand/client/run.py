"""One workflow, from the side of whoever started it or follows it.

A `Run` holds nothing but a name: it can be made again from the name at any time, in any process.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Literal, TypeAlias, TypeVar, assert_never

from google.protobuf import json_format
from google.protobuf.duration_pb2 import Duration
from grpc.aio import AioRpcError

from countermand.client import decisions as decisions_
from countermand.client.calls import Calls
from countermand.client.failed import WorkflowFailed
from countermand.drawing.tasks import GROUPS, SETTLED
from countermand.rpc import names
from countermand.rpc.channel import READ_TIMEOUT_S, WAIT_SLACK_S
from countermand.rpc.errors import CoordinatorUnavailable, CountermandError
from countermand.rpc.interceptors import trace_metadata
from countermand.v1.event_pb2 import HistoryEvent
from countermand.v1.task_pb2 import Task
from countermand.v1.verb_pb2 import Action
from countermand.v1.workflow_pb2 import (
    CancelWorkflowRequest,
    DecideCompensationRequest,
    FenceTaskRequest,
    ForkWorkflowRequest,
    GetResumeRequirementsRequest,
    GetTaskRequest,
    GetWorkflowRequest,
    ListEventsRequest,
    ListTasksRequest,
    PauseWorkflowRequest,
    ResumeDecision,
    ResumeRequirement,
    ResumeWorkflowRequest,
    ResumeWorkflowResponse,
    WaitWorkflowRequest,
    WaitWorkflowResponse,
    WatchWorkflowRequest,
    WatchWorkflowResponse,
    Workflow,
    WorkflowView,
)
from countermand.v1.workflow_state_pb2 import WorkflowState

CompensationVerb: TypeAlias = Literal["retry", "replace", "done", "abandon"]
# Tasks by their ids, or with values by path.
Choices: TypeAlias = Mapping[str, decisions_.Patch] | Sequence[str]

Looked = TypeVar("Looked")

# Few round trips, and each answer stays far below the bound of a message.
PAGE_SIZE = 500

# The coordinator's own bound of one WaitWorkflow.
WAIT_S_MAX = 60.0
WAIT_S_MIN = 0.001


class Run:
    """A workflow that was submitted, by its name."""

    def __init__(self, calls: Calls, name: str) -> None:
        """Keeps the name; asks nothing."""
        self._calls = calls
        self.name = name

    @property
    def id(self) -> str:
        """Returns the workflow's id."""
        return names.parse_workflow(self.name) or self.name

    def __repr__(self) -> str:
        return f"Run({self.name!r})"

    # -- read -----------------------------------------------------------------------------------

    async def get(
        self, view: WorkflowView.ValueType = WorkflowView.WORKFLOW_VIEW_BASIC
    ) -> Workflow:
        """Returns the workflow as it is now."""
        request = GetWorkflowRequest(name=self.name, view=view)
        method = self._calls.workflows.GetWorkflow
        return (await self._calls.unary(method, request, timeout_s=READ_TIMEOUT_S)).workflow

    async def tasks(self, states: Sequence[Task.State.ValueType] = ()) -> list[Task]:
        """Returns its tasks in the order of the tree, all pages, without their attempts."""
        request = ListTasksRequest(parent=self.name, states=states, page_size=PAGE_SIZE)
        pages = self._calls.pages(self._calls.workflows.ListTasks, request)
        return [task async for page in pages for task in page.tasks]

    async def task(self, task_id: str) -> Task:
        """Returns one task with its inbound values, output and attempts."""
        request = GetTaskRequest(name=names.task_name(self.id, task_id))
        method = self._calls.workflows.GetTask
        return (await self._calls.unary(method, request, timeout_s=READ_TIMEOUT_S)).task

    async def events(self, after_sequence: int = 0) -> AsyncIterator[HistoryEvent]:
        """Yields its history so far, in order."""
        request = ListEventsRequest(
            parent=self.name, after_sequence=after_sequence, page_size=PAGE_SIZE
        )
        while True:
            method = self._calls.workflows.ListEvents
            page = await self._calls.unary(method, request, timeout_s=READ_TIMEOUT_S)
            for event in page.events:
                yield event
            if not (page.more and page.events):
                return
            request.after_sequence = page.events[-1].sequence

    def bundle(self, now: datetime) -> AsyncIterator[bytes]:
        """Yields one file with all of it, in pieces: its tasks, its history, and a page to look at.

        Args:
            now: When that is, for what still runs.
        """
        from countermand.bundle import writing  # noqa: PLC0415 - draws, which few callers do
        from countermand.client.bundled import Asked  # noqa: PLC0415 - as above

        return writing.pieces(Asked(self._calls, self.name), now)

    # -- follow ---------------------------------------------------------------------------------

    async def patiently(self, look: Callable[[], Awaitable[Looked]]) -> Looked:
        """Returns what a look at it returns; bears with a coordinator that is away.

        Whoever has followed it to its end is not told that nobody answers any more.
        """
        return await self._calls.patiently(look)

    async def watch(
        self, after_sequence: int = 0, *, events_only: bool = False
    ) -> AsyncIterator[WatchWorkflowResponse]:
        """Yields events in order, progress between and bookmarks, until the workflow is settled.

        After a lost connection it goes on by itself from the last sequence: no event is missing,
        none comes twice. Leaving the loop early ends the watch and nothing else.
        """
        seen = after_sequence
        settled = False
        patience = self._calls.patience()
        while True:
            call = self._calls.workflows.WatchWorkflow(
                WatchWorkflowRequest(name=self.name, after_sequence=seen, events_only=events_only),
                metadata=trace_metadata(),
            )
            try:
                async for update in call:
                    if update.HasField("event"):
                        if update.event.sequence <= seen:
                            continue  # sent again after a reconnect
                        if update.event.sequence > seen + 1:
                            break  # a gap: ask again from where we are
                        seen = update.event.sequence
                        patience.has_news()
                        settled = update.event.workflow_state_changed.after in SETTLED
                    patience.reset()
                    yield update
                else:
                    if settled or await self._over(seen):
                        return
                # Wait as for a restart: a server that ends streams early would be asked in a ring.
                await patience.wait_or_raise(CoordinatorUnavailable(address=self._calls.address))
            except AioRpcError as raised:
                await patience.wait_or_raise(self._calls.error(raised))
            finally:
                call.cancel()

    async def _over(self, seen: int) -> bool:
        """Returns whether an ended watch ended because there is no more.

        A server that shuts down may end a stream as if all were said.
        """
        workflow = await self._calls.patiently(self.get)
        return workflow.state in SETTLED and workflow.last_sequence <= seen

    async def wait(
        self, timeout: timedelta | None = None, *, until_attention: bool = False
    ) -> Workflow:
        """Returns the workflow once it is settled or, if asked for, needs somebody.

        Raises:
            TimeoutError: It was neither in time. The workflow goes on.
        """
        clock = asyncio.get_running_loop().time
        deadline = clock() + timeout.total_seconds() if timeout is not None else None
        while True:
            request = WaitWorkflowRequest(name=self.name, until_attention=until_attention)
            answer = await self._wait_once(request, deadline)
            if answer.reached:
                return answer.workflow
            if deadline is not None and clock() >= deadline:
                raise TimeoutError(_still(answer.workflow, timeout))

    async def _wait_once(
        self, request: WaitWorkflowRequest, deadline: float | None
    ) -> WaitWorkflowResponse:
        """Returns the answer to one wait, which each try asks for as long as is left."""
        clock = asyncio.get_running_loop().time
        method = self._calls.workflows.WaitWorkflow
        patience = self._calls.patience(None if deadline is None else _wait_s(deadline - clock()))
        while True:
            wait_s = _wait_s(WAIT_S_MAX if deadline is None else deadline - clock())
            request.wait_timeout.CopyFrom(_duration(wait_s))
            try:
                return await self._calls.once(method, request, timeout_s=wait_s + WAIT_SLACK_S)
            except CountermandError as error:
                await patience.wait_or_raise(error)

    async def result(self, timeout: timedelta | None = None) -> Workflow:
        """Returns the workflow once it SUCCEEDED.

        Raises:
            WorkflowFailed: It settled otherwise; says what was made up for and what is left.
            TimeoutError: It is not settled yet. The workflow goes on.
        """
        workflow = await self.wait(timeout)
        if workflow.state == WorkflowState.WORKFLOW_STATE_SUCCEEDED:
            return workflow
        raise await self.failed(workflow)

    async def failed(self, workflow: Workflow) -> WorkflowFailed:
        """Returns the exception for a workflow that settled as COMPENSATED or FAILED."""
        states = [Task.STATE_COMPENSATED, Task.STATE_FAILED]
        found = await self._calls.patiently(lambda: self.tasks(states=states))
        # A group is made up for by its members, which are listed themselves.
        leaves = [task for task in found if task.kind not in GROUPS]
        leaves.sort(key=lambda task: task.end_time.ToNanoseconds())  # as it happened
        return WorkflowFailed(
            workflow,
            compensated=[task for task in leaves if task.state == Task.STATE_COMPENSATED],
            leftovers=workflow.leftovers,
            failed=[task for task in leaves if task.state == Task.STATE_FAILED],
        )

    # -- change ---------------------------------------------------------------------------------
    #
    # Each is sent again by itself, always with the same request id, while the coordinator is away
    # or does not answer: one whose answer was lost is not told that it came too late.

    async def cancel(self, reason: str, *, etag: str = "", validate_only: bool = False) -> Workflow:
        """Stops the workflow and makes up for what it did; returns once that is decided.

        With `validate_only` it only raises what stands against that, and changes nothing.
        """
        request = CancelWorkflowRequest(
            name=self.name,
            reason=reason,
            etag=etag,
            request_id=_request_id(imagined=validate_only),
            validate_only=validate_only,
        )
        method = self._calls.workflows.CancelWorkflow
        return (await self._calls.change(method, request)).workflow

    async def pause(
        self,
        reason: str,
        *,
        hold_compensation: bool = False,
        etag: str = "",
        validate_only: bool = False,
    ) -> Workflow:
        """Starts nothing new; attempts in flight end by themselves.

        With `validate_only` it only raises what stands against that, and changes nothing.
        """
        request = PauseWorkflowRequest(
            name=self.name,
            reason=reason,
            hold_compensation=hold_compensation,
            etag=etag,
            request_id=_request_id(imagined=validate_only),
            validate_only=validate_only,
        )
        return (await self._calls.change(self._calls.workflows.PauseWorkflow, request)).workflow

    async def resume(
        self,
        reason: str = "",
        *,
        rerun: Choices = (),
        skip: Choices = (),
        give_up: Sequence[str] = (),
        decisions: Sequence[ResumeDecision] = (),
        input: decisions_.Patch | None = None,  # noqa: A002  # the contract's word
        etag: str = "",
        validate_only: bool = False,
    ) -> ResumeWorkflowResponse:
        """Goes on after a pause, with a decision per task that needs one; all or nothing.

        Args:
            reason: Why, for the audit; required with a decision.
            rerun: Tasks to run again; as a mapping, with fields of their actions that change.
            skip: Tasks to go on after; as a mapping, with the outputs they are given.
            give_up: A failed task because of which everything is made up for.
            decisions: Further ones, made by `countermand.client.decisions`.
            input: Fields of the workflow's input that change, by path.
            etag: Only if the workflow is still as it was seen.
            validate_only: Only says what would change.

        Raises:
            RequirementsUnmet: With everything that is missing or wrong; nothing has changed.
        """
        request = ResumeWorkflowRequest(
            name=self.name,
            reason=reason,
            decisions=decisions_.gathered(
                self.id, reruns=rerun, skips=skip, give_ups=give_up, decisions=decisions
            ),
            input=decisions_.values(input),
            etag=etag,
            request_id=_request_id(imagined=validate_only),
            validate_only=validate_only,
        )
        return await self._calls.change(self._calls.workflows.ResumeWorkflow, request)

    async def requirements(self) -> list[ResumeRequirement]:
        """Returns what `resume` would need now."""
        request = GetResumeRequirementsRequest(name=self.name)
        method = self._calls.workflows.GetResumeRequirements
        answer = await self._calls.unary(method, request, timeout_s=READ_TIMEOUT_S)
        return list(answer.requirements)

    async def fence(self, task_id: str, reason: str, *, host: str = "", etag: str = "") -> Workflow:
        """Has another host settle the attempt of a task whose own host is lost or silent.

        Args:
            task_id: The task.
            reason: Why, for the audit.
            host: The host that does it; empty: the coordinator chooses one.
            etag: Only if the workflow is still as it was seen.
        """
        request = FenceTaskRequest(
            task=names.task_name(self.id, task_id),
            reason=reason,
            host_id=host,
            etag=etag,
            request_id=new_request_id(),
        )
        method = self._calls.workflows.FenceTask
        return (await self._calls.change(method, request)).workflow

    async def decide_compensation(
        self,
        task_id: str,
        verb: CompensationVerb,
        reason: str,
        *,
        replacement: Action | None = None,
        etag: str = "",
    ) -> Workflow:
        """Decides about one compensation that fails: retry, replace, done or abandon.

        Args:
            task_id: The task that is not made up for.
            verb: "retry" it now, "replace" what is sent, say that it was "done" by hand, or
                "abandon" it: the effect stays and is listed as a leftover.
            reason: Why, for the audit.
            replacement: Of "replace": the action to send instead.
            etag: Only if the workflow is still as it was seen.
        """
        request = DecideCompensationRequest(
            task=names.task_name(self.id, task_id),
            reason=reason,
            etag=etag,
            request_id=new_request_id(),
        )
        match verb:
            case "retry":
                request.retry_now.SetInParent()
            case "replace":
                request.replacement.CopyFrom(replacement or Action())
            case "done":
                request.mark_done.SetInParent()
            case "abandon":
                request.abandon.SetInParent()
            case _:
                assert_never(verb)
        method = self._calls.workflows.DecideCompensation
        return (await self._calls.change(method, request)).workflow

    async def fork(
        self,
        workflow_id: str,
        *,
        input: Mapping[str, object] | None = None,  # noqa: A002  # the contract's word
        labels: Mapping[str, str] | None = None,
    ) -> Run:
        """Starts a new workflow from the spec of this one, whatever became of it.

        The new id makes a repeat harmless. What is left out is taken from this one.
        """
        request = ForkWorkflowRequest(
            name=self.name, workflow_id=workflow_id, labels=labels, request_id=new_request_id()
        )
        if input is not None:
            json_format.ParseDict(dict(input), request.input)
            request.input.SetInParent()
        answer = await self._calls.change(self._calls.workflows.ForkWorkflow, request)
        return Run(self._calls, answer.workflow.name)


def new_request_id() -> str:
    """Returns an id for one request, to be kept over its repeats."""
    return str(uuid.uuid4())


def _request_id(*, imagined: bool) -> str:
    """Returns an id, or none for what changes nothing.

    An older coordinator that does not know of imagining would carry the request out: it refuses
    one without an id.
    """
    return "" if imagined else new_request_id()


def _wait_s(left_s: float) -> float:
    """Returns how long to have the coordinator wait; never zero, which asks for the default."""
    return min(max(left_s, WAIT_S_MIN), WAIT_S_MAX)


def _duration(seconds: float) -> Duration:
    duration = Duration()
    duration.FromTimedelta(timedelta(seconds=seconds))
    return duration


def _still(workflow: Workflow, timeout: timedelta | None) -> str:
    """Returns what a wait that is over says."""
    state = WorkflowState.Name(workflow.state).removeprefix("WORKFLOW_STATE_")
    waited_s = timeout.total_seconds() if timeout is not None else 0
    needs = "".join(f" {need.message}" for need in workflow.needs)
    return f"{workflow.name} is still {state} after {waited_s:g} s; it goes on.{needs}"
