"""Workflows that the saga itself has led anywhere, as the changes a coordinator would commit.

One seed is one walk. Specs are the contract's own messages, since a store compiles the plan from
them again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

from coordinator.runtime.ports import Change, Request, Submission
from coordinator.saga import events, resume
from coordinator.saga.advance import Decision, advance, quarantine, restore, start
from coordinator.saga.commands import Timer
from coordinator.saga.spec import Value
from coordinator.saga.states import TaskState, WorkflowState
from coordinator.saga.workflow import (
    About,
    Failure,
    Group,
    Retention,
    Task,
    Workflow,
    fresh_nodes,
)
from coordinator.wire.spec import check_spec
from countermand.v1.workflow_spec_pb2 import WorkflowSpec
from tests.store.specs import HOSTS, given, random_spec

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
VALUES: tuple[Value, ...] = (
    *("", "pool/image", "é\x00\u2028'\"\\", "x" * 10_000),
    *(0, -1, 2**53 + 1, 2**63 - 1, True, False, 0.1, -1e300, 1.0, None),
)
INPUT = {f"value-{number}": value for number, value in enumerate(VALUES)}


def failure(random: Random) -> Failure:
    """Returns a failure of any kind."""
    return Failure(
        reason=random.choice(("NO_SPACE", "LOST")),
        message="The pool is full: 'fünf' bytes are left.",
        metadata=random.choice(((), (("pool", "a"), ("left", "5")))),
        retriable=random.random() < 0.7,
        attempt="workflows/w/tasks/t/attempts/1",
        host="host-1",
    )


def ask(request_id: str = "r") -> events.Ask:
    """Returns who asks for something."""
    return events.Ask(principal="admin", reason="drill", request_id=request_id)


def cancel(random: Random) -> events.CancelRequested:
    """Returns somebody's wish to stop a workflow."""
    return events.CancelRequested(ask=ask(), failure=failure(random))


def as_stored(workflow: Workflow) -> Workflow:
    """Returns a workflow as any store must give it back: counters are worked out when loaded."""
    nodes = (
        replace(node, compensation_due=False, made_up_for=False)
        if isinstance(node, Task)
        else _told(node, fresh)
        for node, fresh in zip(workflow.nodes, fresh_nodes(workflow.plan), strict=True)
    )
    bare = replace(workflow, nodes=tuple(nodes), busy=0, blocked=0)
    return bare if workflow.state is WorkflowState.QUARANTINED else restore(bare)


def _told(group: Group, fresh: Task | Group) -> Group:
    assert isinstance(fresh, Group), fresh
    return replace(
        fresh, state=group.state, round=group.round, then=group.then, failure=group.failure
    )


# Says what somebody asks of a workflow, or None for nothing just now.
Wishes = Callable[["Walk", Random], "events.Event | None"]


class Walk:
    """One workflow on its way; `change` is the newest step, to be committed."""

    def __init__(
        self,
        workflow_id: str,
        *,
        seed: int = 0,
        spec: WorkflowSpec | None = None,
        labels: dict[str, str] | None = None,
        epoch: int = 1,
        begin: datetime = BEGIN,
        locked: bool = True,
        owner: str = "",
        retention: Retention = Retention.IN_TIME,
        wishes: Wishes | None = None,
    ) -> None:
        """Submits it; `wishes` says what else somebody may ask of it, at each step."""
        self._wishes = wishes
        self.random = Random(f"{workflow_id} {seed}")
        self.time = begin
        self.intent = 1 + self.random.randrange(1_000)
        spec = spec or random_spec(self.random, workflow_id)
        struct = given()
        self.submission = Submission(
            spec=spec.SerializeToString(deterministic=True),
            input=struct.SerializeToString(deterministic=True),
            hash=b"\xff" * 32,
        )
        about = About(
            kind=spec.kind,
            labels=tuple((labels or {}).items()),
            principal="engine",
            traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            tracestate="a=b",
            input=INPUT | {"flag": True, "disks.0.id": "a", "disks.1.id": "b"},
            forked_from=self.random.choice(("", "another")),
            owner=owner,
        )
        plan = check_spec(spec, struct, lambda *_: None)
        now = self._now()
        decision = start(
            workflow_id=workflow_id,
            about=about,
            plan=plan,
            owner_epoch=epoch,
            now=now,
            locked=locked,
            retention=retention,
        )
        self.requests = 0
        self.change = self._took(0, decision, self.submission)

    @property
    def workflow(self) -> Workflow:
        """Returns the workflow as last decided."""
        return self.change.workflow

    def step(self) -> Change | None:
        """Does anything that may happen; returns None if nothing came of it."""
        wish = self._wishes(self, self.random) if self._wishes else None
        return self.perform(wish or self._anything())

    def succeed(self) -> Change:
        """Lets the first open attempt succeed."""
        index, attempt = next(
            (index, task.last)
            for index, task in self.workflow.tasks()
            if task.attempts and task.last.open
        )
        return self.must(events.AttemptSucceeded(task=index, number=attempt.number))

    def must(self, event: events.Event) -> Change:
        """Gives the saga one event that changes something."""
        change = self.perform(event)
        assert change is not None, event
        return change

    def perform(self, event: events.Event) -> Change | None:
        """Gives the saga one event."""
        before = self.workflow
        decision = advance(before, event, self._now())
        if decision.empty:
            return None
        request = None
        if isinstance(event, events.Request):
            self.requests += 1
            request = Request(request_id=f"{before.id}-{self.requests}", hash=b"\x00\x01")
        self.change = self._took(before.version, decision, None, request)
        return self.change

    def quarantine(self) -> Change:
        """Holds the workflow as one that cannot be processed."""
        before = self.workflow
        self.change = self._took(before.version, quarantine(before, self._now()), None)
        return self.change

    def _took(
        self,
        version_before: int,
        decision: Decision,
        submission: Submission | None,
        request: Request | None = None,
    ) -> Change:
        self.intent += decision.intents
        return Change(
            workflow=decision.workflow,
            version_before=version_before,
            history=decision.history,
            changed=decision.changed,
            submission=submission,
            request=request,
        )

    def _now(self) -> events.Now:
        self.time += timedelta(milliseconds=self.random.randrange(1, 5_000), microseconds=1)
        return events.Now(time=self.time, jitter=self.random.random(), intent=self.intent)

    def _anything(self) -> events.Event:
        random = self.random
        chance = random.random()
        if not self.workflow.locked and chance < 0.5:
            return events.LocksGranted()
        if chance < (0.4 if self.workflow.holding else 0.08):
            return self._asked()
        if chance < 0.1:
            return events.OwnerChanged(owner_epoch=self.workflow.owner_epoch + 1)
        tasks = list(self.workflow.tasks())
        waiting = [(i, t) for i, t in tasks if t.due_time or t.state is TaskState.READY]
        sent = [(index, attempt) for index, task in tasks for attempt in task.attempts]
        if random.random() < 0.3 or not sent:
            index, task = random.choice(waiting or tasks)
            number = len(task.attempts) + 1
            if task.state is TaskState.READY and not task.due_time:
                return events.HostChosen(task=index, number=number, host=random.choice(HOSTS))
            if task.start_deadline and random.random() < 0.3:
                return events.TimerFired(timer=Timer.START, task=index, number=number - 1)
            return events.TimerFired(timer=Timer.DUE, task=index, number=number)
        lively = [(index, attempt) for index, attempt in sent if attempt.open]
        index, attempt = random.choice(lively if lively and random.random() < 0.8 else sent)
        return self._report(index, attempt.number)

    def _asked(self) -> events.Event:
        """Returns something that somebody asks for."""
        random, workflow = self.random, self.workflow
        needy = [i for i, t in workflow.tasks() if t.needs_decision]
        stuck = [i for i, t in workflow.tasks() if t.state is TaskState.COMPENSATION_BLOCKED]
        if stuck and random.random() < 0.7:
            return events.CompensationDecided(
                ask=ask(),
                task=random.choice(stuck),
                verb=random.choice(list(events.CompensationVerb)),
                replacement=b"\x00an action",
            )
        if needy or workflow.holding:
            choices = tuple(map(self._choice, needy))
            values = {"value-1": "another"} if random.random() < 0.3 else {}
            return events.ResumeRequested(ask=ask(), choices=choices, input=values)
        if random.random() < 0.9:
            return events.PauseRequested(ask=ask(), hold_compensation=random.random() < 0.3)
        return cancel(random)

    def _choice(self, index: int) -> events.Choice:
        match self.random.randrange(4):
            case 0:
                needed = resume.requirements(self.workflow)
                output = {n.key: "given" for n in needed if n.task == index and n.key}
                return events.Skip(task=index, output=output)
            case 1:
                return events.GiveUp(task=index)
            case _:
                patch = {"failure_message": "patched"} if self.random.random() < 0.5 else {}
                return events.Rerun(task=index, patch=patch)

    def _report(self, index: int, number: int) -> events.Event:
        random = self.random
        about: dict[str, Any] = {"task": index, "number": number}
        match random.choices(range(6), (50, 100, 15, 1, 12, 4))[0]:
            case 0:
                return events.AttemptAccepted(**about)
            case 1:
                picked = random.sample(list(INPUT), random.randrange(len(INPUT)))
                output = {name: INPUT[name] for name in picked}
                output["digest"] = "blake2b:00ff"  # something is bound to it
                return events.AttemptSucceeded(**about, output=output, done=2**40)
            case 2:
                return events.AttemptFailed(**about, failure=failure(random), done=1)
            case 3:
                return events.AttemptCancelled(**about)
            case 4:
                return events.AttemptLost(**about, failure=failure(random))
            case _:
                return events.AttemptMissing(**about)
