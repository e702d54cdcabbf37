"""People who intervene: some while everything fails, sensibly or not; one who helps in the end.

They go by what the API shows them. Whatever they ask is asked over the network that loses and
repeats, under one request id however often.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any, Protocol, TypedDict

from google.protobuf.struct_pb2 import Value

from coordinator.saga.states import IN_FLIGHT, AttemptState, TaskState, WorkflowState
from coordinator.saga.workflow import Workflow
from coordinator.wire.actions import action_of
from coordinator.wire.history import TASK_STATES
from countermand.rpc.errors import CountermandError, WorkflowNotFound
from countermand.rpc.names import attempt_name, host_name, parse_task, task_name, workflow_name
from countermand.v1 import host_pb2 as hosts
from countermand.v1 import verb_pb2 as verb
from countermand.v1 import workflow_pb2 as pb
from countermand.v1.image_pb2 import ImageAddress
from countermand.v1.workflow_state_pb2 import (
    WORKFLOW_STATE_BLOCKED,
    WORKFLOW_STATE_ENDING,
    WORKFLOW_STATE_PAUSED,
    WORKFLOW_STATE_PAUSING,
)
from tests.simulation.desk import Desk
from tests.simulation.workload import path_of

ACTS_EVERY_S = 2.5
LOOKS_EVERY_S = 5.0
HASTE = 6  # how often the helper still tries what may fail again

_WAITING = (TaskState.PENDING, TaskState.READY, TaskState.RETRY_WAIT)

R = pb.ResumeDecision
Requirement = pb.ResumeRequirement

_TRIED = frozenset(TASK_STATES[state] for state in IN_FLIGHT)


class Asks(TypedDict):
    """What every request that changes something says."""

    request_id: str
    reason: str


class Surroundings(Protocol):
    """What operators need of the world; `World` is the real one."""

    chance: Any
    calm: bool

    def new_id(self) -> str:
        """Returns a fresh id."""

    def note(self, text: str) -> None:
        """Writes a line of the trace."""

    def open_workflows(self) -> list[Workflow]:
        """Returns what is committed and not settled."""

    def removed_by_hand(self, host: str, path: str, attempt: str) -> bool:
        """Removes the image of an attempt by hand; returns whether nothing of it is left."""

    def removed_from_array(self, host: str, attempt: str) -> bool:
        """Removes by hand what an owner made; returns whether nothing of it is left."""

    def is_made(self, workflow_id: str, task: str, path: str) -> bool:
        """Returns whether an image is on some disk that an attempt of a task has made."""

    @property
    def times_back(self) -> int:
        """Returns how often the store went back in time; what was seen before is no more."""

    def is_cleared(self, workflow_id: str) -> bool:
        """Returns whether a workflow was removed before its time."""

    def broken(self, what: str) -> Exception:
        """Returns what to raise."""


class _Person:
    """What all of them can do."""

    def __init__(self, world: Surroundings, desk: Desk, hosts_: tuple[str, ...]) -> None:
        self.world = world
        self.chance = world.chance
        self.desk = desk
        self.hosts = hosts_

    async def ask(self, rpc: str, request: Any) -> CountermandError | None:
        """Asks for something; returns why it was refused. Now and then it asks once more."""
        self.world.note(f"operator: {rpc} {getattr(request, 'name', '')}")
        times_back = self.world.times_back
        try:
            await self.desk.ask(rpc, request)
        except CountermandError as error:
            self.world.note(f"operator: {rpc} is refused: {error.reason}")
            return error
        is_remembered = not getattr(request, "validate_only", False)
        if is_remembered and self.chance.random() < 0.2:
            await asyncio.sleep(self.chance.random() * 5.0)
            try:
                await self.desk.ask(rpc, request)
            except CountermandError as error:
                is_gone = error.reason == "WORKFLOW_NOT_FOUND" and self._is_gone(request)
                if not is_gone and times_back == self.world.times_back:
                    what = f"I8: a repeat of {rpc} is refused: {error}"
                    raise self.world.broken(what) from error
        return None

    def _is_gone(self, request: Any) -> bool:
        """Returns whether a request is about a workflow that its owner has had removed."""
        name = getattr(request, "name", "") or getattr(request, "task", "")
        return self.world.is_cleared(name.split("/")[1])

    def reason(self) -> Asks:
        return Asks(request_id=self.world.new_id(), reason="simulated")

    async def requirements(self, workflow_id: str) -> pb.GetResumeRequirementsResponse | None:
        try:
            request = pb.GetResumeRequirementsRequest(name=workflow_name(workflow_id))
            return await self.desk.ask("GetResumeRequirements", request)  # type: ignore[no-any-return]
        except CountermandError:
            return None

    async def resume(self, workflow: Workflow, *, hastily: bool) -> CountermandError | None:
        """Resumes with just what is needed; that is enough, unless things have moved on."""
        times_back = self.world.times_back
        needed = await self.requirements(workflow.id)
        if needed is None:
            return None
        kinds = {each.kind for each in needed.requirements}
        if Requirement.KIND_COMPENSATING in kinds:
            return None
        request = pb.ResumeWorkflowRequest(
            name=workflow_name(workflow.id), etag=needed.etag, **self.reason()
        )
        request.decisions.extend(self.decisions(workflow, list(needed.requirements), hastily))
        error = await self.ask("ResumeWorkflow", request)
        gives_up = any(d.HasField("give_up") for d in request.decisions)
        # What is tried on past a pivot may be out just now: its outcome must be known first.
        unmet = error is not None and error.reason == "REQUIREMENTS_UNMET"
        unmet = unmet and times_back == self.world.times_back
        if unmet and not gives_up and "outcome must be known" not in f"{error}":
            raise self.world.broken(f"S-R12: all that was required is not enough: {error}")
        return error

    def decisions(
        self, workflow: Workflow, needed: list[Requirement], hastily: bool
    ) -> Iterator[pb.ResumeDecision]:
        """Yields a decision about each task that needs one."""
        failed = [each.task for each in needed if each.kind == Requirement.KIND_DECISION]
        if failed and self.chance.random() < 0.15:
            yield R(task=failed[0], give_up=R.GiveUp())
            return
        for task in failed:
            wants_rerun = hastily and self.chance.random() < 0.6
            if wants_rerun and not _is_part(workflow, task):
                yield R(task=task, rerun=self.rerun(workflow, task))
                continue
            skip = R.Skip()
            outputs = {
                each.key: _some(each.type, each.key)
                for each in needed
                if each.kind == Requirement.KIND_OUTPUT and each.task == task
            }
            skip.outputs.update(outputs)
            yield R(task=task, skip=skip)

    def rerun(self, workflow: Workflow, task: str) -> R.Rerun:
        """Returns a rerun with what might help."""
        parsed = parse_task(task)
        assert parsed is not None, task
        index = workflow.plan.by_name.get(parsed[1], 0)  # else it has been added since
        rerun = R.Rerun()
        if workflow.plan.nodes[index].task is None or self.chance.random() < 0.3:
            return rerun
        spec = workflow.plan.task(index)
        if spec.verb == "noop":
            rerun.patch["failure_message"].string_value = ""
        elif spec.verb in ("copy_image", "clone_image"):
            rerun.patch["source.image_id"].string_value = "t-1"
            if self.chance.random() < 0.5:
                patched = f"{workflow.id}-patched-{self.world.new_id()}"
                rerun.patch["target.image_id"].string_value = patched
        elif spec.verb == "create_image":
            rerun.patch["target.image_id"].string_value = f"{workflow.id}-{self.world.new_id()}"
        if spec.external is None and self.chance.random() < 0.2:
            rerun.host_id = self.chance.choice(self.hosts)
        return rerun

    async def decide_compensation(self, workflow: Workflow, index: int) -> CountermandError | None:
        """Decides about one compensation; says that it is done only where it is."""
        name = workflow.plan.nodes[index].name
        request = pb.DecideCompensationRequest(
            task=task_name(workflow.id, name), etag=str(workflow.version), **self.reason()
        )
        draw = self.chance.random()
        if draw < 0.25:
            request.retry_now.SetInParent()
        elif draw < 0.55:
            request.replacement.CopyFrom(self.replacement(workflow, index))
        elif draw < 0.8 and self.makes_up_by_hand(workflow, index):
            request.mark_done.SetInParent()
        else:
            request.abandon.SetInParent()
        return await self.ask("DecideCompensation", request)

    def replacement(self, workflow: Workflow, index: int) -> verb.Action:
        """Returns what truly makes up for what a task did."""
        target = self.target(workflow, index)
        if target is None:
            return verb.Action(noop=verb.Noop())
        return verb.Action(delete_image=verb.DeleteImage(target=target))

    def target(self, workflow: Workflow, index: int) -> ImageAddress | None:
        """Returns the image that a task's last action makes."""
        attempt = workflow.task(index).action
        if attempt is None:
            return None
        action = action_of(workflow, index, attempt)
        arguments = getattr(action, str(action.WhichOneof("verb")))
        makes = action.WhichOneof("verb") in ("create_image", "copy_image", "clone_image")
        return arguments.target if makes else None

    def makes_up_by_hand(self, workflow: Workflow, index: int) -> bool:
        """Removes what a task made, if nothing can bring it back; returns whether it is gone."""
        task = workflow.task(index)
        attempt = task.action
        spec = workflow.plan.task(index)
        blocked = task.state is TaskState.COMPENSATION_BLOCKED
        if blocked and attempt is not None and spec.external is not None:
            # With an array that can be told: whatever its owner still does, it is not made again.
            made_by = attempt_name(workflow.id, spec.name, attempt.number)
            return self.world.removed_from_array(attempt.host, made_by)
        at_rest = blocked and task.due_time is not None
        if not at_rest or attempt is None or attempt.state is not AttemptState.SUCCEEDED:
            return False
        target = self.target(workflow, index)
        if target is None:
            return True
        made_by = attempt_name(workflow.id, workflow.plan.nodes[index].name, attempt.number)
        path = path_of(target.pool_id, target.image_id)
        return self.world.removed_by_hand(attempt.host, path, made_by)


class Operator(_Person):
    """Somebody who intervenes while everything fails."""

    async def work(self) -> None:
        """Acts now and then, until cancelled."""
        while True:
            await asyncio.sleep(self.chance.expovariate(1 / ACTS_EVERY_S))
            await self.act()

    async def act(self) -> None:
        """Does one thing, or two at once."""
        if self.chance.random() < 0.15:
            await self.drain()
            return
        found = self.world.open_workflows()
        if not found:
            return
        workflow = self.chance.choice(found)
        acts: tuple[tuple[Callable[[Workflow], Any], int], ...] = (
            (self.pause, 5),
            (self.resume_sensibly, 5),
            (self.resume_anyhow, 3),
            (self.resume_twice, 2),
            (self.skip_carelessly, 4),
            (self.decide, 3),
            (self.cancel, 1),
            (self.reuse, 1),
        )
        if workflow.holding:
            acts = acts[1:]
        if workflow.cause is not None and not workflow.holding:
            acts = ((self.decide, 4), (self.pause, 2), (self.resume_anyhow, 1))
        act = self.chance.choices([a for a, _ in acts], [weight for _, weight in acts])[0]
        await act(workflow)

    async def drain(self) -> None:
        """Drains a host, and lets it work again after a while."""
        name = host_name(self.chance.choice(self.hosts))
        await self.ask("DrainHost", hosts.DrainHostRequest(name=name, **self.reason()))
        await asyncio.sleep(self.chance.random() * 25.0)
        undrain = hosts.DrainHostRequest(name=name, undrain=True, **self.reason())
        await self.ask("DrainHost", undrain)

    async def pause(self, workflow: Workflow) -> None:
        request = pb.PauseWorkflowRequest(
            name=workflow_name(workflow.id),
            hold_compensation=self.chance.random() < 0.5,
            **self.reason(),
        )
        await self.ask("PauseWorkflow", request)

    async def cancel(self, workflow: Workflow) -> None:
        request = pb.CancelWorkflowRequest(name=workflow_name(workflow.id), **self.reason())
        await self.ask("CancelWorkflow", request)

    async def resume_sensibly(self, workflow: Workflow) -> None:
        await self.resume(workflow, hastily=True)

    async def resume_anyhow(self, workflow: Workflow) -> None:
        """Resumes with choices about anything, fitting or not."""
        request = pb.ResumeWorkflowRequest(name=workflow_name(workflow.id), **self.reason())
        if self.chance.random() < 0.3:
            request.etag = str(workflow.version)
        for _ in range(self.chance.choice((0, 1, 1, 2))):
            node = self.chance.choice(workflow.plan.nodes)
            request.decisions.append(self.any_decision(workflow, node.index))
        for index, task in workflow.tasks():
            if task.needs_decision and self.chance.random() < 0.7:
                request.decisions.append(self.any_decision(workflow, index))
        if self.chance.random() < 0.2:
            request.input["fault"].CopyFrom(Value(string_value=""))
        request.validate_only = self.chance.random() < 0.1
        await self.ask("ResumeWorkflow", request)

    async def skip_carelessly(self, workflow: Workflow) -> None:
        """Skips what needs a decision, and what others wait for, without giving any output."""
        if not workflow.holding:
            await self.pause(workflow)
        sources = {
            binding.task
            for leaf in workflow.plan.leaves
            if leaf.task is not None
            for binding in leaf.task.bindings
        }
        waiting = [
            task_name(workflow.id, workflow.plan.nodes[index].name)
            for index, task in workflow.tasks()
            if task.needs_decision
            or (task.state in _WAITING and workflow.plan.nodes[index].name in sources)
        ]
        request = pb.ResumeWorkflowRequest(name=workflow_name(workflow.id), **self.reason())
        request.decisions.extend(R(task=name, skip=R.Skip()) for name in waiting)
        await self.ask("ResumeWorkflow", request)

    def any_decision(self, workflow: Workflow, index: int) -> pb.ResumeDecision:
        name = task_name(workflow.id, workflow.plan.nodes[index].name)
        draw = self.chance.random()
        if draw < 0.3:
            return R(task=name, rerun=self.rerun(workflow, name))
        if draw < 0.45:
            return R(task=name, rerun=R.Rerun(reset=True))
        if draw < 0.6:
            return R(task=name, rerun=R.Rerun(indices=[self.chance.randrange(3)]))
        if draw < 0.9:
            return R(task=name, skip=R.Skip())
        return R(task=name, give_up=R.GiveUp())

    async def resume_twice(self, workflow: Workflow) -> None:
        """Two resume at once what both of them have seen: one is done, or none."""
        times_back = self.world.times_back
        needed = await self.requirements(workflow.id)
        if needed is None:
            return
        requests = []
        for _ in range(2):
            request = pb.ResumeWorkflowRequest(
                name=workflow_name(workflow.id), etag=needed.etag, **self.reason()
            )
            request.decisions.extend(
                self.decisions(workflow, list(needed.requirements), hastily=True)
            )
            requests.append(request)
        errors = await asyncio.gather(*(self.ask("ResumeWorkflow", each) for each in requests))
        if errors == [None, None] and times_back == self.world.times_back:
            raise self.world.broken(f"S-R18: {workflow.id} is resumed twice from one version")

    async def decide(self, workflow: Workflow) -> None:
        """Decides about a compensation: one that fails, if there is one."""
        tasks = [index for index, _ in workflow.tasks()]
        failing = [i for i in tasks if workflow.task(i).compensation_failure is not None]
        await self.decide_compensation(workflow, self.chance.choice(failing or tasks))

    async def reuse(self, workflow: Workflow) -> None:
        """Uses the id of one request for another."""
        first = pb.PauseWorkflowRequest(name=workflow_name(workflow.id), **self.reason())
        if await self.ask("PauseWorkflow", first) is not None:
            return
        second = pb.CancelWorkflowRequest(
            name=workflow_name(workflow.id), request_id=first.request_id, reason="another"
        )
        times_back = self.world.times_back
        if await self.ask("CancelWorkflow", second) is None and times_back == self.world.times_back:
            raise self.world.broken(f"I8: request id {first.request_id} is taken for two requests")


class Helper(_Person):
    """Somebody who gives every workflow what it says that it needs, once faults have stopped."""

    def __init__(self, world: Surroundings, desk: Desk, hosts_: tuple[str, ...]) -> None:
        super().__init__(world, desk, hosts_)
        self.looked = 0

    async def work(self) -> None:
        """Looks after everything, until cancelled."""
        while True:
            await self.undrain()
            await self.accept()
            for workflow in self.world.open_workflows():
                await self.help(workflow)
            self.looked += 1
            await asyncio.sleep(LOOKS_EVERY_S)

    async def undrain(self) -> None:
        listed = await self.desk.ask("ListHosts", hosts.ListHostsRequest())
        for host in listed.hosts:
            if host.state in (hosts.Host.STATE_DRAINING, hosts.Host.STATE_DRAINED):
                undrain = hosts.DrainHostRequest(name=host.name, undrain=True, **self.reason())
                await self.ask("DrainHost", undrain)

    async def accept(self) -> None:
        """Accepts hosts that are held, as they are."""
        listed = await self.desk.ask("ListHosts", hosts.ListHostsRequest())
        for host in listed.hosts:
            if host.state == hosts.Host.STATE_QUARANTINED:
                self.world.note(f"{host.name} is held: {host.problem.message}")
                await self.ask(
                    "AcceptHost", hosts.AcceptHostRequest(name=host.name, **self.reason())
                )

    async def help(self, workflow: Workflow) -> None:
        """Gives one workflow what it needs, if it needs anything."""
        request = pb.GetWorkflowRequest(name=workflow_name(workflow.id))
        try:
            shown = (await self.desk.ask("GetWorkflow", request)).workflow
        except WorkflowNotFound:
            if self.world.is_cleared(workflow.id):
                return
            raise
        if (workflow.compensation_held or _waits_for_more(workflow)) and self.looked > HASTE:
            # An attempt that never arrived is fenced by a compensation: while these are held too,
            # it comes to no rest, and the workflow stays PAUSING until somebody resumes it. So it
            # does while an owner waits for what it has added, and that may not begin.
            await self.resume(workflow, hastily=False)
            return
        moving = (WORKFLOW_STATE_ENDING, WORKFLOW_STATE_PAUSING)
        if shown.state in moving and _waits_for_people(workflow):
            await self.make_up(workflow, shown)
            return
        if shown.state not in (WORKFLOW_STATE_PAUSED, WORKFLOW_STATE_BLOCKED):
            return
        if not shown.needs and any(each.state in _TRIED for each in shown.task_counts):
            return  # what it needs is being tried just now
        if not shown.needs:
            raise self.world.broken(f"{workflow.id} is held and does not say what it needs")
        if shown.state == WORKFLOW_STATE_PAUSED or len(_blocked(shown)) < len(shown.needs):
            await self.resume(workflow, hastily=self.looked < HASTE)
        await self.make_up(workflow, shown)

    async def make_up(self, workflow: Workflow, shown: pb.Workflow) -> None:
        """Decides about every compensation that a workflow shows as blocked."""
        newest = {each.id: each for each in self.world.open_workflows()}.get(workflow.id)
        for name in _blocked(shown):
            parsed = parse_task(name)
            if newest is not None and parsed is not None and parsed[1] in newest.plan.by_name:
                index = newest.plan.by_name[parsed[1]]
                error = await self.decide_compensation(newest, index)
                if error is not None and "or cancel the workflow" in f"{error}":
                    # Nobody knows whether it took effect, and something is to follow it.
                    cancel = pb.CancelWorkflowRequest(name=shown.name, **self.reason())
                    await self.ask("CancelWorkflow", cancel)


class Honest(Helper):
    """Somebody who decides by what is on the disks: what is there is not made again."""

    def decisions(
        self, workflow: Workflow, needed: list[Requirement], hastily: bool
    ) -> Iterator[pb.ResumeDecision]:
        """Yields a decision about each task that needs one."""
        made: list[Requirement] = []
        rest: list[Requirement] = []
        for each in needed:
            (made if self._is_made(workflow, each.task) else rest).append(each)
        for each in made:
            if each.kind == Requirement.KIND_DECISION:
                skip = R.Skip()
                outputs = {
                    other.key: _some(other.type, other.key)
                    for other in made
                    if other.kind == Requirement.KIND_OUTPUT and other.task == each.task
                }
                skip.outputs.update(outputs)
                yield R(task=each.task, skip=skip)
        yield from super().decisions(workflow, rest, hastily)

    def _is_made(self, workflow: Workflow, task: str) -> bool:
        parsed = parse_task(task)
        index = workflow.plan.by_name.get(parsed[1], -1) if parsed else -1
        if parsed is None or index < 0 or workflow.plan.nodes[index].task is None:
            return False
        target = self.target(workflow, index)
        if target is None:
            return False
        return self.world.is_made(*parsed, path_of(target.pool_id, target.image_id))


def _blocked(shown: pb.Workflow) -> list[str]:
    """Returns the tasks whose compensations a workflow shows as blocked."""
    return [need.task for need in shown.needs if need.reason == "COMPENSATION_BLOCKED"]


def _waits_for_people(workflow: Workflow) -> bool:
    """Returns whether something of an owner is blocked: hosts come back by themselves, it may not.

    A workflow that was stopped is ENDING meanwhile, one that was paused PAUSING.
    """
    return any(
        task.state is TaskState.COMPENSATION_BLOCKED and workflow.plan.task(index).external
        for index, task in workflow.tasks()
    )


def _is_part(workflow: Workflow, task: str) -> bool:
    """Returns whether a task is a part of another one: it cannot be rerun alone."""
    parsed = parse_task(task)
    assert parsed is not None, task
    index = workflow.plan.by_name.get(parsed[1], -1)
    return index >= 0 and workflow.plan.nodes[index].under >= 0


def _waits_for_more(workflow: Workflow) -> bool:
    """Returns whether an owner is at work in a workflow that is held, and has added to it."""
    at_work = any(task.state is TaskState.RUNNING for _, task in workflow.tasks())
    waits = any(t.state in _WAITING for i, t in workflow.tasks() if i >= workflow.plan.planned)
    return workflow.state is WorkflowState.PAUSING and at_work and waits


def _some(kind: str, key: str) -> str | int | bool:
    """Returns some value of a type, for an output."""
    if kind == "int64":
        return 1
    if kind == "bool":
        return True
    return "templates" if key.endswith("pool_id") else "t-1"
