"""What others write reaches nobody's terminal as a command to it, and turns no direction."""

import json
from typing import Any
from xml.etree import ElementTree as ET
from zipfile import ZipFile

import pytest
import yaml
from click.testing import CliRunner
from google.protobuf.struct_pb2 import Struct

from countermand.cli.main import main
from countermand.client.shown import show, show_error
from countermand.rpc.errors import FieldInvalid, Violation
from countermand.rpc.visible import visible, visible_json
from countermand.v1.task_pb2 import Task
from countermand.v1.workflow_pb2 import Need, Workflow
from tests.cli.shell import Shell
from tests.cli.terminal import Terminal

# The name of the window, the clipboard, the screen; the same by one byte; the direction; DEL.
EVIL = "\x1b]0;pwn\a\x1b]52;c;cHdu\x07\x1b[2J\x9b2J\u202etxet\u2066\x7f\r!"
WRITTEN = r"\u001b]0;pwn\u0007\u001b]52;c;cHdu\u0007\u001b[2J\u009b2J\u202etxet\u2066\u007f\u000d!"
HARMFUL = [c for c in EVIL if not c.isprintable()]


def test_what_a_text_hides_is_written_out():
    assert visible(EVIL) == WRITTEN
    assert visible("two\nlines\tand a tab\r\n") == "two\nlines\tand a tab\n"
    assert visible("ünïcödé 北京 עברית 👩‍👩‍👧") == "ünïcödé 北京 עברית 👩‍👩‍👧"


def test_json_says_the_same_and_hides_nothing():
    whole = {"reason": EVIL}
    text = visible_json(json.dumps(whole, ensure_ascii=False))

    assert (json.loads(text), text.isprintable()) == (whole, True)


def test_every_text_of_an_answer_is_made_visible():
    answer = Workflow(kind=EVIL, needs=[Need(message=EVIL)], labels={"a": EVIL, EVIL: "b"})
    answer.input.update({"deep": {"er": [EVIL]}, EVIL: EVIL})
    answer.tasks.append(Task(after=[EVIL], owner_id="acme"))
    show(answer)

    assert answer == Workflow(
        kind=WRITTEN,
        needs=[Need(message=WRITTEN)],
        labels={"a": WRITTEN, WRITTEN: "b"},
        input=_struct({"deep": {"er": [WRITTEN]}, WRITTEN: WRITTEN}),
        tasks=[Task(after=[WRITTEN], owner_id="acme")],
    )


def test_what_an_error_says_is_made_visible():
    error = FieldInvalid(Violation(EVIL, EVIL))
    show_error(error)

    assert error.message == f"{WRITTEN}: {WRITTEN}"
    assert error.violations == (Violation(WRITTEN, WRITTEN),)


def _struct(fields: dict[str, Any]) -> Struct:
    struct = Struct()
    struct.update(fields)
    return struct


@pytest.fixture(scope="module")
def evil(real):
    """Returns the address of a coordinator with a workflow of somebody who means no good."""
    shell = Shell(real, "evil")
    task = shell.task("make")
    spec = {
        "kind": "evil",
        "policy": {"on_failure": "ON_FAILURE_PAUSE"},
        "root": {"kind": "KIND_SEQUENCE", "members": [task]},
    }
    words = ("--id", "evil", "--label", f"team={EVIL}", "--input", json.dumps({"note": EVIL}))
    shell("workflow", "submit", "-", *words, given=json.dumps(spec))
    shell.external("accept", "evil/make")
    shell.external("progress", "evil/make", "1", "--unit", "parts", "--message", EVIL)
    shell("workflow", "pause", "evil", "--reason", EVIL)
    shell.external("end", "evil/make", "--failed", "FULL", "--message", EVIL)
    shell("workflow", "wait", "evil", code=4)
    return real


LOOKS = {
    "list": ("workflow", "list"),
    "wide": ("workflow", "list", "-o", "wide"),
    "get": ("workflow", "get", "evil"),
    "tasks": ("workflow", "tasks", "evil"),
    "task": ("workflow", "task", "evil", "make"),
    "events": ("workflow", "events", "evil"),
    "requirements": ("workflow", "requirements", "evil"),
    "timeline": ("workflow", "timeline", "evil"),
    "json": ("workflow", "get", "evil", "-o", "json"),
    "yaml": ("workflow", "get", "evil", "-o", "yaml"),
    "lines": ("workflow", "events", "evil", "-o", "json"),
}


@pytest.mark.parametrize("look", LOOKS)
def test_no_look_commands_a_pipe_or_a_terminal(evil, look):
    """Also where it goes on: into a pager, a ticket, or a file that is shown later."""
    piped = CliRunner().invoke(main, LOOKS[look], env={"COUNTERMAND_COORDINATOR": evil})
    assert piped.exit_code == 0, piped.output
    assert [c for c in HARMFUL if c in piped.stdout] == []
    assert "pwn" in piped.stdout, "it is not shown at all"
    with Terminal(evil, *LOOKS[look], width=200) as terminal:
        terminal.end()
    assert [c for c in HARMFUL if c in terminal.text.replace("\r\n", "\n")] == []


def test_for_programs_nothing_is_changed(evil):
    for form, read in (("json", json.loads), ("yaml", yaml.safe_load)):
        words = ("workflow", "get", "evil", "-o", form)
        done = CliRunner().invoke(main, words, env={"COUNTERMAND_COORDINATOR": evil})
        assert read(done.stdout)["labels"] == {"team": EVIL}


def test_the_live_tree_shows_it_written_out(evil):
    with Terminal(evil, "workflow", "watch", "evil", width=200) as terminal:
        terminal.until("pwn").interrupt()
        terminal.end()
    left = [c for c in terminal.text if not c.isprintable()]
    assert set(left) <= {"\n", "\r"}
    assert "]0;" not in terminal.raw.replace(r"\u001b]0;", "")


def test_a_refusal_is_written_out_too(evil):
    words = ["workflow", "resume", "evil", "--rerun", "make", "--reason", "x"]
    words += ["--set", f"make:{EVIL[:9]}=1"]
    done = CliRunner().invoke(main, words, env={"COUNTERMAND_COORDINATOR": evil})

    assert done.exit_code != 0
    assert [c for c in HARMFUL if c in done.stderr] == []


def test_a_zip_is_nothing_for_a_terminal(evil):
    with Terminal(evil, "workflow", "bundle", "evil", "-") as terminal:
        code = terminal.end()
    assert (code, "PK" in terminal.raw) == (2, False)
    assert "this is a terminal: name a file" in terminal.text


def test_a_bundle_and_a_picture_hide_nothing(evil, tmp_path):
    file, picture = tmp_path / "evil.zip", tmp_path / "evil.svg"
    for words in (("bundle", "evil", str(file)), ("timeline", "evil", "--svg", str(picture))):
        done = CliRunner().invoke(main, ("workflow", *words), env={"COUNTERMAND_COORDINATOR": evil})
        assert done.exit_code == 0, done.output
    ET.parse(picture)  # XML may hold none of them
    with ZipFile(file) as opened:
        for name in opened.namelist():
            text = opened.read(name).decode()
            assert [c for c in HARMFUL if c in text] == [], name
    kept = CliRunner().invoke(main, ["open", str(file), "-o", "json"])
    assert json.loads(kept.stdout)["labels"] == {"team": EVIL}
    for more in ([], ["--events"], ["--task", "make"], ["--timeline"]):
        shown = CliRunner().invoke(main, ["open", str(file), *more])
        assert [c for c in HARMFUL if c in shown.stdout] == []
        assert "pwn" in shown.stdout
