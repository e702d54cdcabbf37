"""I6: of several coordinators each workflow has one at a time, whoever believes to be it.

`Sessions` sees what the store answers to each life of a coordinator, and what agents take from it.
It knows by that alone whose each workflow is and under which epoch, and asserts:

    I6  only its owner's changes are taken, and nothing of one from whom something was claimed
    I6  nothing is claimed from whom is in time; under a claim's epoch nobody else has ever acted
    I6  what leaves a coordinator was committed under its own epoch, or an earlier one
    I6  the epochs of what an agent takes of a workflow never decrease, and each has one sender
    I5  no intent is given twice, nor used for two attempts
    Z28 no agent is told of a watermark that is above what may still be sent to it
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from coordinator.runtime.ports import SESSION_LASTS, Change
from coordinator.saga.history import AttemptStarted
from coordinator.saga.states import TaskState
from coordinator.saga.workflow import Workflow
from countermand.rpc.names import AttemptName, attempt_name
from tests.simulation.network import Life


@dataclass(slots=True)
class Sessions:
    """Who owns what, as the store has said."""

    now: Callable[[], datetime]  # by the store's clock
    owners: dict[str, Life] = field(default_factory=dict)  # of open workflows
    claims: int = 0  # of a workflow by another life
    _leases: dict[Life, datetime] = field(default_factory=dict)  # until when
    _over: dict[Life, str] = field(default_factory=dict)  # lives that have lost something, and what
    _epochs: dict[tuple[str, int], Life] = field(default_factory=dict)  # who acts under which
    _intents: dict[int, tuple[str, int]] = field(default_factory=dict)  # of what, since which epoch
    _given: list[tuple[int, int, Life]] = field(default_factory=list)  # intents, and to whom
    _taken: dict[tuple[str, str], int] = field(default_factory=dict)  # by host and workflow
    _marks: dict[str, int] = field(default_factory=dict)  # of hosts, the highest that was told
    marks_ever: dict[str, int] = field(default_factory=dict)  # also by a store that is no more
    _acted: set[tuple[str, int, Life]] = field(default_factory=set)  # the same of `_epochs`

    # -- the store ------------------------------------------------------------------------------

    def answered(self, life: Life, rpc: str, answer: Any) -> None:
        """Takes up a call to the store that was answered; see `committed` for commits."""
        match rpc:
            case "open":
                for other in self._leases:
                    if other[0] == life[0]:  # who has a name anew ends who had it before
                        self._leases[other] = datetime.min.replace(tzinfo=self.now().tzinfo)
                self._leases[life] = self.now() + SESSION_LASTS
                self._gave(life, answer.next_intent, answer.intents_end)
            case "renew":
                self._goes_on(life)
                self._leases[life] = self.now() + SESSION_LASTS
            case "end_session":
                self._leases[life] = datetime.min.replace(tzinfo=self.now().tzinfo)
            case "take_intents":
                self._gave(life, *answer)
            case "claim":
                self._goes_on(life)
                for stored in answer.workflows if answer else ():
                    self._claimed(life, stored.workflow, answer.owner_epoch)
                self._lapse(life)
            case _:
                pass

    def all_end(self) -> None:
        """Takes up that the sessions of all that live have been ended."""
        for life in self._leases:
            self._leases[life] = datetime.min.replace(tzinfo=self.now().tzinfo)

    def recovered(self) -> None:
        """Takes up that from now on everything is above whatever agents were told."""
        for host, mark in self.marks_ever.items():
            self._marks[host] = max(self._marks.get(host, 0), mark)

    def _lapse(self, life: Life) -> None:
        """Takes up that whoever is late has ended for good, however the clock goes on."""
        for other, lease in self._leases.items():
            if lease < self.now() and other != life:
                self._leases[other] = datetime.min.replace(tzinfo=lease.tzinfo)

    def _gave(self, life: Life, first: int, end: int) -> None:
        for other_first, other_end, other in self._given:
            apart = end <= other_first or other_end <= first
            assert apart, f"I5: {life} is given intents from {first} on, which {other} has"
        self._given.append((first, end, life))

    def _goes_on(self, life: Life) -> None:
        """Asserts that nothing was claimed from a coordinator whose session still counts."""
        assert life not in self._over, f"I6: {life} goes on, and {self._over[life]}"

    def _claimed(self, life: Life, workflow: Workflow, epoch: int) -> None:
        before = self.owners[workflow.id]
        in_time = self._leases[before] >= self.now()
        assert before == life or not in_time, f"I6: {workflow.id} is claimed from {before} in time"
        assert epoch > workflow.owner_epoch, f"I6: {workflow.id} is claimed without a new epoch"
        self.owners[workflow.id] = life
        if before != life:
            self.claims += 1
            self._over[before] = f"{life} has claimed {workflow.id} from it"

    def committed(self, life: Life, changes: Sequence[Change]) -> None:
        """Asserts of changes that were made that they are their owner's."""
        self._goes_on(life)
        for change in changes:
            workflow = change.workflow
            owner = self.owners.setdefault(workflow.id, life)
            assert owner == life, f"I6: {life} changes {workflow.id}, which is {owner}'s"
            self._acts(life, workflow.id, workflow.owner_epoch)
            for entry in change.history:
                if isinstance(entry.fact, AttemptStarted):
                    self._intends(life, workflow, entry.task, entry.fact.attempt)

    def _acts(self, life: Life, workflow_id: str, epoch: int) -> None:
        who = self._epochs.setdefault((workflow_id, epoch), life)
        assert who == life, f"I6: {life} has {workflow_id} under epoch {epoch}, which is {who}'s"
        self._acted.add((workflow_id, epoch, life))

    def _intends(self, life: Life, workflow: Workflow, task: int, number: int) -> None:
        name = attempt_name(workflow.id, workflow.plan.nodes[task].name, number)
        intent = workflow.task(task).attempts[number - 1].intent
        mine = any(a <= intent < b for a, b, who in self._given if who == life)
        assert mine, f"I5: {name} has intent {intent}, which was not given to {life}"
        assert intent not in self._intents, (
            f"I5: {name} has intent {intent}, and so has {self._intents[intent]}"
        )
        self._intents[intent] = (name, workflow.owner_epoch)
        host = workflow.task(task).attempts[number - 1].host
        mark = self._marks.get(host, 0)
        assert intent >= mark, f"Z28: {name} has intent {intent}, and {host} was told of {mark}"

    # -- agents ---------------------------------------------------------------------------------

    def sent(self, life: Life, attempt: AttemptName, epoch: int, intent: int) -> None:
        """Asserts of what leaves a coordinator that it was committed by it, or before it."""
        workflow_id = attempt.workflow_id
        who = self._epochs.get((workflow_id, epoch))
        assert who == life, f"I6: {life} sends {attempt} under epoch {epoch}, which is {who}'s"
        _, since = self._intents[intent]
        assert since <= epoch, (
            f"I6: {attempt} was committed under {since}, and leaves under {epoch}"
        )

    def forgets(self, host: str, low_watermark: int, workflows: Iterable[Workflow]) -> None:
        """Asserts of a watermark that an agent is told that nothing below it is still to come.

        What is only to be cancelled is not sent any more, and may be below it after a claim.
        """
        self._marks[host] = max(self._marks.get(host, 0), low_watermark)
        self.marks_ever[host] = max(self.marks_ever.get(host, 0), low_watermark)
        for workflow in workflows:
            for index, task in workflow.tasks():
                for attempt in task.attempts[-1:]:
                    over = not attempt.open or attempt.host != host
                    over = over or task.state is TaskState.CANCELLING
                    assert over or attempt.intent >= low_watermark, (
                        f"Z28: {host} is told of {low_watermark}, and {attempt.intent} is open:"
                        f" {workflow.id}/{workflow.plan.nodes[index].name}"
                    )

    def taken(self, host: str, life: Life, workflow_id: str, epoch: int) -> None:
        """Asserts of what an agent has taken that nobody has come after its sender."""
        highest = self._taken.setdefault((host, workflow_id), epoch)
        assert epoch >= highest, (
            f"I6: {host} takes epoch {epoch} of {workflow_id} from {life} after {highest}"
        )
        self._taken[host, workflow_id] = epoch
        who = self._epochs.get((workflow_id, epoch))
        acted = (workflow_id, epoch, life) in self._acted
        assert acted, f"I6: {host} takes {workflow_id} under {epoch} from {life}, not {who}"

    def forget(self, host: str) -> None:
        """Takes up that a host has lost its journal: it knows of no epoch any more."""
        for key in [key for key in self._taken if key[0] == host]:
            del self._taken[key]
