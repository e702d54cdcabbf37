"""Which folder is which pool: what is not mounted never counts as empty."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from agent.__main__ import main
from agent.drivers import folders as module
from agent.drivers import qemu
from agent.drivers.driver import PoolConfig
from agent.drivers.plugins import ConfigInvalid, installed
from agent.journal import InlineJournal, Journal, open_connection
from agent.pools import check_folders, identify
from countermand.rpc.errors import StorageFailed
from countermand.v1.agent_pb2 import CreateImageRequest
from countermand.v1.attempt_pb2 import Attempt
from countermand.v1.verb_pb2 import Action, CreateImage, DeleteImage
from tests.agent.processes import DiedEarlyError, Host
from tests.agent.requests import address, attempt_name
from tests.agent.rig import Gate, Rig

MAKE = attempt_name("make")
UNDO = attempt_name("make", 2)
ACTION = Action(create_image=CreateImage(target=address("fast/disk"), virtual_size_bytes=4096))
DELETE = Action(delete_image=DeleteImage(target=address("fast/disk")))


def take_mount_away(folder: Path, pool_id: str = "fast") -> None:
    """Leaves what a missing mount leaves: an empty folder, or what an agent may make in it."""
    (folder / pool_id).rename(folder / f"{pool_id}-away")
    for name in ("images", "staging"):
        (folder / pool_id / name).mkdir(parents=True)


def bring_mount_back(folder: Path, pool_id: str = "fast") -> None:
    (folder / pool_id).rename(folder / "mount-point")
    (folder / f"{pool_id}-away").rename(folder / pool_id)


def assert_not_mounted(attempt: Attempt) -> None:
    assert attempt.state == Attempt.STATE_FAILED, attempt
    assert (attempt.failure.reason, attempt.failure.retriable) == ("STORAGE_FAILED", True)
    assert attempt.failure.metadata["error"] == "NOT_MOUNTED"


# -- while the agent runs -----------------------------------------------------------------------


async def test_a_compensation_does_not_take_a_missing_mount_for_nothing_to_undo(rig, tmp_path):
    await rig.run(MAKE, ACTION)
    take_mount_away(tmp_path)
    assert_not_mounted(await rig.make_up(UNDO, MAKE, ACTION))
    bring_mount_back(tmp_path)
    undone = await rig.make_up(attempt_name("make", 3), MAKE, ACTION)
    assert undone.state == Attempt.STATE_SUCCEEDED
    assert rig.images() == []


async def test_a_missing_mount_is_not_an_image_that_has_gone(rig, tmp_path):
    await rig.run(MAKE, ACTION)
    take_mount_away(tmp_path)
    deleted = await rig.run(attempt_name("delete"), DELETE)
    assert_not_mounted(deleted)
    with pytest.raises(StorageFailed, match="NOT_MOUNTED"):
        rig.pools["fast"].find("disk")
    with pytest.raises(StorageFailed, match="NOT_MOUNTED"):
        rig.pools["fast"].list_images(after="", count_max=9)


async def test_nothing_is_made_where_a_pool_should_be_mounted(rig, tmp_path):
    take_mount_away(tmp_path)
    assert_not_mounted(await rig.run(MAKE, ACTION))
    assert list((tmp_path / "fast").glob("*/*")) == []


async def test_nothing_is_published_where_a_pool_should_be_mounted(tmp_path):
    rig = Rig(tmp_path)
    gate = Gate()
    await rig.start(gate=gate)
    await rig.accept(MAKE, ACTION)
    await gate.arrival(2)  # at its last step before it publishes
    (tmp_path / "fast/pool.json").write_text('{"pool_id": "fast", "identity": "another"}')
    gate.open()
    assert_not_mounted(await rig.settled(MAKE))
    assert rig.images() == []
    await rig.runner.stop()


# -- when the agent starts ----------------------------------------------------------------------


async def identities(folder: Path, *pools: PoolConfig, accepted: tuple[str, ...] = ()):
    """Returns what a start of an agent finds; its journal is in the folder."""
    connection = open_connection(folder / "journal")
    journal = InlineJournal(Journal(connection, new_id=lambda: "one"))
    try:
        return await identify(
            journal,
            pools,
            drivers=installed(),
            accepted=accepted,
            new_id=lambda: os.urandom(4).hex(),
        )
    finally:
        await journal.close()


@pytest.fixture
def fast(tmp_path):
    (tmp_path / "fast").mkdir()
    return PoolConfig(pool_id="fast", path=tmp_path / "fast")


async def test_a_pool_is_marked_once_and_known_again(tmp_path, fast):
    first = await identities(tmp_path, fast)
    assert json.loads((fast.path / "pool.json").read_text()) == {
        "pool_id": "fast",
        "identity": first["fast"],
    }
    assert [path.name for path in fast.path.iterdir()] == ["pool.json"]
    assert await identities(tmp_path, fast) == first


async def test_all_hosts_share_the_identity_that_the_first_wrote(tmp_path, fast):
    first = await identities(tmp_path, fast)
    (tmp_path / "b").mkdir()
    assert await identities(tmp_path / "b", fast) == first


async def test_of_two_hosts_that_mark_at_once_one_wins(tmp_path, fast, monkeypatch):
    write = module._write  # the moment between looking and writing

    def other_was_faster(pool, mark):
        (pool.path / "pool.json").write_text('{"pool_id": "fast", "identity": "theirs"}')
        write(pool, mark)

    monkeypatch.setattr(module, "_write", other_was_faster)
    assert await identities(tmp_path, fast) == {"fast": "theirs"}
    assert [path.name for path in fast.path.iterdir()] == ["pool.json"]


@pytest.mark.parametrize("found", [None, '{"pool_id": "fast", "identity": "other"}'])
async def test_a_pool_that_is_another_than_before_is_refused(tmp_path, fast, found):
    await identities(tmp_path, fast)
    mark = fast.path / "pool.json"
    mark.unlink()
    if found is not None:
        mark.write_text(found)
    with pytest.raises(ConfigInvalid, match=r"is it mounted.*--accept-pool fast"):
        await identities(tmp_path, fast)
    assert mark.exists() == (found is not None)
    accepted = await identities(tmp_path, fast, accepted=("fast",))
    assert await identities(tmp_path, fast) == accepted


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ('{"pool_id": "slow", "identity": "x"}', "marked as pool slow"),
        ("", "nothing that we wrote"),
        ("[]", "nothing that we wrote"),
        ('{"pool_id": "fast", "identity": 7}', "nothing that we wrote"),
    ],
)
async def test_a_folder_that_is_marked_otherwise_is_refused(tmp_path, fast, found, words):
    (fast.path / "pool.json").write_text(found)
    with pytest.raises(ConfigInvalid, match=words):
        await identities(tmp_path, fast, accepted=("fast",))


async def test_a_read_only_pool_needs_no_identity(tmp_path, fast):
    read_only = PoolConfig(pool_id="fast", path=fast.path, read_only=True)
    assert await identities(tmp_path, read_only) == {"fast": ""}
    assert list(fast.path.iterdir()) == []
    marked = await identities(tmp_path, fast)
    assert await identities(tmp_path, read_only) == marked


async def test_accepting_a_pool_that_is_not_served_is_refused(tmp_path, fast):
    with pytest.raises(ConfigInvalid, match="no such pool"):
        await identities(tmp_path, fast, accepted=("slow",))


@pytest.fixture
async def host(tmp_path):
    host = Host(tmp_path, {"fast": ""})
    yield host
    await host.clean_up()


async def test_an_agent_does_not_start_on_a_pool_whose_mount_is_missing(host, tmp_path):
    agent = await host.start()
    async with agent.stub() as stub:
        header = agent.requests.for_action(MAKE, ACTION)
        await stub.CreateImage(CreateImageRequest(header=header, create_image=ACTION.create_image))
    await agent.settle(MAKE)
    agent.process.kill()
    await agent.died()
    (tmp_path / "fast").rename(tmp_path / "away")
    with pytest.raises(DiedEarlyError, match="is it mounted"):
        await host.start()  # on the empty folder of a mount point
    assert list((tmp_path / "fast").iterdir()) == []
    (tmp_path / "fast").rmdir()
    (tmp_path / "away").rename(tmp_path / "fast")
    agent = await host.start()
    async with agent.stub() as stub:
        await stub.Compensate(agent.requests.compensate(UNDO, MAKE, ACTION))
    assert (await agent.settle(UNDO)).state == Attempt.STATE_SUCCEEDED
    assert host.images("fast") == []
    await agent.stop()


# -- folders ------------------------------------------------------------------------------------


def invoke(*arguments: object):
    return CliRunner().invoke(main, list(map(str, arguments)))


@pytest.mark.parametrize(
    ("described", "words"),
    [
        (["x=none"], "does not exist: is it mounted? Make it first: mkdir"),
        (["x=file"], "is a file"),
        (["x=file/below"], "cannot be reached: Not a directory"),
        (["x=a", "y=a"], "are one folder"),
        (["x=a", "y=link"], "are one folder"),
        (["x=a", "y=a/inner"], "lie in one another"),
        (["x=a/inner", "y=a"], "lie in one another"),
        (["x=a", "x=b"], "described twice"),
    ],
)
def test_pools_have_folders_of_their_own(tmp_path, described, words):
    (tmp_path / "a/inner").mkdir(parents=True)
    (tmp_path / "b").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("a")
    pools = [text.replace("=", f"={tmp_path}/") for text in described]
    answer = invoke("serve", f"--data={tmp_path}/d", *[f"--pool={pool}" for pool in pools])
    assert answer.exit_code == 2
    assert words in answer.output, answer.output
    assert not (tmp_path / "none").exists()


def test_folders_beside_each_other_are_fine(tmp_path):
    for name in ("a", "ab"):
        (tmp_path / name).mkdir()
    pools = [PoolConfig(pool_id=name, path=tmp_path / name) for name in ("a", "ab")]
    check_folders(pools, installed())


def test_an_import_makes_no_pool(tmp_path):
    content = tmp_path / "disk.img"
    content.write_bytes(b"x" * 512)
    arguments = ["import", "--image=a", "--format=raw", content]
    answer = invoke(*arguments, f"--pool=p={tmp_path}/p")
    assert answer.exit_code == 2
    assert "does not exist" in answer.output
    assert not (tmp_path / "p").exists()


@pytest.mark.skipif(not qemu.is_installed(), reason="qemu-img is not installed")
def test_an_import_says_why_a_file_is_no_image(tmp_path):
    (tmp_path / "p").mkdir()
    raw, overlay = tmp_path / "disk.raw", tmp_path / "disk.qcow2"
    raw.write_bytes(b"x" * 2**20)
    os.system(f"qemu-img create -q -f qcow2 -F raw -b {raw} {overlay}")
    arguments = ["import", "--image=a", "--format=qcow2", f"--pool=p={tmp_path}/p"]
    for path, words in ((raw, "not in the format qcow2"), (overlay, "reads through another file")):
        answer = invoke(*arguments, path)
        assert answer.exit_code == 1
        assert f"{path} was not imported" in answer.output
        assert words in answer.output


@pytest.mark.parametrize("command", [[], ["serve"], ["import"], ["drivers"], ["check-driver"]])
def test_help_ends_in_an_example(command):
    answer = invoke(*command, "-h")
    assert answer.exit_code == 0
    assert "Example:\n    countermand-agent" in answer.output
