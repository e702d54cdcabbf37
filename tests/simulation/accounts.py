"""What owners were told, what their arrays hold, and what must hold between the two.

`Accounts` hears every answer that an owner is given, and sees what is committed by then. It goes by
what both sides know alone, and asserts:

    S-V29  whoever has given a sign of life in time is not silent
    S-Z32  a report that is late or foreign, or contradicts another one, changes nothing
    S-B14  a repeat of a report is a success, and another one under its id is refused
    I2     what never began is not made up for; nothing begins again while its effect stands
    I3     in the end arrays hold what SUCCEEDED and was not made up for, and what is listed
    I5     an owner is asked, and may begin, only once that is committed
    I8     what an owner was told, and what it has added, is there in the end
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from coordinator.owners.owners import HEARTBEAT_LAPSED
from coordinator.runtime.ports import Change
from coordinator.saga import history
from coordinator.saga.states import (
    AttemptKind,
    AttemptState,
    Effect,
    TaskState,
    WorkflowState,
)
from coordinator.saga.workflow import Attempt, Workflow
from countermand.rpc.names import attempt_name, parse_attempt
from countermand.v1 import external_task_pb2 as pb
from tests.simulation.promises import made_up_for, told

MADE, REMOVED = "made", "removed"
CONTRADICTED = "CONTRADICTED"  # in whatever must never be taken up

# A lapse is written a moment after it was found; what is heard meanwhile does not undo it.
FOUND_BEFORE_S = 1.0
ROUNDING_S = 0.001


@dataclass(slots=True)
class Array:
    """What an owner's storage holds, and what its processes have noted there: it outlives them."""

    owner: str
    # What attempts have made, by their names: whatever is removed is never made again.
    effects: dict[str, str] = field(default_factory=dict)
    by_hand: set[str] = field(default_factory=set)  # removed by an operator
    # How attempts end, noted before it is said: a later life does not say otherwise.
    said: dict[str, pb.EndExternalTaskRequest] = field(default_factory=dict)
    # What each attempt wants added under it, noted before it is asked for.
    parts: dict[str, list[pb.AddExternalTaskRequest]] = field(default_factory=dict)
    left: set[str] = field(default_factory=set)  # own workflows that are left to their task main
    over: set[str] = field(default_factory=set)  # and those that are done with
    counter: int = 0

    def make(self, attempt: str) -> bool:
        """Makes the effect of an attempt; returns whether it stands."""
        return self.effects.setdefault(attempt, MADE) == MADE

    def remove(self, attempt: str) -> None:
        """Removes the effect of an attempt, if there is one; it is never made again."""
        self.effects[attempt] = REMOVED

    def remove_by_hand(self, attempt: str) -> None:
        """Removes the effect of an attempt as an administrator would."""
        self.by_hand.add(attempt)
        self.remove(attempt)

    def standing(self) -> list[str]:
        """Returns the attempts whose effects are there."""
        return [attempt for attempt, state in self.effects.items() if state == MADE]

    def number(self) -> int:
        """Returns a number that is never given again."""
        self.counter += 1
        return self.counter


@dataclass(slots=True)
class Accounts:
    """What was said between the coordinator and the owners."""

    committed: Mapping[str, Workflow]
    now: Callable[[], float]
    arrays: dict[str, Array] = field(default_factory=dict)
    listening_s: float = 0.0  # since when the coordinator listens
    words: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    wanted: set[str] = field(default_factory=set)  # attempts that were asked to be accepted
    begun: set[str] = field(default_factory=set)  # whose Accept was answered
    ended: dict[str, str] = field(default_factory=dict)  # how, as was answered
    progress: dict[str, int] = field(default_factory=dict)  # as was answered
    added: set[tuple[str, str]] = field(default_factory=set)  # workflow and task, as was answered
    started: set[str] = field(default_factory=set)  # owners' own workflows
    cleared: set[str] = field(default_factory=set)  # those that were asked to be removed
    tokens: dict[str, str] = field(default_factory=dict)  # by the attempt that they came with

    # -- as it happens --------------------------------------------------------------------------

    def serve(self, rpc: str, request: Any, answer: Any, begin_s: float) -> None:
        """Takes up a call that was served: some are signs of life."""
        match rpc:
            case "AcceptExternalTask" | "ReportExternalTask":
                self.words[request.attempt].append(begin_s)
            case "HeartbeatExternalTasks":
                over = {each.attempt for each in answer.answers if not each.state}
                for beat in request.heartbeats:
                    if beat.attempt not in over:
                        self.words[beat.attempt].append(begin_s)
            case "ListExternalTasks":
                for each in answer.requests:
                    lost = each.progress.done < self.progress.get(each.attempt, 0)
                    assert not lost, f"I8: {each.attempt} has lost its progress"
            case _:
                pass

    def asked(self, request: pb.ExternalRequest) -> None:
        """Takes up what an owner hears that it is asked."""
        self._attempt(request.attempt)
        self.tokens[request.attempt] = request.capability_token
        if request.compensates:
            never = request.compensates not in self.wanted
            assert not never, f"I2: {request.compensates} never began, and is to be made up for"
        if request.accepted:
            assert request.attempt in self.wanted, f"I2: {request.attempt} was never accepted"

    def accepted(self, request: pb.ExternalRequest) -> None:
        """Takes up that an owner was told that it may begin."""
        name = request.attempt
        attempt = self._attempt(name)
        assert attempt.start_time is not None, f"I5: {name} may begin, and that is not committed"
        is_first = name not in self.begun
        self.begun.add(name)
        if request.compensates:
            return
        if is_first:
            self._parts_are_gone(name)
        array = self._array(name)
        buried = array.effects.get(name) == REMOVED and name not in array.by_hand
        assert name in array.said or not buried, f"I1: {name} may begin after its compensation"
        task = name.rpartition("/attempts/")[0]
        for other in array.standing():
            earlier = other != name and other.rpartition("/attempts/")[0] == task
            assert not earlier, f"I2: {name} may begin while the effect of {other} stands"

    def _parts_are_gone(self, name: str) -> None:
        """Asserts that of the parts of earlier attempts nothing stands but what was given up."""
        parsed = parse_attempt(name)
        assert parsed is not None, name
        workflow = self.committed[parsed.workflow_id]
        for part in workflow.plan.parts.get(workflow.plan.by_name[parsed.task_id], ()):
            task, spec = workflow.task(part), workflow.plan.task(part)
            if task.state is TaskState.ABANDONED:
                continue
            for attempt in task.attempts:
                made_by = attempt_name(workflow.id, spec.name, attempt.number)
                stands = self._array(made_by).effects.get(made_by) == MADE
                assert not stands, f"I2: {name} may begin while {made_by}, a part, stands"

    def end(self, request: pb.EndExternalTaskRequest) -> None:
        """Takes up that an owner was told that its end is known."""
        outcome = str(request.WhichOneof("outcome"))
        self.ended[request.attempt] = outcome
        self._is_ended(self._attempt(request.attempt), request.attempt, outcome)

    def reported(self, attempt: str, done: int) -> None:
        """Takes up that an owner was told that its progress is known."""
        self.progress[attempt] = max(done, self.progress.get(attempt, 0))

    def take(self, workflow_id: str, task_id: str) -> None:
        """Takes up that an owner was told that its task is added."""
        assert task_id in self.committed[workflow_id].plan.by_name, (
            f"I8: {workflow_id}/{task_id} is answered, and not committed"
        )
        self.added.add((workflow_id, task_id))

    def committing(self, change: Change) -> None:
        """Asserts of everybody that is found silent: it was (V29)."""
        for entry in change.history:
            fact = entry.fact
            if not isinstance(fact, history.AttemptEnded) or fact.failure is None:
                continue
            if fact.failure.reason == HEARTBEAT_LAPSED:
                spec = change.workflow.plan.task(entry.task)
                assert spec.external is not None, spec.name
                name = attempt_name(change.workflow.id, spec.name, fact.attempt)
                assert spec.external.heartbeat_timeout is not None, f"V29: {name} has no timeout"
                self._was_silent(name, spec.external.heartbeat_timeout.total_seconds())

    def _was_silent(self, name: str, timeout_s: float) -> None:
        """Asserts that nothing was heard for so long, up to a moment ago."""
        words = [word for word in self.words[name] if word >= self.listening_s]
        marks = [self.listening_s, *words, self.now()]
        found = any(
            later - earlier >= timeout_s - ROUNDING_S and later >= self.now() - FOUND_BEFORE_S
            for earlier, later in pairwise(marks)
        )
        assert found, f"V29: {name} is said to be silent for {timeout_s} s; heard at {words[-5:]}"

    # -- the end --------------------------------------------------------------------------------

    def check_end(self, stored: dict[str, Workflow], leftovers: Mapping[str, set[str]]) -> None:
        """Asserts that everything is as owners were told, and arrays hold what they should."""
        for name, outcome in self.ended.items():
            self._is_ended(self._attempt(name), name, outcome)
        for name in self.begun:
            assert self._attempt(name).start_time is not None, f"I8: {name} was accepted"
        for workflow_id, task_id in sorted(self.added):
            plan = self.committed[workflow_id].plan
            assert task_id in plan.by_name, f"I8: {workflow_id}/{task_id} was added, and is gone"
        for workflow_id in sorted(self.started):
            assert workflow_id in stored or self.may_be_gone(workflow_id), (
                f"I8: {workflow_id} was started, and is gone"
            )
        wanted = set[str]()
        for workflow in self.committed.values():
            assert CONTRADICTED not in repr(workflow.nodes), f"Z32: taken up in {told(workflow)}"
            wanted.update(self._effects_of(workflow, leftovers.get(workflow.id)))
        for array in self.arrays.values():
            for name in array.standing():
                assert name in wanted, f"I3: {name} stands with {array.owner}: {self._told(name)}"

    def may_be_gone(self, workflow_id: str) -> bool:
        """Returns whether a workflow is removed before its time, because its owner said so."""
        workflow = self.committed.get(workflow_id)
        forced = workflow is not None and workflow.retention == "AT_ONCE"
        return workflow_id in self.cleared or forced

    def _effects_of(self, workflow: Workflow, listed: set[str] | None) -> Iterator[str]:
        """Yields the attempts whose effects may stand; asserts of those that should, that they do.

        Of a workflow that is removed nobody knows any more what it has listed.
        """
        for index, task in workflow.tasks():
            spec = workflow.plan.task(index)
            if spec.external is None or spec.effect is Effect.READ_ONLY:
                continue
            undone = set(made_up_for(workflow, index))
            for attempt in task.attempts:
                name = attempt_name(workflow.id, spec.name, attempt.number)
                array = self._array(name)
                gone = attempt.number in undone or name in array.by_hand
                if attempt.kind is not AttemptKind.ACTION or gone:
                    continue
                stands = array.effects.get(name) == MADE
                perhaps = attempt is task.action and task.state is TaskState.ABANDONED
                if attempt.state is AttemptState.SUCCEEDED and not perhaps:
                    assert stands, f"I3: {name} has succeeded, and nothing of it stands"
                elif not perhaps:
                    continue
                ends = workflow.plan.is_end_action(index)
                fine = workflow.state is WorkflowState.SUCCEEDED or ends
                if stands and listed is not None and (perhaps or not fine):
                    assert name in listed, f"I3: {name} is not listed: {told(workflow)}"
                yield name

    def _told(self, name: str) -> str:
        parsed = parse_attempt(name)
        assert parsed is not None, name
        workflow = self.committed[parsed.workflow_id]
        task = workflow.task(workflow.plan.by_name[parsed.task_id])
        states = [(a.number, str(a.kind), str(a.state), a.compensates) for a in task.attempts]
        return f"{states} in {told(workflow)}"

    def _is_ended(self, attempt: Attempt, name: str, outcome: str) -> None:
        """Asserts that an attempt has ended as its owner was told that it has."""
        fine = _ENDS[outcome]
        assert attempt.state in fine, f"I8: {name} has ended with {outcome}: it is {attempt.state}"

    def _attempt(self, name: str) -> Attempt:
        parsed = parse_attempt(name)
        assert parsed is not None, name
        workflow = self.committed.get(parsed.workflow_id)
        assert workflow is not None, f"I5: {name} is of no workflow"
        index = workflow.plan.by_name.get(parsed.task_id, -1)
        assert index >= 0, f"I8: {name} is of no task"
        attempts = workflow.task(index).attempts
        assert parsed.number <= len(attempts), f"I5: {name} was never committed"
        return attempts[parsed.number - 1]

    def _array(self, name: str) -> Array:
        parsed = parse_attempt(name)
        assert parsed is not None, name
        workflow = self.committed[parsed.workflow_id]
        spec = workflow.plan.task(workflow.plan.by_name[parsed.task_id])
        return self.arrays[spec.host.partition(":")[2]]


_ENDS = {
    "output": {AttemptState.SUCCEEDED},
    "failure": {AttemptState.FAILED},
    # What was stopped because it was too late has failed.
    "cancelled": {AttemptState.CANCELLED, AttemptState.FAILED},
}
