"""AgentService over gRPC, inside the test: what callers see."""

from __future__ import annotations

import asyncio
import sqlite3
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from grpc import StatusCode
from grpc.aio import EOF, AioRpcError

from agent import watch
from agent.attempts import AttemptRecord, Kind, State
from agent.drivers.driver import Step
from agent.running import Running
from agent.service import AgentService
from agent.verbs.catalogue import VERBS
from countermand.rpc.channel import open_channel
from countermand.rpc.errors import FieldInvalid
from countermand.rpc.server import Service, serve
from countermand.rpc.status import error_from_rpc
from countermand.v1 import agent_pb2_grpc
from countermand.v1.agent_pb2 import (
    CopyImageRequest,
    CreateSnapshotRequest,
    DeleteSnapshotRequest,
    ForgetRequest,
    GetAttemptRequest,
    GetHostRequest,
    InspectRequest,
    ListAttemptsRequest,
    ListImagesRequest,
    NoopRequest,
    ResizeImageRequest,
    RevertImageRequest,
    SessionRequest,
    SourceAccess,
    VerifyImageRequest,
    WatchAttemptsRequest,
)
from countermand.v1.attempt_pb2 import Attempt
from countermand.v1.verb_pb2 import (
    Action,
    CreateSnapshot,
    DeleteSnapshot,
    ResizeImage,
    RevertImage,
    VerifyImage,
)
from tests.agent.requests import CLUSTER, OUTCOMES, address, attempt_name, copy_action, noop_action
from tests.agent.rig import NOW, Gate, Rig


@pytest.fixture
async def served(rig):
    """Yields an agent, and a client that speaks to it over loopback."""
    service = AgentService(rig.runner, now=lambda: NOW, version="1.2.3")
    add = agent_pb2_grpc.add_AgentServiceServicer_to_server
    server = await serve(
        listen="127.0.0.1:0", services=[Service("countermand.v1.AgentService", add, service)]
    )
    async with open_channel(server.address) as channel:
        yield rig, agent_pb2_grpc.AgentServiceStub(channel)
    await server.stop(0)


async def reason(call) -> str:
    """Returns the reason that a call is refused with."""
    with pytest.raises(AioRpcError) as refused:
        await call
    return error_from_rpc(refused.value).reason


async def violations(call) -> list[str]:
    """Returns the fields that a call is refused for."""
    with pytest.raises(AioRpcError) as refused:
        await call
    error = error_from_rpc(refused.value)
    assert isinstance(error, FieldInvalid), error
    return [violation.field for violation in error.violations]


async def noop(rig: Rig, stub, task: str, number: int = 1) -> str:
    name = attempt_name(task, number)
    action = noop_action()
    await stub.Noop(NoopRequest(header=rig.requests.for_action(name, action), noop=action.noop))
    await rig.settled(name)
    return name


async def test_errors_come_as_statuses_with_reasons(served):
    rig, stub = served
    assert await reason(stub.CopyImage(CopyImageRequest())) == "FIELD_INVALID"
    assert await reason(stub.GetAttempt(GetAttemptRequest(name="x"))) == "FIELD_INVALID"
    missing = attempt_name("missing")
    assert await reason(stub.GetAttempt(GetAttemptRequest(name=missing))) == "ATTEMPT_NOT_FOUND"
    assert await reason(stub.CancelAttempt(rig.requests.cancel(missing))) == "ATTEMPT_NOT_FOUND"
    assert await reason(stub.Inspect(InspectRequest(address=address("no/disk")))) == (
        "POOL_NOT_FOUND"
    )
    assert await reason(stub.Inspect(InspectRequest(address=address("fast/no")))) == (
        "IMAGE_NOT_FOUND"
    )
    for asked in (
        stub.ListAttempts(ListAttemptsRequest(page_size=-1)),
        stub.ListImages(ListImagesRequest(pool_id="fast", page_size=-1)),
    ):
        assert await reason(asked) == "FIELD_INVALID"
    copy = rig.requests.copy(missing, copy_action("fast/a", "fast/b", source_host_id="No Host!"))
    for field in ("address", "ticket"):
        copy.copy_image.source_host_id = "elsewhere"
        access = SourceAccess(address="somewhere:1", ticket=b"t")
        access.ClearField(field)
        copy.source_access.CopyFrom(access)
        assert await violations(stub.CopyImage(copy)) == [f"source_access.{field}"]
    malformed = copy_action("fast/a", "fast/b", source_host_id="No Host!")
    assert await violations(stub.CopyImage(rig.requests.copy(missing, malformed))) == [
        "copy_image.source_host_id"
    ]
    resize = Action(resize_image=ResizeImage(virtual_size_bytes=512, expected_generation=-1))
    resize.resize_image.target.CopyFrom(address("fast/a"))
    header = rig.requests.for_action(missing, resize)
    asked = stub.ResizeImage(ResizeImageRequest(header=header, resize_image=resize.resize_image))
    assert await violations(asked) == ["resize_image.expected_generation"]
    session = stub.Session()
    await session.write(SessionRequest())
    assert await reason(session.read()) == "CALL_UNSUPPORTED"


async def test_describes_the_host(served):
    rig, stub = served
    await noop(rig, stub, "a")
    answer = await stub.GetHost(GetHostRequest())
    assert answer.now.ToDatetime(NOW.tzinfo) == NOW
    assert (answer.host.cluster_id, answer.host.version) == (CLUSTER, "1.2.3")
    assert answer.host.journal_sequence == 2
    assert (answer.host.heard.owner_epoch, answer.host.heard.intent_sequence) == (1, 1)
    [pool] = answer.host.pools
    assert (pool.pool_id, pool.driver, pool.used_bytes) == ("fast", "file", 0)
    assert set(pool.verbs) == set(VERBS)


async def test_lists_attempts_in_pages(served):
    rig, stub = served
    names = [await noop(rig, stub, f"t{number}") for number in range(5)]
    found, token = [], ""
    while True:
        page = await stub.ListAttempts(ListAttemptsRequest(page_size=2, page_token=token))
        found += [attempt.name for attempt in page.attempts]
        token = page.next_page_token
        if not token:
            break
    assert found == names
    one = await stub.ListAttempts(ListAttemptsRequest(name_prefix="workflows/w1/tasks/t3/"))
    assert [attempt.name for attempt in one.attempts] == [names[3]]
    none = await stub.ListAttempts(ListAttemptsRequest(open_only=True))
    assert list(none.attempts) == []


async def test_lists_and_inspects_images(served):
    rig, stub = served
    for image_id in ("c", "a", "b"):
        rig.put(image_id, b"x" * 512)
    page = await stub.ListImages(ListImagesRequest(pool_id="fast", page_size=2))
    assert [image.address.image_id for image in page.images] == ["a", "b"]
    page = await stub.ListImages(ListImagesRequest(pool_id="fast", page_token=page.next_page_token))
    assert [image.address.image_id for image in page.images] == ["c"]
    image = (await stub.Inspect(InspectRequest(address=address("fast/a"), take_digest=True))).image
    assert (image.virtual_size_bytes, image.generation, image.owner.attempt) == (512, 1, "")
    assert image.digest.startswith("blake3-4m:")


async def test_makes_a_snapshot_and_goes_back_to_it(served):
    rig, stub = served
    path = rig.put("a", b"old" * 512)
    target = address("fast/a")
    create = CreateSnapshot(target=target, snapshot_id="old")
    header = rig.requests.for_action(attempt_name("snap"), Action(create_snapshot=create))
    await stub.CreateSnapshot(CreateSnapshotRequest(header=header, create_snapshot=create))
    await rig.settled(attempt_name("snap"))
    path.write_bytes(b"new" * 512)
    revert = RevertImage(target=target, snapshot_id="old")
    header = rig.requests.for_action(attempt_name("back"), Action(revert_image=revert))
    await stub.RevertImage(RevertImageRequest(header=header, revert_image=revert))
    assert (await rig.settled(attempt_name("back"))).output.revert_image.generation == 2
    image = (await stub.Inspect(InspectRequest(address=target))).image
    assert (image.generation, image.owner.attempt) == (2, "")
    [snapshot] = image.snapshots
    assert (snapshot.snapshot_id, snapshot.owner.attempt, snapshot.owner.cluster_id) == (
        "old",
        attempt_name("snap"),
        CLUSTER,
    )
    page = await stub.ListImages(ListImagesRequest(pool_id="fast"))
    assert list(page.images) == [image]
    delete = DeleteSnapshot(target=target, snapshot_id="old")
    header = rig.requests.for_action(attempt_name("gone"), Action(delete_snapshot=delete))
    await stub.DeleteSnapshot(DeleteSnapshotRequest(header=header, delete_snapshot=delete))
    gone = (await rig.settled(attempt_name("gone"))).output.delete_snapshot
    assert (gone.existed, gone.generation) == (True, 2)
    verify = VerifyImage(target=target)
    header = rig.requests.for_action(attempt_name("whole"), Action(verify_image=verify))
    await stub.VerifyImage(VerifyImageRequest(header=header, verify_image=verify))
    whole = (await rig.settled(attempt_name("whole"))).output.verify_image
    asked = InspectRequest(address=target, take_digest=True)
    assert (await stub.Inspect(asked)).image.digest == whole.digest


async def test_asking_under_a_new_epoch_fences_the_old_one(served):
    """S-V8: before anything is decided by the answer."""
    rig, stub = served
    name = await noop(rig, stub, "a")
    asked = GetAttemptRequest(name=name, owner_epoch=5, cluster_id=CLUSTER)
    assert (await stub.GetAttempt(asked)).attempt.state == Attempt.STATE_SUCCEEDED
    action = noop_action()
    header = rig.requests.for_action(attempt_name("late"), action, owner_epoch=4)
    assert await reason(stub.Noop(NoopRequest(header=header, noop=action.noop))) == "FENCED"
    for request, expected in [
        (GetAttemptRequest(name=name, owner_epoch=4, cluster_id=CLUSTER), "FENCED"),
        (GetAttemptRequest(name=name, owner_epoch=6, cluster_id="other"), "WRONG_CLUSTER"),
        (GetAttemptRequest(name=name, owner_epoch=6), "FIELD_INVALID"),
    ]:
        assert await reason(stub.GetAttempt(request)) == expected


async def test_forgets_for_its_own_cluster_only(served):
    rig, stub = served
    name = await noop(rig, stub, "a")
    request = ForgetRequest(cluster_id="other", workflows=["workflows/w1"], low_watermark=9)
    assert await reason(stub.Forget(request)) == "WRONG_CLUSTER"
    request.cluster_id = CLUSTER
    assert (await stub.Forget(request)).forgotten == 1
    assert await reason(stub.GetAttempt(GetAttemptRequest(name=name))) == "ATTEMPT_NOT_FOUND"


async def test_forgets_a_large_workflow_whole(served):
    """In several transactions, each of which leaves others their turn."""
    rig, stub = served
    name = await noop(rig, stub, "a")
    known = await rig.runner.journal.transact(lambda tx: tx.get(name))
    rows = [replace(known, name=attempt_name("a", number)) for number in range(2, 1202)]
    await rig.runner.journal.transact(lambda tx: [tx.put(row) for row in rows])
    request = ForgetRequest(cluster_id=CLUSTER, workflows=["workflows/w1"], low_watermark=9)
    assert (await stub.Forget(request)).forgotten == 1201
    assert (await stub.Forget(request)).forgotten == 0


# -- watching -----------------------------------------------------------------------------------


async def test_a_watch_begins_with_a_bookmark_and_the_incarnation(served):
    rig, stub = served
    await noop(rig, stub, "a")
    watching = stub.WatchAttempts(WatchAttemptsRequest())
    first = await watching.read()
    assert (first.bookmark, list(first.updates)) == (2, [])
    assert first.incarnation == rig.runner.identity.incarnation
    name = await noop(rig, stub, "b")
    seen: list[tuple[int, Attempt.State.ValueType]] = []
    message = first
    while not seen or seen[-1][1] not in OUTCOMES:
        message = await watching.read()
        seen += [(update.sequence, update.attempt.state) for update in message.updates]
        assert {update.attempt.name for update in message.updates} == {name}
    assert seen == [(3, Attempt.STATE_RUNNING), (4, Attempt.STATE_SUCCEEDED)]
    assert message.bookmark == 4
    watching.cancel()


async def test_a_watch_goes_on_from_a_sequence(served):
    rig, stub = served
    names = [await noop(rig, stub, f"t{number}") for number in range(250)]
    watching = stub.WatchAttempts(WatchAttemptsRequest(after_sequence=100))
    found, bookmark = [], 0
    while bookmark < 500:
        message = await watching.read()
        assert message.bookmark >= bookmark
        bookmark = message.bookmark
        found += [update.attempt.name for update in message.updates]
    assert found == names[50:]
    watching.cancel()


async def test_a_watch_beyond_the_end_tells_of_a_restored_journal(served):
    """S-Z11."""
    _, stub = served
    watching = stub.WatchAttempts(WatchAttemptsRequest(after_sequence=1))
    assert await reason(watching.read()) == "SEQUENCE_AHEAD"


async def test_a_watch_tells_progress_between_changes(served, tmp_path):
    rig, stub = served
    rig.put("base", b"x" * 3 * 2**22)
    gate = Gate()
    rig.runner.executor._between = gate
    name = attempt_name("copy")
    action = copy_action("fast/base", "fast/disk")
    await stub.CopyImage(rig.requests.copy(name, action))
    watching = stub.WatchAttempts(WatchAttemptsRequest())
    await watching.read()
    await gate.arrival(3)
    message = await watching.read()
    while [one.attempt.progress.done for one in message.updates] != [2**22]:
        message = await watching.read()  # a slow test is told of less, before
    [update] = message.updates
    assert (update.sequence, update.attempt.name) == (0, name)
    assert update.attempt.progress.done == 2**22
    assert update.attempt.progress.total == 3 * 2**22
    held = (await stub.Inspect(InspectRequest(address=address("fast/base")))).image.held_by
    assert list(held) == [name]
    listed = await stub.ListImages(ListImagesRequest(pool_id="fast"))
    assert [list(image.held_by) for image in listed.images] == [[name]]
    gate.open()
    await rig.settled(name)
    watching.cancel()


async def test_an_idle_watch_still_says_where_it_is(served, monkeypatch):
    """Or nobody could tell an idle agent from a mute one."""
    monkeypatch.setattr(watch, "BOOKMARK_INTERVAL_S", 0.01)
    rig, stub = served
    await noop(rig, stub, "a")
    watching = stub.WatchAttempts(WatchAttemptsRequest())
    messages = [await watching.read() for _ in range(3)]
    assert [(list(one.updates), one.bookmark) for one in messages] == [([], 2)] * 3
    watching.cancel()


async def test_an_agent_that_stops_ends_its_watches(served):
    """Each would keep it from stopping for as long as calls in flight may last."""
    rig, stub = served
    watching = stub.WatchAttempts(WatchAttemptsRequest())
    await watching.read()
    rig.runner.watchers.close()
    assert await watching.read() is EOF
    assert await watching.code() is StatusCode.OK


async def test_progress_beyond_one_message_is_told_in_the_next(rig):
    async def keep_note(_running, _step):
        raise AssertionError

    now = datetime(2030, 1, 1, tzinfo=UTC)
    running = {}
    for number in range(2 * watch.CHANGES_PER_MESSAGE_MAX + 1):
        name = attempt_name(f"t{number:03}")
        record = AttemptRecord(
            name=name,
            kind=Kind.ACTION,
            request=b"",
            request_hash=b"",
            state=State.RUNNING,
            owner_epoch=1,
            intent_sequence=1,
            create_time=now,
        )
        running[name] = Running(record, monotonic=lambda: 0.0, keep_note=keep_note)
    watchers = watch.Watchers(rig.runner, running)
    told: dict[str, tuple[int, int]] = {}
    for done in (1, 2):
        for each in running.values():
            each.check(Step(done=done, total=2))
        messages = [watchers._progress(told) for _ in range(4)]
        assert [len(message) for message in messages] == [100, 100, 1, 0]
        assert {record.name for message in messages for record, _ in message} == set(running)
    running.popitem()
    assert watchers._progress(told) == []
    assert set(told) == set(running)


@pytest.mark.parametrize(
    "call",
    [
        lambda stub: stub.GetAttempt(GetAttemptRequest(name=attempt_name("a"))),
        lambda stub: stub.GetHost(GetHostRequest()),
        lambda stub: stub.ListAttempts(ListAttemptsRequest()),
        lambda stub: stub.Forget(ForgetRequest(cluster_id=CLUSTER)),
        lambda stub: stub.WatchAttempts(WatchAttemptsRequest()).read(),
    ],
    ids=["GetAttempt", "GetHost", "ListAttempts", "Forget", "WatchAttempts"],
)
async def test_a_journal_that_fails_is_no_bug(served, monkeypatch, call):
    rig, stub = served

    async def fail(_function):
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(rig.runner.journal, "transact", fail)
    assert await reason(call(stub)) == "STORAGE_FAILED"


async def test_watches_end_when_their_callers_go(served):
    rig, stub = served
    watching = stub.WatchAttempts(WatchAttemptsRequest())
    await watching.read()
    assert len(rig.runner.watchers._watchers) == 1
    watching.cancel()
    while rig.runner.watchers._watchers:  # noqa: ASYNC110 - ends when the call is torn down
        await asyncio.sleep(0)
