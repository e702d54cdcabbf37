"""A store that goes back in time: what is put back, and what must hold from then on.

A copy of what is kept is put back later: as a backup under coordinators that were stopped, or as a
standby that was behind under living ones. Or only what nobody was answered is lost, which must not
be noticed. What the world knows to be committed goes back with the store; what was committed since
is in the dark. Agents, disks and the network do not go back. Besides what is promised elsewhere:

    R1  no image of a workflow that had SUCCEEDED goes, unless somebody has decided so about it
    R2  while an operator is awaited nothing is committed, and no life that knows of it sends orders
        or has anything forgotten. What others have sent still arrives: I5 holds of that
    R3  what begins once an operator has confirmed is above all that was ever given, and no agent
        has it for late or for a former coordinator's; it settles like everything that is open
    R4  a host that has taken what was lost is sent nothing, unless as much was given again since
    R5  nothing is noticed where nobody had acted on what was lost

What cannot hold any more is let go of here, and nowhere else: of what is in the dark nobody knows
whether its image is there (I3), whether it was acknowledged or cancelled (I8), and who is to forget
it (Z28); an attempt that begins after it under the same name is another one (I2). Where only its
end was lost, what agents have forgotten they seem to have lost: the host is held (Z11), until it is
accepted and refuses it by name. Watchers are told positions of the history a second time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass, field, fields, is_dataclass
from datetime import datetime
from enum import StrEnum
from random import Random
from typing import Any

from coordinator.runtime.ports import Change, Opening, Recovered, Recovery
from coordinator.saga.history import AttemptEnded, AttemptStarted, Intervened
from coordinator.saga.states import WorkflowState
from coordinator.saga.workflow import Workflow
from coordinator.store.memory import Kept
from countermand.rpc.names import attempt_name, parse_attempt
from tests.simulation.network import Life
from tests.simulation.promises import Promises
from tests.simulation.sessions import Sessions

_REFUSED = frozenset({"EXPIRED", "FENCED"})


class Loses(StrEnum):
    """What a store loses."""

    SINCE_A_BACKUP = "since a backup"  # that is put back under nobody
    BEHIND = "behind"  # a standby takes over under living ones
    UNANSWERED = "unanswered"  # what nobody has heard of


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What happens when, drawn by dice of its own."""

    loses: Loses
    copy_at: int  # after so many commits
    back_at: int  # likewise, if there are so many
    again: bool  # the same copy is put back once more, after an operator has looked
    honest: bool  # whoever decides then goes by what is on the disks
    looks_after_s: float
    unanswered: float = 0.02  # of all calls to the store, where that is all that is lost


def draw(seed: int, *, several: bool) -> Plan:
    """Draws what happens."""
    chance = Random(f"rewinding {seed}")
    ways = (Loses.SINCE_A_BACKUP, Loses.SINCE_A_BACKUP, Loses.UNANSWERED)
    copy_at = chance.randint(1, 30)
    return Plan(
        loses=chance.choice((*ways, Loses.BEHIND, Loses.BEHIND) if several else ways),
        copy_at=copy_at,
        back_at=copy_at + chance.randint(1, 40),
        again=chance.random() < 0.25,
        honest=chance.random() < 0.5,
        looks_after_s=chance.random() * 25.0,
    )


def copied(kept: Any, but: Sequence[str] = ()) -> dict[str, Any]:
    """Returns the fields of a record of mutable things, as they are now."""
    return {
        each.name: _copied(getattr(kept, each.name))
        for each in fields(kept)
        if each.name not in but
    }


def put_back(kept: Any, copy: dict[str, Any]) -> None:
    """Makes them what they were; the copy stays good."""
    for name, value in copy.items():
        setattr(kept, name, _copied(value))


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copied(each) for key, each in value.items()}
    if isinstance(value, (list, set)):
        return type(value)(value)
    can_change = is_dataclass(value) and type(value).__hash__ is None
    return copy(value) if can_change else value


@dataclass(slots=True)
class _Copy:
    kept: dict[str, Any]
    promises: dict[str, Any]
    sessions: dict[str, Any]


# What agents have taken is theirs, and stays; so does who has ever acted.
_STAYS = ("now", "claims", "_taken", "_acted", "marks_ever")


@dataclass(slots=True, kw_only=True)
class Rewinding:
    """A store that goes back in time, and what is known of all that it has lost."""

    plan: Plan
    kept: Kept
    promises: Promises
    sessions: Sessions | None
    note: Callable[[str], None]
    to_copy: asyncio.Event = field(default_factory=asyncio.Event)
    to_put_back: asyncio.Event = field(default_factory=asyncio.Event)
    recovered: asyncio.Event = field(default_factory=asyncio.Event)  # the first time
    commits: int = 0
    times: int = 0  # that it went back
    back_time: datetime | None = None  # the last time, by the coordinators' clock
    lost: int = 0  # calls that nobody was answered
    gone: set[str] = field(default_factory=set)  # workflows of which nothing was left
    forgiven: set[str] = field(default_factory=set)  # requests that were carried out, and lost
    dark: list[Workflow] = field(default_factory=list)  # as they were before, with what was lost
    names: set[str] = field(default_factory=set)  # of attempts in the dark
    acted: bool = False  # an agent had taken something that was lost
    _copy: _Copy | None = None
    _earlier: list[Promises] = field(default_factory=list)
    _through: set[Life] = field(default_factory=set)  # lives under which it went back
    _knowing: set[Life] = field(default_factory=set)  # lives that began while somebody had to look
    _seen: tuple[Recovery | None, Recovered | None] = (None, None)
    _taken: dict[str, int] = field(default_factory=dict)  # by host: the highest intent
    _ahead: dict[str, int] = field(default_factory=dict)  # of these: what was lost
    _ever: tuple[int, int] = (0, 0)  # the highest epoch and intent that were given
    _succeeded: set[str] = field(default_factory=set)  # of these nothing goes
    _decided: set[str] = field(default_factory=set)  # but of these

    # -- going back -------------------------------------------------------------------------------

    def copy(self) -> None:
        """Keeps how everything is now."""
        self.note("the store is copied")
        sessions = copied(self.sessions, _STAYS) if self.sessions else {}
        self._copy = _Copy(copied(self.kept), copied(self.promises), sessions)

    def go_back(self, living: set[Life]) -> None:
        """Puts the copy back, under those that live on."""
        copy = self._copy
        assert copy is not None, "nothing was copied"
        self.note("the store goes back in time")
        self.times += 1
        self._through |= living
        self._ever = (
            max(self._ever[0], self.kept.owner_epoch),
            max(self._ever[1], self.kept.next_intent),
        )
        before = Promises()
        put_back(before, copied(self.promises))
        self._earlier.append(before)
        put_back(self.kept, copy.kept)
        put_back(self.promises, copy.promises)
        if self.sessions is not None:
            put_back(self.sessions, copy.sessions)
        taken = self._taken.items()
        self._ahead = {host: intent for host, intent in taken if intent > self.kept.last_intent}
        self.acted |= bool(self._ahead)
        self.forgiven |= before.carried_out.keys() - self.promises.carried_out.keys()
        self._decided.clear()
        for workflow in before.workflows.values():
            self._darken(workflow)

    def _darken(self, before: Workflow) -> None:
        now = self.promises.workflows.get(before.id)
        if now is None:
            self.gone.add(before.id)
        elif now.version == before.version and now.settled:
            return
        if before.state is WorkflowState.SUCCEEDED:
            self._succeeded.add(before.id)
        self.dark.append(before)
        self.names.update(_attempts(before))

    # -- what must hold ---------------------------------------------------------------------------

    @property
    def awaits(self) -> bool:
        """Returns whether an operator is awaited."""
        return self.kept.recovery is not None

    def opened(self, life: Life, opening: Opening) -> None:
        """Takes up what a coordinator begins to live with."""
        if opening.recovery is not None:
            self._knowing.add(life)

    def shared_opened(self, opening: Opening) -> None:
        """Takes up that every earlier session was ended, if that is so."""
        seen = (opening.recovery, opening.recovered)
        if self.sessions is not None and seen != self._seen:
            self._seen = seen
            self.sessions.all_end()

    def noticed(self, why: str) -> None:
        """Asserts that there is something to notice (R5)."""
        assert self.times, f"R5: nothing was lost, and it is noticed: {why}"

    def confirmed(self, recovered: Recovered) -> None:
        """Asserts that everything goes on above all that was ever given (R3)."""
        self.recovered.set()
        epoch, intent = self._ever
        assert recovered.owner_epoch > epoch or self.times > 1, f"R3: {recovered}, and {epoch}"
        assert recovered.next_intent >= intent or self.times > 1, f"R3: {recovered}, and {intent}"
        if self.sessions is not None:
            self.sessions.recovered()

    def known_by(self, life: Life) -> Iterator[Promises]:
        """Yields what may be committed of what a life sends: also what is no more, if it was."""
        yield self.promises
        if life in self._through:
            yield from self._earlier

    def lived_through(self, life: Life) -> bool:
        """Returns whether a life began before the store went back under it."""
        return life in self._through

    def sent(self, life: Life, rpc: str) -> None:
        """Asserts R2 of an order that leaves a coordinator, or of what is to be forgotten."""
        assert life not in self._knowing, f"R2: {life} sends {rpc} while an operator is awaited"

    def ordered(self, life: Life, host: str) -> None:
        """Asserts R4 of an order, where agents are greeted before: not of a life that lives on.

        Where other hosts were given as much before this one was greeted it is not noticed any more.
        """
        given, heard = self.kept.last_intent, self._ahead.get(host, 0)
        is_well = given >= heard or self.lived_through(life)
        assert is_well, f"R4: {host} has heard of {heard}, is sent an order, and {given} was given"

    def taken(self, host: str, intent: int) -> None:
        """Takes up what an agent has taken."""
        self._taken[host] = max(self._taken.get(host, 0), intent)

    def committed(self, changes: Sequence[Change]) -> Iterator[str]:
        """Asserts R2 and R3 of what was committed; yields attempts that begin under old names."""
        assert not self.awaits, "R2: something is committed while an operator is awaited"
        self.commits += 1
        if self.commits == self.plan.copy_at:
            self.to_copy.set()
        elif self.commits == self.plan.back_at:
            self.to_put_back.set()
        recovered = self.kept.recovered
        for change in changes:
            workflow = change.workflow
            for entry in change.history:
                fact = entry.fact
                is_said = isinstance(fact, Intervened) and fact.request_id
                if is_said or change.version_before == 0:
                    self._decided.add(workflow.id)
                if isinstance(fact, AttemptStarted):
                    task = workflow.plan.nodes[entry.task].name
                    name = attempt_name(workflow.id, task, fact.attempt)
                    if name in self.names:
                        yield name
                if isinstance(fact, AttemptEnded) and fact.failure and recovered:
                    attempt = workflow.task(entry.task).attempts[fact.attempt - 1]
                    is_new = attempt.intent >= recovered.next_intent
                    refused = fact.failure.reason in _REFUSED
                    assert not (is_new and refused), f"R3: {workflow.id} {fact}"

    def is_forgiven(self, intent: int) -> bool:
        """Returns whether an agent may have an intent for late: it is from before."""
        recovered = self.kept.recovered
        return recovered is not None and intent < recovered.next_intent

    def vanishes(self, attempt: str) -> None:
        """Asserts R1 of an image that goes."""
        name = parse_attempt(attempt)
        assert name is not None, attempt
        kept = name.workflow_id not in self._succeeded or name.workflow_id in self._decided
        assert kept, f"R1: the image of {attempt} goes, and nobody has decided so"

    def is_dark(self, workflow_id: str) -> bool:
        """Returns whether something of a workflow was lost."""
        return any(each.id == workflow_id for each in self.dark)


def _attempts(workflow: Workflow) -> Iterator[str]:
    for index, task in workflow.tasks():
        for attempt in task.attempts:
            yield attempt_name(workflow.id, workflow.plan.nodes[index].name, attempt.number)
