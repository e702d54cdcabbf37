"""The command itself, against a real agent process: killed, started again, and reported on."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from click.testing import CliRunner

from agent.drivers.copying import CHUNK_BYTES
from countermand.sanity import killing
from countermand.sanity.main import main
from tests.endtoend.cluster import free_address

# Beyond it a start has failed, on however slow a machine.
START_S_MAX = 60.0

COMMAND = (sys.executable, "-m", "countermand.sanity.main")


@dataclass(frozen=True, slots=True)
class Daemon:
    """An agent that is killed and started by shell commands, as a vendor would write them."""

    folder: Path
    address: str = field(default_factory=free_address)  # nobody takes it between two lives
    options: str = ""

    @property
    def kill(self) -> str:
        lock = f"flock {self.folder}/data/lock true"  # it is free once the process has gone
        return f"kill -9 $(cat {self.folder}/pid); {lock}"

    @property
    def start(self) -> str:
        serve = f"{sys.executable} -m agent serve --data {self.folder}/data --listen {self.address}"
        pool, log = f"--pool fast={self.folder}/fast", f"2>>{self.folder}/log"
        return f"{serve} {pool} {self.options} {log} & echo $! >{self.folder}/pid"

    @property
    def start_anew(self) -> str:
        """Starts it with another journal, as after a host was reinstalled."""
        return f"rm -f {self.folder}/data/journal*; {self.start}"

    @property
    def restarting(self) -> tuple[str, str]:
        """Returns how the command is told to kill it and to start it."""
        return (f"--kill-command={self.kill}", f"--start-command={self.start}")

    def sanity(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Runs the command on it."""
        return sanity(self.address, "--pool=fast", *arguments)


def sanity(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, check=False)


@contextlib.contextmanager
def running(folder: Path, *, options: str = "") -> Iterator[Daemon]:
    """Yields an agent with a pool that holds an image; whatever its last life is ends with it."""
    (folder / "fast").mkdir()
    source = folder / "source.raw"
    source.write_bytes(os.urandom(CHUNK_BYTES + 512))
    importing = ("import", f"--pool=fast={folder}/fast", "--image=base", "--format=raw")
    subprocess.run([sys.executable, "-m", "agent", *importing, source], check=True)
    daemon = Daemon(folder, options=options)
    starting = subprocess.Popen(["sh", "-c", daemon.start], stdout=subprocess.PIPE)
    try:
        assert starting.stdout is not None
        ready, _, _ = select.select([starting.stdout], [], [], START_S_MAX)
        line = starting.stdout.readline() if ready else b""  # it says where it listens
        assert line, (folder / "log").read_text()
        yield daemon
    finally:
        subprocess.run(["sh", "-c", daemon.kill], check=False, stderr=subprocess.DEVNULL)
        starting.communicate()  # all that could write to it are gone


@pytest.fixture(scope="module")
def daemon(tmp_path_factory):
    with running(tmp_path_factory.mktemp("daemon")) as daemon:
        yield daemon


@pytest.mark.slow
def test_our_agent_keeps_its_promises_when_it_is_killed(daemon):
    """S-V6, S-Z2, S-Z3: over the wire, whoever wrote it."""
    options = ("--source=fast/base", "--only=restart.", "--output=json")
    ended = daemon.sanity(*options, *daemon.restarting)
    report = json.loads(ended.stdout)
    assert (report["broken"], report["skipped"]) == (0, 0), ended.stdout
    assert report["kept"] == 7
    assert ended.returncode == 0
    assert [path.name for path in (daemon.folder / "fast/images").iterdir()] == ["base"]


@pytest.mark.slow
def test_one_that_takes_few_attempts_at_once_is_killed_in_turns(tmp_path):
    """There are more ways of verbs than it takes; each of them is interrupted."""
    with running(tmp_path, options="--attempts-max=1 --queue-max=8") as daemon:
        only = ("--only=restart.interrupted", "--source=fast/base")
        ended = daemon.sanity(*only, *daemon.restarting)
    assert "✓ interrupted" in ended.stdout
    assert "1 kept, 0 broken, 0 skipped" in ended.stdout


@pytest.mark.parametrize(
    "told", [("--kill-command=:", "--start-command=:"), ("--restart-command=:",)]
)
def test_a_command_that_kills_nothing_is_caught(told, daemon, monkeypatch):
    """Else everything would be found to survive a death that nobody died."""
    monkeypatch.setattr(killing, "DEATH_S_MAX", 0.2)
    arguments = [daemon.address, "--pool=fast", "--only=restart.journal", *told]
    ended = CliRunner().invoke(main, arguments)
    assert ended.exit_code == 1, ended.output
    assert "✗ journal" in ended.stdout
    option = told[0].partition("=")[0]
    assert f"{option} ':' has killed nothing: let it end the process that listens" in ended.stdout


def test_a_command_that_fails_is_told(daemon):
    ended = daemon.sanity("--only=restart.journal", "--restart-command=exit 3")
    assert ended.returncode == 1
    assert "--restart-command 'exit 3' ended with exit code 3" in ended.stderr


def test_a_command_that_does_not_return_is_told(daemon, monkeypatch):
    """As one that serves in the foreground: nothing would ever be heard of the checks."""
    monkeypatch.setattr(killing, "COMMAND_S_MAX", 0.2)
    told = "--restart-command=exec sleep 600"
    arguments = [daemon.address, "--pool=fast", "--only=restart.journal", told]
    ended = CliRunner().invoke(main, arguments)
    assert ended.exit_code == 1, ended.output
    assert "'exec sleep 600' has not returned within 0.2 s" in ended.stderr


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
