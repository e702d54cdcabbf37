"""The demo's own story as a test: real processes, real images, a real SIGKILL, a real full pool.

S-V1, S-V2: the finished sibling is compensated, the running one is stopped. S-V14, S-H2: a
coordinator that is killed while compensating goes on, and nothing is left.
"""

import io
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from rich.console import Console

from countermand.cli.demo.stage import PREFIX, Options, play

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def own_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Lets the demo make its folder where the test can look."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def played(**options) -> tuple[int, str]:
    console = Console(file=io.StringIO(), width=110)
    code = play(Options(fast=True, **options), console)
    assert isinstance(console.file, io.StringIO)
    return code, console.file.getvalue()


def demo_processes(folder: Path) -> list[str]:
    """Returns the command lines of processes that work in the folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue  # it has just ended
        if str(folder) in line and ("serve" in line or "demo.array" in line):
            found.append(line)
    return found


def test_the_whole_story_holds(tmp_path: Path) -> None:
    picture = tmp_path / "vm-2.svg"
    code, said = played(picture=picture)
    assert code == 0, said
    for words in (
        "✓ vm-1 succeeded",
        "✓ SHA-256 of all three copies equals that of their sources",
        "ended by SIGKILL in the middle of the compensation",
        "COMPENSATED",
        "NO_SPACE",
        "✓ vm-2 ran out of space and is compensated",
        "✓ 2 finished tasks made up for, the running sibling stopped",
        "coordinator restarted",
        "✓ the coordinator died by SIGKILL after",
        "✓ all pools before = after, byte for byte",
        "✓ everything held",
    ):
        assert words in said, words
    assert "✗ does not hold" not in said
    assert ET.parse(picture).getroot().tag.endswith("svg")
    assert list(tmp_path.glob(f"{PREFIX}*")) == []
    assert demo_processes(tmp_path) == []


def test_the_failure_alone_can_be_kept_to_look_into(tmp_path: Path) -> None:
    code, said = played(scenario="compensation", keep=True)
    assert code == 0, said
    (folder,) = tmp_path.glob(f"{PREFIX}*")
    assert (folder / "vm-2.svg").is_file()
    assert {path.name for path in (folder / "pools").iterdir()} == {
        "templates",
        "fast-a",
        "fast-b",
        "fast-c",
    }
    assert list((folder / "pools").glob("fast-*/images/*")) == []
    assert demo_processes(tmp_path) == []


def test_an_interrupted_demo_leaves_nothing_behind(tmp_path: Path) -> None:
    code = "import sys; from countermand.cli.main import main; main(sys.argv[1:])"
    arguments = [sys.executable, "-c", code, "demo", "--fast", "--scenario", "success"]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if b"host-a" in line:  # everything has been started
                break
        process.send_signal(signal.SIGTERM)
        process.stdout.read()
        assert process.wait() != 0
    assert list(tmp_path.glob(f"{PREFIX}*")) == []
    assert demo_processes(tmp_path) == []


def test_a_vendors_work_is_done_made_up_for_and_goes_on_after_it_was_killed(tmp_path: Path) -> None:
    """S-V26, S-V29: a vendor's process in the middle of a workflow, killed and started again."""
    code, said = played(scenario="external", keep=True)
    assert code == 0, said
    for words in (
        "clone.east: acme adds it under clone",
        "✓ vm-1 succeeded",
        "✓ the check read clones/vm-1-disk, as acme said that it was made",
        "DIGEST_MISMATCH",
        "clone by acme: asked to make up for it",
        "✓ acme was asked to make up for its clone, and did; then host-a deleted its copy",
        "✓ all pools and acme's own disk before = after",
        "ended by SIGKILL in the middle of its work",
        "clone by acme: ? unknown",
        "clone by acme: a sign of life, it goes on",
        "✓ acme died by SIGKILL with 16 of 32 extents cloned",
        "✓ its next life cloned the other 16, and no more",
        "✓ vm-3 succeeded",
        "✓ everything held",
    ):
        assert words in said, words
    assert "✗ does not hold" not in said
    (folder,) = tmp_path.glob(f"{PREFIX}*")
    # Looked at once more, by other means than the demo's own: what is on disk, and only that.
    template = (folder / "pools/templates/images/debian/data.raw").read_bytes()
    clones = {path.parent.name: path for path in folder.glob("pools/clones/images/*/data.raw")}
    assert clones.keys() == {"vm-1-disk", "vm-3-disk"}
    assert all(path.read_bytes() == template for path in clones.values())
    assert {path.name for path in (folder / "acme/volumes").iterdir()} == clones.keys()
    assert {path.name for path in (folder / "acme").iterdir()} == {"volumes"}
    assert {path.name for path in (folder / "pools/array/images").iterdir()} == {
        "vm-1-seed",
        "vm-3-seed",
    }
    assert demo_processes(tmp_path) == []
