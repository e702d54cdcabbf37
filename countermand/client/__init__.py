"""The asyncio client for engines: submit a workflow, watch it, take its result.

async with Client("127.0.0.1:7700") as client:
    run = await client.submit(spec, workflow_id="vm-42")
    workflow = await run.result()
"""

from countermand.client.client import Client
from countermand.client.failed import WorkflowFailed
from countermand.client.run import Run

__all__ = ["Client", "Run", "WorkflowFailed"]
