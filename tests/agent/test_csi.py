"""The `csi` driver with a plug-in that dies, stalls, lies and refuses; both are real processes.

What every driver owes is told by the conformance suites. Here: whatever happens to the plug-in, to
the agent, or to what they say to each other, there are the volumes that the labels name, and no
more; each was made once, and is gone once it was made up for.
"""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent import crash_points
from agent.drivers.csi.abilities import Abilities
from agent.drivers.csi.driver import CSI, CsiDriver
from agent.drivers.csi.pool import EVERYTHING, verbs_of
from agent.drivers.csi.records import name_of
from agent.drivers.driver import Format, OddityKind, PoolConfig, Step, Work
from agent.drivers.plugins import ConfigInvalid
from countermand.rpc import crash
from countermand.rpc.errors import AttemptCancelled, AttemptFenced
from countermand.v1.attempt_pb2 import Attempt
from countermand.v1.image_pb2 import IMAGE_FORMAT_QCOW2, IMAGE_FORMAT_RAW
from countermand.v1.verb_pb2 import (
    Action,
    CloneImage,
    CreateImage,
    CreateSnapshot,
    DeleteImage,
    DeleteSnapshot,
    VerifyImage,
)
from tests.agent.csi_host import CsiHost, named, records, running
from tests.agent.processes import Host
from tests.agent.requests import address, attempt_name, copy_action
from tests.agent.rig import NOW, Rig
from tests.agent.test_processes import send

MIB = 2**20
DO = attempt_name("do")
UNDO = attempt_name("do", 2)
BASE = bytes(MIB) + b"some of it" * 30_000 + bytes(MIB)
PADDED = BASE + bytes(-len(BASE) % 512)

CREATE = Action(create_image=CreateImage(target=address("fast/made"), virtual_size_bytes=MIB))
COPY = copy_action("fast/base", "fast/made", take_digest=True)
CLONE = Action(clone_image=CloneImage(source=address("fast/base"), target=address("fast/made")))
DELETE = Action(delete_image=DeleteImage(target=address("fast/base")))
SNAPSHOT = Action(create_snapshot=CreateSnapshot(target=address("fast/base"), snapshot_id="old"))
FORGET = Action(delete_snapshot=DeleteSnapshot(target=address("fast/base"), snapshot_id="old"))
VERIFY = Action(verify_image=VerifyImage(target=address("fast/base")))


@pytest.fixture
def host(csi_host, tmp_path) -> Iterator[CsiHost]:
    """Yields the plug-in; in the end there is what the labels name, and nothing is shown."""
    with csi_host.agreeing(tmp_path):
        yield csi_host
    faults = (csi_host.folder / "store/faults").iterdir()
    assert [path.name for path in faults if path.read_text()] == []  # all were run into


async def start(folder: Path, host: CsiHost, **options: str) -> Rig:
    rig = Rig(folder, options={"fast": host.config(folder / "fast", **options)}, locate=host.locate)
    await rig.start()
    return rig


@pytest.fixture
async def rig(host, tmp_path):
    """Yields an agent whose pool has an image, `base`."""
    rig = await start(tmp_path, host)
    rig.put("base", PADDED)
    yield rig
    await rig.runner.stop()


# -- the plug-in dies, or its answer does ----------------------------------------------------------


@pytest.mark.parametrize(
    ("action", "call"),
    [
        (CREATE, "CreateVolume"),
        (COPY, "NodePublishVolume"),
        (CLONE, "CreateVolume"),
        (SNAPSHOT, "CreateSnapshot"),
        (DELETE, "DeleteVolume"),
    ],
    ids=["create", "copy", "clone", "snapshot", "delete"],
)
@pytest.mark.parametrize("fault", ["die-before", "die-after", "lose-reply"])
async def test_a_plug_in_that_dies_is_asked_again(rig, host, action, call, fault):
    """Before it did what it was asked for, after it, and with its answer on the way."""
    before = host.ids()
    host.misbehave(call, fault)
    with host.started_again() if "die" in fault else contextlib.nullcontext():
        done = await rig.run(DO, action)
    assert done.state == Attempt.STATE_SUCCEEDED, done
    assert rig.staged() == []
    assert len(host.ids() ^ before) == (0 if action is SNAPSHOT else 1)


async def test_what_is_pending_is_asked_for_again(rig, host):
    host.misbehave("CreateVolume", "ABORTED", "DEADLINE_EXCEEDED", "ABORTED")
    done = await rig.run(DO, CREATE)
    assert done.state == Attempt.STATE_SUCCEEDED, done


def test_who_is_stopped_waits_for_the_plug_in_and_leaves_nothing(host, tmp_path):
    """What it is doing would come after what makes up for it."""
    driver = opened(host, tmp_path / "fast")
    making = driver.create(
        work("do"), "made", image_format=Format.RAW, size_bytes=MIB, preallocated=False
    )
    asked = host.calls().count("CreateVolume")
    host.misbehave("CreateVolume", "wait")
    next(step for step in making if host.calls().count("CreateVolume") > asked)
    with pytest.raises(AttemptCancelled):
        making.throw(AttemptCancelled())
    assert (host.ids(), driver.staged()) == (set(), [])


async def test_every_asking_is_for_the_same_name(rig, host):
    host.misbehave("CreateVolume", "lose-reply", "lose-reply")
    asked = host.calls().count("CreateVolume")
    await rig.run(DO, CREATE)
    assert host.calls().count("CreateVolume") == asked + 3
    assert records(rig.folder / "fast")["made"]["name"].startswith("cm-made-")


async def test_a_plug_in_that_forgets_what_a_clone_is_of_makes_another(tmp_path):
    """As the reference plug-in does: it knows its volume no more when it is asked again."""
    with running("--forgetful", "--round-to=512") as host, host.agreeing(tmp_path):
        rig = await start(tmp_path, host)
        rig.put("base", PADDED)
        host.misbehave("CreateVolume", "lose-reply")
        done = await rig.run(DO, CLONE)
        assert done.state == Attempt.STATE_SUCCEEDED, done
        assert rig.data("made").read_bytes() == PADDED
        await rig.runner.stop()


# -- the plug-in refuses ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("RESOURCE_EXHAUSTED", "NO_SPACE"),
        ("OUT_OF_RANGE", "FIELD_INVALID"),
        ("INVALID_ARGUMENT", "STORAGE_FAILED"),
        ("PERMISSION_DENIED", "STORAGE_FAILED"),
    ],
)
async def test_what_is_refused_leaves_nothing(rig, host, fault, reason):
    before = host.ids()
    host.misbehave("CreateVolume", fault)
    failed = await rig.run(DO, CREATE)
    assert (failed.state, failed.failure.reason) == (Attempt.STATE_FAILED, reason)
    assert (rig.images(), rig.staged(), host.ids()) == (["base"], [], before)


async def test_a_fault_that_stays_is_a_failure_whose_record_stays_in_sight(rig, host):
    """Until the plug-in can say what became of it; then whoever sweeps removes it."""
    before = host.ids()
    host.misbehave("CreateVolume", "lose-reply", *["INTERNAL"] * 6)
    failed = await rig.run(DO, CREATE)
    assert (failed.state, failed.failure.reason) == (Attempt.STATE_FAILED, "STORAGE_FAILED")
    assert rig.images() == ["base"]
    [oddity] = rig.pools["fast"].survey()
    assert (oddity.kind, oddity.attempt) == (OddityKind.STAGED, DO)
    assert len(host.ids() - before) == 1
    await rig.restart()
    assert (rig.staged(), host.ids()) == ([], before)


async def test_a_plug_in_that_stays_away_leaves_it_open(host, tmp_path):
    """No verdict is taken from silence; when stopped, it settles once it is back."""
    rig = await start(tmp_path, host, patience="0")
    host.misbehave("CreateVolume", "lose-reply")
    open_still = await rig.run(DO, CREATE)
    assert open_still.state == Attempt.STATE_UNKNOWN, open_still
    assert rig.images() == []
    await rig.cancel(DO)
    stopped = await rig.settled(DO)
    assert stopped.state == Attempt.STATE_CANCELLED, stopped
    assert (rig.images(), rig.staged()) == ([], [])
    await rig.runner.stop()


async def test_an_image_that_the_plug_in_needs_is_put_back(rig, host):
    host.misbehave("DeleteVolume", "FAILED_PRECONDITION")
    refused = await rig.run(DO, DELETE)
    assert refused.failure.reason == "IMAGE_IN_USE", refused
    assert (rig.images(), rig.staged()) == (["base"], [])
    assert rig.data("base").read_bytes() == PADDED
    assert (await rig.run(attempt_name("verify"), VERIFY)).state == Attempt.STATE_SUCCEEDED


async def test_an_image_that_has_a_snapshot_stays(rig, host):
    await rig.run(attempt_name("snapshot"), SNAPSHOT)
    refused = await rig.run(DO, DELETE)
    assert refused.failure.reason == "IMAGE_IN_USE", refused
    assert (await rig.run(attempt_name("forget"), FORGET)).output.delete_snapshot.existed
    assert (await rig.run(attempt_name("again"), DELETE)).output.delete_image.existed
    assert host.ids("snapshots") == set()


async def test_an_image_stays_while_something_is_made_from_it(rig, host):
    """Its clone could not be asked for again, and so not be found."""
    driver = rig.pools["fast"]
    cloning = driver.clone(work("clone"), "base", "made", copy_allowed=False)
    host.misbehave("CreateVolume", "ABORTED")
    asked = host.calls().count("CreateVolume")
    next(step for step in cloning if host.calls().count("CreateVolume") > asked)
    refused = await rig.run(DO, DELETE)
    assert (refused.failure.reason, rig.images()) == ("IMAGE_IN_USE", ["base"])
    driver.discard(attempt_name("clone"))


# -- what volumes hold -----------------------------------------------------------------------------


async def test_new_volumes_read_as_zeros_whatever_was_there_before(rig, host):
    await rig.run(DO, CREATE)
    assert rig.data("made").read_bytes() == bytes(MIB)
    await rig.run(attempt_name("copy"), copy_action("fast/base", "fast/copy"))
    assert rig.data("copy").read_bytes() == PADDED


async def test_a_volume_is_copied_into_a_pool_of_files_and_back(host, tmp_path):
    options = {"fast": host.config(tmp_path / "fast"), "files": {}}
    rig = Rig(tmp_path, options=options)
    await rig.start()
    rig.put("base", PADDED, pool_id="files")
    for number, (source, target) in enumerate(
        [("files/base", "fast/disk"), ("fast/disk", "files/disk")]
    ):
        copy = copy_action(source, target, take_digest=True)
        copied = await rig.run(attempt_name("copy", number + 1), copy)
        assert copied.state == Attempt.STATE_SUCCEEDED, copied
    assert rig.data("disk", "files").read_bytes() == PADDED
    assert host.locate(tmp_path / "fast/images/disk").read_bytes() == PADDED
    await rig.runner.stop()


@pytest.mark.skipif(shutil.which("qemu-img") is None, reason="there is no qemu-img")
async def test_an_image_that_has_snapshots_is_copied_as_one_that_has_none(host, tmp_path):
    """Of a qcow2 image they are layers below it; it reads through no other image."""
    rig = Rig(tmp_path, options={"fast": host.config(tmp_path / "fast"), "files": {}})
    await rig.start()
    disk = address("files/disk")
    make = CreateImage(target=disk, virtual_size_bytes=MIB, format=IMAGE_FORMAT_QCOW2)
    for name, action in {
        "make": Action(create_image=make),
        "snapshot": Action(create_snapshot=CreateSnapshot(target=disk, snapshot_id="old")),
        "copy": copy_action("files/disk", "fast/disk", format=IMAGE_FORMAT_RAW),
    }.items():
        done = await rig.run(attempt_name(name), action)
        assert done.state == Attempt.STATE_SUCCEEDED, done
    assert host.locate(tmp_path / "fast/images/disk").read_bytes() == bytes(MIB)
    await rig.runner.stop()


async def test_a_volume_that_is_larger_is_told_of_as_it_is(tmp_path):
    with running("--round-to=4194304") as host, host.agreeing(tmp_path):
        rig = await start(tmp_path, host)
        (tmp_path / "small").write_bytes(PADDED)
        rig.put("base", PADDED)
        copied = await rig.run(DO, COPY)
        assert copied.output.copy_image.virtual_size_bytes == 4 * MIB
        assert rig.data("made").read_bytes() == PADDED.ljust(4 * MIB, b"\0")
        verified = await rig.run(attempt_name("verify"), VERIFY)
        assert verified.output.verify_image.digest == copied.output.copy_image.digest
        await rig.runner.stop()


# -- the agent dies --------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("crash_point", "both"),
    [  # the conformance suites go through all of them
        (crash_points.AFTER_VOLUME, False),
        (crash_points.IN_COPY, True),
        (crash_points.BEFORE_RENAME, True),
    ],
)
async def test_a_copy_killed_with_its_agent_is_done_once_or_not_at_all(
    host, tmp_path, crash_point, both
):
    """S-V6, S-V7: real processes; what the agent had shown on its host is taken back."""
    labels, socket = tmp_path / "fast", host.socket
    options = "".join(f",{key}={value}" for key, value in host.config(labels)["options"].items())
    # Shared: its record also names the node that writes.
    agents = Host(tmp_path, {"fast": f",driver=csi,shared{options}"}, paths={"fast": socket})
    labels.mkdir()
    put(host, labels)
    agent = await agents.start(crash_point=crash_point)
    async with agent.stub() as stub:
        await send(stub.CopyImage, agent.requests.copy(DO, COPY))
        await agent.died()
    if both:
        host.kill()
        host.start()
    agent = await agents.start()
    copied = await agent.settle(DO)
    assert copied.state == Attempt.STATE_SUCCEEDED, copied
    assert host.locate(labels / "images/made").read_bytes() == PADDED
    assert "nodes" not in records(labels)["made"]
    async with agent.stub() as stub:
        await stub.Compensate(agent.requests.compensate(UNDO, DO, COPY))
        undone = await agent.settle(UNDO)
    assert undone.state == Attempt.STATE_SUCCEEDED, undone
    assert (agents.images("fast"), agents.staged()) == (["base"], [])
    await agent.stop()
    await agents.clean_up()


# -- several hosts, and who they are ---------------------------------------------------------------


def test_a_fence_keeps_a_late_host_out_and_its_volume_goes(host, tmp_path):
    """One rename decides; what the lost host had made is removed by the one that fences."""
    ours, theirs = opened(host, tmp_path / "fast"), opened(host, tmp_path / "fast")
    making = ours.create(
        work("do"), "made", image_format=Format.RAW, size_bytes=MIB, preallocated=False
    )
    next(step for step in making if step.last)
    assert len(host.ids()) == 1
    theirs.fence(DO)
    assert host.ids() == set()
    with pytest.raises(AttemptFenced):
        list(making)
    assert theirs.list_images(after="", count_max=9) == []
    theirs.remove_fence(DO)


def test_a_host_that_was_fenced_while_the_plug_in_worked_leaves_nothing(host, tmp_path):
    ours, theirs = opened(host, tmp_path / "fast"), opened(host, tmp_path / "fast")
    making = ours.create(
        work("do"), "made", image_format=Format.RAW, size_bytes=MIB, preallocated=False
    )
    host.misbehave("CreateVolume", "ABORTED")
    asked = host.calls().count("CreateVolume")
    next(step for step in making if host.calls().count("CreateVolume") > asked)  # and will again
    theirs.fence(DO)
    with pytest.raises(AttemptFenced):
        list(making)
    assert host.ids() == set()
    theirs.remove_fence(DO)


def test_two_pools_of_one_plug_in_never_name_the_same_volume(host, tmp_path):
    """Also by what is brought in before anybody has served them."""
    path = tmp_path / "content"
    path.write_bytes(PADDED)
    for name in ("fast", "slow"):
        (tmp_path / name).mkdir()
        pool = PoolConfig(pool_id=name, **host.config(tmp_path / name))
        driver = CSI.open(pool, CSI.identity(pool))
        list(driver.import_file(work("import"), path, "base", image_format=Format.RAW))
    assert named(tmp_path / "fast").isdisjoint(named(tmp_path / "slow"))


async def test_what_is_brought_in_again_is_not_what_is_still_being_removed(host, tmp_path):
    rig = await start(tmp_path, host, patience="0")
    rig.put("base", PADDED)
    host.misbehave("DeleteVolume", "UNAVAILABLE")
    assert (await rig.run(DO, DELETE)).state == Attempt.STATE_UNKNOWN
    rig.put("base", PADDED)
    await rig.restart()
    gone = await rig.settled(DO)
    assert gone.output.delete_image.existed, gone
    assert rig.data("base").read_bytes() == PADDED
    await rig.runner.stop()


async def test_labels_that_are_not_mounted_are_never_taken_for_an_empty_pool(rig, host):
    asked = host.calls().count("CreateVolume")
    mark = rig.folder / "fast/pool.json"
    mark.rename(rig.folder / "aside")
    failed = await rig.run(DO, CREATE)
    assert failed.failure.reason == "POOL_FAILING", failed
    (rig.folder / "aside").rename(mark)
    assert host.calls().count("CreateVolume") == asked


def test_an_agent_starts_while_its_plug_in_is_away(tmp_path):
    with running() as host:
        opened(host, tmp_path / "fast")
        host.kill()
        driver = opened(host, tmp_path / "fast", patience="0")
        assert "copy_image" in driver.verbs
        assert driver.report().problem is not None
        with pytest.raises(ConfigInvalid, match=r"does not answer .*: is it running"):
            opened(host, tmp_path / "new", patience="0")


def test_another_plug_in_at_the_socket_is_not_served(tmp_path):
    with running() as host:
        opened(host, tmp_path / "fast")
        host.kill()
        host.words = ("--name=other.test.countermand",)
        host.start()
        with pytest.raises(ConfigInvalid, match=r"made by files\.test\.countermand"):
            opened(host, tmp_path / "fast")


def test_a_volume_that_has_gone_is_told_of(host, tmp_path):
    driver = opened(host, tmp_path / "fast")
    for name in ("one", "two", "three"):  # more than one page of the plug-in's list
        list(
            driver.create(
                work(name), name, image_format=Format.RAW, size_bytes=512, preallocated=False
            )
        )
    lost = host.locate(tmp_path / "fast/images/two")
    for path in (lost, lost.with_suffix(".json")):
        path.unlink()
    [oddity] = driver.survey()
    assert (oddity.kind, oddity.name) == (OddityKind.UNSAFE, "images/two")
    assert list(driver.delete(work("delete"), "two"))
    assert driver.survey() == []


def test_secrets_go_with_every_call_and_nowhere_else(tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    secrets = tmp_path / "secrets.json"
    secrets.write_text(json.dumps({"word": "open-sesame"}))
    with running("--secret=open-sesame", "--round-to=512") as host:
        driver = opened(host, tmp_path / "fast", secrets=str(secrets))
        list(
            driver.create(
                work("do"), "made", image_format=Format.RAW, size_bytes=MIB, preallocated=False
            )
        )
        list(driver.create_snapshot(work("snapshot"), "made", "old"))
        list(driver.delete_snapshot(work("forget"), "made", "old"))
        driver.find("made")
        list(driver.delete(work("delete"), "made"))
        assert host.ids() == set()
    kept = [path.read_text() for path in (tmp_path / "fast").rglob("*") if path.is_file()]
    assert "open-sesame" not in " ".join([*kept, caplog.text, repr(driver.pool.options)])


# -- what is offered -------------------------------------------------------------------------------

NODE_ONLY = Abilities(shows=True)
CONTROLLER_ONLY = Abilities(controller=EVERYTHING.controller)


@pytest.mark.parametrize(
    ("abilities", "zeroed", "verbs"),
    [
        (NODE_ONLY, False, {"verify_image", "noop"}),
        (
            CONTROLLER_ONLY,
            False,
            {"delete_image", "clone_image", "create_snapshot", "delete_snapshot", "noop"},
        ),
        (
            Abilities(controller=frozenset({"CREATE_DELETE_VOLUME"})),
            True,
            {"create_image", "delete_image", "noop"},
        ),
    ],
    ids=["node-only", "controller-only", "zeroed"],
)
def test_the_verbs_follow_from_what_the_plug_in_can_do(abilities, zeroed, verbs):
    assert verbs_of(abilities, zeroed=zeroed) == verbs


def test_a_real_plug_in_without_some_of_it_is_served_with_the_rest(tmp_path):
    lacking = "CLONE_VOLUME,PUBLISH_UNPUBLISH_VOLUME,STAGE_UNSTAGE_VOLUME,GET_CAPACITY,LIST_VOLUMES"
    with running(f"--without={lacking}", "--round-to=512") as host:
        driver = opened(host, tmp_path / "fast")
        assert driver.verbs == CSI.verbs - {"clone_image"}
        list(
            driver.create(
                work("do"), "made", image_format=Format.RAW, size_bytes=MIB, preallocated=False
            )
        )
        assert host.locate(tmp_path / "fast/images/made").read_bytes() == bytes(MIB)
        assert (driver.report().problem, driver.survey()) == (None, [])


def test_a_volume_is_made_where_this_host_reaches_it(tmp_path):
    with running("--zone=cellar") as host:
        driver = opened(host, tmp_path / "fast")
        list(
            driver.create(
                work("do"), "made", image_format=Format.RAW, size_bytes=MIB, preallocated=False
            )
        )
        assert named(tmp_path / "fast") == host.ids()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "needs labels="),
        ({"labels": "here"}, "labels must be absolute"),
        ({"labels": "/l", "patience": "long"}, "patience must be seconds"),
        ({"labels": "/l", "secrets": "/no/such"}, "secrets: /no/such: No such file"),
        ({"labels": "/l", "parameters": "/dev/null"}, "must be JSON"),
    ],
)
def test_options_that_cannot_be_are_refused_with_what_would_be_right(options, words):
    with pytest.raises(ConfigInvalid, match=words):
        CSI.check(PoolConfig(pool_id="fast", path=Path("/s"), options=options))


def test_names_are_short_and_of_one_attempt_only():
    names = {
        name_of(pool, cluster, attempt, "x" * 63)
        for pool in ("p", "q")
        for cluster in ("c", "d")
        for attempt in (DO, UNDO)
    }
    assert len(names) == 8
    assert name_of("p", "c", DO, "x" * 63) in names  # the same whenever it is asked for
    assert max(map(len, names)) <= 63


@pytest.mark.parametrize(("said", "expected"), [(None, False), (True, True)])
async def test_journals_are_beside_no_pool_but_one_that_says_so(host, tmp_path, said, expected):
    """The labels lie on the journal's disk; where the volumes are, only the plug-in knows."""
    described = host.config(tmp_path / "fast") | {"journals_beside": said}
    rig = Rig(tmp_path, options={"fast": described}, locate=host.locate)
    await rig.start()
    assert rig.pools["fast"].pool.files._data.journals_beside is expected
    await rig.runner.stop()


# -- helpers ---------------------------------------------------------------------------------------


def work(task: str) -> Work:
    return Work(
        attempt=attempt_name(task), cluster_id="c", note="", now=lambda: NOW, crash=crash.never
    )


def opened(host: CsiHost, labels: Path, **options: str) -> CsiDriver:
    labels.mkdir(exist_ok=True)
    pool = PoolConfig(pool_id="fast", **host.config(labels, **options))
    return CSI.open(pool, CSI.mark(pool, "one"))


def put(host: CsiHost, labels: Path) -> None:
    """Brings in the image that is copied."""
    content = labels.parent / "content"
    content.write_bytes(PADDED)
    steps: Iterator[Step] = opened(host, labels).import_file(
        work("import"), content, "base", image_format=Format.RAW
    )
    list(steps)
