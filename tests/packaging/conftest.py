"""The wheel, built once from a copy of the sources, and the wheels that it needs, fetched once."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent

# All that the build reads, and what it must leave out.
SOURCES = ("agent", "coordinator", "countermand", "docs", "protos", "tests")
FILES = (".gitignore", "CHANGELOG.md", "LICENSE", "README.md", "pyproject.toml")

# Below the minute after which a test is taken for hung; with pip's cache it is a second.
FETCH_S_MAX = 50.0
PROBE_S_MAX = 10.0


def run_pip(arguments: Sequence[str], timeout_s: float) -> subprocess.CompletedProcess[str]:
    """Runs the pip of these tests."""
    return subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout_s,
    )


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns the wheel, built without a network and without stubs made earlier."""
    source = tmp_path_factory.mktemp("source")
    leave_out = shutil.ignore_patterns("__pycache__", ".stubs-*")
    for folder in SOURCES:
        if (ROOT / folder).is_dir():
            shutil.copytree(ROOT / folder, source / folder, ignore=leave_out)
    for file in FILES:
        if (ROOT / file).is_file():
            shutil.copy(ROOT / file, source)
    for stubs in ("countermand/v1", "agent/drivers/csi/v1"):
        shutil.rmtree(source / stubs)
    out = tmp_path_factory.mktemp("wheel")
    done = run_pip(
        ["wheel", "--no-build-isolation", "--no-deps", "--no-index", "-w", str(out), str(source)],
        FETCH_S_MAX,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = out.iterdir()
    return built


@pytest.fixture(scope="session")
def wheelhouse(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a folder with the wheel and all that any of its extras needs.

    Fetched as a user's pip would, so that what our own environment happens to hold hides nothing.
    """
    folder = tmp_path_factory.mktemp("wheelhouse")
    probe = [
        "download",
        "--no-deps",
        "--retries",
        "0",
        "--timeout",
        "5",
        "-d",
        str(folder),
        "click",
    ]
    fetch = ["download", "-d", str(folder), f"{wheel}[coordinator,agent,postgres]"]
    try:
        done = run_pip(probe, PROBE_S_MAX)
    except subprocess.TimeoutExpired:
        pytest.skip(f"no package index answered within {PROBE_S_MAX:g} s: nothing was installed")
    if done.returncode:
        why = (done.stderr.strip().splitlines() or ["pip gave no reason"])[-1]
        pytest.skip(f"no package index can be reached, so nothing was installed: {why}")
    try:
        done = run_pip(fetch, FETCH_S_MAX)
    except subprocess.TimeoutExpired:
        pytest.skip(f"the package index took longer than {FETCH_S_MAX:g} s: nothing was installed")
    assert done.returncode == 0, done.stdout + done.stderr
    return folder
