"""The wheel holds the three packages, the stubs made from the protos, and nothing else."""

from __future__ import annotations

from email.message import Message
from email.parser import Parser
from pathlib import Path
from zipfile import ZipFile

import pytest

from tests.packaging.conftest import ROOT

PACKAGES = ("agent", "coordinator", "countermand")

SUFFIXES = {".css", ".html", ".js", ".py", ".pyi", ".svg", ".yaml"}


@pytest.fixture(scope="session")
def names(wheel: Path) -> set[str]:
    with ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if not name.endswith("/")}


@pytest.fixture(scope="session")
def metadata(wheel: Path) -> Message:
    with ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return Parser().parsestr(archive.read(name).decode())


def _stubs() -> set[str]:
    protos = [path.relative_to(ROOT / "protos") for path in (ROOT / "protos").rglob("*.proto")]
    kinds = ("pb2.py", "pb2.pyi", "pb2_grpc.py", "pb2_grpc.pyi")
    made = {f"{proto.parent}/{proto.stem}_{kind}" for proto in protos for kind in kinds}
    return made | {f"{proto.parent}/__init__.py" for proto in protos}


def _written() -> set[str]:
    """Returns the files of the packages that somebody wrote."""
    found = (path for package in PACKAGES for path in (ROOT / package).rglob("*"))
    return {
        str(path.relative_to(ROOT))
        for path in found
        if path.is_file()
        and (path.suffix in SUFFIXES or path.name in {"py.typed", "LICENSE.htmx"})
        and not {"v1", "__pycache__"} & set(path.relative_to(ROOT).parts)
        and not any(part.startswith(".") for part in path.relative_to(ROOT).parts)
    }


def test_it_holds_every_stub_although_git_ignores_them(names):
    assert {name for name in names if "/v1/" in name} == _stubs()


def test_it_holds_every_module_that_was_written(names):
    written = _written()

    assert {f"{package}/py.typed" for package in PACKAGES} <= written
    assert "coordinator/store/migrations/env.py" in written
    assert any(name.startswith("coordinator/store/migrations/versions/r0001") for name in written)
    assert written <= names


def test_it_holds_nothing_else(names):
    outside = {name for name in names if name.split("/")[0] not in PACKAGES}

    assert {name.split("/")[0].rpartition(".")[2] for name in outside} == {"dist-info"}
    assert {name.split("/", 1)[1] for name in outside} == {
        *("METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE"),
    }
    assert not {name for name in names if name.endswith((".proto", ".pyc", ".stamp"))}
    assert not {name for name in names if "test" in name}


def test_its_metadata_names_the_extras_and_no_path(metadata):
    assert set(metadata.get_all("Provides-Extra", [])) == {
        *("agent", "coordinator", "dev", "postgres"),
    }
    assert not [need for need in metadata.get_all("Requires-Dist", []) if " @ " in need]
