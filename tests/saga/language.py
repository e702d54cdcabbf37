"""A mini-language for stories about workflows: a tree, what the world answers, what comes of it.

A tree in one line. `;` makes a sequence, `|` a parallel group, brackets nest, `g(…)` names a group.
`d<b,c` comes after its siblings b and c. Words behind a colon are policies:

    "a; (b | c:await); d:retry=3"        retry=N  await  budget=N (of its compensation)
    "a | b<a | c<a | d<b,c:ro"           ro, pivot, forward (effects)  takes=a.image (a binding)

What the world answers, per attempt. Attempts are parted by commas, the last one repeats no more:
what is not told is `ok`. The steps of one attempt are parted by `+`; what stands behind `/` is
answered once it is asked to stop (`cancelled`, unless told). `undo-a` is the compensation of a.

    "b:retriable,ok c:hang/missing undo-a:lost+ok"

    ok fail retriable cancelled lost missing   the report
    run        the agent has journalled it
    wait       lets everything else come first
    hang       says nothing by itself

What others do, once a word stands in the history (`start` and `end` are always good):

    "cancel@ok:a"   "owner@undone:b"   "due-a.2@turn"   "say-a.1-fail@end"

The history in one line: do run ok fail retry lost cancel stopped (of actions), undo un-lost un-fail
stuck undone (of compensations), turn BLOCKED freed (of the workflow), owner asked refused late, and
the end: "do:a ok:a do:b fail:b turn undo:a undone:a = COMPENSATED".
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from coordinator.saga import events, history
from coordinator.saga.advance import Decision, advance, restore, start
from coordinator.saga.commands import Command, SendCancel, SendCompensation, SetTimer, outstanding
from coordinator.saga.spec import (
    Binding,
    GroupKind,
    GroupSpec,
    NodeSpec,
    OnSiblingFailure,
    Policy,
    Retry,
    TaskSpec,
    compile_plan,
    problems,
)
from coordinator.saga.states import AttemptKind, AttemptState, Effect, TaskState, WorkflowState
from coordinator.saga.workflow import About, Failure, Values, Workflow
from tests.saga import invariants

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
STEPS_MAX = 2_000  # of one story: more is a circle

# -- trees ----------------------------------------------------------------------------------------

_TOKEN = re.compile(r"[();|]|[^();|\s]+")
_WORD = re.compile(r"(?P<name>\w*)(?:<(?P<after>[\w,]+))?(?P<words>(?::[\w=.]+)*)")
_EFFECTS = {"ro": Effect.READ_ONLY, "pivot": Effect.PIVOT, "forward": Effect.FORWARD_ONLY}


def tree(text: str) -> GroupSpec:
    """Returns the tree that a line describes."""
    tokens = _TOKEN.findall(text)
    unnamed = iter(range(1, len(tokens) + 1))

    def group(name: str, after: tuple[str, ...] = ()) -> GroupSpec:
        members: list[NodeSpec] = []
        kinds: set[str] = set()
        while tokens and tokens[0] != ")":
            members.append(member())
            if tokens and tokens[0] in (";", "|"):
                kinds.add(tokens.pop(0))
        assert len(kinds) < 2, f"{text!r} mixes ; and | in one group"
        kind = GroupKind.PARALLEL if kinds == {"|"} else GroupKind.SEQUENCE
        return GroupSpec(name=name, kind=kind, members=tuple(members), after=after)

    def member() -> NodeSpec:
        word = tokens.pop(0) if tokens[0] != "(" else ""
        if not tokens or tokens[0] != "(":
            return _leaf(word)
        tokens.pop(0)
        inner = group(word or f"g{next(unnamed)}")
        assert tokens.pop(0) == ")", text
        if tokens and tokens[0].startswith("<"):
            inner = replace(inner, after=tuple(tokens.pop(0)[1:].split(",")))
        return inner

    return group("root")


def _leaf(text: str) -> TaskSpec:
    match = _WORD.fullmatch(text)
    assert match, text
    words = dict((*word.split("="), "")[:2] for word in match["words"].split(":")[1:])
    effects = [_EFFECTS[word] for word in words if word in _EFFECTS]
    policy = Policy(
        retry=Retry(attempts_max=int(words.get("retry", 1))),
        compensation_retry=Retry(attempts_max=int(words.get("budget", 5))),
        on_sibling_failure=OnSiblingFailure.AWAIT if "await" in words else OnSiblingFailure.CANCEL,
    )
    bindings: tuple[Binding, ...] = ()
    if origin := words.get("takes"):
        task, _, path = origin.partition(".")
        bindings = (Binding(field=path, task="" if task == "input" else task, path=path),)
    return TaskSpec(
        name=match["name"],
        after=tuple(match["after"].split(",")) if match["after"] else (),
        host=f"host-{match['name']}",
        verb="copy",
        effect=effects[0] if effects else Effect.REVERSIBLE,
        bindings=bindings,
        policy=policy,
    )


# -- what the world answers -----------------------------------------------------------------------


@dataclass
class Answer:
    """What one attempt still has to say."""

    task: int
    number: int
    steps: list[str]
    when_stopped: list[str]
    waits: bool = False
    stopped: bool = False


@dataclass(frozen=True)
class Trigger:
    """Something that others do once a word stands in the history."""

    verb: str
    word: str


@dataclass(frozen=True)
class Script:
    """The answers of all attempts, and what others do."""

    attempts: dict[tuple[str, AttemptKind], list[str]]
    triggers: tuple[Trigger, ...]

    def answer(self, name: str, kind: AttemptKind, nth: int) -> tuple[list[str], list[str]]:
        """Returns the steps of the n-th attempt of a kind, and those once it is asked to stop."""
        told = self.attempts.get((name, kind), [])
        steps, _, stopped = (told[nth] if nth < len(told) else "ok").partition("/")
        return steps.split("+"), (stopped or "cancelled").split("+")


def script(text: str) -> Script:
    """Returns what a line says of the world."""
    attempts: dict[tuple[str, AttemptKind], list[str]] = {}
    triggers: list[Trigger] = []
    for part in text.split():
        if "@" in part:
            verb, _, word = part.partition("@")
            triggers.append(Trigger(verb, word))
            continue
        name, _, answers = part.partition(":")
        kind = AttemptKind.COMPENSATION if name.startswith("undo-") else AttemptKind.ACTION
        attempts[name.removeprefix("undo-"), kind] = answers.split(",")
    return Script(attempts, tuple(triggers))


def failure(reason: str, *, retriable: bool = False) -> Failure:
    """Returns a failure that says no more than its reason."""
    return Failure(reason=reason, message=reason.lower(), retriable=retriable)


def report(step: str, task: int, number: int, output: Values | None = None) -> events.AttemptEvent:
    """Returns what an agent says by one word."""
    match step:
        case "run":
            return events.AttemptAccepted(task=task, number=number)
        case "ok":
            return events.AttemptSucceeded(task=task, number=number, output=output or {})
        case "fail":
            return events.AttemptFailed(task=task, number=number, failure=failure("BROKEN"))
        case "retriable":
            busy = failure("BUSY", retriable=True)
            return events.AttemptFailed(task=task, number=number, failure=busy)
        case "cancelled":
            return events.AttemptCancelled(task=task, number=number)
        case "lost":
            return events.AttemptLost(task=task, number=number, failure=failure("UNREACHABLE"))
        case "missing":
            return events.AttemptMissing(task=task, number=number)
        case _:
            raise AssertionError(step)


# -- the play -------------------------------------------------------------------------------------


@dataclass
class Play:
    """One workflow and its world, played to the end in a fixed order."""

    script: Script
    newest_first: bool = False
    owner_each: bool = False  # a coordinator dies after every decision
    log: list[str] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    timers: list[SetTimer] = field(default_factory=list)
    fired: set[Trigger] = field(default_factory=set)
    time: datetime = EPOCH
    intent: int = 1
    workflow: Workflow = field(init=False)

    def begin(self, root: GroupSpec, values: Values | None = None) -> None:
        """Submits the workflow."""
        assert not problems(root), problems(root)
        about = About(kind="story", input=values or {})
        now = self.now()
        decision = start(
            workflow_id="w", about=about, plan=compile_plan(root), owner_epoch=1, now=now
        )
        invariants.check(None, None, now, decision)
        self.take(decision)

    def now(self) -> events.Now:
        """Returns the next moment."""
        self.time += timedelta(seconds=1)
        return events.Now(time=self.time, jitter=0.5, intent=self.intent)

    def perform(self, event: events.Event) -> Decision:
        """Gives the core one event, checks what it makes of it, and takes it over."""
        now = self.now()
        decision = advance(self.workflow, event, now)
        invariants.check(self.workflow, event, now, decision)
        self.take(decision)
        return decision

    def take(self, decision: Decision) -> None:
        """Commits a decision and delivers its commands."""
        self.workflow = decision.workflow
        self.intent += decision.intents
        self.log.extend(words(decision))
        for command in decision.commands:
            self.deliver(command)

    def deliver(self, command: Command) -> None:
        """Hands a command to the world; the second time it changes nothing."""
        if isinstance(command, SetTimer):
            if command not in self.timers:
                self.timers.append(command)
            return
        known = [a for a in self.answers if (a.task, a.number) == (command.task, command.number)]
        if not known:
            name = self.workflow.plan.nodes[command.task].name
            undo = isinstance(command, SendCompensation)
            kind = AttemptKind.COMPENSATION if undo else AttemptKind.ACTION
            earlier = self.workflow.task(command.task).attempts[: command.number - 1]
            nth = sum(attempt.kind is kind for attempt in earlier)
            steps, stopped = self.script.answer(name, kind, nth)
            known = [Answer(command.task, command.number, steps, stopped)]
            self.answers.extend(known)
        answer = known[0]
        if isinstance(command, SendCancel) and not answer.stopped:
            answer.steps, answer.stopped, answer.waits = list(answer.when_stopped), True, False

    def run(self) -> None:
        """Lets the world answer until it has no more to say."""
        for _ in range(STEPS_MAX):
            if self.owner_each and not self.workflow.settled:
                self.change_owner()
            if not self.step():
                return
        raise AssertionError(f"goes on for ever: {' '.join(self.log[-20:])}")

    def step(self) -> bool:
        """Lets one thing happen; returns False if nothing is left that could."""
        event = (
            self.triggered(self.log) or self.reported() or self.timed() or self.triggered(["end"])
        )
        if isinstance(event, events.OwnerChanged):
            self.change_owner()
        elif event is not None:
            self.perform(event)
        return event is not None

    def triggered(self, log: list[str]) -> events.Event | None:
        """Returns what others do now."""
        for trigger in self.script.triggers:
            if trigger not in self.fired and trigger.word in (*log, "start"):
                self.fired.add(trigger)
                return self.by_others(trigger.verb)
        return None

    def by_others(self, verb: str) -> events.Event:
        """Returns the event behind the verb of a trigger."""
        if verb == "owner":
            return events.OwnerChanged(owner_epoch=self.workflow.owner_epoch + 1)
        if verb == "cancel":
            return events.CancelRequested(
                failure=failure("CANCELLED"), principal="eve", reason="", request_id="r"
            )
        what, target, *step = verb.split("-")
        name, _, number = target.partition(".")
        task = self.workflow.plan.by_name[name]
        if what == "due":
            return events.RetryDue(task=task, number=int(number))
        assert what == "say", verb
        return report(step[0], task, int(number))

    def reported(self) -> events.Event | None:
        """Returns the next report: what waits comes when nothing else does."""
        order = self.answers[::-1] if self.newest_first else self.answers
        for answer in sorted(order, key=lambda answer: answer.waits):
            while answer.steps:
                step = answer.steps.pop(0)
                if step == "wait":
                    answer.waits = True
                    if any(other.steps and not other.waits for other in self.answers):
                        break
                    continue
                if step == "hang":
                    continue
                name = self.workflow.plan.nodes[answer.task].name
                return report(
                    step, answer.task, answer.number, {"image": f"{name}.{answer.number}"}
                )
        return None

    def timed(self) -> events.Event | None:
        """Returns the timer that is due first; time passes once nothing else happens."""
        if not self.timers:
            return None
        timer = min(self.timers, key=lambda timer: timer.time)
        self.timers.remove(timer)
        self.time = max(self.time, timer.time)
        return events.RetryDue(task=timer.task, number=timer.number)

    def change_owner(self) -> None:
        """Kills the coordinator: only what is stored survives, and the agents."""
        self.timers.clear()
        found = {
            (command.task, command.number)
            for command in outstanding(self.workflow)
            if not isinstance(command, SetTimer)
        }
        for answer in self.answers:
            attempts = self.workflow.task(answer.task).attempts
            current = answer.number == len(attempts) and attempts[-1].open
            if current and (answer.task, answer.number) not in found:
                answer.steps = []  # nobody asks after it any more
        self.workflow = restore(self.workflow)
        self.perform(events.OwnerChanged(owner_epoch=self.workflow.owner_epoch + 1))

    def story(self) -> str:
        """Returns the history in one line."""
        return " ".join([*self.log, "=", self.workflow.state])


def play(
    text: str, setup: str = "", *, newest_first: bool = False, owner_each: bool = False
) -> Play:
    """Returns a play that has been played to its end."""
    told = Play(script=script(setup), newest_first=newest_first, owner_each=owner_each)
    told.begin(tree(text), {"size": 7})
    told.run()
    return told


# -- history in words -----------------------------------------------------------------------------

_TASK_WORDS = {
    TaskState.RUNNING: "run",
    TaskState.SUCCEEDED: "ok",
    TaskState.FAILED: "fail",
    TaskState.RETRY_WAIT: "retry",
    TaskState.UNKNOWN: "lost",
    TaskState.CANCELLING: "cancel",
    TaskState.CANCELLED: "stopped",
    TaskState.COMPENSATED: "undone",
    TaskState.COMPENSATION_BLOCKED: "stuck",
}
_WORKFLOW_WORDS = {
    (WorkflowState.RUNNING, WorkflowState.COMPENSATING): "turn",
    (WorkflowState.BLOCKED, WorkflowState.COMPENSATING): "freed",
    (WorkflowState.COMPENSATING, WorkflowState.BLOCKED): "BLOCKED",
}
_UNDO_WORDS = {AttemptState.FAILED: "un-fail", AttemptState.UNKNOWN: "un-lost"}


def words(decision: Decision) -> Iterator[str]:
    """Yields the words of a decision; a task that never started stops without one."""
    if decision.refusal:
        yield "refused"
    for entry in decision.history:
        name = decision.workflow.plan.nodes[entry.task].name if entry.task >= 0 else ""
        match entry.fact:
            case history.AttemptStarted(kind=AttemptKind.ACTION):
                yield f"do:{name}"
            case history.AttemptStarted(kind=AttemptKind.COMPENSATION):
                yield f"undo:{name}"
            case history.AttemptEnded(attempt=number, state=state) if (
                decision.workflow.task(entry.task).attempts[number - 1].kind
                is AttemptKind.COMPENSATION
            ) and state in _UNDO_WORDS:
                yield f"{_UNDO_WORDS[state]}:{name}"
            case history.TaskMoved(before=before, after=after) if after in _TASK_WORDS:
                if before is not TaskState.PENDING:
                    yield f"{_TASK_WORDS[after]}:{name}"
            case history.WorkflowMoved(before=was, after=now) if (was, now) in _WORKFLOW_WORDS:
                yield _WORKFLOW_WORDS[was, now]
            case history.OwnerMoved():
                yield "owner"
            case history.Intervened():
                yield "asked"
            case history.ReportedLate():
                yield f"late:{name}"
            case _:
                pass
