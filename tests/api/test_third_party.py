"""A client that knows nothing of us: `buf curl`, which learns the contract by server reflection."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.api.calls import BASE
from tests.endtoend.checks import assert_clean
from tests.endtoend.cluster import Cluster

BUF = Path(sys.executable).with_name("buf")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not BUF.exists(), reason="buf is not installed: pip install buf-bin"),
]


@pytest.fixture
async def bare(lives, tmp_path):
    """Yields a coordinator that knows no host yet."""
    cluster = Cluster(lives, tmp_path, {"a": {"pool-a": ""}})
    await cluster.add_template("base")
    await cluster.agents["a"].start()
    await cluster.coordinator.start()
    yield cluster
    await cluster.end()


async def curl(cluster: Cluster, method: str, request: dict[str, object]) -> list[dict[str, Any]]:
    """Returns the messages that a call answers."""
    process = await asyncio.create_subprocess_exec(
        *(str(BUF), "curl", "--protocol", "grpc", "--http2-prior-knowledge", "--reflect"),
        *("--data", json.dumps(request)),
        f"http://{cluster.coordinator.address}/countermand.v1.{method}",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={"HOME": str(cluster.folder), "BUF_CACHE_DIR": str(cluster.folder / "buf")},
    )
    said, complained = await process.communicate()
    assert process.returncode == 0, complained.decode()
    decoder, text, messages = json.JSONDecoder(), said.decode().strip(), []
    while text:
        message, end = decoder.raw_decode(text)
        messages.append(message)
        text = text[end:].strip()
    return messages


async def test_a_stranger_adds_a_host_and_runs_a_workflow(bare):
    [added] = await curl(
        bare, "HostService/AddHost", {"hostId": "a", "address": bare.agents["a"].address}
    )
    assert added["host"]["state"] == "STATE_READY"
    pool_id, _, image_id = BASE.partition("/")
    action = {
        "copyImage": {
            "source": {"poolId": pool_id, "imageId": image_id},
            "target": {"poolId": "pool-a", "imageId": "stranger"},
            "takeDigest": True,
        }
    }
    task = {"name": "copied", "task": {"hostId": "a", "action": action}}
    spec = {"kind": "stranger", "root": {"kind": "KIND_SEQUENCE", "members": [task]}}
    [started] = await curl(
        bare, "WorkflowService/StartWorkflow", {"workflowId": "stranger", "spec": spec}
    )
    name = started["workflow"]["name"]
    watched = await curl(bare, "WorkflowService/WatchWorkflow", {"name": name})
    events = [message["event"] for message in watched if "event" in message]
    assert [int(event["sequence"]) for event in events] == list(range(1, len(events) + 1))
    assert events[-1]["workflowStateChanged"]["after"] == "WORKFLOW_STATE_SUCCEEDED"
    [got] = await curl(
        bare, "WorkflowService/GetWorkflow", {"name": name, "view": "WORKFLOW_VIEW_FULL"}
    )
    assert got["workflow"]["state"] == "WORKFLOW_STATE_SUCCEEDED"
    assert [task["name"] for task in got["workflow"]["tasks"]] == [f"{name}/tasks/copied"]
    assert_clean(bare, "stranger", "SUCCEEDED")
