"""The images that a workflow would name once somebody has given it other values.

Those that its spec and input name are held since it began. What an operator gives, be it a patch,
an input, outputs in place of a skipped task's or another compensation, may name others: they are
worked out here, to be taken together with the decision.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from coordinator.saga import events, resume
from coordinator.saga.events import GiveUp, Rerun, Skip
from coordinator.saga.spec import Binding, Lock, TaskSpec, Value
from coordinator.saga.workflow import Values, Workflow
from coordinator.wire.catalogue import Bound, effect_of
from coordinator.wire.locks import Locks
from countermand.v1.verb_pb2 import Action


def gives_values(event: events.ResumeRequested) -> bool:
    """Returns whether a resume brings anything by which an image could be named."""
    patched = (choice.patch for choice in event.choices if isinstance(choice, Rerun))
    skipped = (choice.output for choice in event.choices if isinstance(choice, Skip))
    return bool(event.input) or any(patched) or any(skipped)


def named_by_resume(workflow: Workflow, event: events.ResumeRequested) -> tuple[Lock, ...]:
    """Returns what must be held for a resume, and is not yet."""
    if any(isinstance(choice, GiveUp) for choice in event.choices):
        return ()  # goes back with what it has
    given = _Given(workflow, event)
    locks = Locks()
    for index in given.reached():
        spec = workflow.plan.task(index)
        _take(locks, spec.action, {**given.bound(spec.bindings), **given.patch(index)})
        if spec.opposite is not None:
            _take(locks, spec.opposite.action, given.bound(spec.opposite.bindings))
    return _not_held(workflow, locks)


def named_by(workflow: Workflow, action: Action) -> tuple[Lock, ...]:
    """Returns what must be held for an action that is complete, and is not yet."""
    locks = Locks()
    locks.take(action, effect_of(action), {})
    return _not_held(workflow, locks)


def _take(locks: Locks, data: bytes, bound: Bound) -> None:
    action = Action.FromString(data)
    locks.take(action, effect_of(action, bound), bound)


def _not_held(workflow: Workflow, locks: Locks) -> tuple[Lock, ...]:
    held = {(lock.pool, lock.image): lock.exclusive for lock in workflow.locks}
    return tuple(
        lock
        for lock in locks.all()
        if not held.get((lock.pool, lock.image), False)
        and (lock.exclusive or (lock.pool, lock.image) not in held)
    )


class _Given:
    """What a workflow would know after a resume."""

    def __init__(self, workflow: Workflow, event: events.ResumeRequested) -> None:
        self._workflow = workflow
        self._input = dict(workflow.about.input)
        self._input |= {each.field: each.value for each in workflow.input_patches}
        self._input |= event.input
        self._changed = frozenset(event.input)
        self._patches: dict[int, Values] = {}
        self._skipped: dict[str, Values] = {}
        for choice in event.choices:
            items = choice.items if isinstance(choice, Rerun) else ()
            count = len(workflow.plan.nodes[choice.task].forward)
            if not all(0 <= item < count for item in items):
                continue  # the saga refuses it
            for index in resume.chosen(workflow, choice):
                if isinstance(choice, Rerun) and choice.patch:
                    self._patches[index] = choice.patch
                elif isinstance(choice, Skip) and choice.output:
                    self._skipped[workflow.plan.nodes[index].name] = choice.output

    def reached(self) -> Iterator[int]:
        """Yields the tasks of which a value is another.

        Also those that are done: a group around them may run once more.
        """
        for leaf in self._workflow.plan.leaves:
            assert leaf.task is not None, leaf.name
            if leaf.index in self._patches or any(map(self._is_other, _bindings(leaf.task))):
                yield leaf.index

    def bound(self, bindings: Iterable[Binding]) -> dict[str, Value]:
        """Returns the values of bindings; None is not known yet."""
        return {binding.field: self._value(binding) for binding in bindings}

    def patch(self, index: int) -> Values:
        """Returns what operators gave for the action of a task."""
        known = {each.field: each.value for each in self._workflow.task(index).patch}
        return known | dict(self._patches.get(index, {}))

    def _is_other(self, binding: Binding) -> bool:
        if binding.of_failure:
            return False
        if binding.task:
            return binding.task in self._skipped
        return binding.path in self._changed

    def _value(self, binding: Binding) -> Value:
        if binding.of_failure:
            return None
        if not binding.task:
            return self._input.get(binding.path)
        output = self._skipped.get(binding.task)
        if output is None:
            output = self._workflow.task(self._workflow.plan.by_name[binding.task]).output
        return output.get(binding.path)


def _bindings(spec: TaskSpec) -> tuple[Binding, ...]:
    return spec.bindings + (spec.opposite.bindings if spec.opposite is not None else ())
