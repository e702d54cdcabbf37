"""Starting workflows: from a spec, or from the spec of another. The id makes a repeat harmless."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from google.protobuf.struct_pb2 import Struct

from coordinator.api import requests
from coordinator.api.deciding import PRINCIPAL, Deciding
from coordinator.api.requests import Context
from coordinator.api.shown import Showing
from coordinator.runtime.loop import Start
from coordinator.runtime.ports import (
    Clock,
    Hosts,
    Store,
    StoreConflictError,
    Submission,
    UsedIdError,
)
from coordinator.saga.plan import Plan
from coordinator.saga.workflow import About, Retention, Workflow, fresh_nodes
from coordinator.traces.sampling import ALL, Sampler
from coordinator.wire import view
from coordinator.wire.spec import check_spec
from coordinator.wire.values import short, values_of_struct
from countermand.rpc.errors import FieldInvalid, Violation, WorkflowIdTaken
from countermand.rpc.interceptors import trace_context
from countermand.rpc.names import ID_RULE, is_id, workflow_name
from countermand.v1 import workflow_pb2 as pb
from countermand.v1.image_pb2 import ImageAddress
from countermand.v1.workflow_spec_pb2 import WorkflowSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class New:
    """A workflow that somebody wants."""

    id: str
    spec: WorkflowSpec
    input: Struct
    labels: dict[str, str]
    forked_from: str = ""
    owner: str = ""  # the vendor whose own it is
    retention: Retention = Retention.IN_TIME

    @property
    def hash(self) -> bytes:
        """Returns what tells a repeat from another workflow under the same id."""
        return requests.hash_of(self.spec, self.input)


class Starting:
    """Starts workflows, and says what would become of a spec."""

    def __init__(
        self,
        *,
        store: Store,
        hosts: Hosts,
        clock: Clock,
        showing: Showing,
        deciding: Deciding,
        sampler: Sampler = ALL,
    ) -> None:
        """Keeps what it asks."""
        self._sampler = sampler
        self._store = store
        self._hosts = hosts
        self._clock = clock
        self._showing = showing
        self._deciding = deciding

    async def start(self, new: New, context: Context) -> Workflow:
        """Starts a workflow, or returns the one that the same request started.

        Raises:
            FieldInvalid: With every field that is wrong.
            WorkflowIdTaken: The id belongs to another spec, input or origin, or belonged to a
                workflow that has been removed.
        """
        if is_id(new.id) and (submission := await self._store.submission(new.id)):
            return await self._started(submission, new)
        plan = await self._looking(lambda: self._checked(new))
        trace = trace_context(context)
        start = Start(
            about=About(
                kind=new.spec.kind,
                labels=tuple(sorted(new.labels.items())),
                principal=PRINCIPAL,
                traceparent=trace.traceparent if trace else "",
                tracestate=trace.tracestate if trace else "",
                sampled=self._sampler.takes(new.id, trace),
                input=values_of_struct(new.input),
                forked_from=new.forked_from,
                owner=new.owner,
            ),
            plan=plan,
            retention=new.retention,
            submission=Submission(
                spec=new.spec.SerializeToString(deterministic=True),
                input=new.input.SerializeToString(deterministic=True),
                hash=new.hash,
            ),
        )
        try:
            return (await self._deciding.ask(new.id, start)).workflow
        except UsedIdError as error:
            why = "was used before, by a workflow that has been removed since"
            raise WorkflowIdTaken(name=workflow_name(new.id), why=why) from error
        except StoreConflictError:
            # Another call with this id was decided in between: it is the one to compare with.
            submission = await self._store.submission(new.id)
            if submission is None:
                raise
            return await self._started(submission, new)

    async def _looking(self, check: Callable[[], Plan]) -> Plan:
        """Returns a plan, checked again before it is refused.

        It may name a host that was added a moment ago, at another coordinator.
        """
        try:
            return check()
        except FieldInvalid:
            await self._hosts.look()
            return check()

    def _checked(self, new: New) -> Plan:
        found = []
        if not is_id(new.id):
            found.append(Violation("workflow_id", f"{short(new.id)} {ID_RULE}"))
        found += requests.label_problems(new.labels)
        try:
            plan = check_spec(new.spec, new.input, self._hosts.placement_problem)
        except FieldInvalid as error:
            raise FieldInvalid(*found, *error.violations) from None
        if found:
            raise FieldInvalid(*found)
        return plan

    async def _started(self, submission: Submission, new: New) -> Workflow:
        workflow = await self._showing.find(new.id)
        about = workflow.about
        same = (about.forked_from, about.owner) == (new.forked_from, new.owner)
        # What was ended by force is removed at once, whatever was said when it began.
        same = same and workflow.retention in (new.retention, Retention.AT_ONCE)
        if submission.hash != new.hash or not same:
            why = "exists with another spec or input, or as somebody else's"
            raise WorkflowIdTaken(name=workflow_name(workflow.id), why=why)
        return workflow

    async def fork(self, request: pb.ForkWorkflowRequest) -> New:
        """Returns the workflow that a fork asks for; whatever became of its source."""
        source = await self._showing.load(requests.workflow_id(request.name))
        requests.demand(request, "request_id")
        stored = Struct.FromString(source.submission.input)
        return New(
            id=request.workflow_id,
            spec=WorkflowSpec.FromString(source.submission.spec),
            input=request.input if request.HasField("input") else stored,
            labels=dict(request.labels) or dict(source.workflow.about.labels),
            forked_from=workflow_name(source.workflow.id),
        )

    async def plan(self, request: pb.PlanWorkflowRequest) -> pb.PlanWorkflowResponse:
        """Returns what a spec would become; starts nothing."""
        checked = partial(check_spec, request.spec, request.input, self._hosts.placement_problem)
        plan = await self._looking(checked)
        now = self._clock.now()
        imagined = Workflow(
            id="plan",
            about=About(kind=request.spec.kind),
            plan=plan,
            nodes=fresh_nodes(plan),
            owner_epoch=0,
            create_time=now,
            update_time=now,
        )
        return pb.PlanWorkflowResponse(
            tasks=view.tasks_to_proto(imagined, {}),
            locks=[
                pb.ImageLock(
                    image=ImageAddress(pool_id=lock.pool, image_id=lock.image),
                    exclusive=lock.exclusive,
                )
                for lock in plan.terms.locks
            ],
        )
