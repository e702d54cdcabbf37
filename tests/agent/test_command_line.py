"""The command line: what an administrator may write, and what is said when it is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from agent.__main__ import main
from agent.config import parse_pool, parse_size, read_pools
from agent.drivers.driver import PoolConfig
from agent.drivers.plugins import ConfigInvalid, installed
from countermand.v1.attempt_pb2 import Attempt
from tests.agent.processes import DiedEarlyError, Host
from tests.agent.requests import attempt_name, copy_action


def test_a_pool_is_described_in_one_word():
    text = "fast=/srv/fast,quota=1GiB,bandwidth=64MiB,flush=8MiB,shared"
    assert parse_pool(text, installed()) == PoolConfig(
        pool_id="fast",
        path=Path("/srv/fast"),
        shared=True,
        quota_bytes=2**30,
        bandwidth_bytes_per_s=64 * 2**20,
        flush_bytes=8 * 2**20,
    )
    assert parse_pool("t=/srv/t,read_only,journals_beside=false", installed()) == PoolConfig(
        pool_id="t", path=Path("/srv/t"), read_only=True, journals_beside=False
    )


def test_a_file_describes_pools_as_well(tmp_path):
    path = tmp_path / "agent.toml"
    path.write_text('[pools.fast]\npath = "/srv/fast"\nquota = "1GiB"\nread_only = true\n')
    assert read_pools(path, installed()) == [
        PoolConfig(pool_id="fast", path=Path("/srv/fast"), quota_bytes=2**30, read_only=True)
    ]


@pytest.mark.parametrize(
    "text", ["fast", "Fast=/srv", "fast=srv", "fast=/srv,speed=9", "fast=/srv,quota=lots", "=/srv"]
)
def test_what_is_wrong_with_a_pool_is_said(text):
    with pytest.raises(ConfigInvalid, match=r"fast|Fast|lots|''"):
        parse_pool(text, installed())


def test_sizes_have_units():
    sizes = [parse_size(text) for text in ("1048576", "4KiB", "2 TiB")]
    assert sizes == [2**20, 4096, 2**41]


@pytest.mark.parametrize("text", ["5", "512", "1048575"])
def test_a_size_that_lacks_its_unit_is_refused(tmp_path, text):
    """Nobody means so few bytes, and a pool of five of them is found out late."""
    with pytest.raises(ConfigInvalid, match=rf"{text} bytes: write its unit, as in {text}GiB"):
        parse_size(text)
    path = tmp_path / "pools.toml"
    path.write_text(f'[pools.fast]\npath = "/srv/fast"\nquota = {text}\n')
    with pytest.raises(ConfigInvalid, match=rf"pool fast: .*{text}GiB"):
        read_pools(path, installed())


def test_imports_a_file_once(tmp_path):
    content = tmp_path / "disk.img"
    content.write_bytes(b"x" * 512)
    (tmp_path / "p").mkdir()
    arguments = ["import", f"--pool=p={tmp_path}/p", "--image=a", "--format=raw", str(content)]
    first = CliRunner().invoke(main, arguments)
    assert first.exit_code == 0, first.output
    assert first.output == (f"Imported {content} as p/a (raw, 512 bytes)\n")
    label = json.loads((tmp_path / "p/images/a/image.json").read_text())
    assert (label["attempt"], label["virtual_size_bytes"]) == ("", 512)
    second = CliRunner().invoke(main, arguments)
    assert second.exit_code == 1
    assert "already in pool p" in second.output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--listen=0.0.0.0:0"], "not loopback"),
        (["--pool=x"], "is no pool"),
        (["--pool=fast=/proc/nothing"], "pool fast"),
    ],
)
def test_serve_says_what_is_wrong(tmp_path, arguments, words):
    answer = CliRunner().invoke(main, ["serve", f"--data={tmp_path}/data", *arguments])
    assert answer.exit_code == 2
    assert words in answer.output


@pytest.fixture
async def host(tmp_path):
    host = Host(tmp_path, {"fast": ""})
    yield host
    await host.clean_up()


async def test_a_second_agent_is_kept_off_the_same_journal(host):
    agent = await host.start()
    with pytest.raises(DiedEarlyError, match="another agent"):
        await host.start()
    await agent.stop()


async def test_a_stopped_agent_goes_on_where_it_was(host, tmp_path):
    """S-Z9: SIGTERM leaves the work, the next start takes it up."""
    host.options = {"fast": ",bandwidth=1MiB,flush=4MiB"}
    content = tmp_path / "disk.img"
    content.write_bytes(bytes(range(256)) * 2**16)
    host.make_pools()
    arguments = [f"--pool=fast={host.pool('fast')}", "--image=base", "--format=raw", str(content)]
    assert CliRunner().invoke(main, ["import", *arguments]).exit_code == 0
    agent = await host.start()
    name = attempt_name("copy")
    async with agent.stub() as stub:
        await stub.CopyImage(agent.requests.copy(name, copy_action("fast/base", "fast/disk")))
    await agent.stop()
    assert host.images("fast") == ["base"]
    host.options = {"fast": ""}
    agent = await host.start()
    assert (await agent.settle(name)).state == Attempt.STATE_SUCCEEDED
    assert host.data("fast", "disk").read_bytes() == content.read_bytes()
    assert host.staged() == []
    await agent.stop()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[pool.fast]\npath = "/srv"', "'pool' means nothing; write tables [pools.<id>]"),
        ('listen = "127.0.0.1:1"\n[pools.fast]\npath = "/srv"', "'listen' means nothing"),
        ('[pools]\nfast = "/srv"', "[pools.fast] needs a path"),
        ("[pools.fast]\nread_only = true", "[pools.fast] needs a path"),
        ("pools = 7", "pools must be tables"),
    ],
)
def test_what_a_file_says_in_vain_is_refused(tmp_path, text, said):
    path = tmp_path / "agent.toml"
    path.write_text(text)
    with pytest.raises(ConfigInvalid) as refused:
        read_pools(path, installed())
    assert said in str(refused.value)
