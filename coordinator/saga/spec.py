"""What is submitted: a tree of tasks and groups, their policies, and what stands beside the tree.

Values only. `plan.py` turns a tree into the flat form that `advance` walks, `problems.py` says
beforehand what is wrong with one. Arguments stay opaque bytes here: verbs are not this package's
business. `for_each` groups and nested workflows come here expanded.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum

from coordinator.saga.states import Effect

# A value that may flow from one task to another.
Value = str | int | bool | float | None

DEPTH_MAX = 32  # groups in groups; deeper is a generated mistake, and recursion must end
NODES_MAX = 10_000  # one transaction starts or cancels them all

IRREVERSIBLE = frozenset({Effect.PIVOT, Effect.FORWARD_ONLY})

# Before the id of an owner, where the id of a host would stand; no host's id has a colon. An owner
# takes the place of a host in everything that is said of attempts.
OWNER_PREFIX = "owner:"


def owner_of(host: str) -> str:
    """Returns the owner that stands in the place of a host; empty if it is a host."""
    return host.removeprefix(OWNER_PREFIX) if host.startswith(OWNER_PREFIX) else ""


class GroupKind(StrEnum):
    """How members of a group follow each other."""

    SEQUENCE = "SEQUENCE"
    PARALLEL = "PARALLEL"


class OnSiblingFailure(StrEnum):
    """What happens to siblings that still run when one fails."""

    CANCEL = "CANCEL"
    AWAIT = "AWAIT"


class OnFailure(StrEnum):
    """What the failure of a task, after its retries, makes of its group and workflow."""

    COMPENSATE = "COMPENSATE"  # the whole workflow is made up for
    COMPENSATE_GROUP = "COMPENSATE_GROUP"  # only the group that says so; its parent goes on
    PAUSE = "PAUSE"  # an operator decides
    IGNORE = "IGNORE"  # optional work: the workflow goes on
    STOP = "STOP"  # ends as FAILED and keeps what was done
    RECOVER = "RECOVER"  # the recovery tasks of the group that says so run


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """Further attempts by policy."""

    attempts_max: int = 1  # the first included
    delay: timedelta = timedelta(seconds=1)
    delay_max: timedelta = timedelta(seconds=60)
    backoff_percent: int = 200
    jitter_percent: int = 50
    reasons: frozenset[str] = frozenset()  # empty: those that are retriable

    def wait(self, failures: int, jitter: float) -> timedelta:
        """Returns the wait after the n-th failure in a row; jitter is in [0, 1)."""
        assert failures >= 1, failures
        # The exponent is bounded, and seconds are capped before they become a timedelta, so that a
        # compensation retried for years does not overflow.
        grown_s = self.delay.total_seconds() * (self.backoff_percent / 100) ** min(failures - 1, 64)
        wait_s = min(grown_s, self.delay_max.total_seconds())
        return timedelta(seconds=wait_s * (1 - jitter * self.jitter_percent / 100))


NO_WAIT = timedelta(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How tries, times and failures of one task are dealt with, everything inherited filled in."""

    retry: Retry = Retry()
    # Compensations are retried for ever; beyond attempts_max the workflow shows BLOCKED.
    compensation_retry: Retry = Retry(attempts_max=5)
    on_failure: OnFailure = OnFailure.COMPENSATE
    on_sibling_failure: OnSiblingFailure = OnSiblingFailure.CANCEL
    start_timeout: timedelta | None = None  # from READY to the agent's journal
    run_timeout: timedelta | None = None  # kept by the agent
    stall_timeout: timedelta | None = None  # kept by the agent
    wait_before: timedelta = NO_WAIT
    wait_after: timedelta = NO_WAIT
    pause_before: bool = False
    pause_on_success: bool = False
    priority: int = 0  # higher goes first where tasks wait for a slot on a host


DEFAULT_POLICY = Policy()


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """Fills one field of an action from the output of an earlier task, or from the input."""

    field: str  # of the action, such as "source.image_id"
    task: str  # the name of the task; empty for the input
    path: str  # in its output, or in the input
    type: str = ""  # what the field takes: "str", "int", "bool", "float"; empty: not known
    of_failure: bool = False  # not of a task nor of the input: "failure.reason", for end actions

    @property
    def origin(self) -> str:
        """Returns the path as people write it."""
        if self.of_failure:
            return self.path
        return f"tasks.{self.task}.output.{self.path}" if self.task else f"input.{self.path}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """Holds when the value at a path is as said."""

    task: str  # the name of the task; empty for the input
    path: str  # in its output, or in the input
    equals: str | None = None  # None: the value is there, and neither false, zero nor empty
    of_state: bool = False  # not a value: the state of the task, such as "SKIPPED"


@dataclass(frozen=True, slots=True, kw_only=True)
class Opposite:
    """A verb that replaces a task's own opposite."""

    verb: str
    action: bytes
    bindings: tuple[Binding, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class External:
    """What makes a task an external one: its host is an owner, who is asked and reports."""

    outputs: tuple[tuple[str, str], ...] = ()  # what it promises to leave: names with their types
    checklist: str = ""  # what people do to make up for it; empty: its owner is asked
    heartbeat_timeout: timedelta | None = None  # without a sign of life for so long: UNKNOWN
    description: str = ""  # for people
    # As its owner added it to a running workflow; empty: it stands in the spec.
    added: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSpec:
    """A leaf of the tree: one verb on one host."""

    name: str
    after: tuple[str, ...] = ()
    when: Condition | None = None
    host: str  # empty: the coordinator chooses
    candidates: tuple[str, ...] = ()  # hosts that a later attempt may go to as well
    verb: str
    effect: Effect = Effect.REVERSIBLE
    action: bytes = b""
    bindings: tuple[Binding, ...] = ()
    opposite: Opposite | None = None  # None: the verb's own
    policy: Policy = DEFAULT_POLICY
    external: External | None = None
    weight: int = 1  # its share of its parent's progress
    source: str = field(default="", compare=False)  # the path in what was submitted


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupRules:
    """What a group says of its members together."""

    min_success: int = 0  # members that must pass; 0: all
    concurrency_max: int = 0  # members at work at the same time; 0: no bound
    rounds_max: int = 1  # how often it is run before its failure counts, made up for in between
    on_failure: OnFailure | None = None  # said by the group itself, and not inherited
    fan_out: bool = False  # its members are the items of a for_each, in order
    nested: bool = False  # it stands for a whole nested workflow
    open: Policy | None = None  # external tasks may be added to it, and inherit this


NO_RULES = GroupRules()


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupSpec:
    """Members in a sequence or in parallel."""

    name: str
    kind: GroupKind
    members: tuple[NodeSpec, ...]
    after: tuple[str, ...] = ()
    when: Condition | None = None
    recovery: tuple[NodeSpec, ...] = ()  # run in a sequence, under RECOVER
    rules: GroupRules = NO_RULES
    source: str = field(default="", compare=False)  # the path in what was submitted


NodeSpec = TaskSpec | GroupSpec


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Lock:
    """An image that a workflow holds from its start to its end."""

    pool: str
    image: str
    exclusive: bool


def united(*several: tuple[Lock, ...]) -> tuple[Lock, ...]:
    """Returns each image once, in the order in which everybody takes them; exclusive wins."""
    found: dict[tuple[str, str], Lock] = {}
    for locks in several:
        for lock in locks:
            found[lock.pool, lock.image] = max(lock, found.get((lock.pool, lock.image), lock))
    return tuple(sorted(found.values()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What a spec says beside its tree."""

    on_success: tuple[NodeSpec, ...] = ()  # end actions, run in a sequence
    on_failure: tuple[NodeSpec, ...] = ()
    timeout: timedelta | None = None  # from start to verdict
    locks: tuple[Lock, ...] = ()  # in a fixed order, each image once
    lock_refused: bool = False  # refused when an image is held, instead of waiting in line


NO_TERMS = Terms()
