"""Plans are not stored: they are compiled again from the spec, once for many workflows."""

from __future__ import annotations

from functools import lru_cache

from coordinator.saga.spec import Plan, compile_plan
from coordinator.wire.spec import tree_from_spec
from countermand.v1.workflow_spec_pb2 import WorkflowSpec

# Engines start the same few kinds again and again; a plan of 10,000 nodes takes some megabytes.
PLANS_MAX = 64


class Plans:
    """The plans last used, by the bytes of their specs."""

    def __init__(self, plans_max: int = PLANS_MAX) -> None:
        self.of = lru_cache(plans_max)(_compiled)


def _compiled(spec: bytes) -> Plan:
    return compile_plan(tree_from_spec(WorkflowSpec.FromString(spec)))
