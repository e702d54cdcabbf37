"""What an owner does that it must not: it repeats and contradicts itself, and is somebody else."""

from __future__ import annotations

from google.protobuf.message import Message

from countermand.rpc.errors import CountermandError
from countermand.v1 import external_task_pb2 as pb
from tests.simulation.accounts import CONTRADICTED
from tests.simulation.adding import Adding
from tests.simulation.means import Means


class Mischief:
    """Asks for what must be refused, but for repeats."""

    def __init__(self, means: Means, adding: Adding) -> None:
        """Keeps what to do it with."""
        self._means = means
        self._adding = adding

    async def say_more(self, request: pb.EndExternalTaskRequest) -> None:
        """Says the end once more; then otherwise, under the same report id and another."""
        await self._means.sleep(5.0)
        try:
            await self._means.ask("EndExternalTask", request)
        except CountermandError as error:
            if error.reason != "WORKFLOW_NOT_FOUND":
                raise self._means.world.broken(f"B14: a repeat is refused: {error!r}") from error
        await self._contradict(request, "B14", request.report_id)
        await self._means.sleep(30.0)  # long ago by then
        await self._contradict(request, "Z32", self._means.world.new_id())
        late = pb.AcceptExternalTaskRequest(
            attempt=request.attempt, capability_token=request.capability_token
        )
        await self._must_be_refused("Z32", "AcceptExternalTask", late)

    async def _contradict(
        self, request: pb.EndExternalTaskRequest, why: str, report_id: str
    ) -> None:
        other = pb.EndExternalTaskRequest(
            attempt=request.attempt, capability_token=request.capability_token, report_id=report_id
        )
        if request.HasField("output"):
            other.failure.reason = CONTRADICTED
        elif request.HasField("cancelled") or request.attempt in self._means.array.effects:
            other.output.update({"volume": CONTRADICTED, "fault": "", "size": 0})
        else:
            other.output.SetInParent()  # of a compensation
        await self._must_be_refused(why, "EndExternalTask", other)

    async def be_somebody_else(self, attempt: str) -> None:
        """Asks with a token that is not the one of what it asks about."""
        task = attempt.rpartition("/attempts/")[0]
        others = [t for a, t in self._means.accounts.tokens.items() if not a.startswith(f"{task}/")]
        token = self._means.chance.choice((*others[-5:], "", "guessed"))
        end = pb.EndExternalTaskRequest(
            attempt=attempt, capability_token=token, report_id=self._means.world.new_id()
        )
        end.failure.reason = CONTRADICTED
        report = pb.ReportExternalTaskRequest(attempt=attempt, capability_token=token)
        report.progress.done = 1
        accept = pb.AcceptExternalTaskRequest(attempt=attempt, capability_token=token)
        add = self._adding.wanted(task, f"foreign-{self._means.array.number()}", token)
        end_all = pb.EndExternalWorkflowRequest(
            name="/".join(attempt.split("/")[:2]),
            capability_token=token,
            request_id=self._means.world.new_id(),
            force=True,
        )
        rpc, request = self._means.chance.choice(
            (
                ("AcceptExternalTask", accept),
                ("EndExternalTask", end),
                ("ReportExternalTask", report),
                ("AddExternalTask", add),
                ("EndExternalWorkflow", end_all),
            )
        )
        await self._must_be_refused("Z32", rpc, request)

    async def _must_be_refused(self, why: str, rpc: str, request: Message) -> None:
        try:
            await self._means.ask(rpc, request)
        except CountermandError:
            return
        raise self._means.world.broken(f"{why}: {rpc} is taken: {request}")
