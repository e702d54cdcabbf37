"""Groups on the page of a resume: what failed in one, some of its items, or all of it. Pure.

What an operator says about a group becomes decisions as the contract has them. The items that are
not chosen need decisions too: they may be skipped with the same form.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final

from coordinator.web.forms.arguments import Argument, arguments_of, field_of_argument
from coordinator.web.forms.decisions import DECIDE, RERUN, SKIP, field_of_hosts, named
from coordinator.web.forms.fields import Field, Option
from coordinator.web.forms.outlook import place
from countermand.drawing.phrases import count, listing, some
from countermand.drawing.tasks import GROUPS, next_place, task_id
from countermand.drawing.values import said
from countermand.rpc.errors import FieldInvalid, Violation
from countermand.v1.annotation_pb2 import Effect
from countermand.v1.host_pb2 import Host
from countermand.v1.task_pb2 import Task
from countermand.v1.workflow_pb2 import ResumeDecision
from countermand.v1.workflow_spec_pb2 import Group, WorkflowSpec

ITEM, ITEMS, OTHERS, RESET = "item", "items", "others", "reset"
ITEMS_MAX: Final = 100  # that one ticks; of more one says the numbers
NAMED_MAX: Final = 6
_RANGE: Final = re.compile(r"([0-9]{1,9})(?:\s*-\s*([0-9]{1,9}))?")
AS_IT_IS: Final = "as each has it"
CHANGED: Final = "Changed for all that run again; what is empty stays as each has it:"


@dataclass(frozen=True)
class Tree:
    """The tasks of a workflow, as far as they were read."""

    tasks: Sequence[Task] = ()

    @cached_property
    def parents(self) -> Mapping[str, str]:
        """Returns the group of each task that is in one, by their names."""
        return {task.name: task.parent for task in self.tasks if task.parent}

    def above(self, name: str) -> Iterator[str]:
        """Yields the groups around a task, the nearest first."""
        while name := self.parents.get(name, ""):
            yield name

    @cached_property
    def within(self) -> Mapping[str, Sequence[Task]]:
        """Returns the tasks in each group, at any depth: worked out once, of thousands of items."""
        found: defaultdict[str, list[Task]] = defaultdict(list)
        for task in self.tasks:
            for group in () if task.kind in GROUPS else self.above(task.name):
                found[group].append(task)
        return found

    def leaves(self, group: str) -> Sequence[Task]:
        """Returns the tasks in a group, at any depth."""
        return self.within.get(group, ())

    def failed(self, group: str) -> list[Task]:
        """Returns the tasks in a group that need a decision."""
        return [task for task in self.leaves(group) if task.needs_decision]

    def gathered(self, names: Collection[str], most: int) -> list[str]:
        """Returns at most so many tasks and groups that stand for all of some, if there are."""
        found = list(dict.fromkeys(names))
        while len(found) > most:
            wide = dict.fromkeys(self.parents.get(name, name) for name in found)
            wider = [name for name in wide if not any(above in wide for above in self.above(name))]
            if wider == found:
                break
            found = wider
        return found

    def shared(self, names: Collection[str]) -> list[str]:
        """Returns the nearest groups that hold several of some tasks."""
        near = Counter(next(self.above(name), "") for name in names)
        return [group for group, number in near.items() if group and number > 1]


# -- what is asked --------------------------------------------------------------------------------


def rerun(group: Task, tree: Tree, spec: WorkflowSpec, hosts: Sequence[Host]) -> Option:
    """Returns the choice to run again what failed in a group, or some of it, or all of it."""
    name, failed = task_id(group.name), tree.failed(group.name)
    items = _items(group, tree) if is_fan_out(name, spec) else []
    hint = "Everything in it that failed, each as a new attempt."
    if items:
        hint = "Each as a new attempt; or only the items that you choose below."
    fields = [_tick(name, index, member, tree) for index, member in items[:ITEMS_MAX]]
    if len(items) > ITEMS_MAX:
        fields.append(_numbers(name, len(items)))
    if items:
        fields.append(
            Field(
                name=named(OTHERS, name),
                label="Skip the failed items that are not chosen",
                kind="tick",
                hint="Else each of them needs a decision of its own.",
                heading="Where only some run again:",
            )
        )
    fields.append(_reset(name, tree.leaves(group.name)))
    changed = list(_arguments(name, failed))
    if not any(task.owner_id for task in failed):
        changed.append(_host(group, hosts))
    fields += [replace(each, heading=CHANGED) if not n else each for n, each in enumerate(changed)]
    label = f"Run again {all_of(len(items))}"
    return Option(value=RERUN, label=label, hint=hint, fields=fields)


def skip(group: Task, tree: Tree, spec: WorkflowSpec) -> Option:
    """Returns the choice to go on without what failed in a group."""
    items = _items(group, tree) if is_fan_out(task_id(group.name), spec) else []
    hint = "Goes on with what comes after. What later tasks need of it is asked for by the check."
    return Option(value=SKIP, label=f"Skip {all_of(len(items))}", hint=hint)


def all_of(items: int) -> str:
    """Returns what a decision about a group is about, unless only some items are chosen."""
    return f"all {items} failed items" if items > 1 else "what failed in it"


def _items(group: Task, tree: Tree) -> list[tuple[int, Task]]:
    """Returns the failed items of a fan-out, by their indices: "copy.3", or a group "disks.3"."""
    found = []
    for member in tree.tasks:
        index = member.name.rpartition(".")[2]
        if member.parent == group.name and index.isdecimal():
            is_failed = member.needs_decision or bool(tree.failed(member.name))
            found += [(int(index), member)] if is_failed else []
    return found


def _tick(group: str, index: int, member: Task, tree: Tree) -> Field:
    name, first = task_id(member.name), (tree.failed(member.name) or [member])[0]
    return Field(
        name=named(ITEM, group, f"{index}:{name}"),
        label=f"Item {index}: {name}{place(first)}",
        kind="tick",
        hint=f"{said(first.failure)} ({first.failure.reason})",
    )


def _numbers(group: str, failed: int) -> Field:
    """Returns the field of the items that are more than anybody ticks."""
    return Field(
        name=named(ITEMS, group),
        label="Items, by their numbers",
        hint=f"Of {failed} the first {ITEMS_MAX} are shown above. Any may be named: 7, 100-199.",
    )


def _reset(group: str, leaves: Sequence[Task]) -> Field:
    done = [f"{task_id(task.name)}{place(task)}" for task in filter(_took_effect, leaves)]
    more = [count(len(done) - NAMED_MAX, "other")] if len(done) > NAMED_MAX else []
    first = f"What succeeded is made up for first: {listing([*done[:NAMED_MAX], *more])}."
    return Field(
        name=named(RESET, group),
        label=f"Run all of {group} again, from the start",
        kind="tick",
        heading="Rather than only what failed:",
        hint=first if done else "Nothing in it has taken effect that would be made up for first.",
    )


def _arguments(group: str, failed: Sequence[Task]) -> Iterator[Field]:
    """Yields what may be changed alike of all that failed: where they all are of one verb."""
    verbs = {(task.kind, task.verb) for task in failed}
    if len(verbs) != 1 or failed[0].kind != Task.KIND_VERB:
        return
    for each in arguments_of(Task(kind=Task.KIND_VERB, verb=failed[0].verb)):
        bare = Argument(path=each.path, type=each.type, words=each.words)
        field = field_of_argument(named(RERUN, group, each.path), bare)
        if field.kind == "pick":
            words = [option for option in field.options if option.label != "not said"]
            options = [Option(value="", label=AS_IT_IS), *words]
            yield Field(name=field.name, label=field.label, kind="pick", options=options)
        else:
            yield Field(name=field.name, label=field.label, kind=field.kind)


def _host(group: Task, hosts: Sequence[Host]) -> Field:
    """Returns the field of where all that runs again does so."""
    field = field_of_hosts(group, hosts)
    return replace(field, options=[Option(value="", label=AS_IT_IS), *field.options[1:]])


def is_fan_out(group: str, spec: WorkflowSpec) -> bool:
    """Returns whether a group repeats its members for each item of a list.

    Its name is the one in the spec, behind those of the workflows that it is nested in and before
    the indices of the fan-outs around it.
    """
    while (cut := group.rpartition("."))[2].isdecimal() and cut[0]:
        group = cut[0]
    return any(group == name or group.endswith(f".{name}") for name in _fan_outs(spec))


def _fan_outs(spec: WorkflowSpec) -> Iterator[str]:
    nodes = [*spec.root.members, *spec.on_success, *spec.on_failure]
    while nodes:
        node = nodes.pop()
        if node.HasField("workflow"):
            yield from _fan_outs(node.workflow)
        inner: Group = node.group
        if inner.HasField("for_each"):
            yield node.name
        nodes += [*inner.members, *inner.recovery]


# -- what was said --------------------------------------------------------------------------------


def ticked(
    made: ResumeDecision, cards: Sequence[Field], typed: Mapping[str, str], tree: Tree
) -> list[ResumeDecision]:
    """Fills in which items run again, and whether all do; returns decisions about the others.

    Raises:
        FieldInvalid: With every number that is none of an item that failed; where only some items
            were chosen, and nothing was said about the others.
    """
    group = task_id(made.task)
    lead = f"{named(ITEM, group)}:"
    fields = [
        field.name
        for card in cards
        for option in card.options
        if card.name == named(DECIDE, group) and option.value == RERUN
        for field in option.fields
    ]
    if made.WhichOneof("decision") != "rerun" or named(RESET, group) not in fields:
        return []
    made.rerun.reset = bool(typed.get(named(RESET, group)))
    if named(OTHERS, group) not in fields:
        return []
    failed = dict(_items(Task(name=made.task), tree))
    ticks = [name.removeprefix(lead) for name in fields if name.startswith(lead)]
    chosen = {int(path.partition(":")[0]) for path in ticks if typed.get(f"{lead}{path}")}
    if named(ITEMS, group) in fields:
        chosen |= _named(named(ITEMS, group), typed.get(named(ITEMS, group), ""), failed)
    made.rerun.indices.extend(sorted(chosen))
    others = [other for index, other in failed.items() if index not in chosen] if chosen else []
    if others and not typed.get(named(OTHERS, group)):
        raise FieldInvalid(Violation(named(OTHERS, group), _undecided(others)))
    return [ResumeDecision(task=other.name, skip=ResumeDecision.Skip()) for other in others]


def _undecided(others: Sequence[Task]) -> str:
    """Returns what is to be done about items that failed and were not chosen."""
    names = some([task_id(other.name) for other in others], NAMED_MAX)
    are = "is" if len(others) == 1 else "are"
    them = "it" if len(others) == 1 else "them"
    return (
        f"{names} {are} not chosen, and must be decided, too: tick this to skip {them}, choose"
        f" {them} above, or decide task by task"
    )


def _named(field: str, text: str, failed: Collection[int]) -> set[int]:
    """Returns the items that somebody names: "7, 100-199"."""
    found: set[int] = set()
    wrong = []
    for part in filter(None, (each.strip() for each in text.split(","))):
        if (known := _RANGE.fullmatch(part)) is None:
            said_ = f"{part[:40]!r} is no number of an item, nor a range of them"
            wrong.append(Violation(field, said_))
            continue
        first, last = int(known[1]), int(known[2] or known[1])
        within = {index for index in failed if first <= index <= last}
        if not within:
            wrong.append(Violation(field, f"{part} is no item that failed"))
        found |= within
    if wrong:
        raise FieldInvalid(*wrong)
    return found


def told(group: str, decision: ResumeDecision.Rerun, tree: Tree, name: str) -> str:
    """Returns what will happen to a group that runs again, in a sentence."""
    there = f" on {decision.host_id}" if decision.host_id else ""
    if decision.reset:
        return f"All of {group} runs again{there}, from the start."
    if decision.indices:
        numbers = [str(index) for index in decision.indices]
        more = [count(len(numbers) - NAMED_MAX, "other")] if len(numbers) > NAMED_MAX else []
        items = listing([*numbers[:NAMED_MAX], *more])
        noun = "Item" if len(decision.indices) == 1 else "Items"
        verb = "runs" if len(decision.indices) == 1 else "run"
        return f"{noun} {items} of {group} {verb} again{there}."
    failed = tree.failed(name)
    names = [f"{task_id(t.name)}{'' if there else next_place(t)}" for t in failed[:NAMED_MAX]]
    more = [count(len(failed) - NAMED_MAX, "other")] if len(failed) > NAMED_MAX else []
    which = f": {listing([*names, *more])}" if names else ""
    return f"What failed in {group} runs again{there}{which}."


def made_up_for(decision: ResumeDecision.Rerun, name: str, tree: Tree) -> list[Task]:
    """Returns what a reset makes up for first."""
    return list(filter(_took_effect, tree.leaves(name))) if decision.reset else []


def _took_effect(task: Task) -> bool:
    return task.state == Task.STATE_SUCCEEDED and task.effect == Effect.EFFECT_REVERSIBLE
