"""The coordinator that the command line's tests talk to, in a process of its own.

A process, because gRPC's aio allows one event loop in each and the commands bring theirs. It holds
one workflow per ending, prints its address, and serves until its standard input is closed.
"""

import asyncio
import sys

from grpc import StatusCode

from countermand.client.spec import sequence, task, workflow_spec
from countermand.rpc.errors import RequirementsUnmet, Violation
from countermand.v1.annotation_pb2 import Effect
from countermand.v1.attempt_pb2 import Attempt, Progress
from countermand.v1.event_pb2 import (
    AttemptEnded,
    AttemptStarted,
    Leftover,
    TaskStateChanged,
    WorkflowStarted,
)
from countermand.v1.failure_pb2 import Failure
from countermand.v1.task_pb2 import Task
from countermand.v1.verb_pb2 import Noop
from countermand.v1.workflow_pb2 import (
    DecideCompensationResponse,
    FenceTaskResponse,
    GetResumeRequirementsResponse,
    Need,
    ResumeRequirement,
    WaitWorkflowResponse,
    Workflow,
)
from countermand.v1.workflow_state_pb2 import WorkflowState
from tests.cli import scripted_doctor
from tests.rpc.scripted import COMPENSATED, SETTLED, SUCCEEDED, Scripted, ScriptedHosts, start

NO_SPACE = Failure(
    reason="NO_SPACE",
    message="Pool fast is full.",
    attempt="workflows/made-up/tasks/copy-2/attempts/1",
    host_id="host-b",
)


def tasks(name: str) -> list[Task]:
    return [
        Task(name=f"{name}/tasks/copies", kind=Task.KIND_PARALLEL, state=Task.STATE_COMPENSATED),
        Task(
            name=f"{name}/tasks/copy-1",
            parent=f"{name}/tasks/copies",
            kind=Task.KIND_VERB,
            state=Task.STATE_COMPENSATED,
            verb="copy_image",
            effect=Effect.EFFECT_REVERSIBLE,
            opposite="delete the copy",
            host_id="host-a",
            progress=Progress(done=50, total=100, unit="bytes"),
        ),
        Task(
            name=f"{name}/tasks/copy-2",
            parent=f"{name}/tasks/copies",
            kind=Task.KIND_VERB,
            state=Task.STATE_FAILED,
            verb="copy_image",
            host_id="host-b",
            failure=NO_SPACE,
        ),
    ]


TASKS_MAX = 2  # of a FULL view: a real one ends, too
IN_LINE = "images held by others: fast/vm-1 (held by workflows/other; 1 before it in line)"


class Stepping(Scripted):
    """One workflow's pause holds, and one's line ends, once they were asked about often enough."""

    WAITS = 2  # that are answered before that

    def __init__(self) -> None:
        super().__init__()
        self.waits = 0
        self.refusals = 0  # of the next looks at what begins with "away"

    async def WaitWorkflow(self, request, context):
        workflow = self.workflows.get(request.name)
        if workflow is None or workflow.state != WorkflowState.WORKFLOW_STATE_PAUSING:
            return await super().WaitWorkflow(request, context)
        self.waits += 1
        answer = WaitWorkflowResponse(reached=True)
        answer.workflow.CopyFrom(workflow)
        if self.waits == self.WAITS:
            workflow.needs.append(Need(reason="DECISION", message="copy-2 failed."))
            await self.move(workflow, WorkflowState.WORKFLOW_STATE_PAUSED)
        return answer

    async def StartWorkflow(self, request, context):
        answer = await super().StartWorkflow(request, context)
        if request.workflow_id.startswith("in-line"):
            self.workflows[answer.workflow.name].waits_for = IN_LINE
        return answer

    async def WatchWorkflow(self, request, context):
        async for update in super().WatchWorkflow(request, context):
            yield update
        if request.name.startswith("workflows/away"):
            self.refusals = 6  # more than a channel asks again by itself

    async def GetWorkflow(self, request, context):
        if request.name.startswith("workflows/away") and self.refusals:
            self.refusals -= 1
            await context.abort(StatusCode.UNAVAILABLE, "it starts anew")
        answer = await super().GetWorkflow(request, context)
        del answer.workflow.tasks[TASKS_MAX:]
        if answer.workflow.waits_for:
            asyncio.get_running_loop().call_later(0.2, self._begin, request.name)
        return answer

    async def FenceTask(self, request, context):
        return FenceTaskResponse(workflow=self._of(request.task))

    async def DecideCompensation(self, request, context):
        return DecideCompensationResponse(workflow=self._of(request.task))

    def _of(self, task: str) -> Workflow:
        return self.workflows[task.partition("/tasks/")[0]]

    async def GetResumeRequirements(self, request, context):
        return GetResumeRequirementsResponse(requirements=self._against(request.name))

    async def ResumeWorkflow(self, request, context):
        against = self._against(request.name)
        raise RequirementsUnmet(
            name=request.name,
            violations=tuple(Violation(each.task, each.message) for each in against),
        )

    def _against(self, name: str) -> list[ResumeRequirement]:
        said = "nothing goes forward any more"
        kind = ResumeRequirement.KIND_COMPENSATING
        return [ResumeRequirement(task=name, kind=kind, message=said)]

    def _begin(self, name: str) -> None:
        workflow = self.workflows[name]
        if workflow.state not in SETTLED and name.endswith("soon"):
            self.moving = asyncio.create_task(self.move(workflow, SUCCEEDED))


async def script(scripted: Scripted) -> None:
    scripted.add("endless")

    good = scripted.add("good")
    await scripted.say(good, workflow_started=WorkflowStarted(kind="drill", principal="engine"))
    await scripted.move(good, SUCCEEDED)

    for word in ("watch", "wait", "live"):
        scripted.add(f"away-{word}-soon").waits_for = IN_LINE

    labelled = scripted.add("labelled")
    labelled.labels["café"] = "café 日本"
    await scripted.move(labelled, SUCCEEDED)

    left = scripted.add("left")
    left.leftovers.append(Leftover(host_id="host-a", description="image fast/disk-1"))
    await scripted.move(left, WorkflowState.WORKFLOW_STATE_FAILED, cause=NO_SPACE)

    failed = scripted.add("failed")
    await scripted.move(failed, WorkflowState.WORKFLOW_STATE_FAILED, cause=NO_SPACE)

    blocked = scripted.add("blocked")
    blocked.needs.append(Need(reason="COMPENSATION_BLOCKED", message="Free space on host-a."))
    await scripted.move(blocked, WorkflowState.WORKFLOW_STATE_BLOCKED)

    pausing = scripted.add("pausing")
    await scripted.move(pausing, WorkflowState.WORKFLOW_STATE_PAUSING)

    for word in ("ENDING", "COMPENSATING"):
        moving = scripted.add(f"in-{word.lower()}")
        await scripted.move(moving, WorkflowState.Value(f"WORKFLOW_STATE_{word}"))

    await make_up(scripted)

    finished = scripted.add("finished")
    spec = workflow_spec("done", sequence("all", task("one", action=Noop())))
    scripted.requests[finished.name] = spec
    await scripted.move(finished, SUCCEEDED)


async def make_up(scripted: Scripted) -> None:
    """One copy fails, the other is made up for."""
    made_up = scripted.add("made-up", tasks=tasks("workflows/made-up"))
    one, two = (f"workflows/made-up/tasks/copy-{number}" for number in (1, 2))
    action, compensation = Attempt.KIND_ACTION, Attempt.KIND_COMPENSATION
    await scripted.say(
        made_up, task=one, attempt_started=AttemptStarted(attempt=1, kind=action, host_id="host-a")
    )
    await scripted.say(
        made_up,
        task=two,
        attempt_ended=AttemptEnded(attempt=1, state=Attempt.STATE_FAILED, failure=NO_SPACE),
    )
    await scripted.move(made_up, WorkflowState.WORKFLOW_STATE_COMPENSATING, cause=NO_SPACE)
    await scripted.say(
        made_up,
        task=one,
        attempt_started=AttemptStarted(
            attempt=2, kind=compensation, compensates=1, host_id="host-a"
        ),
    )
    await scripted.say(
        made_up,
        task=one,
        task_state_changed=TaskStateChanged(after=Task.STATE_COMPENSATED),
    )
    await scripted.move(made_up, COMPENSATED)


async def life(scripted: Scripted, number: int) -> None:
    """One workflow, that settles in the second life of the coordinator."""
    workflow = scripted.add("lives")
    await scripted.say(workflow, workflow_started=WorkflowStarted(kind="drill"))
    if number > 1:
        await scripted.move(workflow, SUCCEEDED)


async def main(listen: str = "127.0.0.1:0", number: str = "") -> None:
    scripted = Stepping()  # type: ignore[abstract]  # the other calls are not served
    hosts = ScriptedHosts()
    await (life(scripted, int(number)) if number else script(scripted))
    more = [scripted_doctor.service()]
    running = await start(scripted, hosts, listen=listen, more=more)
    print(running.address, flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await running.stop(0)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
