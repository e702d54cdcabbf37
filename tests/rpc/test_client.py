"""What an engine gets from the client, over a real loopback server."""

import asyncio
import random
from datetime import timedelta

import pytest
from grpc import StatusCode

from countermand.client import Client, WorkflowFailed
from countermand.client.spec import (
    dump_spec,
    image,
    load_spec,
    parallel,
    parse_spec,
    sequence,
    task,
    workflow_spec,
)
from countermand.client.templates import add_vm_from_template
from countermand.rpc.errors import (
    CallUnsupported,
    CoordinatorUnavailable,
    FieldInvalid,
    StateForbids,
    WorkflowIdTaken,
    WorkflowNotFound,
)
from countermand.rpc.server import serve
from countermand.rpc.status import RemoteError
from countermand.v1.event_pb2 import Leftover, TaskStateChanged
from countermand.v1.failure_pb2 import Failure
from countermand.v1.task_pb2 import Task
from countermand.v1.verb_pb2 import CopyImage, Noop
from countermand.v1.workflow_spec_pb2 import Group, WorkflowSpec
from tests.rpc.scripted import COMPENSATED, SUCCEEDED, Scripted, start

SPEC = workflow_spec("drill", sequence("all", task("one", action=Noop())))


@pytest.fixture
def scripted():
    return Scripted()  # type: ignore[abstract]  # the other calls are not served


@pytest.fixture
async def server(scripted):
    running = await start(scripted)
    yield running
    await running.stop(0)


@pytest.fixture
async def client(server):
    async with Client(server.address, randomness=random.Random(7)) as opened:
        yield opened


async def move_task(scripted, workflow, number):
    await scripted.say(
        workflow,
        task=f"{workflow.name}/tasks/t{number}",
        task_state_changed=TaskStateChanged(after=Task.STATE_RUNNING),
    )


# -- submit -------------------------------------------------------------------------------------


async def test_submitting_twice_is_one_workflow(client, scripted):
    first = await client.submit(SPEC, workflow_id="vm-42", input={"size": 3}, labels={"a": "b"})
    second = await client.submit(SPEC, workflow_id="vm-42", input={"size": 3}, labels={"a": "b"})

    assert first.name == second.name == "workflows/vm-42"
    assert len(scripted.workflows) == 1


async def test_another_spec_under_the_same_id_is_a_typed_error(client):
    await client.submit(SPEC, workflow_id="vm-42")
    other = workflow_spec("other", sequence("all", task("one", action=Noop())))

    with pytest.raises(WorkflowIdTaken, match="vm-42"):
        await client.submit(other, workflow_id="vm-42")


async def test_every_violation_of_a_spec_comes_back(client):
    with pytest.raises(FieldInvalid) as raised:
        await client.submit(WorkflowSpec(), workflow_id="vm-42")

    assert [v.field for v in raised.value.violations] == ["spec.root.members", "spec.kind"]


async def test_a_submit_outlives_a_restart(scripted):
    before = await start(scripted)
    await before.stop(0)
    async with Client(before.address) as client:
        submitting = asyncio.create_task(client.submit(SPEC, workflow_id="vm-42"))
        after = await start(scripted, listen=before.address)
        run = await submitting
        await after.stop(0)

    assert run.name == "workflows/vm-42"


async def test_patience_ends():
    async with Client("127.0.0.1:1", patience=timedelta(milliseconds=200)) as client:
        with pytest.raises(CoordinatorUnavailable, match=r"127\.0\.0\.1:1") as raised:
            await client.submit(SPEC, workflow_id="vm-42")
    assert raised.value.__notes__ == ["Asked again and again for 0.2 s, the patience given."]


# -- watch --------------------------------------------------------------------------------------


async def test_a_watch_ends_when_the_workflow_is_settled(client, scripted):
    workflow = scripted.add("w")
    await move_task(scripted, workflow, 1)
    await scripted.move(workflow, SUCCEEDED)

    updates = [update async for update in client.run("w").watch()]

    assert [u.event.sequence for u in updates if u.HasField("event")] == [1, 2]
    assert scripted.watches == 1


@pytest.mark.parametrize("grace_s", [0, 0.1], ids=["killed", "stopped"])
async def test_a_watch_resumes_after_a_restart_without_gap_or_repeat(scripted, grace_s):
    workflow = scripted.add("w")
    running = await start(scripted)
    address = running.address
    for number in range(3):
        await move_task(scripted, workflow, number)
    seen = []

    async with Client(address, randomness=random.Random(7)) as client:
        async for update in client.run("w").watch():
            if not update.HasField("event"):
                continue
            seen.append(update.event.sequence)
            if update.event.sequence == 3:
                await running.stop(grace_s)
                await move_task(scripted, workflow, 3)
                running = await start(scripted, listen=address)
                await scripted.move(workflow, SUCCEEDED)
    await running.stop(0)

    assert seen == [1, 2, 3, 4, 5]
    assert scripted.resumed_after[0] == 0
    assert set(scripted.resumed_after[1:]) == {3}


async def test_a_watch_from_the_end_of_a_settled_workflow_ends_at_once(client, scripted):
    workflow = scripted.add("w")
    await scripted.move(workflow, SUCCEEDED)

    updates = [update async for update in client.run("w").watch(after_sequence=1)]

    assert [u for u in updates if u.HasField("event")] == []


async def test_a_watch_fills_a_gap(client, scripted):
    workflow = scripted.add("w")
    for number in range(3):
        await move_task(scripted, workflow, number)
    await scripted.move(workflow, SUCCEEDED)
    scripted.lost = {2}

    seen = [u.event.sequence async for u in client.run("w").watch() if u.HasField("event")]

    assert seen == [1, 2, 3, 4]
    assert scripted.resumed_after == [0, 1]


async def test_a_watch_that_is_hung_up_on_asks_again(client, scripted):
    workflow = scripted.add("w")
    await scripted.move(workflow, SUCCEEDED)
    scripted.hang_ups = 2

    seen = [u.event.sequence async for u in client.run("w").watch() if u.HasField("event")]

    assert seen == [1]
    assert scripted.watches == 3


async def test_a_watch_with_a_gap_that_stays_gives_up(server, scripted):
    workflow = scripted.add("w")
    await move_task(scripted, workflow, 1)
    del scripted.events["workflows/w"][0]
    await scripted.say(workflow, task_state_changed=TaskStateChanged())
    scripted.events["workflows/w"][0].sequence = 7

    async with Client(server.address, patience=timedelta(milliseconds=200)) as client:
        with pytest.raises(CoordinatorUnavailable):
            async for _ in client.run("w").watch(events_only=True):
                pass


async def test_watching_an_unknown_workflow_is_a_typed_error(client):
    with pytest.raises(WorkflowNotFound):
        async for _ in client.run("nowhere").watch():
            pass


# -- result -------------------------------------------------------------------------------------


async def test_a_result_is_the_settled_workflow(client, scripted):
    workflow = scripted.add("w")
    waiting = asyncio.create_task(client.run("w").result(timedelta(seconds=30)))
    await scripted.move(workflow, SUCCEEDED)

    assert (await waiting).state == SUCCEEDED


async def test_a_failure_says_what_was_made_up_for(client, scripted):
    tasks = [
        Task(
            name=f"workflows/w/tasks/copy-{number}",
            host_id=f"host-{number}",
            state=Task.STATE_COMPENSATED if number < 4 else Task.STATE_FAILED,
            opposite="delete the copy",
        )
        for number in range(1, 5)
    ]
    workflow = scripted.add("w", tasks=tasks)
    cause = Failure(
        reason="NO_SPACE",
        message="Pool fast is full.",
        attempt="workflows/w/tasks/copy-4/attempts/1",
        host_id="host-4",
    )
    await scripted.move(workflow, COMPENSATED, cause=cause)

    with pytest.raises(WorkflowFailed) as raised:
        await client.run("w").result()

    failed = raised.value
    assert str(failed) == (
        "workflows/w failed in task copy-4 on host-4 (NO_SPACE): Pool fast is full. "
        "Made up for: copy-1 on host-1 (delete the copy), copy-2 on host-2 (delete the copy), "
        "copy-3 on host-3 (delete the copy). Nothing is left behind."
    )
    assert failed.cause == cause
    assert [one.name for one in failed.compensated] == [one.name for one in tasks[:3]]


def test_a_failure_lists_what_is_left():
    from countermand.v1.workflow_pb2 import Workflow
    from countermand.v1.workflow_state_pb2 import WorkflowState

    left = Leftover(host_id="host-a", description="image fast/disk-1")
    workflow = Workflow(
        name="workflows/w",
        state=WorkflowState.WORKFLOW_STATE_FAILED,
        cause=Failure(reason="CANCELLED", message="Cancelled by ops"),
        leftovers=[left],
    )

    failed = WorkflowFailed(workflow, compensated=[], leftovers=workflow.leftovers)

    assert str(failed) == (
        "workflows/w was cancelled by ops. Nothing was made up for. "
        "Left behind: image fast/disk-1 on host-a."
    )


async def test_a_result_that_is_not_there_in_time_is_a_timeout(client, scripted):
    scripted.add("w")

    with pytest.raises(TimeoutError, match=r"workflows/w is still RUNNING after 0\.05 s"):
        await client.run("w").result(timedelta(milliseconds=50))


# -- the rest -----------------------------------------------------------------------------------


async def test_pages_do_not_show(client, scripted):
    tasks = [Task(name=f"workflows/w/tasks/t{number}") for number in range(5)]
    workflow = scripted.add("w", tasks=tasks)
    for number in range(5):
        await move_task(scripted, workflow, number)
    for number in range(4):
        scripted.add(f"x{number}")

    assert await client.run("w").tasks() == tasks
    assert [event.sequence async for event in client.run("w").events()] == [1, 2, 3, 4, 5]
    found = [one.name async for one in client.list(page_size=2)]
    assert found == [f"workflows/{name}" for name in ("x3", "x2", "x1", "x0", "w")]


@pytest.mark.parametrize(
    "code", [StatusCode.UNAVAILABLE, StatusCode.DEADLINE_EXCEEDED, StatusCode.CANCELLED]
)
async def test_a_cancel_whose_answer_is_lost_is_one_cancel(client, scripted, code):
    """S-Z1: it was decided, so it is asked again under the same request id, and told of it."""
    workflow = scripted.add("w")
    scripted.lost_answers = [code]

    cancelled = await client.run("w").cancel("wrong template")

    first, second = scripted.cancels
    assert first == second
    assert cancelled.cause.reason == "CANCELLED"
    assert len(scripted.events[workflow.name]) == 1


async def test_two_cancels_are_two_requests(client, scripted):
    scripted.add("w")
    await client.run("w").cancel("wrong template")
    await client.run("w").cancel("wrong template")

    first, second = scripted.cancels
    assert first != second


async def test_a_cancel_outlives_a_restart(scripted):
    scripted.add("w")
    before = await start(scripted)
    await before.stop(0)
    async with Client(before.address) as client:
        cancelling = asyncio.create_task(client.run("w").cancel("wrong template"))
        after = await start(scripted, listen=before.address)
        cancelled = await cancelling
        await after.stop(0)

    assert cancelled.cause.reason == "CANCELLED"


async def test_cancelling_what_is_settled_says_which_state_won(client, scripted):
    workflow = scripted.add("w")
    await scripted.move(workflow, SUCCEEDED)

    with pytest.raises(StateForbids) as raised:
        await client.run("w").cancel("too late")

    assert raised.value.metadata["state"] == "WORKFLOW_STATE_SUCCEEDED"


async def test_hosts_come_and_go(client):
    await client.hosts.add("host-b", "127.0.0.1:2")
    await client.hosts.add("host-a", "127.0.0.1:1")

    drained = await client.hosts.drain("host-a", "kernel")
    back = await client.hosts.undrain("host-a", "done")
    await client.hosts.remove("hosts/host-b", "sold")

    assert drained.blocking_tasks == ["workflows/w/tasks/t"]
    assert back.host == await client.hosts.get("host-a")
    assert [host.name async for host in client.hosts.list()] == ["hosts/host-a"]


async def test_a_call_that_is_not_served_yet_says_so(client, scripted):
    scripted.add("w")

    with pytest.raises(CallUnsupported, match="ResumeWorkflow"):
        await client.run("w").resume()


async def test_a_service_that_is_not_there_says_so():
    running = await serve(listen="127.0.0.1:0", services=[])
    async with Client(running.address) as client:
        with pytest.raises(RemoteError, match="may be older"):
            await client.hosts.get("host-a")
    await running.stop(0)


async def test_a_closed_client_says_how_to_open_it():
    with pytest.raises(RuntimeError, match="async with"):
        Client("127.0.0.1:1").run("w")


# -- specs --------------------------------------------------------------------------------------


def test_a_template_reads_as_the_contract_says():
    spec = add_vm_from_template(
        [("gold/t1-root", "fast/vm-root", "host-a"), ("gold/t1-data", "fast/vm-data", "host-b")]
    )

    [copies] = spec.root.members
    assert spec.root.kind == Group.KIND_SEQUENCE
    assert copies.group.kind == Group.KIND_PARALLEL
    assert [(node.name, node.task.host_id) for node in copies.group.members] == [
        ("copy-1", "host-a"),
        ("copy-2", "host-b"),
    ]
    assert copies.group.members[0].task.action.copy_image == CopyImage(
        source=image("gold/t1-root"), target=image("fast/vm-root")
    )


def test_a_verb_without_arguments_is_still_a_verb():
    assert task("t", action=Noop()).task.action.WhichOneof("verb") == "noop"


def test_a_spec_survives_its_file(tmp_path):
    spec = workflow_spec(
        "drill",
        parallel(
            "both",
            task("one", host="host-a", action=Noop()),
            task("two", action=Noop(), bindings={"failure_message": "input.words"}, after=["one"]),
        ),
        timeout=timedelta(minutes=5),
    )
    file = tmp_path / "spec.json"
    file.write_text(dump_spec(spec))

    assert load_spec(file) == spec


def test_a_misspelt_field_in_a_file_is_named():
    with pytest.raises(FieldInvalid, match="kindd") as raised:
        parse_spec('{"kindd": "x"}', origin="add-vm.json")

    assert raised.value.violations[0].field == "spec.kindd"


@pytest.mark.parametrize(
    ("text", "field", "said"),
    [
        ('{"kind":', "add-vm.json", "is not JSON: "),
        ('{"kind": "a", "kind": "b"}', "add-vm.json", "duplicate key kind"),
        ("[]", "spec", "must be an object {…}, not a list"),
        ('{"kind": 5}', "spec.kind", "must be a text, not 5"),
        ('{"root": {"name": "a", "task": {}}}', "spec.root", "put the task into its members"),
        ('{"root": {"group": {}}}', "spec.root", "is a group itself"),
        ('{"root": {"members": {}}}', "spec.root.members", "must be a list […], not an object"),
        ('{"root": {"members": [{"taks": 1}]}}', "spec.root.members[0].taks", "is task meant?"),
        ('{"root": {"members": [null]}}', "spec.root.members[0]", "not null"),
        ('{"root": {"kind": "SEQ"}}', "spec.root.kind", "must be one of KIND_SEQUENCE, KIND_PARA"),
        ('{"root": {"concurrency_max": 1.5}}', "spec.root.concurrency_max", "a whole number"),
        ('{"timeout": "5 min"}', "spec.timeout", 'must be a duration such as "30s", not "5 min"'),
        (
            '{"root": {"members": [{"task": {"action": {"noop": {}, "copy_image": {}}}}]}}',
            "spec.root.members[0].task.action",
            "has noop and copy_image: only one",
        ),
    ],
)
def test_what_is_wrong_in_a_spec_is_said_with_its_place(text, field, said):
    with pytest.raises(FieldInvalid) as raised:
        parse_spec(text, origin="add-vm.json")

    (violation,) = raised.value.violations
    assert violation.field == field
    assert said in violation.description


def test_all_that_is_wrong_in_a_spec_is_said_at_once():
    with pytest.raises(FieldInvalid) as raised:
        parse_spec('{"kind": 1, "timeout": 2, "root": {"members": 3}}')

    assert [one.field for one in raised.value.violations] == [
        "spec.kind",
        "spec.timeout",
        "spec.root.members",
    ]


def test_builders_say_what_is_wrong():
    for wrong in (
        lambda: image("no-pool"),
        lambda: add_vm_from_template([]),
        lambda: workflow_spec("x", task("a", action=Noop())),
    ):
        with pytest.raises(FieldInvalid):
            wrong()
