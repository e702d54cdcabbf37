"""What is refused, how, and that nothing of it is left anywhere."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from google.protobuf.duration_pb2 import Duration
from grpc.aio import AioRpcError

from countermand.rpc.status import error_from_rpc
from countermand.v1 import host_pb2, workflow_pb2
from countermand.v1.workflow_pb2 import StartWorkflowRequest
from countermand.v1.workflow_spec_pb2 import Group, Node, Policy, WorkflowSpec
from tests.api.calls import BASE, Stubs, cancel, crawling, quick, refused, state
from tests.endtoend.checks import assert_clean, database, journals, labels, read
from tests.endtoend.cluster import Cluster, copy

MEMBERS = "spec.root.members"
BOTH = f"{MEMBERS}[0].group"
ONE = f"{BOTH}.members[0]"
THEN = f"{MEMBERS}[1]"
COPY = "task.action.copy_image"

FOREVER = Duration(seconds=2**62)  # beyond what a Duration may hold

Change = Callable[[StartWorkflowRequest], object]


def one(request: StartWorkflowRequest) -> Node:
    return request.spec.root.members[0].group.members[0]


def then(request: StartWorkflowRequest) -> Node:
    return request.spec.root.members[1]


def target(request: StartWorkflowRequest):
    return one(request).task.action.copy_image.target


def bind(field: str, source: str) -> Change:
    def change(request: StartWorkflowRequest) -> None:
        binding = then(request).task.bindings[0]
        binding.field, binding.source = field, source

    return change


def bind_image(value: str | None) -> Change:
    """Binds an image's id to a value of the input."""

    def change(request: StartWorkflowRequest) -> None:
        request.input["value"] = value
        then(request).task.bindings[1].source = "input.value"

    return change


def to_itself(request: StartWorkflowRequest) -> None:
    copy = one(request).task.action.copy_image
    copy.target.CopyFrom(copy.source)


def bind_format(number: int) -> Change:
    """Returns what binds an enum to a number of the input."""

    def change(request: StartWorkflowRequest) -> None:
        request.input["format"] = number
        then(request).task.bindings.add(field="format", source="input.format")

    return change


def too_much(request: StartWorkflowRequest) -> None:
    """Binds an input that is allowed to more fields than a task may carry at once."""
    request.input["text"] = "x" * 60_000
    for binding in then(request).task.bindings:
        binding.source = "input.text"


def circle(request: StartWorkflowRequest) -> None:
    members = request.spec.root.members[0].group.members
    members[0].after.append("two")
    members[1].after.append("one")


def later(request: StartWorkflowRequest) -> None:
    one(request).task.bindings.add(
        field="source.image_id", source="tasks.then.output.image.image_id"
    )


def put(part: Callable[[StartWorkflowRequest], object], **fields: object) -> Change:
    """Returns what sets fields of a part of the request."""

    def change(request: StartWorkflowRequest) -> None:
        message = part(request)
        for name, value in fields.items():
            setattr(message, name, value)

    return change


def whole(request: StartWorkflowRequest) -> StartWorkflowRequest:
    return request


FIELD_INVALID: dict[str, tuple[Change, tuple[str, ...]]] = {
    "no-id": (put(whole, workflow_id=""), ("workflow_id",)),
    "id-that-climbs": (put(whole, workflow_id="../etc"), ("workflow_id",)),
    "id-in-capitals": (put(whole, workflow_id="VM"), ("workflow_id",)),
    "id-too-long": (put(whole, workflow_id="x" * 64), ("workflow_id",)),
    "id-with-a-line-end": (put(whole, workflow_id="vm\n"), ("workflow_id",)),
    "no-spec": (lambda r: r.ClearField("spec"), ("spec.kind", "spec.root")),
    "no-kind": (put(lambda q: q.spec, kind=""), ("spec.kind",)),
    "no-root": (lambda r: r.spec.ClearField("root"), ("spec.root",)),
    "root-without-kind": (lambda r: r.spec.root.ClearField("kind"), ("spec.root.kind",)),
    "empty-root": (lambda r: r.spec.root.ClearField("members"), (MEMBERS,)),
    "empty-group": (
        lambda r: r.spec.root.members.add(name="empty", group=Group(kind=Group.KIND_PARALLEL)),
        (f"{MEMBERS}[2].group.members",),
    ),
    "empty-node": (lambda r: r.spec.root.members.add(name="x"), (f"{MEMBERS}[2]",)),
    "name-twice": (put(then, name="one"), (f"{THEN}.name",)),
    "name-of-its-group": (put(then, name="both"), (f"{THEN}.name",)),
    "no-name": (put(then, name=""), (f"{THEN}.name",)),
    "after-in-a-circle": (circle, (f"{BOTH}.members",)),
    "after-itself": (lambda r: one(r).after.append("one"), (f"{BOTH}.members",)),
    "after-a-stranger": (lambda r: one(r).after.append("then"), (f"{ONE}.after",)),
    "after-in-a-sequence": (lambda r: then(r).after.append("both"), (f"{THEN}.after",)),
    "no-verb": (lambda r: one(r).task.ClearField("action"), (f"{ONE}.task.action",)),
    "unknown-host": (put(lambda r: one(r).task, host_id="nobody"), (f"{ONE}.task.host_id",)),
    "host-that-climbs": (put(lambda r: one(r).task, host_id="../a"), (f"{ONE}.task.host_id",)),
    "unknown-pool": (put(target, pool_id="nowhere"), (f"{ONE}.task.host_id",)),
    "pool-of-another-host": (put(target, pool_id="pool-b"), (f"{ONE}.task.host_id",)),
    "image-that-climbs": (
        put(target, image_id="../../etc/passwd"),
        (f"{ONE}.{COPY}.target.image_id",),
    ),
    "image-without-id": (put(target, image_id=""), (f"{ONE}.{COPY}.target.image_id",)),
    "image-of-dots": (put(target, image_id=".."), (f"{ONE}.{COPY}.target.image_id",)),
    "image-with-a-zero": (put(target, image_id="a\0b"), (f"{ONE}.{COPY}.target.image_id",)),
    "image-id-too-long": (put(target, image_id="x" * 64), (f"{ONE}.{COPY}.target.image_id",)),
    "bound-to-nobody": (
        bind("source.pool_id", "tasks.nobody.output.image.pool_id"),
        (f"{THEN}.task.bindings[0].source",),
    ),
    "bound-to-a-group": (
        bind("source.pool_id", "tasks.both.output.image.pool_id"),
        (f"{THEN}.task.bindings[0].source",),
    ),
    "bound-to-a-later-task": (later, (f"{ONE}.task.bindings[0].source",)),
    "bound-to-itself": (
        bind("source.pool_id", "tasks.then.output.image.pool_id"),
        (f"{THEN}.task.bindings[0].source",),
    ),
    "bound-to-no-such-output": (
        bind("source.pool_id", "tasks.one.output.colour"),
        (f"{THEN}.task.bindings[0].source",),
    ),
    "bound-to-another-type": (
        bind("source.pool_id", "tasks.one.output.written_bytes"),
        (f"{THEN}.task.bindings[0].source",),
    ),
    "bound-to-no-such-input": (
        bind("source.pool_id", "input.pool"),
        (f"{THEN}.task.bindings[0].source",),
    ),
    "bound-to-nonsense": (bind("source.pool_id", "pool-a"), (f"{THEN}.task.bindings[0].source",)),
    "bound-twice": (
        lambda r: then(r).task.bindings.append(then(r).task.bindings[0]),
        (f"{THEN}.task.bindings[2].field",),
    ),
    "far-too-long-an-input-for-an-id": (
        too_much,
        (
            f"{THEN}.task.host_id",
            f"{THEN}.{COPY}.source.pool_id",
            f"{THEN}.{COPY}.source.image_id",
            f"{THEN}.task.bindings",
        ),
    ),
    "an-id-from-the-input-that-is-none": (
        bind_image("../y"),
        (f"{THEN}.{COPY}.source.image_id",),
    ),
    "null-in-the-input": (
        bind_image(None),
        (f"{THEN}.task.bindings[1].source",),
    ),
    "a-target-that-is-its-source": (
        to_itself,
        (f"{MEMBERS}[0].group.members[0].{COPY}.target",),
    ),
    "bound-to-more-than-it-holds": (bind_format(2**31), (f"{THEN}.task.bindings[2].source",)),
    "bound-to-less-than-it-holds": (bind_format(-(2**40)), (f"{THEN}.task.bindings[2].source",)),
    "bound-to-what-may-be-more": (
        lambda r: then(r).task.bindings.add(
            field="format", source="tasks.one.output.written_bytes"
        ),
        (f"{THEN}.task.bindings[2].source",),
    ),
    "wait-beyond-all-time": (
        lambda r: r.spec.policy.retry.delay.CopyFrom(FOREVER),
        ("spec.policy.retry.delay",),
    ),
    "time-beyond-all-time": (
        lambda r: r.spec.policy.run_timeout.CopyFrom(FOREVER),
        ("spec.policy.run_timeout",),
    ),
    "retries-below-zero": (
        put(lambda q: q.spec.policy.retry, attempts_max=-1),
        ("spec.policy.retry.attempts_max",),
    ),
    "labels-without-end": (
        lambda r: r.labels.update({f"key-{number}": "" for number in range(33)}),
        ("labels",),
    ),
    "label-too-long": (lambda r: r.labels.update({"key": "x" * 256}), ("labels['key']",)),
    "two-things-at-once": (
        lambda r: (put(target, image_id="..")(r), put(whole, workflow_id="")(r)),
        ("workflow_id", f"{ONE}.{COPY}.target.image_id"),
    ),
}


def repeat(request: StartWorkflowRequest) -> None:
    """Lets a copy be made for each item of a list."""
    each = request.spec.root.members.add(name="each").group
    each.kind = Group.KIND_PARALLEL
    each.for_each.items, each.for_each.item = "input.disks", "disk"
    member = each.members.add()
    member.CopyFrom(one(request))
    member.name = "copy"
    member.task.action.copy_image.target.ClearField("image_id")
    member.task.bindings.add(field="target.image_id", source="disk")
    request.input["disks"] = ["x", "y"]


def place(request: StartWorkflowRequest) -> None:
    """Leaves it to the coordinator where tasks run."""
    one(request).task.host_id = ""
    one(request).task.candidate_host_ids.append("a")


def nest(request: StartWorkflowRequest) -> None:
    """Makes a workflow a task of another."""
    inner = request.spec.root.members.add(name="sub").workflow
    inner.kind = "inner"
    inner.root.kind = Group.KIND_SEQUENCE
    inner.root.members.add().CopyFrom(one(request))
    inner.root.members[0].task.action.copy_image.target.image_id = "sub"


# What once was not served: the nodes that a plan then has besides its own.
SERVED: dict[str, tuple[Change, tuple[str, ...]]] = {
    "end-action": (
        lambda r: r.spec.on_success.add(name="end").task.CopyFrom(one(r).task),
        ("end",),
    ),
    "timeout": (lambda r: r.spec.timeout.CopyFrom(Duration(seconds=1)), ()),
    "refuse-when-locked": (
        put(lambda q: q.spec, lock_policy=WorkflowSpec.LOCK_POLICY_REFUSE),
        (),
    ),
    "condition": (
        put(lambda q: then(q).when, path="tasks.one.state", equals="SUCCEEDED"),
        (),
    ),
    "candidates": (place, ()),
    "own-compensation": (lambda r: one(r).task.compensation.action.noop.SetInParent(), ()),
    "quorum": (put(lambda q: q.spec.root.members[0].group, min_success=1), ()),
    "fan-out": (repeat, ("each", "copy.0", "copy.1")),
    "nested": (nest, ("sub", "sub.one")),
    "pause": (put(lambda q: one(q).policy, pause_before=True), ()),
    "ignore": (put(lambda q: one(q).policy, on_failure=Policy.ON_FAILURE_IGNORE), ()),
}


def request(change: Change) -> StartWorkflowRequest:
    made = StartWorkflowRequest(workflow_id="bad", spec=quick("bad"))
    change(made)
    return made


def assert_untouched(cluster: Cluster) -> None:
    """Checks that no workflow, no attempt and no image has come of anything."""
    assert read(database(cluster), "SELECT id FROM workflows") == []
    assert journals(cluster) == {}
    assert list(labels(cluster)) == [BASE]


@pytest.mark.parametrize("call", ["StartWorkflow", "PlanWorkflow"])
@pytest.mark.parametrize("case", FIELD_INVALID)
async def test_an_invalid_field_is_named(cluster, stubs, case, call):
    change, fields = FIELD_INVALID[case]
    bad = request(change)
    if call == "PlanWorkflow":
        fields = tuple(field for field in fields if field.startswith("spec"))
        if not fields:
            return  # it has neither an id nor labels
        answer = stubs.workflows.PlanWorkflow(
            workflow_pb2.PlanWorkflowRequest(spec=bad.spec, input=bad.input)
        )
    else:
        answer = stubs.workflows.StartWorkflow(bad)
    error = await refused(answer)
    assert (error.code, error.reason) == ("INVALID_ARGUMENT", "FIELD_INVALID")
    assert error.fields == fields
    assert_untouched(cluster)


@pytest.mark.parametrize("case", SERVED)
async def test_what_is_served_is_planned(cluster, stubs, case):
    change, more = SERVED[case]
    asked = request(change)
    planned = await stubs.workflows.PlanWorkflow(
        workflow_pb2.PlanWorkflowRequest(spec=asked.spec, input=asked.input)
    )
    names = {task.name.rpartition("/")[2] for task in planned.tasks}
    assert names - {"on-success"} == {"both", "one", "two", "then", *more}
    assert_untouched(cluster)


async def test_an_input_has_its_bound(cluster, stubs: Stubs):
    """S-Z25: 64 KiB are taken, one byte more is not."""
    asked = request(whole)
    text = "x" * (64 * 1024)
    asked.input["text"] = text
    over = asked.input.ByteSize() - 64 * 1024
    asked.input["text"] = text[: 1 - over]
    assert asked.input.ByteSize() == 64 * 1024 + 1
    error = await refused(stubs.workflows.StartWorkflow(asked))
    assert (error.code, error.reason) == ("INVALID_ARGUMENT", "PAYLOAD_TOO_LARGE")
    assert error.metadata["size_bytes"] == str(64 * 1024 + 1)
    assert_untouched(cluster)
    asked.input["text"] = text[:-over]
    planned = await stubs.workflows.PlanWorkflow(
        workflow_pb2.PlanWorkflowRequest(spec=asked.spec, input=asked.input)
    )
    assert planned.tasks


async def test_a_request_has_its_bound(cluster, stubs):
    asked = request(whole)
    asked.input["text"] = "x" * 300_000
    error = await refused(stubs.workflows.StartWorkflow(asked))
    assert error.code == "RESOURCE_EXHAUSTED"
    assert_untouched(cluster)


READS = {
    "GetWorkflow": (workflow_pb2.GetWorkflowRequest, "name", "workflows/nobody"),
    "GetTask": (workflow_pb2.GetTaskRequest, "name", "workflows/nobody/tasks/one"),
    "ListTasks": (workflow_pb2.ListTasksRequest, "parent", "workflows/nobody"),
    "ListEvents": (workflow_pb2.ListEventsRequest, "parent", "workflows/nobody"),
    "WaitWorkflow": (workflow_pb2.WaitWorkflowRequest, "name", "workflows/nobody"),
    "CancelWorkflow": (workflow_pb2.CancelWorkflowRequest, "name", "workflows/nobody"),
}


@pytest.mark.parametrize("call", READS)
async def test_a_name_must_be_one_and_be_known(cluster, stubs, call):
    kind, field, name = READS[call]
    asked = kind(**{field: name})
    if call == "CancelWorkflow":
        asked.request_id, asked.reason = "one", "a test"
    error = await refused(getattr(stubs.workflows, call)(asked))
    assert (error.code, error.reason) == ("NOT_FOUND", "WORKFLOW_NOT_FOUND")
    for malformed in ("", "nobody", "workflows/", "workflows/../x", f"{name}/", f"{name}\n"):
        setattr(asked, field, malformed)
        error = await refused(getattr(stubs.workflows, call)(asked))
        assert (error.code, error.reason, error.fields) == (
            "INVALID_ARGUMENT",
            "FIELD_INVALID",
            (field,),
        )


async def test_a_page_token_must_be_one_that_was_handed_out(stubs):
    for token in ("garbage", "-1", "1.5", "\N{SUPERSCRIPT TWO}", "9" * 100):
        asked = workflow_pb2.ListWorkflowsRequest(page_token=token)
        error = await refused(stubs.workflows.ListWorkflows(asked))
        assert (error.reason, error.fields) == ("FIELD_INVALID", ("page_token",)), token
    error = await refused(
        stubs.workflows.ListWorkflows(workflow_pb2.ListWorkflowsRequest(page_size=-1))
    )
    assert (error.reason, error.fields) == ("FIELD_INVALID", ("page_size",))


async def test_a_name_that_can_be_none_is_not_said_back_whole(stubs):
    call = stubs.workflows.GetWorkflow(
        workflow_pb2.GetWorkflowRequest(name=f"workflows/{'x' * 5000}")
    )
    with pytest.raises(AioRpcError) as raised:
        await call
    said = str(error_from_rpc(raised.value))
    assert "is not of the form workflows/{workflow}" in said
    assert len(said) < 500


@pytest.mark.parametrize("number", ["9" * 5000, "0", "-1", "\N{ARABIC-INDIC DIGIT THREE}", "1.5"])
async def test_a_number_in_words_must_be_one_that_was_handed_out(cluster, stubs, number):
    """However long it is, and in whatever digits."""
    name = "workflows/numbers"
    await stubs.start("numbers", quick("numbers"))
    await stubs.wait("numbers")
    calls = {
        "page_token": stubs.workflows.ListTasks(
            workflow_pb2.ListTasksRequest(parent=name, page_token=number)
        ),
        "etag": stubs.workflows.CancelWorkflow(cancel("numbers", "numbers", etag=number)),
        "address": stubs.hosts.AddHost(
            host_pb2.AddHostRequest(host_id="numbers", address=f"127.0.0.1:{number}")
        ),
    }
    for field, call in calls.items():
        error = await refused(call)
        assert (error.reason, error.fields) == ("FIELD_INVALID", (field,)), field


@pytest.mark.parametrize(
    "span",
    [FOREVER, Duration(seconds=-1), Duration(seconds=1, nanos=-1)],
    ids=["too-long", "negative", "neither"],
)
async def test_a_span_of_time_must_be_one(cluster, stubs, span):
    waits = workflow_pb2.WaitWorkflowRequest(name="workflows/numbers", wait_timeout=span)
    error = await refused(stubs.workflows.WaitWorkflow(waits))
    assert (error.reason, error.fields) == ("FIELD_INVALID", ("wait_timeout",))
    aged = workflow_pb2.ListWorkflowsRequest(min_age=span)
    error = await refused(stubs.workflows.ListWorkflows(aged))
    assert (error.reason, error.fields) == ("FIELD_INVALID", ("min_age",))


@pytest.mark.parametrize(
    "call",
    ["PauseWorkflow", "ResumeWorkflow", "CancelWorkflow", "DecideCompensation", "ForkWorkflow"],
)
async def test_an_empty_request_changes_nothing(cluster, stubs, call):
    asked = getattr(workflow_pb2, f"{call}Request")()
    error = await refused(getattr(stubs.workflows, call)(asked))
    assert (error.code, error.reason) == ("INVALID_ARGUMENT", "FIELD_INVALID")


async def test_a_host_is_checked_before_it_is_added(cluster, stubs):
    add = stubs.hosts.AddHost
    known = cluster.agents["a"].address
    for asked, expected in (
        (("", known), ("INVALID_ARGUMENT", "FIELD_INVALID", ("host_id",))),
        (("../a", known), ("INVALID_ARGUMENT", "FIELD_INVALID", ("host_id",))),
        (("c", "nowhere"), ("INVALID_ARGUMENT", "FIELD_INVALID", ("address",))),
        (("c", "127.0.0.1:0"), ("INVALID_ARGUMENT", "FIELD_INVALID", ("address",))),
        (("c", "127.0.0.1:1"), ("UNAVAILABLE", "HOST_UNREACHABLE", ())),
        (("a", "127.0.0.1:1"), ("ALREADY_EXISTS", "HOST_ID_TAKEN", ())),
    ):
        host_id, address = asked
        error = await refused(add(host_pb2.AddHostRequest(host_id=host_id, address=address)))
        assert (error.code, error.reason, error.fields) == expected, asked
    again = await add(host_pb2.AddHostRequest(host_id="a", address=known))
    assert again.host.name == "hosts/a"
    listed = await stubs.hosts.ListHosts(host_pb2.ListHostsRequest())
    assert [host.name for host in listed.hosts] == ["hosts/a", "hosts/b"]


# -- refused by the agent, when it is asked to do it: the workflow fails, and nothing is left ------


async def test_a_source_that_is_missing_fails_the_workflow(cluster, stubs):
    spec = quick("missing")
    spec.root.members[0].group.members[1].task.action.copy_image.source.image_id = "nobody"
    await stubs.start("missing", spec)
    settled = await stubs.wait("missing")
    assert (state(settled), settled.cause.reason) == ("COMPENSATED", "IMAGE_NOT_FOUND")
    assert settled.cause.attempt == "workflows/missing/tasks/two/attempts/1"
    assert settled.cause.host_id == "b"
    assert_clean(cluster, "missing", "COMPENSATED")


async def test_a_target_that_exists_is_left_as_it_is(cluster, stubs):
    """S-Z30: what makes up for a copy never removes what somebody else made."""
    await stubs.start("owner", quick("owner"))
    assert state(await stubs.wait("owner")) == "SUCCEEDED"
    before = labels(cluster)["pool-b/owner-two"]
    spec = quick("second")
    spec.root.members[0].group.members[1].task.action.copy_image.target.image_id = "owner-two"
    await stubs.start("second", spec)
    settled = await stubs.wait("second")
    assert (state(settled), settled.cause.reason) == ("COMPENSATED", "IMAGE_EXISTS")
    assert settled.cause.metadata["owner"] == before["attempt"]
    assert labels(cluster)["pool-b/owner-two"] == before
    assert_clean(cluster, "second", "COMPENSATED")
    assert_clean(cluster, "owner", "SUCCEEDED")


async def test_a_read_only_pool_is_not_written_to(cluster, stubs):
    spec = crawling("read-only")
    spec.root.members[1].CopyFrom(copy("slow", "b", BASE, "templates/copy"))
    await stubs.start("read-only", spec)
    settled = await stubs.wait("read-only")
    assert (state(settled), settled.cause.reason) == ("COMPENSATED", "POOL_READ_ONLY")
    assert_clean(cluster, "read-only", "COMPENSATED")


async def test_cancel_needs_a_reason_and_an_id(stubs):
    asked = cancel("owner", reason=" ")
    asked.request_id = ""
    error = await refused(stubs.workflows.CancelWorkflow(asked))
    assert (error.reason, error.fields) == ("FIELD_INVALID", ("request_id", "reason"))


async def test_a_bound_value_that_means_nothing_fails_the_workflow(cluster, stubs):
    """Its type is right when the spec is checked; what it means, the agent knows."""
    spec = quick("format")
    spec.root.members[1].task.bindings.add(field="format", source="input.format")
    asked = StartWorkflowRequest(workflow_id="format", spec=spec)
    asked.input["format"] = 7
    await stubs.workflows.StartWorkflow(asked)
    settled = await stubs.wait("format")
    assert (state(settled), settled.cause.reason) == ("COMPENSATED", "FIELD_INVALID")
    assert_clean(cluster, "format", "COMPENSATED")
