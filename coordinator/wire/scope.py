"""What names mean where they stand: tasks of this workflow and of those around it, and items.

A node of a for_each, or of a nested workflow, becomes several under names of their own; a spec
speaks of them by the names that it gave.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from coordinator.saga.spec import Policy
from countermand.v1 import workflow_spec_pb2 as spec_pb2


@dataclass(frozen=True, slots=True)
class Declared:
    """A node as its workflow names it."""

    chain: tuple[str, ...]  # the paths of the for_each groups around it, in that workflow
    nested: bool  # it is a nested workflow


Names = Mapping[str, Declared]


def names_of(spec: spec_pb2.WorkflowSpec, path: str) -> Names:
    """Returns every node of a workflow, without those of workflows nested in it."""
    names: dict[str, Declared] = {}

    def walk(nodes: Sequence[spec_pb2.Node], path: str, chain: tuple[str, ...]) -> None:
        for number, node in enumerate(nodes):
            names.setdefault(node.name, Declared(chain, node.HasField("workflow")))
            if node.HasField("group"):
                group(node.group, f"{path}[{number}].group", chain)

    def group(group: spec_pb2.Group, path: str, chain: tuple[str, ...]) -> None:
        inner = (*chain, path) if group.HasField("for_each") else chain
        walk(group.members, f"{path}.members", inner)
        walk(group.recovery, f"{path}.recovery", chain)

    group(spec.root, f"{path}.root", ())
    walk(spec.on_success, f"{path}.on_success", ())
    walk(spec.on_failure, f"{path}.on_failure", ())
    return names


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """One place in the tree."""

    names: Names
    policy: Policy
    prefix: str = ""  # of names in a nested workflow
    chain: tuple[str, ...] = ()  # the for_each groups around, in this workflow
    indices: tuple[str, ...] = ()  # the index in each
    items: Mapping[str, str] = field(default_factory=dict)  # word → path in the input
    counters: Mapping[str, int] = field(default_factory=dict)  # word → index
    sees: frozenset[str] = frozenset()  # what is known of a failure
    recovers: bool = False  # a group around says ON_FAILURE_RECOVER itself
    end_action: bool = False
    outer: Scope | None = None  # of the workflow that this one is nested in

    def name(self, name: str) -> str:
        """Returns the name under which a node of this place stands in the plan."""
        return (
            ".".join((f"{self.prefix}{name}", *self.indices))
            if self.indices or self.prefix
            else name
        )

    def item(self, group: str, number: int, items: Mapping[str, str], counter: str) -> Scope:
        """Returns the place of one item of a for_each."""
        return replace(
            self,
            chain=(*self.chain, group),
            indices=(*self.indices, str(number)),
            items={**self.items, **items},
            counters={**self.counters, counter: number},
        )

    def nested(self, names: Names, node: str) -> Scope:
        """Returns the place within a nested workflow, which is called so in the plan."""
        return replace(self, names=names, prefix=f"{node}.", chain=(), indices=(), outer=self)

    def task(self, name: str) -> str | Repeated:
        """Returns the name in the plan of the task that a spec names here.

        One that nobody has declared keeps its name, and is then found missing.
        """
        here: Scope | None = self
        hidden: Repeated | None = None
        while here is not None:
            found = here.find(name)
            if isinstance(found, str):
                return found
            hidden = hidden or found
            here = here.outer
        return hidden or name

    def find(self, name: str) -> str | Repeated | None:
        """Looks in this workflow only: as "<name>", "<name>.<index>", "<nested>.<name>"."""
        declared = self.names.get(name)
        if declared is not None and self._shared(declared) == len(declared.chain):
            return ".".join((f"{self.prefix}{name}", *self.indices[: len(declared.chain)]))
        parts = name.split(".")
        hidden = None
        for cut in range(len(parts), 0, -1):
            base = ".".join(parts[:cut])
            declared = self.names.get(base)
            if declared is None:
                continue
            if found := self._indexed(base, declared, parts[cut:]):
                return found
            hidden = hidden or Repeated(base)
        return hidden

    def _indexed(self, base: str, declared: Declared, rest: Sequence[str]) -> str | None:
        """Returns the name of one of a node's items: by all of its indices, or by those inside."""
        shared = self._shared(declared)
        for lead in (0, shared):
            count = len(declared.chain) - lead
            indices, below = rest[:count], rest[count:]
            if len(indices) < count or not all(index.isdecimal() for index in indices):
                continue
            if below and not declared.nested:
                continue
            return ".".join((f"{self.prefix}{base}", *self.indices[:lead], *indices, *below))
        return None

    def _shared(self, declared: Declared) -> int:
        """Returns how many of the for_each groups around a node are around this place, too."""
        count = 0
        for theirs, ours in zip(declared.chain, self.chain, strict=False):
            if theirs != ours:
                break
            count += 1
        return count


@dataclass(frozen=True, slots=True)
class Repeated:
    """A name that stands for several tasks from where it is used, or for none of its group's."""

    name: str
