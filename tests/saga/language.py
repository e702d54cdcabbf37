"""A mini-language for stories about workflows: a tree, what the world answers, what comes of it.

A tree in one line. `;` makes a sequence, `|` a parallel group, brackets nest, `g(…)` names a group.
`d<b,c` comes after its siblings b and c. Words behind a colon are policies:

    "a; (b | c:await); d:retry=3"        retry=N  await  budget=N (of its compensation)
    "a | b<a | c<a | d<b,c:ro"           ro, pivot, forward (effects)
    "a; b:takes=a.image:types=str"       a binding, and the type of its field
    "a:pause; b:ignore"                  what its failure makes: pause ignore stop group recover
    "a:before; b:hold; c:wait=5:rest=5"  pauses before it, on its success; waits before, after it
    "a:late=9:any; b:on=x+y:runs=9"      a start timeout; a run timeout; hosts: any, or one of these
    "a; b:when=input.size; c:when=a.SKIPPED; d:undo=erase"     conditions; another opposite
    "a:ext; b:ext:list"                  external tasks; b is made up for by a checklist

Words behind a group are its own: `g(a | b | c):min=2:max=1:rounds=3:fan:open`, and policies that
its tasks inherit; `g(a; b){r}:recover` has the recovery task r. End actions stand behind `=>`,
those after a failure behind a stroke: `a; b => told / cried`.

What the world answers, per attempt. Attempts are parted by commas, the last one repeats no more:
what is not told is `ok`. The steps of one attempt are parted by `+`; what stands behind `/` is
answered once it is asked to stop (`cancelled`, unless told). `undo-a` is the compensation of a,
`fence-a` what another host says that is asked to settle it.

    "b:retriable,ok c:hang/missing undo-a:lost+ok"

    ok fail retriable cancelled lost missing   the report
    fenced refused   of a fence: nothing is there, and nothing will be; it cannot be done there
    run        the agent has journalled it
    wait       lets everything else come first
    hang       says nothing by itself
    silent     its owner has been silent for too long, or people are to do it
    line       waits for a slot before its host: says nothing, and is recalled by a pause

What others do, once a word stands in the history (`start` and `end` are always good), or once it
stands there for the second time (`#2`):

    "cancel@ok:a"   "owner@undone:b"   "due-a.2@turn"   "say-a.1-fail@end"   "resume@PAUSED#2"
    "pause@do:a"  "pause-all@turn" (compensations, too)  "locks@start"
    "put-back@run:a" (the store is an older one: a new owner, and people have to look)
    "resume@PAUSED"  "resume+rerun-b+skip-c/image=x@PAUSED"  "resume+compensate-b@PAUSED"
    "resume+rerun-g.0.2@PAUSED" (items)  "resume+reset-g@PAUSED"  "resume+input/size=9@PAUSED"
    "fence-a@run:a" (by another host)
    "add-g-x<a:ro@run:a" (a task x to g, or under g if that is a task)
    "end-a.1-ok@run:a"  "close-a.1-ok@run:a" (by force)    what an owner says of what is under a
    "finish@run:main"  "finish-fail"  "finish-force"  "finish-fail-force"    of the whole
    "retry-a@BLOCKED"  "replace-a@BLOCKED"  "done-a@BLOCKED"  "abandon-a@BLOCKED"

The history in one line: do run ok fail retry lost cancel stopped skip wait again (of actions), undo
un-run un-lost un-fail stuck undone abandoned (of compensations), compensating:g and the like (of
groups), turn BLOCKED freed pausing PAUSED resumed ending (of the workflow), owner asked refused
late locked added, and the end: "do:a ok:a do:b fail:b turn undo:a undone:a = COMPENSATED".
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from coordinator.saga import events, history
from coordinator.saga.advance import Decision, advance, restore, start
from coordinator.saga.commands import (
    ChooseHost,
    Command,
    Recall,
    SendCancel,
    SendCompensation,
    SendFence,
    SetTimer,
    Timer,
    Withdraw,
    outstanding,
)
from coordinator.saga.plan import compile_plan
from coordinator.saga.problems import problems
from coordinator.saga.spec import (
    DEFAULT_POLICY,
    NO_TERMS,
    OWNER_PREFIX,
    Binding,
    Condition,
    External,
    GroupKind,
    GroupRules,
    GroupSpec,
    NodeSpec,
    OnFailure,
    OnSiblingFailure,
    Opposite,
    Policy,
    Retry,
    TaskSpec,
    Terms,
    Value,
)
from coordinator.saga.states import AttemptKind, AttemptState, Effect, TaskState, WorkflowState
from coordinator.saga.workflow import About, Failure, Values, Workflow
from tests.saga import invariants

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
ASK = events.Ask(principal="eve", reason="because", request_id="r")
_COMPENSATION = {
    "retry": events.CompensationVerb.RETRY,
    "replace": events.CompensationVerb.REPLACE,
    "done": events.CompensationVerb.MARK_DONE,
    "abandon": events.CompensationVerb.ABANDON,
}
OTHER = "host-other"  # that reaches the same storage as all of them
STEPS_MAX = 2_000  # of one story: more is a circle

# -- trees ----------------------------------------------------------------------------------------

_TOKEN = re.compile(r"[(){};|]|[^(){};|\s]+")
_WORD = re.compile(r"(?P<name>[\w-]*)(?:<(?P<after>[\w,]+))?(?P<words>(?::[\w=.+]+)*)")
_EFFECTS = {"ro": Effect.READ_ONLY, "pivot": Effect.PIVOT, "forward": Effect.FORWARD_ONLY}
_ON_FAILURE = {
    "pause": OnFailure.PAUSE,
    "ignore": OnFailure.IGNORE,
    "stop": OnFailure.STOP,
    "group": OnFailure.COMPENSATE_GROUP,
    "recover": OnFailure.RECOVER,
    "compensate": OnFailure.COMPENSATE,
}


def tree(text: str) -> GroupSpec:
    """Returns the tree that a line describes, without its end actions."""
    return _Parser(text.partition("=>")[0]).root()


def terms(text: str) -> Terms:
    """Returns what a line says beside its tree."""
    success, _, failure = text.partition("=>")[2].partition("/")
    return Terms(
        on_success=_Parser(success).root().members, on_failure=_Parser(failure).root().members
    )


class _Parser:
    """Reads a line from left to right."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = _TOKEN.findall(text)
        self.unnamed = iter(range(1, len(self.tokens) + 1))

    def root(self) -> GroupSpec:
        kind, members = self.members()
        return _inheriting(GroupSpec(name="root", kind=kind, members=members))

    def members(self) -> tuple[GroupKind, tuple[NodeSpec, ...]]:
        members: list[NodeSpec] = []
        kinds: set[str] = set()
        while self.tokens and self.tokens[0] not in (")", "}"):
            members.append(self.member())
            if self.tokens and self.tokens[0] in (";", "|"):
                kinds.add(self.tokens.pop(0))
        assert len(kinds) < 2, f"{self.text!r} mixes ; and | in one group"
        kind = GroupKind.PARALLEL if kinds == {"|"} else GroupKind.SEQUENCE
        return kind, tuple(members)

    def member(self) -> NodeSpec:
        word = self.tokens.pop(0) if self.tokens[0] != "(" else ""
        if not self.tokens or self.tokens[0] != "(":
            return _leaf(word)
        self.tokens.pop(0)
        kind, members = self.members()
        assert self.tokens.pop(0) == ")", self.text
        recovery: tuple[NodeSpec, ...] = ()
        if self.tokens and self.tokens[0] == "{":
            self.tokens.pop(0)
            _, recovery = self.members()
            assert self.tokens.pop(0) == "}", self.text
        name = word or f"g{next(self.unnamed)}"
        group = GroupSpec(name=name, kind=kind, members=members, recovery=recovery)
        if self.tokens and self.tokens[0][0] in "<:":
            group = _ruled(group, self.tokens.pop(0))
        return group


def _words(text: str) -> tuple[re.Match[str], dict[str, str]]:
    match = _WORD.fullmatch(text)
    assert match, text
    return match, dict((*word.split("=", 1), "")[:2] for word in match["words"].split(":")[1:])


def _ruled(group: GroupSpec, text: str) -> GroupSpec:
    """Returns a group with the words that stand behind it."""
    match, words = _words(text)
    kind = GroupKind.PARALLEL if words.keys() & {"fan", "open"} else group.kind
    rules = GroupRules(
        min_success=int(words.get("min", 0)),
        concurrency_max=int(words.get("max", 0)),
        rounds_max=int(words.get("rounds", 1)),
        on_failure=next((_ON_FAILURE[word] for word in words if word in _ON_FAILURE), None),
        fan_out="fan" in words,
        open=DEFAULT_POLICY if "open" in words else None,
    )
    after = tuple(match["after"].split(",")) if match["after"] else ()
    return replace(group, kind=kind, after=after, when=_condition(words), rules=rules)


def _inheriting(group: GroupSpec, above: OnFailure | None = None) -> GroupSpec:
    """Returns a group whose tasks have the policies that they inherit."""
    policy = group.rules.on_failure or above

    def inherit(member: NodeSpec) -> NodeSpec:
        if isinstance(member, GroupSpec):
            return _inheriting(member, policy)
        own = member.policy.on_failure
        if policy is None or own is not OnFailure.COMPENSATE:
            return member
        return replace(member, policy=replace(member.policy, on_failure=policy))

    return replace(
        group,
        members=tuple(map(inherit, group.members)),
        recovery=tuple(map(inherit, group.recovery)),
    )


def _condition(words: dict[str, str]) -> Condition | None:
    if "when" not in words:
        return None
    task, _, path = words["when"].partition(".")
    if path.isupper():
        return Condition(task=task, path="", equals=path, of_state=True)
    return Condition(task="" if task == "input" else task, path=path)


def _seconds(words: dict[str, str], name: str) -> timedelta:
    return timedelta(seconds=int(words.get(name, 0)))


def _leaf(text: str) -> TaskSpec:
    match, words = _words(text)
    name = match["name"]
    effects = [_EFFECTS[word] for word in words if word in _EFFECTS]
    policy = Policy(
        retry=Retry(attempts_max=int(words.get("retry", 1))),
        compensation_retry=Retry(attempts_max=int(words.get("budget", 5))),
        on_failure=next(
            (_ON_FAILURE[word] for word in words if word in _ON_FAILURE), OnFailure.COMPENSATE
        ),
        on_sibling_failure=OnSiblingFailure.AWAIT if "await" in words else OnSiblingFailure.CANCEL,
        start_timeout=_seconds(words, "late") if "late" in words else None,
        run_timeout=_seconds(words, "runs") if "runs" in words else None,
        wait_before=_seconds(words, "wait"),
        wait_after=_seconds(words, "rest"),
        pause_before="before" in words,
        pause_on_success="hold" in words,
    )
    bindings: tuple[Binding, ...] = ()
    if origin := words.get("takes"):
        task, _, path = origin.partition(".")
        if task == "failure":
            bindings = (Binding(field=path, task="", path=origin, of_failure=True),)
        else:
            source = "" if task == "input" else task
            bindings = (Binding(field=path, task=source, path=path, type=words.get("types", "")),)
    hosts = tuple(words["on"].split("+")) if "on" in words else ()
    external = External(checklist="do it" if "list" in words else "") if "ext" in words else None
    undo = words.get("undo")
    own = (Binding(field="image", task=name, path="image"),)
    return TaskSpec(
        name=name,
        after=tuple(match["after"].split(",")) if match["after"] else (),
        when=_condition(words),
        host=f"{OWNER_PREFIX}acme"
        if external
        else ""
        if hosts or "any" in words
        else f"host-{name}",
        candidates=hosts,
        verb="acme/do" if external else "copy",
        effect=effects[0] if effects else Effect.REVERSIBLE,
        bindings=bindings,
        opposite=Opposite(verb=undo, action=b"", bindings=own) if undo else None,
        policy=policy,
        external=external,
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
    fence: bool = False  # by another host than its own


_ENDS = (events.AttemptSucceeded, events.AttemptFailed, events.AttemptCancelled)
_FENCE, _ACTION = "FENCE", AttemptKind.ACTION
_ANSWERS = {"undo": AttemptKind.COMPENSATION, "fence": _FENCE}  # of other things than actions


@dataclass(frozen=True)
class Trigger:
    """Something that others do once a word stands in the history."""

    verb: str
    word: str


@dataclass(frozen=True)
class Script:
    """The answers of all attempts, and what others do."""

    attempts: dict[tuple[str, str], list[str]]
    triggers: tuple[Trigger, ...]

    def answer(self, name: str, kind: str, nth: int) -> tuple[list[str], list[str]]:
        """Returns the steps of the n-th attempt of a kind, and those once it is asked to stop."""
        told = self.attempts.get((name, kind), [])
        steps, _, stopped = (told[nth] if nth < len(told) else "ok").partition("/")
        return steps.split("+"), (stopped or "cancelled").split("+")


def script(text: str) -> Script:
    """Returns what a line says of the world."""
    attempts: dict[tuple[str, str], list[str]] = {}
    triggers: list[Trigger] = []
    for part in text.split():
        if "@" in part:
            verb, _, word = part.partition("@")
            triggers.append(Trigger(verb, word))
            continue
        name, _, answers = part.partition(":")
        first, _, of = name.partition("-")
        kind, name = (_ANSWERS[first], of) if first in _ANSWERS and of else (_ACTION, name)
        attempts[name, kind] = answers.split(",")
    return Script(attempts, tuple(triggers))


def failure(reason: str, *, retriable: bool = False) -> Failure:
    """Returns a failure that says no more than its reason."""
    return Failure(reason=reason, message=reason.lower(), retriable=retriable)


Said = events.AttemptEvent | events.OwnerSilent


def report(step: str, task: int, number: int, output: Values | None = None) -> Said:
    """Returns what an agent says by one word, or what is said of an owner."""
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
        case "silent":
            return events.OwnerSilent(task=task, number=number, failure=failure("OWNER_SILENT"))
        case "missing":
            return events.AttemptMissing(task=task, number=number)
        case "recalled":
            return events.AttemptRecalled(task=task, number=number)
        case "fenced":
            fenced = replace(failure("ATTEMPT_FENCED", retriable=True), host=OTHER)
            return events.AttemptFailed(task=task, number=number, failure=fenced)
        case "refused":
            refused = failure("POOL_NOT_SHARED")
            return events.FenceRefused(task=task, number=number, host=OTHER, failure=refused)
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
    choices: list[ChooseHost] = field(default_factory=list)
    hosts: tuple[str, ...] = ("x", "y", "z")  # that the world has
    fired: set[Trigger] = field(default_factory=set)
    time: datetime = EPOCH
    intent: int = 1
    workflow: Workflow = field(init=False)

    def begin(
        self,
        root: GroupSpec,
        values: Values | None = None,
        *,
        beside: Terms = NO_TERMS,
        locked: bool = True,
    ) -> None:
        """Submits the workflow."""
        assert not problems(root, beside), problems(root, beside)
        about = About(kind="story", input=values or {})
        now = self.now()
        plan = compile_plan(root, beside)
        decision = start(
            workflow_id="w", about=about, plan=plan, owner_epoch=1, now=now, locked=locked
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
        if isinstance(command, ChooseHost):
            self.choices.append(command)
            return
        if isinstance(command, Recall):
            for answer in self.answers:
                same = (answer.task, answer.number) == (command.task, command.number)
                if same and answer.steps[:1] == ["line"]:
                    answer.steps = ["recalled"]
            return
        if isinstance(command, Withdraw):
            self.answers = [
                a for a in self.answers if (a.task, a.number) != (command.task, command.number)
            ]
            return
        fence = isinstance(command, SendFence)
        about = (command.task, command.number, fence)
        known = [a for a in self.answers if (a.task, a.number, a.fence) == about]
        if not known:
            name = self.workflow.plan.nodes[command.task].name
            undo = isinstance(command, SendCompensation)
            kind = AttemptKind.COMPENSATION if undo else AttemptKind.ACTION
            earlier = self.workflow.task(command.task).attempts[: command.number - 1]
            nth = sum(attempt.kind is kind for attempt in earlier)
            steps, stopped = self.script.answer(name, _FENCE if fence else kind, nth)
            known = [Answer(command.task, command.number, steps, stopped, fence=fence)]
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
            self.triggered(self.log)
            or self.placed()
            or self.reported()
            or self.timed()
            or self.triggered(["end"])
        )
        if isinstance(event, events.OwnerChanged):
            self.change_owner(event.hold)
        elif event is not None:
            self.perform(event)
        return event is not None

    def triggered(self, log: list[str]) -> events.Event | None:
        """Returns what others do now."""
        for trigger in self.script.triggers:
            word, _, times = trigger.word.partition("#")
            if trigger not in self.fired and [*log, "start"].count(word) >= int(times or 1):
                self.fired.add(trigger)
                return self.by_others(trigger.verb)
        return None

    def by_others(self, verb: str) -> events.Event:
        """Returns the event behind the verb of a trigger."""
        if verb in ("owner", "put-back"):
            hold = ASK if verb == "put-back" else None
            return events.OwnerChanged(owner_epoch=self.workflow.owner_epoch + 1, hold=hold)
        if verb == "locks":
            return events.LocksGranted()
        if verb == "cancel":
            return events.CancelRequested(ask=ASK, failure=failure("CANCELLED"))
        if verb in ("pause", "pause-all"):
            return events.PauseRequested(ask=ASK, hold_compensation=verb == "pause-all")
        if verb.startswith("resume"):
            return self.resume(verb.split("+")[1:])
        if verb.startswith("finish"):
            said = failure("ENDED") if "fail" in verb else None
            return events.EndAllRequested(ask=ASK, failure=said, force="force" in verb)
        what, target, *step = verb.split("-")
        name, _, number = target.partition(".")
        task = self.workflow.plan.by_name[name]
        if what in _COMPENSATION:
            replacement = b"other" if what == "replace" else b""
            return events.CompensationDecided(
                ask=ASK, task=task, verb=_COMPENSATION[what], replacement=replacement
            )
        if what == "add":
            return self.added(task, "-".join(step))
        if what in ("end", "close"):
            said_of = report(step[0], task, int(number))
            assert isinstance(said_of, _ENDS), verb
            return events.EndRequested(ask=ASK, said=said_of, force=what == "close")
        if what == "fence":
            return events.FenceRequested(ask=ASK, task=task, host=OTHER)
        if what == "due":
            return events.TimerFired(timer=Timer.DUE, task=task, number=int(number))
        assert what == "say", verb
        return report(step[0], task, int(number))

    def added(self, place: int, text: str) -> events.AddRequested:
        """Returns the request behind "add-g-x": of a vendor that adds a task somewhere."""
        spec, node = _leaf(f"{text}:ext"), self.workflow.plan.nodes[place]
        if node.task is None:
            return events.AddRequested(ask=ASK, spec=spec, parent=place)
        return events.AddRequested(ask=ASK, spec=spec, parent=node.parent, under=place)

    def resume(self, choices: list[str]) -> events.ResumeRequested:
        """Returns the request behind "rerun-b/image=x", "skip-c", "compensate-d" and the like."""
        made: list[events.Choice] = []
        values: dict[str, Value] = {}
        for choice in choices:
            what, *pairs = choice.split("/")
            given: dict[str, Value] = {}
            for pair in pairs:
                key, _, value = pair.partition("=")
                given[key] = int(value) if value.isdigit() else value
            if what == "input":
                values = given
                continue
            verb, _, target = what.partition("-")
            name, *items = target.split(".")
            task = self.workflow.plan.by_name[name]
            match verb:
                case "rerun":
                    chosen = tuple(map(int, items))
                    made.append(events.Rerun(task=task, patch=given, items=chosen))
                case "reset":
                    made.append(events.Rerun(task=task, patch=given, reset=True))
                case "skip":
                    made.append(events.Skip(task=task, output=given))
                case "compensate":
                    made.append(events.GiveUp(task=task))
                case _:
                    raise AssertionError(verb)
        return events.ResumeRequested(ask=ASK, choices=tuple(made), input=values)

    def placed(self) -> events.Event | None:
        """Returns the host that is found for the first task that waits for one."""
        for choice in list(self.choices):
            able = [h for h in choice.candidates or self.hosts if h in self.hosts]
            fresh = [host for host in able if host not in choice.avoid]
            if fresh or able:
                self.choices.remove(choice)
                host = (fresh or able)[0]
                return events.HostChosen(task=choice.task, number=choice.number, host=host)
        return None

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
                if step == "line":
                    answer.steps.insert(0, step)
                    break
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
        return events.TimerFired(timer=timer.timer, task=timer.task, number=timer.number)

    def change_owner(self, hold: events.Ask | None = None) -> None:
        """Kills the coordinator: only what is stored survives, and the agents."""
        self.timers.clear()
        self.choices.clear()
        found = {
            (command.task, command.number)
            for command in outstanding(self.workflow)
            if not isinstance(command, SetTimer | ChooseHost)
        }
        for answer in self.answers:
            attempts = self.workflow.task(answer.task).attempts
            current = answer.number == len(attempts) and attempts[-1].open
            if current and (answer.task, answer.number) not in found:
                answer.steps = []  # nobody asks after it any more
        self.workflow = restore(self.workflow)
        epoch = self.workflow.owner_epoch + 1
        self.perform(events.OwnerChanged(owner_epoch=epoch, hold=hold))

    def story(self) -> str:
        """Returns the history in one line."""
        return " ".join([*self.log, "=", self.workflow.state])


def play(
    text: str, setup: str = "", *, newest_first: bool = False, owner_each: bool = False
) -> Play:
    """Returns a play that has been played to its end."""
    told = Play(script=script(setup), newest_first=newest_first, owner_each=owner_each)
    told.begin(tree(text), {"size": 7, "no": False}, beside=terms(text))
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
    TaskState.SKIPPED: "skip",
    TaskState.READY: "wait",
    TaskState.PENDING: "again",
    TaskState.ABANDONED: "abandoned",
}
_WORKFLOW_WORDS = {
    WorkflowState.COMPENSATING: "turn",
    WorkflowState.BLOCKED: "BLOCKED",
    WorkflowState.PAUSING: "pausing",
    WorkflowState.PAUSED: "PAUSED",
    WorkflowState.RUNNING: "resumed",
    WorkflowState.ENDING: "ending",
}
_SILENT = frozenset({TaskState.CANCELLED})  # of tasks that never started
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
                if before is not TaskState.PENDING or after not in _SILENT:
                    yield f"{_TASK_WORDS[after]}:{name}"
            case history.WorkflowMoved(before=WorkflowState.BLOCKED, after=after) if after in (
                WorkflowState.COMPENSATING,
                WorkflowState.RUNNING,
            ):
                yield "freed"
            case history.WorkflowMoved(after=after) if after in _WORKFLOW_WORDS:
                yield _WORKFLOW_WORDS[after]
            case history.GroupMoved(after=after):
                yield f"{after.lower()}:{name}"
            case history.AttemptAccepted():
                yield f"un-run:{name}"
            case history.TaskAdded():
                yield f"added:{name}"
            case history.LocksTaken():
                yield "locked"
            case history.OwnerMoved():
                yield "owner"
            case history.Intervened(principal="policy"):
                pass  # the pause itself is told
            case history.Intervened():
                yield "asked"
            case history.ReportedLate():
                yield f"late:{name}"
            case history.FenceMoved(host=host):
                yield f"fence:{name}" if host else f"unfenced:{name}"
            case _:
                pass
