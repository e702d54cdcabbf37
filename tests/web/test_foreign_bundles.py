"""Files that somebody sends: nothing that is in them runs, and what is broken is said."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from countermand.bundle.reading import Bundle
from countermand.bundle.writing import WORKFLOW
from countermand.cli.main import main
from countermand.v1.event_pb2 import HistoryEvent
from countermand.v1.task_pb2 import Task
from countermand.v1.workflow_pb2 import Workflow

EVIL = (
    "</style></svg>\"'--><script>document.title='ran'</script><img src=x onerror=alert(1)>\x1b[2J"
)
EVIL_PAGE = "<script>document.title = 'ran'</script>"
LOOKS: tuple[list[str], ...] = ([], ["--events"], ["--timeline"], ["--browser"], ["-o", "json"])


def packed(path: Path, **files: bytes | str) -> Path:
    """Writes a bundle of files, such as `workflow_json`."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in files.items():
            file.writestr("w/" + name.replace("_", "."), content)
    return path


def opened(path: Path, *look: str) -> tuple[int, str, str]:
    """Returns how `countermand open` ended, and what it said; raises what it did not expect."""
    done = CliRunner().invoke(main, ["open", str(path), *look])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.stdout, done.stderr


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch) -> Path:
    """Returns the folder in which pages are kept; a browser of ours opens nothing."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("webbrowser.open", lambda _: True)
    return tmp_path / "cache/countermand/opened"


# -- hostile ones ----------------------------------------------------------------------------------


def filled(message: Message, depth: int = 0) -> Any:
    """Returns a message with everything set in it, to what nobody expects."""
    for field in message.DESCRIPTOR.fields:
        if field.containing_oneof is None or field.containing_oneof.fields[0] is field:
            put(message, field, depth)
    return message


def put(message: Message, field: Any, depth: int) -> None:
    name = field.name
    if field.message_type is None:
        value = {FieldDescriptor.CPPTYPE_STRING: EVIL, FieldDescriptor.CPPTYPE_BOOL: True}.get(
            field.cpp_type, 77
        )
        value = b"\xff" if field.type == FieldDescriptor.TYPE_BYTES else value
        getattr(message, name).append(value) if field.is_repeated else setattr(message, name, value)
    elif field.message_type.GetOptions().map_entry:
        if field.message_type.fields_by_name["value"].message_type is None:
            getattr(message, name)[EVIL] = EVIL
    elif depth < 4:
        inner = getattr(message, name)
        filled(inner.add() if field.is_repeated else inner, depth + 1)
        if not field.is_repeated:
            inner.SetInParent()


def hostile_events() -> Iterator[HistoryEvent]:
    """Yields an event of each kind there is."""
    kinds = HistoryEvent.DESCRIPTOR.oneofs[0].fields
    for number, kind in enumerate(kinds, start=1):
        event = HistoryEvent(sequence=number, task=EVIL if number % 2 else "")
        event.time.FromSeconds(1_700_000_000 + number)
        put(event, kind, 0)
        yield event


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    workflow = filled(Workflow())
    workflow.create_time.FromSeconds(1_700_000_000)
    workflow.tasks.append(filled(Task()))
    events = [json_format.MessageToJson(each, indent=None) for each in hostile_events()]
    return packed(
        tmp_path / "hostile.zip",
        workflow_json=json_format.MessageToJson(workflow),
        events_jsonl="\n".join(events),
        page_html=EVIL_PAGE,
    )


class Elements(HTMLParser):
    """What a page is made of."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}


HARMLESS = {
    *("html", "head", "meta", "title", "style", "body", "main", "section", "h1", "h2", "p", "ul"),
    *("li", "div", "span", "table", "thead", "tbody", "tr", "th", "td", "svg", "g", "rect", "line"),
    *("path", "text", "tspan", "circle", "polygon", "defs", "pattern", "marker", "desc"),
}


def test_nothing_of_it_runs_in_a_browser(hostile, home) -> None:
    assert opened(hostile, "--browser")[0] == 0
    [path] = home.iterdir()
    assert home.stat().st_mode & 0o077 == 0  # nobody else's to read
    page = path.read_text()
    found = Elements(page)
    assert found.tags <= HARMLESS
    assert [name for name in found.attributes if name.startswith("on")] == []
    assert not found.attributes & {"src", "href", "xlink:href", "action", "srcdoc"}
    assert "&lt;script&gt;document.title=" in page, "it is not shown at all"
    assert EVIL_PAGE not in page  # what it brings as its page is not looked at
    assert "default-src 'none'" in page


@pytest.mark.parametrize("look", LOOKS[:3])
def test_no_look_of_it_commands_a_terminal(hostile, look) -> None:
    code, shown, said = opened(hostile, *look)
    assert (code, "\x1b" in shown + said) == (0, False)
    assert "\\u001b[2J" in shown


def test_its_page_is_kept_and_those_of_other_days_are_removed(hostile, home) -> None:
    home.mkdir(parents=True)
    old = home / "of-last-week.html"
    old.write_text("old")
    os.utime(old, (0, 0))
    opened(hostile, "--browser")
    opened(hostile, "--browser")
    [kept] = home.iterdir()  # the same file has the same page
    assert kept != old


def test_what_it_brings_as_its_page_is_never_needed(hostile, tmp_path) -> None:
    with zipfile.ZipFile(hostile) as file:
        rest = {name: file.read(f"w/{name}") for name in ("workflow.json", "events.jsonl")}
    path = packed(
        tmp_path / "no-page.zip",
        workflow_json=rest["workflow.json"],
        events_jsonl=rest["events.jsonl"],
    )
    assert opened(path, "--browser")[0] == 0
    assert "".join(Bundle(path).page()) == "".join(Bundle(hostile).page())


# -- broken ones -----------------------------------------------------------------------------------

GOOD = b'{"name": "workflows/w"}'
EVENT = b'{"sequence": "1"}'


@pytest.mark.parametrize(
    ("workflow", "events", "said"),
    [
        (b'{"name": "workflows/\xff"}', EVENT, "its workflow.json is no workflow"),
        (b'{"labels":' + b"[" * 200_000, EVENT, "its workflow.json is no workflow"),
        (b"[]", EVENT, "its workflow.json is no workflow: it is no JSON object"),
        (b"null", EVENT, "its workflow.json is no workflow: it is no JSON object"),
        (b"", EVENT, "its workflow.json is no workflow: it is no JSON object"),
        (b'{"name": 5}', EVENT, "its workflow.json is no workflow"),
        (GOOD, b"\xff", "line 1 of its events.jsonl is no event"),
        (GOOD, EVENT + b"\n[]", "line 2 of its events.jsonl is no event"),
    ],
)
def test_what_is_no_message_is_said(workflow, events, said, tmp_path) -> None:
    path = packed(tmp_path / "a.zip", workflow_json=workflow, events_jsonl=events)
    code, _, err = opened(path, "--timeline")
    assert (code, said in err) == (1, True), err


def broken_stream(raw: bytearray, entry: int, _: int) -> None:
    start = entry + 30 + len("w/") + len(WORKFLOW)
    raw[start : start + 8] = b"\xff" * 8


def encrypted(raw: bytearray, entry: int, listed: int) -> None:
    raw[entry + 6] |= 1
    raw[listed + 8] |= 1


def otherwise_packed(raw: bytearray, entry: int, listed: int) -> None:
    raw[entry + 8] = raw[listed + 10] = zipfile.ZIP_BZIP2


def cut_short(raw: bytearray, _: int, listed: int) -> None:
    del raw[listed:]


@pytest.mark.parametrize("harm", [broken_stream, encrypted, otherwise_packed, cut_short])
@pytest.mark.parametrize("look", LOOKS, ids=" ".join)
def test_what_cannot_be_unpacked_is_said(harm, look, tmp_path) -> None:
    name = "events_jsonl" if look == ["--events"] else "workflow_json"  # what is read first
    path = packed(tmp_path / "broken.zip", **{name: GOOD})
    raw = bytearray(path.read_bytes())
    harm(raw, 0, raw.index(b"PK\x01\x02"))
    path.write_bytes(raw)
    code, _, err = opened(path, *look)
    assert (code, "is no bundle of ours" in err) == (1, True), err
