"""Reads a bundle: what `countermand open` shows, without any coordinator.

A bundle comes from somebody, by mail or from a ticket. Its workflow and its history are read as the
contract's messages, and whatever is shown of them is drawn here: its own page is never opened.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Final

from countermand.bundle import page, picture
from countermand.bundle.writing import EVENTS, WORKFLOW
from countermand.rpc.json_form import UnreadableError, read
from countermand.v1.event_pb2 import HistoryEvent
from countermand.v1.workflow_pb2 import Workflow

FILE_BYTES_MAX: Final = 512 * 1024 * 1024  # unpacked: more than any workflow of ours says

PACKED: Final = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED})  # as ours are
LOCKED: Final = 1  # a bit of its flags
# What the library raises for a file that is broken or cut short.
BROKEN: Final = (zlib.error, EOFError, OSError, RuntimeError, ValueError, OverflowError)


class NoBundleError(Exception):
    """A file that is no bundle, with why."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """One workflow, as it was."""

    path: Path

    def workflow(self) -> Workflow:
        """Returns the workflow with its tasks; raises NoBundleError."""
        try:
            # A field that a newer version has added is no reason not to show the others.
            return read(self._content(WORKFLOW), Workflow, leave_out_unknown=True)
        except UnreadableError as error:
            raise NoBundleError(f"its {WORKFLOW} is no workflow: {error}") from None

    def events(self) -> Iterator[HistoryEvent]:
        """Yields its history; raises NoBundleError."""
        for number, line in enumerate(self._content(EVENTS).splitlines(), start=1):
            try:
                yield read(line, HistoryEvent, leave_out_unknown=True)
            except UnreadableError as error:
                said = f"line {number} of its {EVENTS} is no event: {error}"
                raise NoBundleError(said) from None

    def page(self) -> Iterator[str]:
        """Yields its page, drawn anew from what it says; raises NoBundleError."""
        workflow, events = self.workflow(), list(self.events())
        now = as_of(events)
        is_small = picture.is_small(len(workflow.tasks), len(events))
        tasks = workflow.tasks if is_small else picture.telling(workflow.tasks)
        draw = picture.whole if is_small else picture.part
        yield from page.top(workflow, draw(workflow, tasks, events, now.replace(tzinfo=None)), now)
        yield page.tasks_begin()
        yield from page.task_rows(workflow.tasks, {})
        yield from page.events(events, workflow.last_sequence)

    def _content(self, name: str) -> bytes:
        try:
            with zipfile.ZipFile(self.path) as file:
                found = [one for one in file.infolist() if one.filename.endswith(f"/{name}")]
                if not found:
                    raise NoBundleError(f"there is no {name} in it")
                if found[0].flag_bits & LOCKED:
                    raise NoBundleError(f"its {name} is locked with a password")
                if found[0].compress_type not in PACKED:
                    raise NoBundleError(f"its {name} is packed in a way that ours never is")
                with file.open(found[0]) as opened:
                    return _bounded(opened, name)
        except zipfile.BadZipFile:
            raise NoBundleError("it is no zip file, or not all of one") from None
        except BROKEN as error:
            raise NoBundleError(f"its {name} cannot be unpacked: {error}") from None


def as_of(events: Sequence[HistoryEvent]) -> datetime:
    """Returns the moment that a bundle shows: what ran then has not gone on since."""
    return events[-1].time.ToDatetime(UTC) if events else datetime.now(UTC)


def _bounded(opened: IO[bytes], name: str) -> bytes:
    content = opened.read(FILE_BYTES_MAX + 1)
    if len(content) > FILE_BYTES_MAX:
        raise NoBundleError(f"its {name} has over {FILE_BYTES_MAX} bytes")
    return content
