"""FenceAttempt: an agent settles what another one has lost, on storage that both reach."""

from __future__ import annotations

import os

import pytest

from agent import crash_points
from agent.drivers.copying import CHUNK_BYTES
from agent.service import AgentService
from countermand.rpc.errors import (
    Fenced,
    FieldInvalid,
    IncarnationChanged,
    PoolFailing,
    PoolNotFound,
    PoolNotShared,
    VerbUnsupported,
    WrongCluster,
)
from countermand.v1.agent_pb2 import FenceAttemptRequest, InspectRequest
from countermand.v1.attempt_pb2 import Attempt
from countermand.v1.verb_pb2 import (
    Action,
    CreateSnapshot,
    DeleteImage,
    DeleteSnapshot,
    ResizeImage,
    RevertImage,
    VerifyImage,
)
from tests.agent.requests import address, attempt_name, copy_action, noop_action
from tests.agent.rig import NOW, Gate, Rig

LOST = attempt_name("do")
COPY = copy_action("own/base", "fast/disk")
CONTENT = os.urandom(CHUNK_BYTES) + os.urandom(CHUNK_BYTES)

SUCCEEDED, FAILED = Attempt.STATE_SUCCEEDED, Attempt.STATE_FAILED


class DiedError(BaseException):
    """What a crash point does inside a test."""


@pytest.fixture
async def hosts(tmp_path):
    """Yields two hosts that share a pool; the first one has another of its own."""
    found = []
    for name in "ab":
        (tmp_path / name).mkdir()
        options = {"fast": {"shared": True, "path": tmp_path / "a/fast"}}
        if name == "a":
            options["own"] = {}
        rig = Rig(tmp_path / name, options=options)
        if name == "b":
            (tmp_path / "b/fast").symlink_to(tmp_path / "a/fast")
        await rig.start()
        found.append(rig)
    found[0].put("base", CONTENT, pool_id="own")
    yield found
    for rig in found:
        await rig.runner.stop()


async def fence(rig: Rig, name: str, action: Action, **fields) -> Attempt:
    """Has a host settle an attempt."""
    header = rig.requests.for_action(name, action, **fields)
    request = FenceAttemptRequest(header=header, action=action)
    service = AgentService(rig.runner, now=lambda: NOW, version="1")
    return (await service.FenceAttempt(request, None)).attempt


def fences(rig: Rig) -> list[str]:
    """Returns the attempts that are fenced, and whatever else is staged."""
    return [name.replace("@", "/") for name in rig.staged()]


async def test_a_copy_that_is_fenced_half_way_comes_to_nothing(hosts):
    """S-V8: its source is where only the lost host is; the pool it is made in is enough."""
    a, b = hosts
    gate = Gate()
    await a.restart(gate=gate)
    await a.accept(LOST, COPY)
    await gate.arrival(2)
    for _ in range(2):
        told = await fence(b, LOST, COPY)
        assert (told.state, told.failure.reason) == (FAILED, "ATTEMPT_FENCED")
        assert (told.name, told.failure.retriable) == (LOST, True)
        assert (a.images(), fences(a)) == ([], [LOST])
    gate.open()
    ended = await a.settled(LOST)
    assert (ended.state, ended.failure.reason) == (FAILED, "ATTEMPT_FENCED")
    assert (a.images(), fences(a)) == ([], [LOST])


async def test_what_begins_after_its_fence_is_refused_by_the_storage(hosts):
    """S-V8: the delayed request reaches the agent only now; its restart sweeps no fence."""
    a, b = hosts
    await fence(b, LOST, COPY)
    await a.restart()
    assert fences(a) == [LOST]
    late = await a.run(LOST, COPY)
    assert (late.state, late.failure.reason) == (FAILED, "ATTEMPT_FENCED")
    await b.restart()
    assert (a.images(), fences(a)) == ([], [LOST])
    assert (await b.run(attempt_name("do", 2), copy_action("fast/disk", "fast/x"))).state == FAILED


ON_BASE = address("fast/base")
EFFECTS = {
    "copy": copy_action("own/base", "fast/disk"),
    "snapshot": Action(create_snapshot=CreateSnapshot(target=ON_BASE, snapshot_id="new")),
    "revert": Action(revert_image=RevertImage(target=ON_BASE, snapshot_id="old")),
    "resize": Action(resize_image=ResizeImage(target=ON_BASE, virtual_size_bytes=4 * CHUNK_BYTES)),
    "delete": Action(delete_image=DeleteImage(target=address("fast/plain"))),
}


@pytest.mark.parametrize("verb", EFFECTS)
async def test_what_had_come_to_its_effect_succeeded(hosts, verb):
    """S-V9: the other order; and the output is the one that the lost host would have told."""
    a, b = hosts
    a.put("base", CONTENT)
    a.put("plain", CONTENT)
    old = Action(create_snapshot=CreateSnapshot(target=ON_BASE, snapshot_id="old"))
    assert (await a.run(attempt_name("old"), old)).state == SUCCEEDED
    made = await a.run(LOST, EFFECTS[verb])
    assert made.state == SUCCEEDED
    images = a.images()
    told = await fence(b, LOST, EFFECTS[verb])
    assert told.state == SUCCEEDED, told
    if verb != "delete":  # nobody but its own journal knows what was there before
        assert told.output == made.output
    assert (a.images(), fences(a)) == (images, [LOST])


async def test_a_fence_is_asked_for_again_after_a_crash(hosts):
    _a, b = hosts

    def die(point: str) -> None:
        if point == crash_points.AFTER_FENCE:
            raise DiedError

    b.crash = die
    await b.restart()
    with pytest.raises(DiedError):
        await fence(b, LOST, COPY)
    b.crash = lambda _point: None
    await b.restart()
    assert fences(b) == [LOST]
    assert (await fence(b, LOST, COPY)).failure.reason == "ATTEMPT_FENCED"


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"cluster_id": "other"}, WrongCluster),
        ({"expected_incarnation": "other"}, IncarnationChanged),
        ({"owner_epoch": 1}, Fenced),
    ],
)
async def test_whoever_is_not_in_charge_fences_nothing(hosts, fields, error):
    """S-Z7, I6."""
    _a, b = hosts
    await b.run(attempt_name("other"), noop_action(), owner_epoch=2)
    with pytest.raises(error):
        await fence(b, LOST, COPY, **{"owner_epoch": 2, **fields})
    assert fences(b) == []
    await fence(b, LOST, COPY, owner_epoch=3)
    with pytest.raises(Fenced):
        await b.accept(attempt_name("later"), noop_action(), owner_epoch=2)


@pytest.mark.parametrize(
    ("action", "error"),
    [
        (copy_action("fast/base", "own/disk"), PoolNotFound),
        (noop_action(), FieldInvalid),
        (Action(verify_image=VerifyImage(target=ON_BASE)), FieldInvalid),
        (
            Action(
                resize_image=ResizeImage(
                    target=ON_BASE, virtual_size_bytes=512, shrink_allowed=True
                )
            ),
            VerbUnsupported,
        ),
        (Action(), FieldInvalid),
    ],
    ids=["another pool", "no pool", "only reads", "cuts in place", "no verb"],
)
async def test_what_cannot_be_fenced_is_refused(hosts, action, error):
    _a, b = hosts
    with pytest.raises(error):
        await fence(b, LOST, action)
    assert fences(b) == []


async def test_a_pool_of_one_host_fences_nothing(hosts):
    a, _b = hosts
    with pytest.raises(PoolNotShared):
        await fence(a, LOST, copy_action("fast/base", "own/disk"))


async def test_an_agent_fences_nothing_of_its_own(hosts):
    """It can be asked, and stops what it is told to stop."""
    a, _b = hosts
    await a.run(LOST, COPY)
    with pytest.raises(FieldInvalid):
        await fence(a, LOST, COPY)
    assert fences(a) == []


async def test_nothing_is_said_while_the_storage_does_not_answer(hosts):
    """S-V5: no verdict from a pool that is not there."""
    a, b = hosts
    mark = a.folder / "fast/pool.json"
    hidden = mark.rename(a.folder / "hidden")
    with pytest.raises(PoolFailing):
        await fence(b, LOST, COPY)
    hidden.rename(mark)
    assert (await fence(b, LOST, COPY)).failure.reason == "ATTEMPT_FENCED"


async def generation(rig: Rig) -> tuple[int, str]:
    """Returns the base's generation, and who moved it there."""
    service = AgentService(rig.runner, now=lambda: NOW, version="1")
    image = (await service.Inspect(InspectRequest(address=ON_BASE), None)).image
    return image.generation, image.moved_by


EXPECTING = {
    "delete": lambda n: Action(delete_image=DeleteImage(target=ON_BASE, expected_generation=n)),
    "resize": lambda n: Action(
        resize_image=ResizeImage(
            target=ON_BASE, virtual_size_bytes=4 * CHUNK_BYTES, expected_generation=n
        )
    ),
    "snapshot": lambda n: Action(
        create_snapshot=CreateSnapshot(target=ON_BASE, snapshot_id="s", expected_generation=n)
    ),
    "revert": lambda n: Action(
        revert_image=RevertImage(target=ON_BASE, snapshot_id="old", expected_generation=n)
    ),
    "forget": lambda n: Action(
        delete_snapshot=DeleteSnapshot(target=ON_BASE, snapshot_id="old", expected_generation=n)
    ),
}


@pytest.fixture
async def moved(hosts):
    """Returns a host with an image that somebody has moved on to its second generation."""
    a, _b = hosts
    a.put("base", CONTENT)
    old = Action(create_snapshot=CreateSnapshot(target=ON_BASE, snapshot_id="old"))
    await a.run(attempt_name("old"), old)
    back = Action(revert_image=RevertImage(target=ON_BASE, snapshot_id="old"))
    await a.run(attempt_name("elsewhere", workflow="w2"), back)
    return a


async def test_inspect_says_who_moved_a_generation_on(moved):
    """S-V10."""
    assert await generation(moved) == (2, attempt_name("elsewhere", workflow="w2"))


@pytest.mark.parametrize("verb", EXPECTING)
async def test_another_generation_is_refused_before_anything_changes(moved, verb):
    """S-V10: and the one who moved it on is named."""
    before = moved.images(), await generation(moved)
    for expected in (1, 3):
        name = attempt_name(verb, expected)
        failed = await moved.run(name, EXPECTING[verb](expected))
        assert (failed.state, failed.failure.reason) == (FAILED, "GENERATION_MISMATCH")
        assert not failed.failure.retriable
        told = {key: failed.failure.metadata[key] for key in ("generation", "expected", "owner")}
        assert told == {
            "generation": "2",
            "expected": str(expected),
            "owner": attempt_name("elsewhere", workflow="w2"),
        }
    assert (moved.images(), await generation(moved)) == before
    assert moved.staged() == []
    if verb == "delete":  # of an image that has no snapshot
        await moved.run(attempt_name("first"), EXPECTING["forget"](0))
    assert (await moved.run(attempt_name(verb, 9), EXPECTING[verb](2))).state == SUCCEEDED


@pytest.mark.parametrize("verb", EXPECTING)
async def test_what_the_same_attempt_did_before_is_no_other_generation(moved, verb):
    """Also where only the storage tells: a copy of its agent's journal that knows nothing."""
    if verb == "delete":
        await moved.run(attempt_name("first"), EXPECTING["forget"](0))
    done = await moved.run(LOST, EXPECTING[verb](2))
    assert done.state == SUCCEEDED
    await moved.runner.stop()
    for file in moved.folder.glob("journal.sqlite*"):
        file.unlink()
    await moved.start()
    assert (await moved.run(LOST, EXPECTING[verb](2))).state == SUCCEEDED


async def test_generations_go_round(moved):
    """S-V11: only equality counts, and 0 is never one."""
    driver = moved.pools["fast"]
    driver.layout.generation_max = 3
    seen = []
    for number in range(1, 6):
        now, _ = await generation(moved)
        seen.append(now)
        back = EXPECTING["revert"](now)
        assert (await moved.run(attempt_name("round", number), back)).state == SUCCEEDED
        stale = await moved.run(attempt_name("stale", number), back)
        assert stale.failure.reason == "GENERATION_MISMATCH"
    assert seen == [2, 3, 1, 2, 3]
    safely = Action(
        revert_image=RevertImage(
            target=ON_BASE, snapshot_id="old", safety_snapshot_id="safe", expected_generation=1
        )
    )
    assert (await moved.run(LOST, safely)).state == SUCCEEDED
    assert (await generation(moved))[0] == 2
    assert (await moved.make_up(attempt_name("do", 2), LOST, safely)).state == SUCCEEDED
    assert (await generation(moved))[0] == 3
