"""Several hosts behind one CSI plug-in: what a lost one still has, and who takes it from it.

Each host has a plug-in process of its own with its own node id, and all have the same volumes, as a
plug-in has that runs on every host of a cluster. A volume is published to one node at a time.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent import recovery
from agent.drivers.csi.driver import CSI, CsiDriver
from agent.drivers.driver import Format, OddityKind, PoolConfig, Steps
from agent.drivers.plugins import ConfigInvalid
from countermand.rpc.errors import AttemptFenced, ImageInUse, ImageUnsafe, StorageFailed
from countermand.sanity.run import Ending
from countermand.v1.verb_pb2 import Action, DeleteImage
from tests.agent.csi_host import CsiHost, named, running
from tests.agent.requests import address, attempt_name
from tests.agent.rig import Rig
from tests.agent.test_csi import DELETE, DO, MIB, PADDED, VERIFY, opened, work
from tests.sanity.served import results, subject

LOST, OURS = "lost", "ours"
DELETE_NONE = Action(delete_image=DeleteImage(target=address("fast/none")))
STAGED = DO.replace("/", "@")


def on_host(host: CsiHost, labels: Path, **options: str) -> CsiDriver:
    """Returns the driver of a pool that several hosts reach, on one of them."""
    labels.mkdir(exist_ok=True)
    config = host.config(labels, **options)
    pool = PoolConfig(pool_id="fast", shared=True, **config)
    return CSI.open(pool, CSI.mark(pool, "one"))


@pytest.fixture(params=["detaches", "detaches not"])
def hosts(request, tmp_path) -> Iterator[tuple[CsiHost, CsiHost]]:
    """Yields the plug-in on two hosts."""
    without = "" if request.param == "detaches" else "--without=PUBLISH_UNPUBLISH_VOLUME"
    with (
        running("--round-to=512", *filter(None, [without]), node=LOST) as lost,
        lost.on_another_host(OURS) as ours,
    ):
        yield lost, ours


def writing(driver: CsiDriver, host: CsiHost) -> Steps[object]:
    """Returns the work of a host that has a volume open, and is just writing to it."""
    steps = driver.create(
        work("do"), "made", image_format=Format.RAW, size_bytes=MIB, preallocated=False
    )
    next(step for step in steps if host.ids("shown"))
    return steps


@pytest.mark.parametrize("hosts", ["detaches"], indirect=True)
def test_a_fence_takes_the_volume_from_the_host_that_was_lost_with_it(hosts, tmp_path):
    """Else its plug-in would keep it, or remove it while it is written to."""
    lost, ours = hosts
    theirs, own = on_host(lost, tmp_path / "fast"), on_host(ours, tmp_path / "fast")
    steps = writing(theirs, lost)
    assert lost.nodes() == {LOST}
    own.fence(DO)
    assert (ours.nodes(), ours.ids()) == (set(), set())
    with pytest.raises(AttemptFenced):
        list(steps)
    assert (own.list_images(after="", count_max=9), own.staged()) == ([], [])


@pytest.mark.parametrize("hosts", ["detaches"], indirect=True)
@pytest.mark.parametrize("fault", ["INTERNAL", "NOT_FOUND"])
def test_a_plug_in_that_does_not_detach_leaves_the_fence_to_be_asked_for_again(
    hosts, tmp_path, fault
):
    """NOT_FOUND too: the interface has it say nothing of whether the node can still write."""
    lost, ours = hosts
    theirs, own = on_host(lost, tmp_path / "fast"), on_host(ours, tmp_path / "fast")
    steps = writing(theirs, lost)
    ours.misbehave("ControllerUnpublishVolume", *[fault] * (3 if fault == "INTERNAL" else 1))
    with pytest.raises((StorageFailed, ImageInUse)):
        own.fence(DO)
    assert len(ours.ids()) == 1
    own.fence(DO)
    assert (ours.nodes(), ours.ids()) == (set(), set())
    with pytest.raises(AttemptFenced):
        list(steps)


@pytest.mark.parametrize("hosts", ["detaches not"], indirect=True)
def test_what_cannot_be_taken_from_a_lost_host_is_not_fenced(hosts, tmp_path):
    """It may be writing: a volume that goes meanwhile may be somebody else's room by then."""
    lost, ours = hosts
    theirs, own = on_host(lost, tmp_path / "fast"), on_host(ours, tmp_path / "fast")
    steps = writing(theirs, lost)
    with pytest.raises(ImageInUse, match=f"node {LOST} .*Start the agent there again") as refused:
        own.fence(DO)
    assert refused.value.metadata["holder"] == f"node {LOST}"
    assert len(ours.ids()) == 1
    list(steps)  # nothing has changed for it: it comes to its effect
    assert [image.image_id for image in own.list_images(after="", count_max=9)] == ["made"]
    own.fence(DO)


@pytest.mark.parametrize("hosts", ["detaches not"], indirect=True)
def test_a_host_that_is_off_for_good_is_told_so_by_hand(hosts, tmp_path):
    lost, ours = hosts
    theirs, own = on_host(lost, tmp_path / "fast"), on_host(ours, tmp_path / "fast")
    steps = writing(theirs, lost)
    record = tmp_path / f"fast/staging/{STAGED}/image/volume.json"
    with pytest.raises(ImageInUse, match=str(record.relative_to(tmp_path / "fast"))):
        own.discard(DO)
    steps.close()
    lost.kill()
    ours.switched_off(LOST)
    record.write_text(json.dumps(json.loads(record.read_text()) | {"nodes": []}))
    own.fence(DO)
    assert (ours.ids(), own.staged()) == (set(), [])


def test_an_image_that_is_made_names_no_host(hosts, tmp_path):
    """Whoever removes it later must not take it from whoever uses it by then."""
    lost, ours = hosts
    theirs, own = on_host(lost, tmp_path / "fast"), on_host(ours, tmp_path / "fast")
    list(writing(theirs, lost))
    assert "nodes" not in json.loads((tmp_path / "fast/images/made/volume.json").read_text())
    with theirs.reading("made", Format.RAW):
        undoing = own.make_up_for(work("undo"), "made", made_by=DO)
        with pytest.raises(ImageInUse):
            list(undoing)
        assert lost.nodes() == {LOST}
    assert list(own.make_up_for(work("undo"), "made", made_by=DO))
    assert ours.ids() == set()


def test_a_host_is_itself_also_while_its_plug_in_is_away(tmp_path):
    """What another host was told by its own plug-in is no answer."""
    with (
        running("--round-to=512", node=LOST) as lost,
        lost.on_another_host(OURS) as ours,
    ):
        on_host(ours, tmp_path / "fast")
        on_host(lost, tmp_path / "fast")
        ours.kill()
        driver = on_host(ours, tmp_path / "fast", patience="0")
        assert driver.pool.abilities.node_id == OURS


# -- where volumes are shown -----------------------------------------------------------------------


def test_two_pools_that_would_show_volumes_in_one_place_are_refused(csi_host, tmp_path):
    targets = str(tmp_path / "targets")
    opened(csi_host, tmp_path / "fast", targets=targets)
    (tmp_path / "slow").mkdir()
    config = csi_host.config(tmp_path / "slow", targets=targets)
    with pytest.raises(ConfigInvalid, match=f"targets={targets} .*pool fast.* one of its own"):
        CSI.open(PoolConfig(pool_id="slow", **config), "")
    opened(csi_host, tmp_path / "fast", targets=targets)  # the same pool again


async def test_a_read_only_pool_takes_back_what_it_still_shows(csi_host, tmp_path):
    """It is this host's, not the pool's: the sweep sees to it, and touches nothing else."""
    with csi_host.agreeing(tmp_path):
        content = tmp_path / "content"
        content.write_bytes(PADDED)
        driver = opened(csi_host, tmp_path / "fast")
        list(driver.import_file(work("import"), content, "base", image_format=Format.RAW))
        own = csi_host.config(tmp_path / "fast") | {"read_only": True}
        rig = Rig(tmp_path, options={"fast": own})
        await rig.start()
        csi_host.misbehave("NodeUnpublishVolume", *["INTERNAL"] * 3)
        await rig.run(DO, VERIFY)
        assert csi_host.ids("shown") == named(tmp_path / "fast")
        await recovery.sweep(rig.runner.journal, rig.pools, rig.runner.executor)
        await rig.runner.stop()


# -- records that cannot be read -------------------------------------------------------------------

DAMAGED = {
    "empty": b"",
    "no text": b"\xff",
    "cut off": b'{"thing": "VOL',
    "of another kind": b'{"thing": "VOLUME", "name": "x", "id": 7}',
    "deep": b"[" * 200_000,
}


@pytest.mark.parametrize("damage", DAMAGED)
async def test_a_damaged_record_is_told_of_and_harms_no_other(csi_host, tmp_path, damage):
    """Nobody can say which volume it was for: it stays, and all else is swept and served."""
    with csi_host.agreeing(tmp_path):
        rig = Rig(
            tmp_path, options={"fast": csi_host.config(tmp_path / "fast")}, locate=csi_host.locate
        )
        await rig.start()
        rig.put("base", PADDED)
        driver: CsiDriver = rig.pools["fast"]
        for name in ("a", "b"):
            await rig.run(attempt_name(name), DELETE_NONE)  # of closed attempts
            staged = driver.layout.staged(attempt_name(name))
            staged.mkdir(parents=True)
        [damaged] = (tmp_path / "fast/staging").glob("*tasks@a@*/image")
        (damaged / "volume.json").write_bytes(DAMAGED[damage])
        await recovery.sweep(rig.runner.journal, rig.pools, rig.runner.executor)
        assert [attempt_name("a")] == driver.staged()
        [oddity] = driver.survey()
        assert (oddity.kind, "cannot be read" in oddity.why) == (OddityKind.STAGED, True)
        with pytest.raises(ImageUnsafe, match=r"volume\.json cannot be read"):
            driver.discard(attempt_name("a"))
        gone = await rig.run(attempt_name("delete"), DELETE)
        assert gone.output.delete_image.existed, gone
        driver.layout.files.remove_file(damaged / "volume.json")  # as it says
        await recovery.sweep(rig.runner.journal, rig.pools, rig.runner.executor)
        assert driver.staged() == []
        await rig.runner.stop()


async def test_agents_behind_one_plug_in_keep_the_promises_between_hosts(tmp_path):
    """Whatever `agent-sanity` asks of fences, over the wire."""
    with (
        running("--round-to=512", node=LOST) as lost,
        lost.on_another_host(OURS) as ours,
        lost.agreeing(tmp_path),
    ):
        options = [host.config(tmp_path / "fast") | {"shared": True} for host in (lost, ours)]
        for name in ("a", "b", "fast"):
            (tmp_path / name).mkdir()
        async with (
            subject(tmp_path / "a", options=options[0]) as one,
            subject(tmp_path / "b", options=options[1]) as other,
        ):
            one.other = other
            found = await results(one, "fence.", skip=("not_shared",))
    assert [(one.instance.label, one.why) for one in found if one.ending is not Ending.KEPT] == []
