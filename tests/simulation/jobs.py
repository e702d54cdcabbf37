"""Workflows of an owner's own: started, ended by their task main or from outside, and cleared."""

from __future__ import annotations

import asyncio

from countermand.rpc.errors import CountermandError
from countermand.rpc.names import workflow_name
from countermand.v1 import external_task_pb2 as pb
from countermand.v1 import workflow_pb2 as workflow_pb
from countermand.v1.workflow_state_pb2 import (
    WORKFLOW_STATE_COMPENSATED,
    WORKFLOW_STATE_FAILED,
    WORKFLOW_STATE_SUCCEEDED,
)
from tests.simulation.means import Means
from tests.simulation.workload import OwnJob

LOOK_S = 2.0
ENDS_MAX = 5  # tries to end one; then it is left to its task main

_SETTLED = (WORKFLOW_STATE_SUCCEEDED, WORKFLOW_STATE_COMPENSATED, WORKFLOW_STATE_FAILED)


class Jobs:
    """Sees to them."""

    def __init__(self, means: Means) -> None:
        """Keeps what to do it with."""
        self._means = means

    async def see_to(self, job: OwnJob) -> None:
        """Starts a workflow of its own, ends it as it should be, and perhaps has it removed."""
        if job.id in self._means.array.over:
            return
        await asyncio.sleep(max(0.0, job.at_s - asyncio.get_running_loop().time()))
        name = workflow_name(job.id)
        try:
            answer = await self._means.ask("StartExternalWorkflow", job.request)
            self._means.accounts.started.add(job.id)
            if not job.by_main:
                await asyncio.sleep(job.after_s)
                await self._end_job(job, answer.capability_token)
            await self._settled(name)
        except CountermandError as error:
            gone = error.reason in ("WORKFLOW_NOT_FOUND", "WORKFLOW_ID_TAKEN")
            if not gone or not self._means.accounts.may_be_gone(job.id):
                raise
            self._means.array.over.add(job.id)
            return
        self._means.array.over.add(job.id)
        if not job.is_cleared:
            return
        clear = pb.ClearExternalWorkflowRequest(name=name, capability_token=answer.capability_token)
        self._means.accounts.cleared.add(job.id)
        await self._means.ask("ClearExternalWorkflow", clear)

    async def _end_job(self, job: OwnJob, token: str) -> None:
        request = pb.EndExternalWorkflowRequest(
            name=workflow_name(job.id), succeeded=job.succeeds, capability_token=token
        )
        for _ in range(ENDS_MAX):
            request.request_id = self._means.world.new_id()
            request.force = job.is_forced
            try:
                await self._means.ask("EndExternalWorkflow", request)
            except CountermandError as error:
                if error.reason != "STATE_FORBIDS":
                    raise
                await self._means.sleep(LOOK_S * 2)
            else:
                return
        self._means.array.left.add(job.id)

    async def _settled(self, name: str) -> None:
        while True:
            answer = await self._means.ask("GetWorkflow", workflow_pb.GetWorkflowRequest(name=name))
            if answer.workflow.state in _SETTLED:
                return
            await asyncio.sleep(LOOK_S)
