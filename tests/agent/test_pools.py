"""Which folder is which pool: what is not mounted never counts as empty."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import threading
from contextlib import aclosing, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from agent import pools as pools_module
from agent import runner as runner_module
from agent.__main__ import main
from agent.closed import ClosedPool
from agent.drivers import folders as module
from agent.drivers import qemu
from agent.drivers.driver import PoolConfig
from agent.drivers.file import FileDriver
from agent.drivers.files import RealFiles
from agent.drivers.plugins import ConfigInvalid, installed
from agent.executors import DetachedCalls
from agent.journal import InlineJournal, Journal, open_connection
from agent.locking import PoolLocks
from agent.pools import Pools, check_folders
from agent.service import AgentService
from countermand.rpc.errors import PoolFailing
from countermand.v1.agent_pb2 import CreateImageRequest, GetHostRequest
from countermand.v1.attempt_pb2 import Attempt
from countermand.v1.verb_pb2 import Action, CreateImage, DeleteImage
from tests.agent.processes import DiedEarlyError, Host
from tests.agent.requests import address, attempt_name
from tests.agent.rig import NOW, Gate, Rig

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
    """An action goes on once the mount is back; a compensation is tried again by its workflow."""
    is_action = attempt.kind == Attempt.KIND_ACTION
    assert attempt.state == (Attempt.STATE_UNKNOWN if is_action else Attempt.STATE_FAILED), attempt
    assert (attempt.failure.reason, attempt.failure.retriable) == ("POOL_FAILING", True)
    assert "is it mounted" in attempt.failure.message


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
    with pytest.raises(PoolFailing, match="is it mounted"):
        rig.pools["fast"].find("disk")
    with pytest.raises(PoolFailing, match="is it mounted"):
        rig.pools["fast"].list_images(after="", count_max=9)


async def test_what_begins_while_a_mount_is_missing_goes_on_once_it_is_back(
    rig, tmp_path, monkeypatch
):
    """As if its agent had found the pool closed at its start: nothing fails of it."""
    monkeypatch.setattr(runner_module, "LOOK_AGAIN_DELAY_S", 0.01)
    take_mount_away(tmp_path)
    away = tmp_path / "fast-away"
    states: list[Attempt.State.ValueType] = []
    async with aclosing(rig.runner.watchers.watch(None)) as batches:
        await rig.accept(MAKE, ACTION)
        async for batch in batches:
            states += [rig.runner.tell(record).state for record in batch.changes]
            if states.count(Attempt.STATE_UNKNOWN) == 1 and away.exists():
                assert rig.pools["fast"].report().problem.reason == "POOL_FAILING"
                bring_mount_back(tmp_path)
            if states[-1:] == [Attempt.STATE_SUCCEEDED]:
                break
    assert Attempt.STATE_FAILED not in states
    assert rig.images() == ["disk"]


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


async def opened(
    folder: Path, *configs: PoolConfig, accepted: tuple[str, ...] = (), **fields: Any
) -> Pools:
    """Returns what a start of an agent finds; its journal is in the folder."""
    connection = open_connection(folder / "journal")
    journal = InlineJournal(Journal(connection, new_id=lambda: "one"))
    new_id = lambda: os.urandom(4).hex()  # noqa: E731 - as short as it gets
    pools = Pools(journal, configs, drivers=installed(), new_id=new_id, **fields)
    try:
        await pools.open(accepted)
    finally:
        await journal.close()
    return pools


async def identities(folder: Path, *configs: PoolConfig, **fields: Any):
    """Returns the identities of pools that all open."""
    pools = await opened(folder, *configs, **fields)
    assert not any(isinstance(driver, ClosedPool) for driver in pools.drivers.values())
    return pools.identities


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
    assert sorted(path.name for path in fast.path.iterdir()) == ["images", "pool.json", "staging"]
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
    assert sorted(path.name for path in fast.path.iterdir()) == ["images", "pool.json", "staging"]


def why(pools: Pools) -> str:
    """Returns why the pool is closed."""
    driver = pools.drivers["fast"]
    assert isinstance(driver, ClosedPool)
    return driver.why


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (None, r"lost its pool.json.*is it mounted.*write it again: .*--accept-pool fast"),
        ('{"pool_id": "fast", "identity": "other"}', "not the one.*mounted.*--accept-pool fast"),
        ('{"pool_id": "slow", "identity": "other"}', "marked as pool slow"),
    ],
)
async def test_a_pool_that_is_another_than_before_is_not_served(tmp_path, fast, found, words):
    """And keeps its agent from nothing else."""
    known = await identities(tmp_path, fast)
    mark = fast.path / "pool.json"
    mark.unlink()
    if found is not None:
        mark.write_text(found)
    pools = await opened(tmp_path, fast)
    assert re.search(words, why(pools), re.DOTALL)
    assert pools.identities == known
    assert mark.exists() == (found is not None)
    if found is None or "fast" in found:
        accepted = await identities(tmp_path, fast, accepted=("fast",))
        assert await identities(tmp_path, fast) == accepted != known


def paste(command: str) -> None:
    """Runs what was said, as whoever reads it would."""
    subprocess.run(["sh", "-c", command], check=True)


async def test_what_is_said_of_a_lost_mark_puts_it_back(tmp_path, fast):
    known = await identities(tmp_path, fast)
    (fast.path / "pool.json").unlink()
    said = re.search(r"write it again: (.*) \. ", why(await opened(tmp_path, fast)))
    assert said is not None
    paste(said[1])
    assert await identities(tmp_path, fast) == known


async def test_what_is_said_of_a_mark_of_another_name_gives_the_folder_its_new_one(tmp_path, fast):
    known = await identities(tmp_path, fast)
    renamed = replace(fast, pool_id="quick")
    with pytest.raises(ConfigInvalid, match=f"serve it as fast={fast.path}; or") as refused:
        await opened(tmp_path, renamed)
    said = str(refused.value).partition("its new name: ")[2]
    paste(said)
    assert await identities(tmp_path, renamed) == {"quick": known["fast"]}


async def test_a_new_pool_that_its_driver_refuses_is_refused_each_time(tmp_path, fast):
    """It was marked, and yet never served: whoever has described it must hear of it."""

    def refuse(_config: PoolConfig, _identity: str) -> FileDriver:
        raise ConfigInvalid("it holds what this driver cannot serve")

    for _ in range(2):
        with pytest.raises(ConfigInvalid, match="cannot serve"):
            await opened(tmp_path, fast, opening=refuse)
    await identities(tmp_path, fast)
    assert "cannot serve" in why(await opened(tmp_path, fast, opening=refuse))


async def test_a_folder_that_has_gone_says_what_to_do(tmp_path, fast):
    with pytest.raises(ConfigInvalid, match=r"is it mounted\? If the pool is new, make it"):
        await opened(tmp_path, PoolConfig(pool_id="new", path=tmp_path / "none"))
    read_only = PoolConfig(pool_id="fast", path=fast.path, read_only=True)
    for pool in (read_only, fast):
        await identities(tmp_path, pool)
        fast.path.rename(tmp_path / "away")
        assert "is it mounted" in why(await opened(tmp_path, pool))
        (tmp_path / "away").rename(fast.path)


async def test_a_pool_is_served_as_soon_as_its_storage_answers(tmp_path, monkeypatch):
    """What keeps it waiting keeps nobody else, and is told of as failing."""
    rig = Rig(tmp_path, options={"fast": {}, "other": {}})
    await rig.start()
    await rig.runner.stop()
    monkeypatch.setattr(pools_module, "OPEN_WAIT_S", 0.05)
    answers = threading.Event()

    class Hanging(RealFiles):
        def list_folder(self, path: Path) -> list[str]:
            if path.parent.name == "fast":
                assert answers.wait(60)
            return super().list_folder(path)

    rig.files = Hanging()
    rig.calls = DetachedCalls("open")
    await rig.start()
    await rig.opening._tasks["other"]  # however slow this machine is
    service = AgentService(rig.runner, now=lambda: NOW, version="1")
    told = (await service.GetHost(GetHostRequest(), None)).host.pools
    reasons = {pool.pool_id: pool.problem.reason for pool in told}
    assert reasons == {"fast": "POOL_FAILING", "other": ""}
    assert "has not answered" in told[0].problem.message
    assert set(told[1].verbs) == set(told[0].verbs)  # of a failing one all that it could do
    with pytest.raises(PoolFailing):
        await rig.accept(MAKE, ACTION)
    answers.set()
    await asyncio.wait(rig.opening._tasks.values())
    assert (await rig.run(MAKE, ACTION)).state == Attempt.STATE_SUCCEEDED
    await rig.runner.stop()


async def test_what_a_driver_raises_is_told_whatever_it_is():
    """Even what no future takes: whoever asked would wait for ever."""

    def ends() -> None:
        raise StopIteration("defect")

    with pytest.raises(RuntimeError, match="defect"):
        await DetachedCalls("open").call(ends)


async def test_an_attempt_whose_pool_is_closed_is_of_unknown_outcome(tmp_path):
    """Its compensation gets its tombstone at once, fails, and succeeds once the pool is back."""
    rig, gate = Rig(tmp_path), Gate()
    await rig.start(gate=gate)
    await rig.accept(MAKE, ACTION)
    await gate.arrival()
    stopping = asyncio.ensure_future(rig.runner.stop())
    await asyncio.sleep(0)  # it has left the attempt as it is
    gate.open()
    await stopping
    take_mount_away(tmp_path)
    await rig.start()
    made = await rig.settled(MAKE)
    assert (made.state, made.failure.reason) == (Attempt.STATE_UNKNOWN, "POOL_FAILING")
    undone = await rig.make_up(UNDO, MAKE, ACTION)
    assert (undone.failure.reason, undone.failure.retriable) == ("POOL_FAILING", True)
    bring_mount_back(tmp_path)
    await rig.opening.try_again()
    undone = await rig.make_up(attempt_name("make", 3), MAKE, ACTION)
    assert undone.state == Attempt.STATE_SUCCEEDED, undone
    assert (rig.images(), rig.staged()) == ([], [])
    await rig.runner.stop()


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


async def test_an_agent_serves_a_pool_once_its_mount_is_back(host, tmp_path):
    agent = await host.start()
    async with agent.stub() as stub:
        header = agent.requests.for_action(MAKE, ACTION)
        await stub.CreateImage(CreateImageRequest(header=header, create_image=ACTION.create_image))
    await agent.settle(MAKE)
    agent.process.kill()
    await agent.died()
    (tmp_path / "fast").rename(tmp_path / "away")
    agent = await host.start()  # on the empty folder of a mount point
    async with agent.stub() as stub:
        await stub.Compensate(agent.requests.compensate(UNDO, MAKE, ACTION))
    failed = await agent.settle(UNDO)
    assert (failed.state, failed.failure.reason) == (Attempt.STATE_FAILED, "POOL_FAILING")
    assert "is it mounted" in failed.failure.message
    assert list((tmp_path / "fast").iterdir()) == []
    await agent.stop()
    (tmp_path / "fast").rmdir()
    (tmp_path / "away").rename(tmp_path / "fast")
    agent = await host.start()
    again = attempt_name("make", 3)
    async with agent.stub() as stub:
        await stub.Compensate(agent.requests.compensate(again, MAKE, ACTION))
    assert (await agent.settle(again)).state == Attempt.STATE_SUCCEEDED
    assert host.images("fast") == []
    await agent.stop()


# -- two agents on one folder -------------------------------------------------------------------


async def test_a_second_agent_neither_serves_nor_sweeps_what_another_serves_alone(host, tmp_path):
    agent = await host.start()
    at_work = tmp_path / "fast/staging" / MAKE.replace("/", "@")
    at_work.mkdir()
    (tmp_path / "b").mkdir()
    second = Host(tmp_path / "b", {"fast": ""}, paths={"fast": tmp_path / "fast"})
    with pytest.raises(DiedEarlyError, match=r"another agent is serving it now"):
        await second.start()
    assert at_work.exists()
    await agent.stop()
    agent = await second.start()  # what nobody serves is its own, with all that was left there
    assert not at_work.exists()
    await agent.stop()


async def test_a_pool_that_another_agent_has_taken_is_served_once_that_one_has_gone(tmp_path, fast):
    ours, others = PoolLocks(), PoolLocks()
    await identities(tmp_path, fast, locks=ours)
    ours.let_go("fast")
    others.take(fast, fast.path)
    pools = await opened(tmp_path, fast, locks=ours)
    assert "another agent is serving it now" in why(pools)
    assert f"fuser {fast.path}/pool.json" in why(pools)
    others.let_go("fast")
    await pools.try_again()
    assert not isinstance(pools.drivers["fast"], ClosedPool)
    with pytest.raises(ConfigInvalid, match="another agent"):
        others.take(fast, fast.path)


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [(True, True, ""), (True, False, "serving it now"), (False, True, "alone: it does not say")],
)
async def test_a_pool_is_shared_by_those_who_all_say_so(tmp_path, fast, first, second, words):
    await identities(tmp_path, fast)
    locks = [PoolLocks(), PoolLocks()]
    locks[0].take(replace(fast, shared=first), fast.path)
    refused = pytest.raises(ConfigInvalid, match=words) if words else nullcontext()
    with refused:
        locks[1].take(replace(fast, shared=second), fast.path)
    for each in locks:
        each.let_go("fast")


# -- folders ------------------------------------------------------------------------------------


def invoke(*arguments: object):
    return CliRunner().invoke(main, list(map(str, arguments)))


@pytest.mark.parametrize(
    ("described", "words"),
    [
        (["x=none"], "does not exist: is it mounted? If the pool is new, make it first: mkdir"),
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


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("a", "--data and pool x are one folder"),
        ("a/journal", "--data and pool x lie in one another"),
        (".", "--data and pool x lie in one another"),
    ],
)
def test_a_journal_is_no_part_of_a_pool_nor_has_one_in_it(tmp_path, data, words):
    (tmp_path / "a").mkdir()
    answer = invoke("serve", f"--data={tmp_path}/{data}", f"--pool=x={tmp_path}/a")
    assert answer.exit_code == 2
    assert words in answer.output, answer.output


def test_folders_beside_each_other_are_fine(tmp_path):
    for name in ("a", "ab"):
        (tmp_path / name).mkdir()
    pools = [PoolConfig(pool_id=name, path=tmp_path / name) for name in ("a", "ab")]
    check_folders(pools, installed())


def test_a_folder_whose_storage_hangs_keeps_no_agent_from_its_start(tmp_path, monkeypatch):
    """Whoever opens that pool says so; until it answers, nobody can tell what it shares."""
    monkeypatch.setattr(pools_module, "OPEN_WAIT_S", 0.05)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    answers = threading.Event()
    resolve = Path.resolve

    def hang(path: Path, *, strict: bool = False) -> Path:
        if path.name == "a":
            assert answers.wait(60)
        return resolve(path, strict=strict)

    monkeypatch.setattr(Path, "resolve", hang)
    pools = [PoolConfig(pool_id=name, path=tmp_path / name) for name in ("a", "b")]
    check_folders(pools, installed())
    answers.set()


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
