"""The door for owners of external tasks."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Self, Unpack

from countermand.client.calls import Calls
from countermand.client.coordinators import addresses_of
from countermand.client.external import serving
from countermand.client.external.added import Words, WorkflowWords, added, request_of, started
from countermand.client.external.heartbeats import Heartbeats
from countermand.client.external.outcome import failure_of
from countermand.client.external.task import AcceptedTask, Block, CleanUp, Terms
from countermand.client.external.ties import Ties
from countermand.client.external.waiting import Waiting
from countermand.client.policies import duration
from countermand.rpc import names
from countermand.rpc.addresses import together
from countermand.rpc.errors import RecoveryRequired
from countermand.v1.external_task_pb2 import (
    ClearExternalWorkflowRequest,
    EndExternalWorkflowRequest,
    ExternalRequest,
    StartExternalWorkflowRequest,
)
from countermand.v1.task_pb2 import Task
from countermand.v1.workflow_pb2 import Workflow

# A vendor's process outlives its coordinator's restarts, however long they take.
FOR_EVER = timedelta.max


class Owner:
    """One owner's connection to a coordinator, or to several; use it in `async with`.

    Every call waits for a coordinator that is away, and while an operator has to look because its
    database went back in time: what was done is still to be told then. Errors of the table in
    `countermand.rpc.errors` are raised as their own classes.
    """

    def __init__(
        self,
        address: str | Sequence[str],
        owner_id: str,
        *,
        patience: timedelta = FOR_EVER,
        randomness: random.Random | None = None,
    ) -> None:
        """Keeps the address; connects when it is entered.

        Args:
            address: "host:port" of the coordinator; of several a list, or one text with commas.
            owner_id: Whose tasks these are, as specs name it.
            patience: How long calls bear with that, before they raise CoordinatorUnavailable or
                RecoveryRequired; for ever unless told otherwise.
            randomness: Where jitter comes from; for tests.

        Raises:
            FieldInvalid: Something else is given than addresses.
        """
        self.address = together(addresses_of(address))
        self.owner_id = owner_id
        self._patience = patience
        self._random = randomness or random.Random()  # noqa: S311  # jitter, not a secret
        self._opened: Ties | None = None
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        calls = Calls(
            self.address,
            patience=self._patience,
            randomness=self._random,
            bears_with=(RecoveryRequired,),
        )
        self._stack.push_async_callback(calls.close)
        heartbeats = Heartbeats(calls)
        waiting = Waiting(calls, self.owner_id, heartbeats)
        self._opened = Ties(
            owner_id=self.owner_id, calls=calls, waiting=waiting, heartbeats=heartbeats
        )
        for run in (waiting.follow(), heartbeats.run()):
            self._stack.push_async_callback(_cancelled, asyncio.create_task(run))
        return self

    async def __aexit__(self, *error: object) -> None:
        self._ties.leaving = True
        await self._stack.aclose()
        self._opened = None

    @property
    def _ties(self) -> Ties:
        if self._opened is None:
            raise RuntimeError("the owner is not open: use it as `async with Owner(...) as owner`")
        return self._opened

    # -- what waits -----------------------------------------------------------------------------

    async def serve(
        self,
        handlers: Mapping[str, serving.Handler],
        *,
        concurrency_max: int = serving.CONCURRENCY_MAX,
    ) -> None:
        """Has everything that waits done by the handler of its kind, until cancelled.

        What is of no kind here is left alone. At most `concurrency_max` are begun at once, and as
        many made up for. When it is cancelled, what is being worked on is not ended: it waits for
        the next life of this process, which calls its handler again.

        Raises:
            CountermandError: The coordinator refuses this owner.
        """
        await serving.serve(self._ties, handlers, concurrency_max)

    async def requests(self) -> AsyncIterator[ExternalRequest]:
        """Yields what waits and is not worked on here, then whatever is new or has changed.

        That is to start, to stop what was begun, and to make up for something, by its `kind`. What
        an earlier life has accepted is among it, with `accepted` set. What a block adds is begun by
        that block, and is not among it: of a part, in the next life neither; nor is what was done
        here and whose end was refused, until its next life. It never ends.
        """
        waiting = self._ties.waiting
        async for name in waiting.changes():
            if (asked := waiting.offered(name)) is not None:
                yield asked

    def accept(
        self,
        request: ExternalRequest,
        *,
        clean_up: CleanUp | None = None,
        interrupt: bool = True,
    ) -> AcceptedTask:
        """Takes on what is asked, to be worked on within an `async with`.

        async with owner.accept(request, clean_up=delete) as task:
            task.outputs["volume"] = await clone(task.arguments["source"], name=task.action)

        The work is ended with `task.outputs` when the block is done, and as FAILED when an
        exception leaves it, which goes on upwards: see `TaskFailed` for its reason. When it is to
        stop, `asyncio.CancelledError` is raised within the block, at an await; what leaves the
        block is TaskStopped, once CANCELLED was said. An asyncio task works in one such block at a
        time, and in parts of it: an interrupt could not tell which one it is for.

        Args:
            request: What is asked, of `requests`. One to stop what an earlier life has begun is
                done by `clean_up` alone, without the block; without a clean_up the block is entered
                with `task.stop_requested`.
            clean_up: Called before FAILED or CANCELLED is said, until it succeeds: leaves nothing
                behind of what the block did. Without one the block must have seen to that itself.
            interrupt: Whether a stop interrupts the block. Else it looks for itself, by
                `task.check()` or `task.stopping`.
        """
        return AcceptedTask(self._ties, request, Terms(clean_up=clean_up, interrupt=interrupt))

    # -- what is added --------------------------------------------------------------------------

    def add(
        self,
        group: str,
        kind: str,
        *,
        clean_up: CleanUp | None = None,
        interrupt: bool = True,
        **wanted: Unpack[Words],
    ) -> Block:
        """Adds a task of this owner to an open group, to be done and ended in an `async with`.

        Args:
            group: workflows/{workflow}/tasks/{group}, or workflows/{workflow} for an open root.
            kind: What it is, in the owner's own words.
            clean_up: As of `accept`; by default what makes up for its kind, if that is served here.
            interrupt: As of `accept`.
            wanted: What else is said of it, see `Words`; at least its `task_id`, since others add
                to the group, too. The same one finds the same task, in this life as in any other.

        Raises:
            TaskFailed: Its kind is served here with a `start`, which would begin it as well; or it
                is `reversible`, and nothing that is served here makes up for it.
        """
        request = request_of(group, kind, wanted, owner_id=self.owner_id)
        return added(self._ties, request, Terms(clean_up=clean_up, interrupt=interrupt))

    async def add_for(
        self, owner_id: str, parent: str, kind: str, *, token: str = "", **wanted: Unpack[Words]
    ) -> Task:
        """Adds a task that another owner does, and returns it.

        Args:
            owner_id: Who does it. Under a task of one's own somebody else: what the same owner does
                there is begun by a block, `task.part`, and by no loop.
            parent: An open group, or a task of one's own that is at work, by its name.
            kind: What it is, in that owner's words.
            token: The capability token of a parent that is a task; of an own workflow, of `main`.
            wanted: What else is said of it; at least its `task_id`. Of a later attempt of a parent
                that is a task it is another: an id is never given out again.
        """
        request = request_of(parent, kind, wanted, owner_id=owner_id, token=token)
        return (await self._ties.ask(self._ties.calls.external_tasks.AddExternalTask, request)).task

    # -- workflows of one's own -----------------------------------------------------------------

    def workflow(
        self,
        workflow_id: str,
        kind: str,
        *,
        interrupt: bool = True,
        **wanted: Unpack[WorkflowWords],
    ) -> Block:
        """Starts a workflow of one's own, to be done and ended within an `async with`.

        async with owner.workflow("rebalance-7", "array-rebalance") as job:
            async with job.part("move-volumes", weight=9) as moving:
                ...

        What it is given is the task that stands for the whole: when the block is done the workflow
        has SUCCEEDED, and when an exception leaves it FAILED; what is open is then closed. A repeat
        after a crash finds the same workflow; `job.done` says that it had SUCCEEDED before.

        Args:
            workflow_id: Its id, [a-z0-9][a-z0-9._-]{0,62}.
            kind: What it is, in the owner's own words.
            interrupt: As of `accept`.
            wanted: What else is said of it, see `WorkflowWords`.
        """
        request = StartExternalWorkflowRequest(
            workflow_id=workflow_id,
            kind=kind,
            owner_id=self.owner_id,
            description=wanted.get("description", ""),
            labels=wanted.get("labels"),
            auto_clear=wanted.get("auto_clear", True),
            policy=wanted.get("policy"),
            heartbeat_timeout=duration(wanted.get("heartbeat_timeout")),
        )
        return started(self._ties, request, Terms(interrupt=interrupt))

    async def end_workflow(
        self, workflow_id: str, token: str, *, failure: Exception | None = None, force: bool = False
    ) -> Workflow:
        """Ends a workflow of one's own from outside of its block.

        Args:
            workflow_id: Its id.
            token: The capability token of its task "main": `job.request.capability_token`.
            failure: Why it did not succeed; None: it did.
            force: Closes open tasks as CANCELLED, and has it removed once webhooks were told.
        """
        request = EndExternalWorkflowRequest(
            name=names.workflow_name(workflow_id),
            succeeded=failure is None,
            failure=None if failure is None else failure_of(failure),
            force=force,
            request_id=str(uuid.uuid4()),
            capability_token=token,
        )
        method = self._ties.calls.external_tasks.EndExternalWorkflow
        return (await self._ties.ask(method, request)).workflow

    async def clear_workflow(self, workflow_id: str, token: str) -> None:
        """Removes a settled workflow of one's own before its retention time is over."""
        request = ClearExternalWorkflowRequest(
            name=names.workflow_name(workflow_id), capability_token=token
        )
        await self._ties.ask(self._ties.calls.external_tasks.ClearExternalWorkflow, request)


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
