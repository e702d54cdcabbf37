"""CopyImage: copies an image's data in full; made up for by deleting the copy the attempt made."""

from __future__ import annotations

from agent.drivers.driver import Copies, Steps
from agent.verbs.context import FORMATS, Context, make_up_for
from countermand.v1.verb_pb2 import Action, CopyImageOutput, Output


def copy_image(context: Context, action: Action) -> Steps[Output]:
    """Copies an image's data in full, holes kept."""
    request = action.copy_image
    made = yield from context.target(request.target, Copies).copy(
        context.work,
        context.source(request.source, host_id=request.source_host_id),
        request.target.image_id,
        image_format=FORMATS[request.format],
        flatten=request.flatten,
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
