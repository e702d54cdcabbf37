"""The calls of the contract that a coordinator serves: each must be reached by people."""

from __future__ import annotations

import importlib
from collections.abc import Iterator

# The agents' is for hosts only.
SERVED = ("workflow", "external_task", "host", "webhook", "doctor", "coordinator")


def calls() -> Iterator[str]:
    """Yields each call, as "WorkflowService.GetWorkflow"."""
    for module in SERVED:
        file = importlib.import_module(f"countermand.v1.{module}_pb2").DESCRIPTOR
        for service in file.services_by_name.values():
            yield from (f"{service.name}.{method.name}" for method in service.methods)
