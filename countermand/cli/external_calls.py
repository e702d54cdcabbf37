"""What people ask on behalf of an owner of external tasks, one call at a time.

A vendor's program uses `countermand.client.external`, which heartbeats and goes on by itself; this
is for hands and scripts: it finds out what they would have to look up, and asks once.
"""

from __future__ import annotations

import asyncio
import builtins
import contextlib
import random
import re
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import NamedTuple

import click
from grpc.aio import AioRpcError

from countermand.cli.arguments import named
from countermand.cli.external_words import promised_in
from countermand.client.calls import Calls
from countermand.client.run import PAGE_SIZE, Run
from countermand.drawing.tasks import SETTLED
from countermand.drawing.words import attempt_look, task_look
from countermand.rpc import names
from countermand.rpc.errors import (
    AttemptClosed,
    CoordinatorUnavailable,
    NoSuchAttempt,
    NotOwner,
    VerbForbidden,
)
from countermand.rpc.interceptors import trace_metadata
from countermand.v1 import external_task_pb2 as pb
from countermand.v1.annotation_pb2 import EFFECT_READ_ONLY
from countermand.v1.task_pb2 import Task
from countermand.v1.workflow_pb2 import ListWorkflowsRequest, Workflow, WorkflowView

MAIN = "main"  # the task that stands for the whole of a vendor's own workflow
_SHORT = re.compile(r"([^/]+)/([^/]+)(?:/([0-9]{1,9}))?")


_TO_COME = frozenset({Task.STATE_PENDING, Task.STATE_READY, Task.STATE_RETRY_WAIT})
ASK_AGAIN_S = 0.3
_NOT_YET = "its owner is not asked for it yet; `countermand external accept --wait` waits for that"


class Place(NamedTuple):
    """An attempt of an external task, and what proves the right to report on it."""

    attempt: str
    token: str
    # Its owner, if that is silent and may have left something: whoever else ends it should know.
    silent_owner: str = ""


@contextlib.asynccontextmanager
async def vendor_at(
    address: str, *, patience: timedelta, for_people: bool
) -> AsyncIterator[Vendor]:
    """Yields a connection to a coordinator, which is made at the first call."""
    jitter = random.Random()  # noqa: S311 - no secret
    calls = Calls(address, patience=patience, randomness=jitter, for_people=for_people)
    try:
        yield Vendor(calls)
    finally:
        await calls.close()


class Vendor:
    """A connection to one coordinator, for what owners do."""

    def __init__(self, calls: Calls) -> None:
        """Keeps what it asks by."""
        self.calls = calls

    async def named(self, workflow: str) -> Run:
        """Returns the workflow that a person means, about which something is reported."""
        return await named(self, workflow, "Go on with it")

    def run(self, name: str) -> Run:
        """Returns a workflow by its id or its whole name; asks nothing."""
        return Run(self.calls, name if "/" in name else names.workflow_name(name))

    async def list(
        self, *, id_prefix: str = "", page_size: int = PAGE_SIZE
    ) -> AsyncIterator[Workflow]:
        """Yields workflows, newest first."""
        request = ListWorkflowsRequest(id_prefix=id_prefix, page_size=page_size)
        async for page in self.calls.pages(self.calls.workflows.ListWorkflows, request):
            for workflow in page.workflows:
                yield workflow

    # -- what waits -----------------------------------------------------------------------------

    async def waiting(self, owner: str) -> builtins.list[pb.ExternalRequest]:
        """Returns what waits for an owner, the oldest first."""
        request = pb.ListExternalTasksRequest(owner_id=owner, page_size=PAGE_SIZE)
        pages = self.calls.pages(self.calls.external_tasks.ListExternalTasks, request)
        return [asked async for page in pages for asked in page.requests]

    async def owners(self) -> builtins.list[pb.ExternalOwner]:
        """Returns the owners for whom anything waits, or who watch."""
        request = pb.ListExternalOwnersRequest(page_size=PAGE_SIZE)
        pages = self.calls.pages(self.calls.external_tasks.ListExternalOwners, request)
        return [owner async for page in pages for owner in page.owners]

    async def watch(self, owner: str) -> AsyncIterator[pb.WatchExternalTasksResponse]:
        """Yields what waits for an owner and every change of it, for ever; nothing comes twice.

        After a lost connection all that waits comes again: what is as it was is passed over, and
        what waits no more is told as closed.
        """
        known: dict[str, bytes] = {}
        patience = self.calls.patience()
        request = pb.WatchExternalTasksRequest(owner_id=owner)
        while True:
            seen: set[str] | None = set()
            call = self.calls.external_tasks.WatchExternalTasks(request, metadata=trace_metadata())
            try:
                async for update in call:
                    patience.reset()
                    if update.HasField("bookmark"):
                        for gone in sorted(known.keys() - seen) if seen is not None else ():
                            del known[gone]
                            yield pb.WatchExternalTasksResponse(closed=gone)
                        seen = None
                    elif _is_news(update, known, seen):
                        yield update
                # A server that shuts down may end the stream as if all were said.
                await patience.wait_or_raise(CoordinatorUnavailable(address=self.calls.address))
            except AioRpcError as raised:
                await patience.wait_or_raise(self.calls.error(raised))
            finally:
                call.cancel()

    # -- which attempt, and by what right ---------------------------------------------------------

    async def place_in_time(self, text: str, token: str) -> Place:
        """Returns the same once its owner is asked, however long that takes; says why that is so.

        What is over may still have to be made up for, until its workflow is settled.
        """
        workflow, task_id, number = _parts(text)
        run = await self.named(workflow)  # another one may be the newest tomorrow
        told = ""
        while True:
            settled = (await run.get()).state in SETTLED
            try:
                return await self._place(run, task_id, number, token)
            except (VerbForbidden, AttemptClosed):
                if settled:
                    raise
                waits_for = (await run.task(task_id)).waits_for
                if waits_for and waits_for != told:
                    click.echo(f"{task_id} waits for {waits_for}", err=True)
                told = waits_for
                await asyncio.sleep(ASK_AGAIN_S)

    async def place(self, text: str, token: str) -> Place:
        """Returns the attempt that a person means, with its token.

        Raises:
            VerbForbidden: Its turn has not come.
            AttemptClosed: It waits for nobody.
            NotOwner: It is no external task.
        """
        workflow, task_id, number = _parts(text)
        return await self._place(await self.named(workflow), task_id, number, token)

    async def _place(self, run: Run, task_id: str, number: int, token: str) -> Place:
        if token and number:
            return Place(names.attempt_name(run.id, task_id, number), token)
        task = await run.task(task_id)
        if not task.owner_id:
            raise NotOwner(name=task.name, why="it is no external task")
        number = number or len(task.attempts)
        attempt = names.attempt_name(run.id, task_id, number)
        if token and number:
            return Place(attempt, token)
        found = [r for r in await self.waiting(task.owner_id) if r.attempt == attempt]
        if not found and task.state in _TO_COME:
            raise _forbidden(task, _NOT_YET)
        if not found and task.state == Task.STATE_COMPENSATION_BLOCKED:
            done = f"countermand workflow compensation done {run.id} {task_id} --reason WHY"
            raise _forbidden(task, f"it waits for {task.waits_for}: `{done}` says that it is done")
        if number > len(task.attempts):
            raise NoSuchAttempt(name=attempt, count=len(task.attempts))
        if not found:
            why = _why_not(task, number)
            raise AttemptClosed(attempt=attempt if number else task.name, why=why)
        silent = task.state == Task.STATE_UNKNOWN and found[0].effect != EFFECT_READ_ONLY
        return Place(attempt, found[0].capability_token, task.owner_id if silent else "")

    async def token_of(self, task: str, token: str) -> str:
        """Returns the token that a place is shown with; empty if there is none to find.

        That is of a task that waits for its owner, or of a vendor's own workflow.
        """
        parsed = names.parse_task(task)
        if token:
            return token
        if parsed is None:
            workflow_id = names.parse_workflow(task)
            assert workflow_id is not None, task
            return await self.own_token(await self.run(workflow_id).get(), "")
        found = await self.run(parsed[0]).task(parsed[1])
        if found.kind != Task.KIND_EXTERNAL:
            return ""
        return (await self.place(task, "")).token

    async def own_token(self, workflow: Workflow, token: str) -> str:
        """Returns the token of a vendor's own workflow, as far as it still can be found."""
        if token or not workflow.owner_id:
            return token  # of what is no vendor's own, the coordinator says so
        lead = f"{workflow.name}/tasks/{MAIN}/attempts/"
        waiting = await self.waiting(workflow.owner_id)
        found = [each.capability_token for each in waiting if each.attempt.startswith(lead)]
        if not found:
            why = (
                f"it waits for {workflow.owner_id} no more, and so its token cannot be looked up: "
                "give the --token that `countermand external start` has shown"
            )
            if workflow.state not in SETTLED:
                cancel = f"countermand workflow cancel {names.parse_workflow(workflow.name)}"
                why += f"; or give the workflow up, `{cancel} --reason WHY`"
            raise NotOwner(name=workflow.name, why=why)
        return found[0]

    async def promised(self, attempt: str) -> dict[str, str]:
        """Returns the outputs that a task of a spec promises, with their types."""
        run, task_id, _ = await self._attempt(attempt)
        workflow = await run.get(WorkflowView.WORKFLOW_VIEW_FULL)
        return promised_in(workflow.spec, task_id)

    async def unit(self, attempt: str) -> str:
        """Returns what the progress of an attempt counts; empty if none was reported yet."""
        run, task_id, number = await self._attempt(attempt)
        attempts = (await run.task(task_id)).attempts
        return attempts[number - 1].progress.unit if number <= len(attempts) else ""

    async def _attempt(self, attempt: str) -> tuple[Run, str, int]:
        parsed = names.parse_attempt(attempt)
        assert parsed is not None, attempt
        return self.run(parsed.workflow_id), parsed.task_id, parsed.number


def _is_news(
    update: pb.WatchExternalTasksResponse, known: dict[str, bytes], seen: set[str] | None
) -> bool:
    """Notes an update; returns whether it says anything new."""
    if update.HasField("closed"):
        return known.pop(update.closed, None) is not None
    name, said = update.request.attempt, update.request.SerializeToString(deterministic=True)
    if seen is not None:
        seen.add(name)
    is_news = known.get(name) != said
    known[name] = said
    return is_news


def _parts(text: str) -> tuple[str, str, int]:
    """Returns workflow, task and attempt (0: the newest); of a whole name the workflow's whole."""
    if attempt := names.parse_attempt(text):
        return names.workflow_name(attempt.workflow_id), attempt.task_id, attempt.number
    if task := names.parse_task(text):
        return names.workflow_name(task[0]), task[1], 0
    if short := _SHORT.fullmatch(text):
        return short[1], short[2], int(short[3] or 0)
    raise click.UsageError(
        f"{text!r} names no external task: write WORKFLOW/TASK, WORKFLOW/TASK/ATTEMPT or the "
        "whole name, as `countermand external list --owner ID -o name` shows it"
    )


def _forbidden(task: Task, because: str) -> VerbForbidden:
    word = task_look(task.state).word
    return VerbForbidden(name=task.name, state=word, verb="a report", because=because)


def _why_not(task: Task, number: int) -> str:
    """Returns why an attempt waits for its owner no more; of a task that had none: why that."""
    if not number:
        return f"it is {task_look(task.state).word}, and waits for {task.owner_id} no more"
    said = attempt_look(task.attempts[number - 1].state).word
    if number < len(task.attempts):
        newest = attempt_look(task.attempts[-1].state).word
        return f"it is {said}; attempt {len(task.attempts)} has followed, and is {newest}"
    return f"it is {said}, and waits for {task.owner_id} no more"
