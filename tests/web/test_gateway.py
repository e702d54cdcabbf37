"""The contract as JSON over HTTP: asked by hand, and by a peer that is not ours."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from google.protobuf import json_format
from google.rpc.error_details_pb2 import ErrorInfo

from coordinator.web import gateway
from countermand.client import Client
from countermand.rpc.names import workflow_name
from countermand.v1 import workflow_pb2 as pb
from tests.endtoend.cluster import Cluster, running
from tests.web import stories

JSON = {"Content-Type": "application/json"}
ROOT = Path(__file__).parents[2]
BUF = Path(sys.executable).with_name("buf")
WORKFLOWS = "/countermand.v1.WorkflowService"
GET = f"{WORKFLOWS}/GetWorkflow"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(lives, tmp_path_factory, web: str) -> AsyncIterator[Cluster]:
    """Yields a coordinator with one workflow that waits for a vendor, and no more."""
    folder = tmp_path_factory.mktemp("gateway")
    options = {"coordinator": ("--web", web)}
    async with running(lives, folder, {"host-a": {}}, options=options) as cluster:
        async with Client(cluster.coordinator.address) as client:
            await client.submit(stories.asked(), workflow_id="asked", labels={"site": "north"})
        yield cluster


@pytest.fixture
async def session(cluster, web: str) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(f"http://{web}") as session:
        yield session


async def post(
    session: aiohttp.ClientSession, path: str, body: Any, **headers: str
) -> tuple[int, Any]:
    """Returns status and body of a call as JSON."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    async with session.post(path, data=io.BytesIO(data), headers=JSON | named) as answer:
        said = await answer.text()
        return answer.status, json.loads(said) if said.startswith(("{", "[")) else said


# -- answers --------------------------------------------------------------------------------------


async def test_a_call_answers_in_the_canonical_json_of_the_contract(session) -> None:
    status, said = await post(session, GET, {"name": "workflows/asked"})
    assert status == 200
    assert said["workflow"]["name"] == "workflows/asked"
    assert said["workflow"]["state"] == "WORKFLOW_STATE_RUNNING"
    assert said["workflow"]["lastSequence"].isdecimal()  # 64 bits are texts in JSON
    assert said["workflow"]["labels"] == {"site": "north"}
    both = await post(session, f"{WORKFLOWS}/ListWorkflows", {"page_size": 1})
    assert both == await post(session, f"{WORKFLOWS}/ListWorkflows", {"pageSize": 1})
    assert (await post(session, f"{WORKFLOWS}/ListWorkflows", b""))[0] == 200  # nothing is {}


async def test_a_call_answers_in_binary_as_well(session) -> None:
    asked = pb.GetWorkflowRequest(name=workflow_name("asked")).SerializeToString()
    headers = {"Content-Type": "application/proto", "Connect-Protocol-Version": "1"}
    async with session.post(GET, data=asked, headers=headers) as answer:
        assert answer.headers["Content-Type"] == "application/proto"
        found = pb.GetWorkflowResponse.FromString(await answer.read())
    assert found.workflow.kind == stories.asked().kind


async def test_a_change_is_made_once_and_audited_as_over_grpc(session, cluster) -> None:
    async with cluster.client() as client:
        await client.submit(stories.asked(), workflow_id="json")
        body = {
            "name": "workflows/json",
            "reason": "from JSON",
            "requestId": "9d2f0b84-6f5e-4a51-9a37-2a4c3c5b7a10",
        }
        first = await post(session, f"{WORKFLOWS}/CancelWorkflow", body)
        second = await post(session, f"{WORKFLOWS}/CancelWorkflow", body)
        assert (first[0], second[0]) == (200, 200)
        other = await post(session, f"{WORKFLOWS}/CancelWorkflow", body | {"reason": "else"})
        assert reason_of(other[1]) == "REQUEST_ID_REUSED"
        events = [event async for event in client.run("json").events()]
    asked = [e.intervention.reason for e in events if e.HasField("intervention")]
    assert asked == ["from JSON"]


# -- errors ---------------------------------------------------------------------------------------


def reason_of(said: dict[str, Any]) -> str:
    """Returns the reason in the details of an error, read from its bytes."""
    detail = next(each for each in said["details"] if each["type"] == "google.rpc.ErrorInfo")
    value = base64.b64decode(detail["value"] + "=" * (-len(detail["value"]) % 4))
    info = ErrorInfo.FromString(value)
    assert detail["debug"]["reason"] == info.reason
    assert info.domain == "countermand"
    return str(info.reason)


async def test_an_error_has_its_code_and_its_details(session) -> None:
    status, said = await post(session, GET, {"name": "workflows/nothing"})
    assert (status, said["code"]) == (404, "not_found")
    assert reason_of(said) == "WORKFLOW_NOT_FOUND"
    assert "check the name" in said["message"]
    status, said = await post(session, GET, {"name": "nonsense"})
    assert (status, said["code"], reason_of(said)) == (400, "invalid_argument", "FIELD_INVALID")
    violation = next(each for each in said["details"] if each["type"].endswith("BadRequest"))
    assert violation["debug"]["fieldViolations"][0]["field"] == "name"


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ({"nane": "workflows/asked"}, "nane"),  # never left out silently
        ({"name": 5}, "name"),
        (b"{", "no countermand.v1.GetWorkflowRequest"),
        (b"\xff", "no countermand.v1.GetWorkflowRequest"),
        (b"[" * 5000, "no countermand.v1.GetWorkflowRequest"),
        (b"[]", "it is no JSON object"),
        (b"null", "it is no JSON object"),
    ],
)
async def test_what_is_no_request_is_refused(session, body, word: str) -> None:
    status, said = await post(session, GET, body)
    assert (status, said["code"]) == (400, "invalid_argument")
    assert word in said["message"]


async def test_streams_and_unknown_calls_are_unimplemented(session) -> None:
    for method in ("WatchWorkflow", "WatchEvents", "Nothing"):
        status, said = await post(session, f"{WORKFLOWS}/{method}", {})
        assert (status, said["code"]) == (501, "unimplemented"), method
    status, _ = await post(session, "/countermand.v1.AgentService/CopyImage", {})
    assert status == 501  # agents are not asked here


async def test_a_stream_says_what_to_ask_instead(session) -> None:
    status, said = await post(session, f"{WORKFLOWS}/WatchEvents", {})
    assert status == 501
    assert said["message"].endswith(
        "call it there, or get told by a webhook, and read a workflow's history with ListEvents"
    )
    streams = {call.path.rpartition("/")[2] for call in gateway.CALLS.values() if call.is_stream}
    assert streams == set(gateway.INSTEAD)


async def test_what_is_no_post_is_told_so_in_the_same_form(session) -> None:
    for path in (GET, "/countermand.v1.NoService/Nothing"):
        async with session.get(path) as answer:
            assert (answer.status, answer.headers["Allow"]) == (405, "POST")
            assert (await answer.json())["code"] == "unimplemented"
    async with session.get("/countermand.v1.WorkflowService") as answer:
        assert (answer.status, (await answer.json())["code"]) == (404, "unimplemented")
    async with session.post("/workflows") as answer:  # and a page says what it takes
        assert answer.status == 405
        assert set(answer.headers["Allow"].split(", ")) == {"GET", "HEAD"}


@pytest.mark.parametrize(
    "trace",
    [
        {"traceparent": "\xff"},
        {"traceparent": "00-0-0-00"},
        {"tracestate": "a=1"},
        {"traceparent": f"00-{'1' * 32}-{'2' * 16}-01", "tracestate": "\xe9=1"},
        {"traceparent": f"00-{'1' * 32}-{'2' * 16}-01", "tracestate": "a=" + "b" * 5000},
    ],
)
async def test_a_trace_that_is_none_is_no_error(session, cluster, trace) -> None:
    raw = {
        name: value.encode("latin-1").decode("utf-8", "surrogateescape")
        for name, value in trace.items()
    }
    status, said = await post(session, GET, {"name": "workflows/asked"}, **raw)
    assert (status, said["workflow"]["name"]) == (200, "workflows/asked")
    assert [line for line in cluster.coordinator.events() if line["level"] == "error"] == []
    log = cluster.coordinator.logs[-1].read_text()
    assert [line for line in log.splitlines() if not line.startswith("{")] == []


async def test_a_deadline_is_kept(session) -> None:
    wait = {"name": "workflows/asked", "waitTimeout": "30s"}
    status, said = await post(session, f"{WORKFLOWS}/WaitWorkflow", wait, Connect_Timeout_Ms="50")
    assert (status, said["code"]) == (504, "deadline_exceeded")
    status, said = await post(session, GET, wait, Connect_Timeout_Ms="soon")
    assert (status, said["code"]) == (400, "invalid_argument")


@pytest.mark.parametrize("number", ["1e999", "-1e999", "NaN"])
async def test_a_number_that_json_cannot_say_is_refused(session, number: str) -> None:
    """Else nothing that shows the workflow could be written."""
    start = {"workflowId": "endless", "spec": json_format.MessageToDict(stories.asked())}
    body = json.dumps(start)[:-1] + f', "input": {{"deep": {{"er": [0, {number}]}}}}}}'
    status, said = await post(session, f"{WORKFLOWS}/StartWorkflow", body.encode())
    assert (status, said["code"]) == (400, "invalid_argument")
    assert "'deep.er.1' must be a finite number" in said["message"]


async def test_what_is_too_large_is_not_read(session) -> None:
    for size in (300 * 1024, 2 * 1024 * 1024):
        status, said = await post(session, GET, {"name": "w" * size})
        assert (status, said["code"]) == (429, "resource_exhausted")


# -- who may --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""]
)
async def test_what_a_browser_sends_unasked_is_refused(session, content: str) -> None:
    headers = {"Content-Type": content, "Connect-Protocol-Version": "1"}
    async with session.post(GET, data=b"{}", headers=headers) as answer:
        assert answer.status == 415
        assert "application/json" in answer.headers["Accept-Post"]


async def test_nobody_elses_page_is_told_yes(session) -> None:
    headers = {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
    async with session.options(GET, headers=headers) as answer:
        assert answer.status == 405
        assert "Access-Control-Allow-Origin" not in answer.headers
    status, said = await post(session, GET, {}, Origin="http://evil.example")
    assert (status, said["code"]) == (403, "permission_denied")
    assert (await post(session, GET, {}, Host="evil.example"))[0] == 421
    status, said = await post(session, GET, {}, Connect_Protocol_Version="2")
    assert (status, said["code"]) == (400, "invalid_argument")
    status, said = await post(session, GET, {}, Content_Encoding="gzip")
    assert (status, said["code"]) == (501, "unimplemented")


def test_every_call_of_the_coordinator_is_served() -> None:
    named = {path.split("/")[1].rpartition(".")[2] for path in gateway.CALLS}
    services = {"Workflow", "Host", "ExternalTask", "Webhook", "Doctor", "Coordinator"}
    assert named == {f"{each}Service" for each in services}


# -- peers ----------------------------------------------------------------------------------------


async def ran(*command: str | Path) -> tuple[int, str, str]:
    """Returns how a program ended, and what it said."""
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, cwd=ROOT
    )
    out, err = await process.communicate()
    return process.returncode or 0, out.decode(), err.decode()


async def buf(url: str, body: dict[str, Any]) -> tuple[int, str, str]:
    """Returns what buf's own client, which is Connect's in Go, says to a call."""
    options = ("--protocol", "connect", "--schema", "protos", "--data", json.dumps(body))
    return await ran(BUF, "curl", *options, url)


async def test_bufs_client_is_answered(session, web: str) -> None:
    code, out, err = await buf(f"http://{web}{GET}", {"name": "workflows/asked"})
    assert code == 0, err
    assert json.loads(out)["workflow"]["name"] == "workflows/asked"
    code, _, err = await buf(f"http://{web}{GET}", {"name": "workflows/nothing"})
    assert code != 0
    said = json.loads(err)
    assert said["code"] == "not_found"
    assert said["details"][0]["type"] == "google.rpc.ErrorInfo"
    code, _, err = await buf(f"http://{web}{WORKFLOWS}/WatchWorkflow", {"name": "workflows/asked"})
    assert code != 0
    assert json.loads(err)["code"] == "unimplemented"


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
async def test_plain_curl_is_answered(session, web: str) -> None:
    body = '{"name": "workflows/asked"}'
    code, out, _ = await ran("curl", "-s", f"http://{web}{GET}", "--json", body)
    assert code == 0
    assert json.loads(out)["workflow"]["name"] == "workflows/asked"
