"""An engine as a process of its own: it hands in a plan, and waits for its end.

python -m tests.endtoend.engine ADDRESS WORKFLOW-ID FILE
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

from countermand.client import Client
from countermand.v1.workflow_spec_pb2 import WorkflowSpec
from countermand.v1.workflow_state_pb2 import WorkflowState


async def run(address: str, workflow_id: str, spec: WorkflowSpec) -> None:
    async with Client(address) as client:
        workflow = await (await client.submit(spec, workflow_id=workflow_id)).wait()
    print(WorkflowState.Name(workflow.state).removeprefix("WORKFLOW_STATE_"), flush=True)


def main(arguments: Sequence[str], prog_name: str = "") -> None:
    address, workflow_id, file = arguments
    asyncio.run(run(address, workflow_id, WorkflowSpec.FromString(Path(file).read_bytes())))
    sys.exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
