"""Plans are not stored: they are compiled again from what was handed in."""

from __future__ import annotations

from functools import lru_cache

from google.protobuf.struct_pb2 import Struct

from coordinator.saga.plan import Plan
from coordinator.wire.spec import plan_of
from countermand.v1.workflow_spec_pb2 import WorkflowSpec

# Who asks for a settled workflow mostly asks again; a plan of 10,000 nodes takes some megabytes.
PLANS_MAX = 64


class Plans:
    """The plans last used, by the bytes of their specs and inputs."""

    def __init__(self, plans_max: int = PLANS_MAX) -> None:
        self.of = lru_cache(plans_max)(_compiled)


def _compiled(spec: bytes, input_: bytes) -> Plan:
    return plan_of(WorkflowSpec.FromString(spec), Struct.FromString(input_))
