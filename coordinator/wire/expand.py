"""The saga's tree of a spec: for_each groups and nested workflows expanded, policies inherited.

Every item and every nested task becomes a node with a name of its own; `source` keeps the path of
the template, so that whoever submitted it finds what is spoken of. What only shows here, such as a
name that means nothing where it stands, is collected; a spec that was checked has none of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from google.protobuf.struct_pb2 import Struct

from coordinator.saga.plan import ON_FAILURE, ON_SUCCESS, RECOVERY_SUFFIX
from coordinator.saga.spec import (
    DEFAULT_POLICY,
    GroupKind,
    GroupRules,
    GroupSpec,
    NodeSpec,
    OnFailure,
    Policy,
    Terms,
)
from coordinator.wire import policies
from coordinator.wire.fields import KINDS
from coordinator.wire.leaves import Leaves
from coordinator.wire.policies import inherit
from coordinator.wire.scope import Names, Scope, names_of
from coordinator.wire.sources import COMPENSATED, FAILURE, INDEX_SUFFIX, list_at
from coordinator.wire.values import span_from_proto
from countermand.rpc.errors import Violation
from countermand.rpc.names import is_id
from countermand.v1 import workflow_spec_pb2 as spec_pb2

ROOT = "root"  # the name of the outermost group, unless a member has taken it


class Expansion:
    """A spec as the saga's tree and terms, with what is wrong with it."""

    def __init__(self, spec: spec_pb2.WorkflowSpec, input_: Struct) -> None:
        """Expands it; it must be sound."""
        self._input = input_
        self.leaves = Leaves(input_)
        self._names: dict[str, str] = {}  # of every node: its path
        self._kept: dict[str, str] = {}  # names that no node may have: what they are kept for
        self._policies: dict[str, Policy] = {}  # by path: all items of a for_each share theirs
        self._nested: dict[str, Names] = {}  # by path
        self._violations: list[Violation] = []
        names = names_of(spec, "spec")
        scope = Scope(names=names, policy=inherit(DEFAULT_POLICY, spec.policy))
        name = ROOT
        while name in names:
            name = f"{name}-"
        self.root = self._group(spec.root, "spec.root", name, scope, spec.policy)
        self.terms = self._terms(spec, replace(scope, end_action=True))
        self._check_kept()

    @property
    def violations(self) -> Sequence[Violation]:
        """Returns what only showed here."""
        return (*self._violations, *self.leaves.violations)

    def _terms(self, spec: spec_pb2.WorkflowSpec, scope: Scope) -> Terms:
        failed = replace(scope, sees=FAILURE | {COMPENSATED})
        if spec.on_success:
            self._kept[ON_SUCCESS] = "the group of end actions"
        if spec.on_failure:
            self._kept[ON_FAILURE] = "the group of end actions"
        on_success = self._in_order(spec.on_success, "spec.on_success", scope)
        on_failure = self._in_order(spec.on_failure, "spec.on_failure", failed)
        return Terms(
            on_success=on_success,
            on_failure=on_failure,
            timeout=span_from_proto(spec.timeout) if spec.HasField("timeout") else None,
            locks=self.leaves.locks.all(),
            lock_refused=spec.lock_policy == spec_pb2.WorkflowSpec.LOCK_POLICY_REFUSE,
        )

    def _nodes(
        self, nodes: Sequence[spec_pb2.Node], path: str, scope: Scope
    ) -> tuple[NodeSpec, ...]:
        return tuple(
            self._node(node, f"{path}[{number}]", scope, tuple(map(scope.name, node.after)))
            for number, node in enumerate(nodes)
        )

    def _in_order(
        self, nodes: Sequence[spec_pb2.Node], path: str, scope: Scope
    ) -> tuple[NodeSpec, ...]:
        """Returns members of a sequence, which come after each other by themselves."""
        return tuple(
            self._node(node, f"{path}[{number}]", scope) for number, node in enumerate(nodes)
        )

    def _node(
        self, node: spec_pb2.Node, path: str, scope: Scope, after: tuple[str, ...] = ()
    ) -> NodeSpec:
        name = scope.name(node.name)
        self._names[name] = path
        if is_id(node.name) and not is_id(name):
            self._wrong(f"{path}.name", f"becomes {name!r}, which is longer than a name may be")
        when = self.leaves.condition(node.when, path, scope) if node.HasField("when") else None
        policy = self._inherit(scope, node.policy, path)
        if node.HasField("task"):
            if policy is not scope.policy:
                scope = replace(scope, policy=policy)
            if not scope.recovers and not scope.end_action:
                self._check_recovery(node.policy, path)
            return self.leaves.task(node.task, path, name, scope, after=after, when=when)
        if node.HasField("external_task"):
            inner = replace(scope, policy=policy)
            task = node.external_task
            return self.leaves.external(task, path, name, inner, after=after, when=when)
        inner = replace(scope, policy=policy)
        if node.HasField("group"):
            group = self._group(node.group, f"{path}.group", name, inner, node.policy)
        else:
            group = self._workflow(node, path, name, inner)
        return replace(group, after=after, when=when) if after or when else group

    def _workflow(self, node: spec_pb2.Node, path: str, name: str, scope: Scope) -> GroupSpec:
        """Returns a nested workflow: the group that is its root."""
        spec, here = node.workflow, f"{path}.workflow"
        if here not in self._nested:
            self._nested[here] = names_of(spec, here)
        inner = replace(
            scope.nested(self._nested[here], name), policy=self._inherit(scope, spec.policy, here)
        )
        said = spec_pb2.Policy(on_failure=spec.policy.on_failure or node.policy.on_failure)
        group = self._group(spec.root, f"{here}.root", name, inner, said)
        return replace(group, rules=replace(group.rules, nested=True))

    def _group(
        self,
        group: spec_pb2.Group,
        path: str,
        name: str,
        scope: Scope,
        policy: spec_pb2.Policy,
    ) -> GroupSpec:
        """Returns a group; the scope's policy is its own already."""
        said = policies.ON_FAILURE.get(policy.on_failure)
        if said is OnFailure.RECOVER:
            scope = replace(scope, recovers=True)
        if group.recovery:
            self._kept[f"{name}{RECOVERY_SUFFIX}"] = f"the recovery tasks of {name!r}"
            if is_id(name) and not is_id(f"{name}{RECOVERY_SUFFIX}"):
                self._wrong(f"{path}.recovery", f"needs a shorter name of its group than {name!r}")
        if group.HasField("for_each"):
            members = tuple(self._items(group, path, name, scope))
        else:
            members = self._nodes(group.members, f"{path}.members", scope)
        recovering = replace(scope, sees=scope.sees | FAILURE)
        return GroupSpec(
            name=name,
            kind=KINDS[group.kind],
            members=members,
            recovery=self._in_order(group.recovery, f"{path}.recovery", recovering),
            rules=GroupRules(
                min_success=group.min_success,
                concurrency_max=group.concurrency_max,
                rounds_max=max(1, group.rounds_max),
                on_failure=said,
                fan_out=group.HasField("for_each"),
                open=scope.policy if group.open else None,
            ),
            source=path,
        )

    def _items(
        self, group: spec_pb2.Group, path: str, name: str, scope: Scope
    ) -> Iterator[NodeSpec]:
        """Yields what each item becomes: the one member, or a sequence of all of them."""
        said = group.for_each
        lists = {said.item: self._list(said.items)}
        lists |= {word: self._list(items) for word, items in said.zip.items()}
        counter = f"{said.item}{INDEX_SUFFIX}"
        for number in range(lists[said.item][1]):
            items = {word: f"{list_}.{number}" for word, (list_, _) in lists.items()}
            inner = scope.item(path, number, items, counter)
            if len(group.members) == 1:
                yield self._node(group.members[0], f"{path}.members[0]", inner)
                continue
            item = f"{name}.{number}"
            self._names[item] = path
            members = self._in_order(group.members, f"{path}.members", inner)
            yield GroupSpec(name=item, kind=GroupKind.SEQUENCE, members=members, source=path)

    def _list(self, source: str) -> tuple[str, int]:
        found = list_at(self._input, source)
        assert found is not None, source
        return found

    def _inherit(self, scope: Scope, policy: spec_pb2.Policy, path: str) -> Policy:
        if path not in self._policies:
            self._policies[path] = inherit(scope.policy, policy)
        return self._policies[path]

    def _check_recovery(self, policy: spec_pb2.Policy, path: str) -> None:
        if policies.ON_FAILURE.get(policy.on_failure) is OnFailure.RECOVER:
            self._wrong(
                f"{path}.policy.on_failure",
                "needs a group around that says ON_FAILURE_RECOVER and has recovery tasks",
            )

    def _check_kept(self) -> None:
        for name in self._kept.keys() & self._names.keys():
            self._wrong(
                f"{self._names[name]}.name", f"{name!r} is kept for {self._kept[name]}: rename it"
            )

    def _wrong(self, path: str, description: str) -> None:
        self._violations.append(Violation(path, description))
