"""The verb `example.org/stamp`: makes a raw image that holds a text.

A guest that is given it as a small disk reads there who it is. The text comes with the request, so
the driver of the pool is handed it as what it shall copy: staging, the owner tag, the repeat after
a crash and the way back are the driver's, and are not written here again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

from agent.drivers.driver import Copies, Driver, Format, ImageFound, Steps
from agent.verbs.context import Context
from agent.verbs.plugins import Effect, Json, Request, Scalar

SECTOR_BYTES = 512
TEXT_BYTES_MAX = 8192


class Stamp:
    """Makes an image that holds a text."""

    effect = Effect.REVERSIBLE
    source: type[Driver] | None = None
    target: type[Driver] | None = Copies

    def check(self, arguments: Mapping[str, Json]) -> Mapping[str, str]:
        """Returns what is wrong with arguments."""
        unknown = arguments.keys() - {"text"}
        wrong = dict.fromkeys(unknown, "is no argument of stamp: there is text")
        text = arguments.get("text")
        if not isinstance(text, str) or not 0 < len(text.encode()) <= TEXT_BYTES_MAX:
            wrong["text"] = f"must be a text of 1 to {TEXT_BYTES_MAX} bytes"
        return wrong

    def act(self, context: Context, request: Request) -> Steps[Mapping[str, Scalar]]:
        """Makes the image; finds it again if an earlier life has made it."""
        text = str(request.arguments["text"]).encode()
        made = yield from context.target(request.target, Copies).copy(
            context.work,
            Text(text),
            request.target.image_id,
            image_format=Format.RAW,
            take_digest=False,
        )
        return {
            "sha256": hashlib.sha256(text).hexdigest(),
            "size_bytes": len(text),
            "generation": made.generation,
        }

    def make_up(self, context: Context, request: Request, made_by: str) -> Steps[None]:
        """Deletes the image, if that attempt made it."""
        yield from context.target(request.target, Driver).make_up_for(
            context.work, request.target.image_id, made_by=made_by
        )


@dataclass(frozen=True, slots=True)
class Text:
    """A text as an image to copy from, and as its content."""

    text: bytes
    name: str = "the text"

    @property
    def size_bytes(self) -> int:
        """Returns the size of the image: whole sectors."""
        return -(-len(self.text) // SECTOR_BYTES) * SECTOR_BYTES

    @property
    def identity(self) -> str:
        """Returns what changes with the text."""
        return hashlib.sha256(self.text).hexdigest()

    def next_data(self, offset: int) -> tuple[int, int] | None:
        """Returns where data follows: in front of the end, everywhere."""
        return (offset, self.size_bytes) if offset < self.size_bytes else None

    def pread(self, buffer: memoryview, offset: int) -> int:
        """Fills the buffer."""
        part = self.text.ljust(self.size_bytes, b"\0")[offset : offset + len(buffer)]
        buffer[: len(part)] = part
        return len(part)

    @contextmanager
    def reading(self, layout: Format) -> Iterator[Text]:
        """Opens it; a guest reads the same bytes that are in its file."""
        assert layout is Format.RAW, layout
        yield self

    def find(self) -> ImageFound:
        """Looks at it."""
        return ImageFound(
            image_id="text",
            format=Format.RAW,
            virtual_size_bytes=self.size_bytes,
            allocated_bytes=self.size_bytes,
            generation=0,
            cluster_id="",
            attempt="",
            create_time=datetime.fromtimestamp(0, UTC),
            digest="",
            chain=(),
            snapshots=(),
        )


STAMP = Stamp()
