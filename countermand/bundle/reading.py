"""Reads a bundle: what `countermand open` shows, without any coordinator."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from google.protobuf import json_format

from countermand.bundle.writing import EVENTS, PAGE, WORKFLOW
from countermand.v1.event_pb2 import HistoryEvent
from countermand.v1.workflow_pb2 import Workflow

FILE_BYTES_MAX: Final = 512 * 1024 * 1024  # unpacked: more than any workflow of ours says


class NoBundleError(Exception):
    """A file that is no bundle, with why."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """One workflow, as it was."""

    path: Path

    def workflow(self) -> Workflow:
        """Returns the workflow with its tasks; raises NoBundleError."""
        text = self._read(WORKFLOW)
        try:
            # A field that a newer version has added is no reason not to show the others.
            return json_format.Parse(text, Workflow(), ignore_unknown_fields=True)
        except json_format.ParseError as error:
            raise NoBundleError(f"its {WORKFLOW} is no workflow: {error}") from None

    def events(self) -> Iterator[HistoryEvent]:
        """Yields its history; raises NoBundleError."""
        for number, line in enumerate(self._read(EVENTS).splitlines(), start=1):
            try:
                yield json_format.Parse(line, HistoryEvent(), ignore_unknown_fields=True)
            except json_format.ParseError as error:
                said = f"line {number} of its {EVENTS} is no event: {error}"
                raise NoBundleError(said) from None

    def page(self) -> bytes:
        """Returns its page; raises NoBundleError."""
        return self._read(PAGE)

    def _read(self, name: str) -> bytes:
        try:
            with zipfile.ZipFile(self.path) as file:
                found = [one for one in file.infolist() if one.filename.endswith(f"/{name}")]
                if not found:
                    raise NoBundleError(f"there is no {name} in it")
                with file.open(found[0]) as opened:
                    return _bounded(opened, name)
        except zipfile.BadZipFile:
            raise NoBundleError("it is no zip file") from None


def _bounded(opened: IO[bytes], name: str) -> bytes:
    content = opened.read(FILE_BYTES_MAX + 1)
    if len(content) > FILE_BYTES_MAX:
        raise NoBundleError(f"its {name} has over {FILE_BYTES_MAX} bytes")
    return content
