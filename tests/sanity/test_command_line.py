"""The command itself, against a real agent process: killed, started again, and reported on."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner

from agent.drivers.copying import CHUNK_BYTES
from countermand.sanity.main import main

COMMAND = (sys.executable, "-m", "countermand.sanity.main")


@dataclass(frozen=True, slots=True)
class Daemon:
    """An agent that is killed and started by shell commands, as a vendor would write them."""

    folder: Path
    address: str

    @property
    def kill(self) -> str:
        lock = f"flock {self.folder}/data/lock true"  # it is free once the process has gone
        return f"kill -9 $(cat {self.folder}/pid); {lock}"

    @property
    def start(self) -> str:
        serve = f"{sys.executable} -m agent serve --data {self.folder}/data --listen {self.address}"
        log = f">{self.folder}/out 2>>{self.folder}/log"
        return f"{serve} --pool fast={self.folder}/fast {log} & echo $! >{self.folder}/pid"

    @property
    def start_anew(self) -> str:
        """Starts it with another journal, as after a host was reinstalled."""
        return f"rm -f {self.folder}/data/journal*; {self.start}"

    def sanity(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Runs the command on it."""
        return sanity(self.address, "--pool=fast", *arguments)


def sanity(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory):
    tmp_path = tmp_path_factory.mktemp("daemon")
    (tmp_path / "fast").mkdir()
    source = tmp_path / "source.raw"
    source.write_bytes(os.urandom(CHUNK_BYTES + 512))
    importing = ("import", f"--pool=fast={tmp_path}/fast", "--image=base", "--format=raw")
    subprocess.run([sys.executable, "-m", "agent", *importing, source], check=True)
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{found.getsockname()[1]}"
    daemon = Daemon(tmp_path, address)
    (tmp_path / "out").touch()
    subprocess.run(["sh", "-c", daemon.start], check=True)
    while not (tmp_path / "out").read_text():  # it says when it is ready
        time.sleep(0.01)
    yield daemon
    with contextlib.suppress(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)


@pytest.mark.slow
def test_our_agent_keeps_its_promises_when_it_is_killed(daemon):
    """S-V6, S-Z2, S-Z3: over the wire, whoever wrote it."""
    commands = (f"--kill-command={daemon.kill}", f"--start-command={daemon.start}")
    ended = daemon.sanity("--source=fast/base", "--only=restart.", *commands, "--output=json")
    report = json.loads(ended.stdout)
    assert (report["broken"], report["skipped"]) == (0, 0), ended.stdout
    assert report["kept"] == 7
    assert ended.returncode == 0
    assert [path.name for path in (daemon.folder / "fast/images").iterdir()] == ["base"]


def test_an_agent_that_lost_its_journal_is_caught(daemon):
    restart = f"--restart-command={daemon.kill}; {daemon.start_anew}"
    ended = daemon.sanity("--only=restart.journal", restart)
    assert ended.returncode == 1
    assert "✗ journal" in ended.stdout
    assert "expected  the incarnation: the journal is the same: " in ended.stdout
    assert "contract  agent.proto" in ended.stdout
    assert "0 kept, 1 broken, 0 skipped" in ended.stdout


def test_it_reports_as_a_table_and_as_junit(daemon):
    """What is skipped is told with its reason, in both."""
    only = ("--only=header.tombstone", "--only=queue_full")
    table = daemon.sanity(*only)
    assert table.returncode == 0, table.stderr
    assert f"agent-sanity: {daemon.address}, version " in table.stdout
    assert "✓ tombstone   an action whose compensation came first is refused" in table.stdout
    assert "it needs an image that holds data: say --source POOL/IMAGE" in table.stdout
    suite = ET.fromstring(daemon.sanity(*only, "--output=junit").stdout)
    assert (suite.get("tests"), suite.get("failures"), suite.get("skipped")) == ("2", "0", "1")
    assert [case.get("name") for case in suite] == ["header.tombstone", "header.queue_full[fast]"]


def test_it_works_on_no_agent_that_serves_a_cluster(daemon):
    """Its low-watermark would take the coordinator's own intents for expired."""
    assert daemon.sanity("--only=header.repeat").returncode == 0
    refused = daemon.sanity("--only=header.repeat", "--cluster=production")
    assert refused.returncode == 2
    assert "serves cluster 'agent-sanity'" in refused.stderr


def test_it_lists_its_checks():
    told = CliRunner().invoke(main, ["--list"])
    assert told.exit_code == 0
    lines = told.stdout.splitlines()
    index = lines.index("  header.tombstone")
    assert lines[index + 1] == "    an action whose compensation came first is refused, for ever"
    assert lines[index + 2] == "    agent.proto, AgentService: errors of every verb"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--only=nonsense", "--list"], "no check has such a name"),
        ([], "say which agent and which pool"),
        (["127.0.0.1:1"], "say which agent and which pool"),
        (["127.0.0.1:1", "--pool=a", "--source=base"], "write POOL/IMAGE"),
        (["127.0.0.1:1", "--pool=a", "--kill-command=true"], "go together"),
    ],
)
def test_what_is_used_wrongly_is_said(arguments, words):
    ended = CliRunner().invoke(main, arguments)
    assert ended.exit_code == 2
    assert words in ended.stderr


def test_an_agent_that_is_not_there_is_told_in_one_line():
    ended = sanity("127.0.0.1:1", "--pool=fast")
    assert ended.returncode == 1
    assert ended.stderr.startswith("Error: 127.0.0.1:1: UNAVAILABLE")


def test_a_pool_that_is_not_there_is_told_with_those_that_are(daemon):
    ended = sanity(daemon.address, "--pool=slow")
    assert ended.returncode == 2
    assert "reports no pool slow; there are: fast" in ended.stderr
