"""CopyImage: copies an image's data in full; made up for by deleting the copy the attempt made."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass

from agent.drivers.driver import Content, Copies, Format, ImageFound, Source, Steps
from agent.drivers.label import AT
from agent.verbs.context import FORMATS, Context, make_up_for
from countermand.rpc.errors import FieldInvalid, Violation
from countermand.v1.verb_pb2 import Action, CopyImageOutput, Output


def copy_image(context: Context, action: Action) -> Steps[Output]:
    """Copies an image's data in full, holes kept."""
    request = action.copy_image
    source = context.source(request.source, host_id=request.source_host_id)
    made = yield from context.target(request.target, Copies).copy(
        context.work,
        source if request.flatten else _Alone(source),
        request.target.image_id,
        image_format=FORMATS[request.format],
        take_digest=request.take_digest,
    )
    return Output(
        copy_image=CopyImageOutput(
            image=request.target,
            virtual_size_bytes=made.virtual_size_bytes,
            written_bytes=made.written_bytes,
            digest=made.digest,
            generation=made.generation,
        )
    )


def uncopy_image(context: Context, action: Action, made_by: str) -> Steps[None]:
    """Deletes the copy, if that attempt made it."""
    yield from make_up_for(context, action.copy_image.target, made_by)


@dataclass(frozen=True, slots=True)
class _Alone:
    """A source that must read through no other image; layers of its own are its snapshots."""

    source: Source

    @property
    def name(self) -> str:
        return self.source.name

    def find(self) -> ImageFound:
        found = self.source.find()
        if below := [name for name in found.chain if AT not in name]:
            why = f"{self.name} reads through {below[0]}: set it to copy the chain"
            raise FieldInvalid(Violation("copy_image.flatten", why))
        return found

    def reading(self, layout: Format) -> AbstractContextManager[Content]:
        return self.source.reading(layout)
