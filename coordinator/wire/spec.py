"""Specs as submitted: checked whole, then turned into the saga's plan.

`check_spec` raises every violation at once, each with the path of its field. `tree_from_spec` and
`plan_of` trust what was checked. A plan depends on the input as well: the lists of for_each groups,
and the images that are bound to it.

    fields     as written, before anything is expanded      policies   inherited field by field
    expand     the tree: groups, items, nested workflows    scope      what names mean where
    leaves     tasks, bindings, conditions, opposites       locks      images named beforehand
    arguments  values, types and hosts of what came of it   sources    paths taken apart
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from google.protobuf.struct_pb2 import Struct

from coordinator.saga.plan import Plan, compile_plan
from coordinator.saga.problems import problems
from coordinator.saga.spec import GroupSpec, Terms
from coordinator.wire.arguments import INPUT_BYTES_MAX, HostsKnown, value_problems
from coordinator.wire.expand import Expansion
from coordinator.wire.fields import Fields
from coordinator.wire.values import ENDLESS, doubled, unsayable
from countermand.rpc.errors import FieldInvalid, PayloadTooLarge, Violation
from countermand.v1.workflow_spec_pb2 import WorkflowSpec

# What is wrong with a template is wrong with each of its items: a few of them make it clear.
VIOLATIONS_PER_FIELD_MAX = 5


def check_spec(spec: WorkflowSpec, input_: Struct, hosts: HostsKnown) -> Plan:
    """Checks a spec and its input; returns the plan they become.

    Raises:
        FieldInvalid: With every violation.
        PayloadTooLarge: For an input beyond its bound.
    """
    if input_.ByteSize() > INPUT_BYTES_MAX:
        raise PayloadTooLarge(
            field="input", size_bytes=input_.ByteSize(), size_bytes_max=INPUT_BYTES_MAX
        )
    fields = Fields(input_)
    fields.spec(spec)
    violations = list(fields.violations)
    if path := doubled(input_):
        said = f"{path!r} leads to two values: let no key hold a dot"
        violations.append(Violation("input", said))
    if path := unsayable(input_):
        violations.append(Violation("input", f"{path!r} {ENDLESS}"))
    expansion = Expansion(spec, input_) if fields.sound else None
    if expansion is not None:
        violations += expansion.violations
        violations += value_problems(expansion.leaves, input_, hosts)
        violations += (
            Violation(_written(problem.field), problem.description)
            for problem in problems(expansion.root, expansion.terms)
        )
    if violations:
        raise FieldInvalid(*_distinct(violations))
    assert expansion is not None, "what cannot be expanded has violations"
    return compile_plan(expansion.root, expansion.terms)


def _written(path: str) -> str:
    """Returns the path of a field of a nested workflow's node, not of the group it becomes."""
    return path.replace(".workflow.root.name", ".name").replace(".workflow.root.when", ".when")


def _distinct(violations: Iterable[Violation]) -> Iterator[Violation]:
    """Yields each violation once, and a few of each field."""
    counts: Counter[str] = Counter()
    for violation in dict.fromkeys(violations):
        counts[violation.field] += 1
        if counts[violation.field] <= VIOLATIONS_PER_FIELD_MAX:
            yield violation


def tree_from_spec(spec: WorkflowSpec, input_: Struct) -> tuple[GroupSpec, Terms]:
    """Returns the saga's tree and terms of a spec that was checked with this input."""
    expansion = Expansion(spec, input_)
    return expansion.root, expansion.terms


def plan_of(spec: WorkflowSpec, input_: Struct) -> Plan:
    """Returns the plan of a spec that was checked with this input."""
    return compile_plan(*tree_from_spec(spec, input_))
