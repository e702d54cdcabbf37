"""The asyncio client for engines: submit a workflow, watch it, take its result.

async with Client("127.0.0.1:7700") as client:
    run = await client.submit(spec, workflow_id="vm-42")
    workflow = await run.result()

What is named here is imported when it is asked for: specs and templates need no connection.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from countermand.client.client import Client
    from countermand.client.failed import WorkflowFailed
    from countermand.client.run import Run

__all__ = ["Client", "Run", "WorkflowFailed"]

_MODULES = {"Client": "client", "Run": "run", "WorkflowFailed": "failed"}


def __getattr__(name: str) -> object:
    """Imports what is asked for."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
