"""What an owner adds to workflows: parts of what it does, steps of its own, and beside others."""

from __future__ import annotations

import asyncio

from coordinator.saga.external import MAIN
from coordinator.saga.states import GroupState
from coordinator.saga.workflow import Group, Workflow
from countermand.rpc.errors import CountermandError
from countermand.rpc.names import parse_attempt, task_name, workflow_name
from countermand.v1 import external_task_pb2 as pb
from countermand.v1.annotation_pb2 import EFFECT_READ_ONLY, EFFECT_REVERSIBLE
from countermand.v1.external_task_pb2 import ExternalRequest
from countermand.v1.task_pb2 import Task
from tests.simulation.means import Means

CLONE, CHECK, JOB = "clone", "check", "job"  # kinds: a clone has an effect, the others have none
LOOK_S = 2.0
JOIN_S = 4.0
PARTS_MAX = 2
DEPTH_MAX = 2  # parts of parts

_AT_REST = frozenset(
    {
        Task.STATE_SUCCEEDED,
        Task.STATE_FAILED,
        Task.STATE_CANCELLED,
        Task.STATE_SKIPPED,
        Task.STATE_COMPENSATED,
        Task.STATE_ABANDONED,
    }
)


class Adding:
    """Adds tasks."""

    def __init__(self, means: Means) -> None:
        """Keeps what to do it with."""
        self._means = means

    async def parts(self, asked: ExternalRequest) -> list[pb.AddExternalTaskRequest]:
        """Adds what is done under an attempt: what an earlier life wanted, or something new."""
        wanted = self._means.array.parts.get(asked.attempt)
        if wanted is None:
            wanted = []
            if (
                self._means.happens(0.7 if asked.task_kind == JOB else 0.25)
                and _depth(asked.attempt) < DEPTH_MAX
            ):
                for _ in range(self._means.chance.randint(1, PARTS_MAX)):
                    wanted.append(self._part(asked, wanted))
            self._means.array.parts[asked.attempt] = wanted
        return [each for each in wanted if await self._add(each) is not None]

    def _part(
        self, asked: ExternalRequest, before: list[pb.AddExternalTaskRequest]
    ) -> pb.AddExternalTaskRequest:
        parsed = parse_attempt(asked.attempt)
        assert parsed is not None, asked.attempt
        beside = parsed.task_id == MAIN and self._means.chance.random() < 0.6
        parent = workflow_name(parsed.workflow_id) if beside else parsed.task
        task_id = f"{parsed.task_id}.{parsed.number}-p{len(before)}"
        request = self.wanted(parent, task_id, asked.capability_token)
        siblings = [each.task_id for each in before if each.parent == parent]
        if beside and siblings and self._means.chance.random() < 0.5:
            request.after.append(siblings[-1])
        return request

    def wanted(self, parent: str, task_id: str, token: str) -> pb.AddExternalTaskRequest:
        chance = self._means.chance
        request = pb.AddExternalTaskRequest(
            parent=parent,
            task_id=task_id,
            owner_id=self._means.name if chance.random() < 0.8 else chance.choice(self._owners()),
            kind=CLONE if chance.random() < 0.7 else CHECK,
            request_id=self._means.world.new_id(),
            capability_token=token,
        )
        request.effect = EFFECT_READ_ONLY
        if request.kind == CLONE:
            request.effect = EFFECT_REVERSIBLE
            if chance.random() < 0.15:
                request.operator_checklist = "Delete the clone."
        if chance.random() < 0.6:
            request.heartbeat_timeout.FromSeconds(chance.randint(2, 8))
        if chance.random() < 0.05:
            request.run_timeout.FromSeconds(chance.randint(1, 5))
        return request

    def _owners(self) -> tuple[str, ...]:
        return tuple(self._means.accounts.arrays)

    async def _add(self, request: pb.AddExternalTaskRequest) -> Task | None:
        """Adds a task, or finds it; returns None where it cannot be any more."""
        try:
            answer = await self._means.ask("AddExternalTask", request)
        except CountermandError as error:
            if error.reason in ("STATE_FORBIDS", "WORKFLOW_NOT_FOUND"):
                return None
            raise self._means.world.broken(f"{request.task_id} is refused: {error!r}") from error
        named = request.parent.split("/")
        with self._means.world.asserting():
            self._means.accounts.take(named[1], request.task_id)
        task: Task = answer.task
        return task

    async def rest(self, parts: list[pb.AddExternalTaskRequest], stopping: asyncio.Event) -> bool:
        """Waits until what was added is at rest; returns whether some of it failed."""
        failed = False
        for part in parts:
            while not stopping.is_set():
                task = await self._add(part)
                if task is None or task.state in _AT_REST:
                    failed = failed or (task is not None and task.state != Task.STATE_SUCCEEDED)
                    break
                if self._means.happens(0.1):
                    return False  # it ends before them, by force
                await asyncio.sleep(LOOK_S * (0.5 + self._means.chance.random()))
        return failed and self._means.happens(0.5)

    async def join(self) -> None:
        """Adds tasks to groups of others that are open."""
        while True:
            await asyncio.sleep(self._means.chance.expovariate(1 / JOIN_S))
            groups = [
                task_name(workflow.id, node.name)
                for workflow in self._means.world.open_workflows()
                for node in workflow.plan.nodes
                if node.rules.open is not None and _is_forward(workflow, node.index)
                if not workflow.about.owner
            ]
            if groups and not self._means.world.calm:
                number = self._means.array.number()
                name = f"{self._means.name}-{number}"
                await self._add(self.wanted(self._means.chance.choice(groups), name, ""))


def _depth(attempt: str) -> int:
    """Returns how many tasks one is a part of, as we name them."""
    return attempt.count("-p")


def _is_forward(workflow: Workflow, index: int) -> bool:
    group = workflow.nodes[index]
    return isinstance(group, Group) and group.state is GroupState.FORWARD
