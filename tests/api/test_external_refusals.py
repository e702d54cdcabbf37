"""What owners of external tasks may not do: each refusal has its code, and changes nothing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import pytest

from countermand.client.spec import parallel, sequence
from countermand.rpc.names import attempt_name, task_name, workflow_name
from countermand.v1 import annotation_pb2
from countermand.v1 import external_task_pb2 as pb
from countermand.v1.failure_pb2 import Failure
from countermand.v1.workflow_pb2 import Workflow
from tests.api.calls import BASE, Refused, Stubs, cancel, refused, state
from tests.api.vendors import (
    ARRAY_FULL,
    Vendor,
    external,
    opened,
    plan_of,
    seconds,
    struct,
    vendor_at,
    word,
)
from tests.endtoend.cluster import Cluster, copy

PIVOT = annotation_pb2.EFFECT_PIVOT
W = "refusing"  # an engine's workflow, and a vendor's own
OWN = "refusing-own"
AT_WORK, WAITS, THEIRS = (attempt_name(W, task, 1) for task in ("at-work", "waits", "theirs"))


def under(task: str) -> str:
    return task_name(W, task)


@dataclass(slots=True)
class Scene:
    """Two vendors in one workflow, and one of them with a workflow of its own."""

    stubs: Stubs
    acme: Vendor
    other: Vendor

    async def everything(self) -> tuple[Workflow, Workflow, object]:
        """Returns all that a refused call must leave as it is."""
        waits = [*await self.acme.requests(), *await self.other.requests()]
        return await self.stubs.get(W), await self.stubs.get(OWN), waits


@pytest.fixture
async def scene(cluster: Cluster, stubs: Stubs):
    """Yields the scene as it is before any call; it is built once."""
    address = cluster.coordinator.address
    async with vendor_at(address, "acme") as acme, vendor_at(address, "other") as other:
        members = (
            external("at-work", outputs={"volume": "string", "size": "int64", "thin": "bool"}),
            external("waits"),
            external("theirs", "other"),
        )
        ours = copy("ours", "b", BASE, f"pool-b/{W}")
        closed = parallel("closed", external("inner"), ours)
        again = sequence("then", opened(parallel("open", external("member"))), closed)
        await stubs.start(W, plan_of(parallel("both", *members), again))
        await acme.starts(OWN)
        await acme.asked(W, "waits")
        await other.asked(W, "theirs")
        await acme.requests()
        await acme.accept(AT_WORK)
        yield Scene(stubs, acme, other)


Call = Callable[[Scene], Awaitable[object]]


def ends(attempt: str = AT_WORK, **outcome: Any) -> Call:
    return lambda scene: scene.acme.end(attempt, **outcome)


def adds(parent: str = W, task_id: str = "new", **fields: object) -> Call:
    parent = parent if "/" in parent else under(parent)
    return lambda scene: scene.acme.adds(parent, task_id, **fields)


def starts(workflow_id: str = "refused", **fields: object) -> Call:
    return lambda scene: scene.acme.starts(workflow_id, **fields)


def ends_all(workflow_id: str = OWN, **fields: object) -> Call:
    return lambda scene: scene.acme.ends_all(workflow_id, **fields)


def promise(**values: object) -> dict[str, Any]:
    return {"output": struct(**{"volume": "v", "size": 5, "thin": True, **values})}


def beats(count: int) -> Call:
    return lambda scene: scene.acme.beat(*[AT_WORK] * count)


INVALID = "INVALID_ARGUMENT/FIELD_INVALID"
CLOSED = "FAILED_PRECONDITION/ATTEMPT_CLOSED"
FORBIDS = "FAILED_PRECONDITION/STATE_FORBIDS"
FOREIGN = "PERMISSION_DENIED/NOT_OWNER"
NO_TASK = "NOT_FOUND/TASK_NOT_FOUND"
NO_WORKFLOW = "NOT_FOUND/WORKFLOW_NOT_FOUND"
LARGE = "INVALID_ARGUMENT/PAYLOAD_TOO_LARGE"

REFUSALS: dict[str, tuple[Call, str, tuple[str, ...]]] = {
    # whose it is
    "accept-without-token": (lambda s: s.acme.accept(WAITS, capability_token=""), FOREIGN, ()),
    "accept-with-another-token": (
        lambda s: s.acme.accept(WAITS, capability_token=s.acme.token(AT_WORK)),
        FOREIGN,
        (),
    ),
    "accept-of-another-vendor": (lambda s: s.acme.accept(THEIRS), FOREIGN, ()),
    "report-of-another-vendor": (lambda s: s.acme.report(THEIRS, 1), FOREIGN, ()),
    "end-of-another-vendor": (ends(THEIRS), FOREIGN, ()),
    "end-with-a-spoilt-token": (ends(capability_token="né"), FOREIGN, ()),
    "end-of-an-agents-task": (ends(attempt_name(W, "ours", 1)), FOREIGN, ()),
    "end-of-a-group": (ends(attempt_name(W, "both", 1)), FOREIGN, ()),
    "end-all-of-an-engines": (ends_all(W), FOREIGN, ()),
    "end-all-without-token": (ends_all(capability_token=""), FOREIGN, ()),
    "end-all-of-another-vendor": (lambda s: s.other.ends_all(OWN), FOREIGN, ()),
    "add-to-another-vendors-own": (
        lambda s: s.other.adds(workflow_name(OWN), "beside"),
        FOREIGN,
        (),
    ),
    "clear-of-an-engines": (lambda s: s.acme.clears(W), FOREIGN, ()),
    "clear-of-another-vendor": (lambda s: s.other.clears(OWN), FOREIGN, ()),
    "add-under-another-vendors": (adds("theirs"), FOREIGN, ()),
    "add-under-an-agents-task": (adds("ours"), FOREIGN, ()),
    # what there is
    "accept-of-no-such-workflow": (
        lambda s: s.acme.accept(attempt_name("nobody", "x", 1)),
        NO_WORKFLOW,
        (),
    ),
    "accept-of-no-such-task": (lambda s: s.acme.accept(attempt_name(W, "x", 1)), NO_TASK, ()),
    "accept-of-a-later-attempt": (
        lambda s: s.acme.accept(attempt_name(W, "waits", 2)),
        NO_TASK,
        (),
    ),
    "accept-of-what-has-not-begun": (
        lambda s: s.acme.accept(
            attempt_name(W, "member", 1), capability_token=s.acme.tokens.get(under("member"), "")
        ),
        FOREIGN,  # nobody has been given its token yet
        (),
    ),
    "accept-of-no-name": (lambda s: s.acme.accept("waits"), INVALID, ("attempt",)),
    "accept-with-zeros": (
        lambda s: s.acme.accept(f"{WAITS[:-1]}01"),
        INVALID,
        ("attempt",),
    ),
    "add-to-no-such-workflow": (adds("workflows/nobody"), NO_WORKFLOW, ()),
    "add-to-no-such-group": (adds("x"), NO_TASK, ()),
    "end-all-of-nobody": (ends_all("nobody"), NO_WORKFLOW, ()),
    "clear-of-nobody": (lambda s: s.acme.clears("nobody"), NO_WORKFLOW, ()),
    # when it may be
    "report-before-accept": (lambda s: s.acme.report(WAITS, 1), FORBIDS, ()),
    "end-before-accept": (ends(WAITS), FORBIDS, ()),
    "add-to-a-closed-group": (adds("closed"), FORBIDS, ()),
    "add-to-a-sequence": (adds("then"), FORBIDS, ()),
    "add-to-a-closed-root": (adds(workflow_name(W)), FORBIDS, ()),
    "add-under-what-waits": (adds("waits"), FORBIDS, ()),
    "clear-of-what-is-open": (lambda s: s.acme.clears(OWN), FORBIDS, ()),
    # how it ends
    "end-as-nothing": (ends(cancelled=False), INVALID, ("outcome",)),
    "end-without-report-id": (
        lambda s: s.acme.stub.EndExternalTask(
            pb.EndExternalTaskRequest(
                attempt=AT_WORK, capability_token=s.acme.token(AT_WORK), cancelled=True
            )
        ),
        INVALID,
        ("report_id",),
    ),
    "end-with-failure-without-reason": (ends(failure=Failure()), INVALID, ("failure.reason",)),
    "end-with-failure-in-lower-case": (
        ends(failure=Failure(reason="array full")),
        INVALID,
        ("failure.reason",),
    ),
    "end-without-what-was-promised": (
        ends(output=struct(volume="v")),
        INVALID,
        ("output.size", "output.thin"),
    ),
    "end-with-other-types": (
        ends(**promise(volume=1, size="five", thin=1)),
        INVALID,
        ("output.size", "output.thin", "output.volume"),
    ),
    "end-with-a-broken-number": (ends(**promise(size=5.5)), INVALID, ("output.size",)),
    "end-with-an-inexact-number": (ends(**promise(size=2**53)), INVALID, ("output.size",)),
    "end-with-more-than-an-int64": (
        ends(**promise(size="9223372036854775808")),
        INVALID,
        ("output.size",),
    ),
    "end-with-an-inexact-number-that-was-not-promised": (
        ends(**promise(more=1e20)),
        INVALID,
        ("output.more",),
    ),
    "end-with-an-object": (ends(**promise(more={"a": 1})), INVALID, ("output.more",)),
    "end-with-a-list": (ends(**promise(more=[1])), INVALID, ("output.more",)),
    "end-with-null": (ends(**promise(more=None)), INVALID, ("output.more",)),
    "end-with-no-number": (ends(**promise(more=float("nan"))), INVALID, ("output.more",)),
    "end-with-a-dot": (ends(**promise(**{"a.b": 1})), INVALID, ("output['a.b']",)),
    "end-with-too-much": (ends(**promise(more="x" * 65_536)), LARGE, ()),
    # how far it is
    "report-below-nothing": (
        lambda s: s.acme.report(AT_WORK, -1, -1, rate=-1),
        INVALID,
        ("progress.done", "progress.total", "progress.rate"),
    ),
    "report-with-a-long-unit": (
        lambda s: s.acme.report(AT_WORK, 1, unit="u" * 64),
        INVALID,
        ("progress.unit",),
    ),
    "report-with-a-long-message": (
        lambda s: s.acme.report(AT_WORK, 1, message="é" * 2049),
        INVALID,
        ("progress.message",),
    ),
    "too-many-heartbeats": (beats(1001), INVALID, ("heartbeats",)),
    # what is added
    "add-without-a-request-id": (adds("at-work", request_id=""), INVALID, ("request_id",)),
    "add-with-a-taken-id": (adds("at-work", "theirs"), INVALID, ("task_id",)),
    "add-with-a-groups-id": (adds("at-work", "both"), INVALID, ("task_id",)),
    "add-with-no-id": (adds("at-work", "No!"), INVALID, ("task_id",)),
    "add-of-a-pivot": (adds("at-work", effect=PIVOT), INVALID, ("effect",)),
    "add-of-no-effect": (adds("at-work", effect=0), INVALID, ("effect",)),
    "add-with-nothing-right": (
        adds(
            "at-work",
            owner_id="A",
            kind="",
            description="é" * 513,
            weight=-1,
            arguments={"a.b": "x"},
            heartbeat_timeout=seconds(0.5),
            run_timeout=seconds(0.5),
            operator_checklist="nothing to make up for",
        ),
        INVALID,
        (
            "owner_id",
            "kind",
            "description",
            "weight",
            "arguments['a.b']",
            "heartbeat_timeout",
            "operator_checklist",
            "run_timeout",
        ),
    ),
    "add-with-large-arguments": (
        adds("at-work", arguments={"a": "x" * 16_384}),
        INVALID,
        ("arguments",),
    ),
    "add-with-an-unknown-policy": (adds("at-work", on_failure=99), INVALID, ("on_failure",)),
    "add-after-under-a-task": (adds("at-work", after=["waits"]), INVALID, ("after[0]",)),
    "add-after-a-stranger": (adds("open", after=["waits"]), INVALID, ("after[0]",)),
    "add-to-no-name": (adds("workflows/A"), INVALID, ("parent",)),
    # its own
    "start-with-nothing-right": (
        starts("No!", owner_id="A", kind="", description="x" * 1025, labels={"No!": "x"}),
        INVALID,
        ("workflow_id", "labels['No!']", "kind", "owner_id", "description"),
    ),
    "start-with-a-short-heartbeat": (
        starts(heartbeat_timeout=seconds(0.5)),
        INVALID,
        ("heartbeat_timeout",),
    ),
    "start-under-a-taken-id": (starts(W), "ALREADY_EXISTS/WORKFLOW_ID_TAKEN", ()),
    "start-again-as-another": (starts(OWN, kind="other"), "ALREADY_EXISTS/WORKFLOW_ID_TAKEN", ()),
    "start-again-by-another": (
        lambda s: s.other.starts(OWN),
        "ALREADY_EXISTS/WORKFLOW_ID_TAKEN",
        (),
    ),
    "start-again-with-another-end": (
        starts(OWN, auto_clear=False),
        "ALREADY_EXISTS/WORKFLOW_ID_TAKEN",
        (),
    ),
    "end-all-without-a-request-id": (ends_all(request_id=""), INVALID, ("request_id",)),
    "end-all-with-a-bad-failure": (
        ends_all(succeeded=False, failure=Failure(reason="lower case")),
        INVALID,
        ("failure.reason",),
    ),
    "end-all-as-both": (
        ends_all(succeeded=True, failure=ARRAY_FULL),
        INVALID,
        ("failure",),
    ),
    # lists
    "list-of-nobody": (
        lambda s: s.acme.stub.ListExternalTasks(pb.ListExternalTasksRequest()),
        INVALID,
        ("owner_id",),
    ),
    "list-below-nothing": (
        lambda s: s.acme.stub.ListExternalTasks(
            pb.ListExternalTasksRequest(owner_id="acme", page_size=-1)
        ),
        INVALID,
        ("page_size",),
    ),
    "list-from-nowhere": (
        lambda s: s.acme.stub.ListExternalTasks(
            pb.ListExternalTasksRequest(owner_id="acme", page_token="x")
        ),
        INVALID,
        ("page_token",),
    ),
    "watch-of-nobody": (
        lambda s: s.acme.stub.WatchExternalTasks(pb.WatchExternalTasksRequest()).read(),
        INVALID,
        ("owner_id",),
    ),
}


async def test_each_refusal_has_its_code_and_nothing_changes(scene: Scene):
    """S-V30, S-Z32: foreign, malformed, too early, too large: all of it refused by its name."""
    before = await scene.everything()
    wrong: dict[str, object] = {}
    for name, (call, code, fields) in REFUSALS.items():
        error = await _refused(call(scene))
        if (found := (f"{error.code}/{error.reason}", error.fields)) != (code, fields):
            wrong[name] = found
        if await scene.everything() != before:
            wrong[f"{name} changed something"] = True
    assert not wrong, "\n".join(f"{name}: {found}" for name, found in wrong.items())
    await _over(scene)


async def _refused(call: Awaitable[object]) -> Refused:
    try:
        return await refused(call)
    except BaseException as error:  # noqa: BLE001 - said with its name, beside the others
        return Refused("not refused", repr(error), (), {})


async def _over(scene: Scene) -> None:
    """Ends everything, and checks that nothing of it can be reported on any more (S-Z32)."""
    await scene.acme.ends_all(OWN, force=True)
    await scene.stubs.workflows.CancelWorkflow(cancel(W))
    await scene.acme.end(AT_WORK, cancelled=True)
    assert state(await scene.stubs.wait(W)) == "COMPENSATED"
    before = await scene.stubs.get(W)
    for late in (
        scene.acme.accept(AT_WORK),
        scene.acme.report(AT_WORK, 1),
        scene.acme.end(AT_WORK, failure=ARRAY_FULL),
        scene.acme.end(WAITS, **promise()),
        scene.other.end(THEIRS),
    ):
        error = await refused(late)
        assert f"{error.code}/{error.reason}" == CLOSED
    added = await refused(scene.acme.adds(under("open"), "late"))
    assert f"{added.code}/{added.reason}" == FORBIDS
    assert await scene.acme.beat(AT_WORK, "nonsense") == {
        AT_WORK: "UNSPECIFIED",
        "nonsense": "UNSPECIFIED",
    }
    assert await scene.stubs.get(W) == before
    assert word((await scene.acme.end(AT_WORK, cancelled=True)).state) == "CANCELLED"


async def test_a_heartbeat_with_a_wrong_token_tells_nothing(cluster: Cluster, stubs: Stubs):
    """S-Z32: neither is it heard, nor does its answer say that it is over, or where it is."""
    async with vendor_at(cluster.coordinator.address) as acme:
        await stubs.start("beaten", plan_of(external("one")))
        attempt = await acme.take("beaten", "one")
        for token in ("guessed", ""):
            assert await acme.beat(attempt, token=token) == {attempt: "refused"}
        assert await acme.beat(attempt) == {}
        await stubs.workflows.CancelWorkflow(cancel("beaten"))
        await acme.end(attempt, cancelled=True)


async def test_adding_twice_is_adding_once(cluster: Cluster, stubs: Stubs):
    """S-V31: one task, one token; the same id for another task is refused."""
    request_id = str(uuid4())
    async with vendor_at(cluster.coordinator.address) as acme:
        await stubs.start("reused", plan_of(opened(parallel("open", external("one")))))
        parent = task_name("reused", "open")
        first = await acme.adds(parent, "new", request_id=request_id)
        again = await acme.adds(parent, "new", request_id=request_id)
        assert (again.task.name, again.capability_token) == (
            first.task.name,
            first.capability_token,
        )
        shown = await acme.adds(
            parent, "new", request_id=request_id, capability_token="found since"
        )
        assert shown.task.name == first.task.name  # how the right is shown is none of the content
        other = await refused(acme.adds(parent, "newer", request_id=request_id))
        assert (other.code, other.reason) == ("INVALID_ARGUMENT", "REQUEST_ID_REUSED")
        own = (await acme.starts("reused-own")).name
        await acme.adds(own, "new", request_id=request_id.upper())
        foreign = acme.adds(own, "new", request_id=request_id.upper(), capability_token="guessed")
        assert (await refused(foreign)).reason == "NOT_OWNER"  # a repeat shows a token, too
        await acme.ends_all("reused-own", force=True)
        await stubs.workflows.CancelWorkflow(cancel("reused"))
        assert state(await stubs.wait("reused")) == "COMPENSATED"
