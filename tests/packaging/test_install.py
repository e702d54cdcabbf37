"""Each extra, installed alone into an empty environment, brings what it promises and no more.

The base install is on every operator's laptop: it must not drag a database along. These tests need
a package index, or a filled cache of pip; without one they are skipped, and say so.
"""

from __future__ import annotations

import json
import subprocess
import venv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.packaging.conftest import FETCH_S_MAX, run_pip

# Imports every module of some packages, and reports which could not be, and for want of what.
IMPORT_ALL = """
import importlib, json, pkgutil, sys

# These do their work when they are imported: the command line, and Alembic's environment.
RUN = {"countermand.cli.__main__", "coordinator.store.migrations.env"}
missing = {}
def look(name):
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing[name] = error.name
        return
    for found in pkgutil.iter_modules(getattr(module, "__path__", ()), f"{name}."):
        if found.name not in RUN:
            look(found.name)

for name in sys.argv[1:]:
    look(name)
print(json.dumps(missing))
"""

# Reports which packages are there, without importing any.
FIND = """
import importlib.util, json, sys
print(json.dumps([name for name in sys.argv[1:] if importlib.util.find_spec(name)]))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Extra:
    """What an install should bring."""

    name: str
    complete: tuple[str, ...]  # packages of ours whose every module can be imported
    commands: tuple[str, ...]  # that run
    foreign: frozenset[str]  # packages of others that it brings, among those asked about


SERVICE = frozenset({"grpc_health", "grpc_reflection", "opentelemetry", "prometheus_client"})
PAGE = frozenset({"h11", "jinja2", "markupsafe", "starlette", "uvicorn"})
WEBHOOKS = frozenset({"aiohttp"})
DATABASE = frozenset({"sqlalchemy", "alembic"})
DEVELOPMENT = frozenset({"grpc_tools", "hatchling", "hypothesis", "mypy", "pytest", "ruff"})
DIGESTS = frozenset({"blake3"})
OF_COORDINATOR = SERVICE | DATABASE | PAGE | WEBHOOKS
ASKED = OF_COORDINATOR | DIGESTS | DEVELOPMENT | {"psycopg", "tests", "protos", "docs"}

# The one part of the base that needs more: clients never start a server.
SERVER = "countermand.rpc.server"
# The one part of the coordinator that does: it is imported for a database on PostgreSQL only.
POSTGRES = "coordinator.store.server"

EXTRAS = (
    Extra(
        name="",
        complete=(),
        commands=("countermand",),
        foreign=frozenset(),
    ),
    Extra(
        name="coordinator",
        complete=("countermand", "coordinator"),
        commands=("countermand", "countermand-coordinator"),
        foreign=OF_COORDINATOR,
    ),
    Extra(
        name="agent",
        complete=("countermand", "agent"),
        commands=("countermand", "countermand-agent"),
        foreign=SERVICE | DIGESTS,
    ),
    Extra(
        name="postgres",
        complete=("countermand", "coordinator"),
        commands=("countermand", "countermand-coordinator"),
        foreign=OF_COORDINATOR | {"psycopg"},
    ),
)


@pytest.fixture(params=EXTRAS, ids=[extra.name or "base" for extra in EXTRAS])
def extra(request):
    return request.param


@pytest.fixture
def installed(extra: Extra, wheel: Path, wheelhouse: Path, tmp_path: Path) -> Path:
    """Returns the commands' folder of an environment with one extra and nothing else."""
    folder = tmp_path / "venv"
    venv.create(folder, with_pip=False)
    wanted = f"{wheel}[{extra.name}]" if extra.name else str(wheel)
    done = run_pip(
        [
            *("--python", str(folder), "install", "--quiet", "--no-compile"),
            *("--no-index", "--find-links", str(wheelhouse), wanted),
        ],
        FETCH_S_MAX,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "bin"


def test_an_extra_brings_what_it_promises_and_no_more(extra, installed, tmp_path):
    for command in extra.commands:
        assert "Usage:" in _run([str(installed / command), "--help"], tmp_path)
    assert _run([str(installed / "countermand"), "version", "-o", "name"], tmp_path).strip()

    if "countermand-agent" in extra.commands:
        told = _run([str(installed / "countermand-agent"), "drivers", "-o", "json"], tmp_path)
        drivers = {driver["name"]: driver["problem"] for driver in json.loads(told)["drivers"]}
        assert {"btrfs", "file"} <= drivers.keys()
        assert set(drivers.values()) == {""}

    python = [str(installed / "python"), "-I", "-c"]
    missing = json.loads(
        _run([*python, IMPORT_ALL, "countermand", "coordinator", "agent"], tmp_path)
    )
    incomplete = {name for name in missing if name.split(".")[0] in extra.complete}
    incomplete -= set() if "psycopg" in extra.foreign else {POSTGRES}
    assert not incomplete, missing
    # What cannot be imported is so for want of another extra, never of a module of ours.
    assert {str(name).split(".")[0] for name in missing.values()} <= ASKED - extra.foreign
    if not extra.name:
        base = {name for name in missing if name.split(".")[0] == "countermand"}
        assert base <= {SERVER}
        assert {"coordinator.__main__", "agent.__main__"} <= missing.keys()

    assert set(json.loads(_run([*python, FIND, *ASKED], tmp_path))) == extra.foreign


def _run(arguments: Sequence[str], folder: Path) -> str:
    done = subprocess.run(
        arguments, capture_output=True, text=True, check=False, cwd=folder, timeout=FETCH_S_MAX
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
