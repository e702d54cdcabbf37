"""Workflows that the saga itself has led anywhere, as the changes a coordinator would commit.

One seed is one walk. Specs are the contract's own messages, since a store compiles the plan from
them again.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from random import Random

from coordinator.runtime.ports import Change, Request, Submission
from coordinator.saga import events
from coordinator.saga.advance import Decision, advance, quarantine, start
from coordinator.saga.spec import Value, compile_plan
from coordinator.saga.workflow import About, Failure, Workflow
from coordinator.wire.spec import tree_from_spec
from countermand.client.spec import parallel, policy, retry, sequence, task, workflow_spec
from countermand.v1.verb_pb2 import CopyImage, Noop, VerifyImage
from countermand.v1.workflow_spec_pb2 import Node, Policy, WorkflowSpec

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


def three_tasks() -> WorkflowSpec:
    """Returns three tasks in a sequence."""
    members = [task(f"task-{n}", host="host-1", action=Noop()) for n in range(3)]
    return workflow_spec("three", sequence("root", *members))


def random_spec(random: Random) -> WorkflowSpec:
    """Returns a small tree with groups in groups, retries and bindings."""
    policies = policy(
        retry=retry(random.choice((1, 3))),
        compensation_retry=retry(random.choice((1, 5))),
        on_sibling_failure=random.choice(
            (Policy.ON_SIBLING_FAILURE_CANCEL, Policy.ON_SIBLING_FAILURE_AWAIT)
        ),
    )
    names = (f"task-{number}" for number in range(100))
    first = _random_task(random, next(names), {"failure_message": "input.value-1"})
    path = random.choice(list(INPUT))
    last = _random_task(random, next(names), {"a": f"tasks.{first.name}.output.{path}"})
    between = [_random_group(random, names, depth=2) for _ in range(random.randrange(3))]
    kind = random.choice(("add-vm", "clone"))
    return workflow_spec(kind, sequence("root", first, *between, last), policy=policies)


def _random_group(random: Random, names: Iterator[str], depth: int) -> Node:
    make = random.choice((sequence, parallel))
    members = [
        _random_group(random, names, depth - 1)
        if depth and random.random() < 0.3
        else _random_task(random, next(names), {})
        for _ in range(random.choice((1, 2, 3)))
    ]
    return make(f"group-{next(names)}", *members)


def _random_task(random: Random, name: str, bindings: dict[str, str]) -> Node:
    action = random.choice((Noop(), Noop(), CopyImage(flatten=True), VerifyImage()))
    host = f"host-{random.randrange(3)}"
    return task(name, host=host, action=action, bindings=bindings)


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
    ) -> None:
        """Submits it."""
        self.random = Random(f"{workflow_id} {seed}")
        self.time = begin
        self.intent = 1 + self.random.randrange(1_000)
        spec = spec or random_spec(self.random)
        self.submission = Submission(
            spec=spec.SerializeToString(deterministic=True), input=b"input\x00", hash=b"\xff" * 32
        )
        about = About(
            kind=spec.kind,
            labels=tuple((labels or {}).items()),
            principal="engine",
            traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            tracestate="a=b",
            input=INPUT,
            forked_from=self.random.choice(("", "another")),
        )
        plan = compile_plan(tree_from_spec(spec))
        now = self._now()
        decision = start(
            workflow_id=workflow_id, about=about, plan=plan, owner_epoch=epoch, now=now
        )
        self.requests = 0
        self.change = self._took(0, decision, self.submission)

    @property
    def workflow(self) -> Workflow:
        """Returns the workflow as last decided."""
        return self.change.workflow

    def step(self) -> Change | None:
        """Does anything that may happen; returns None if nothing came of it."""
        return self.perform(self._anything())

    def succeed(self) -> Change:
        """Lets the first open attempt succeed."""
        index, attempt = next(
            (index, task.last)
            for index, task in self.workflow.tasks()
            if task.attempts and task.last.open
        )
        change = self.perform(events.AttemptSucceeded(task=index, number=attempt.number))
        assert change is not None
        return change

    def perform(self, event: events.Event) -> Change | None:
        """Gives the saga one event."""
        before = self.workflow
        decision = advance(before, event, self._now())
        if decision.empty:
            return None
        request = None
        if isinstance(event, events.CancelRequested):
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
        if chance < 0.03:
            return events.CancelRequested(
                failure=failure(random), principal="admin", reason="drill", request_id="r"
            )
        if chance < 0.06:
            return events.OwnerChanged(owner_epoch=self.workflow.owner_epoch + 1)
        tasks = list(self.workflow.tasks())
        if chance < 0.3:
            index, task = random.choice(tasks)
            return events.RetryDue(task=index, number=len(task.attempts) + 1)
        sent = [(index, attempt) for index, task in tasks for attempt in task.attempts]
        lively = [(index, attempt) for index, attempt in sent if attempt.open]
        index, attempt = random.choice(lively if lively and random.random() < 0.8 else sent)
        return self._report(index, attempt.number)

    def _report(self, index: int, number: int) -> events.Event:
        random = self.random
        about = {"task": index, "number": number}
        match random.choices(range(6), (2, 6, 3, 1, 2, 1))[0]:
            case 0:
                return events.AttemptAccepted(**about)
            case 1:
                picked = random.sample(list(INPUT), random.randrange(len(INPUT)))
                output = {name: INPUT[name] for name in picked}
                return events.AttemptSucceeded(**about, output=output, done=2**40)
            case 2:
                return events.AttemptFailed(**about, failure=failure(random), done=1)
            case 3:
                return events.AttemptCancelled(**about)
            case 4:
                return events.AttemptLost(**about, failure=failure(random))
            case _:
                return events.AttemptMissing(**about)
