"""CreateImage: makes an empty image; made up for by deleting what the attempt made."""

from __future__ import annotations

from agent.drivers.driver import Creates, Format, Steps
from agent.verbs.context import FORMATS, Context, make_up_for
from countermand.v1.verb_pb2 import Action, CreateImageOutput, Output


def create_image(context: Context, action: Action) -> Steps[Output]:
    """Makes an empty image."""
    request = action.create_image
    made = yield from context.target(request.target, Creates).create(
        context.work,
        request.target.image_id,
        image_format=FORMATS[request.format] or Format.RAW,
        size_bytes=request.virtual_size_bytes,
        preallocated=request.preallocated,
    )
    return Output(
        create_image=CreateImageOutput(
            image=request.target,
            virtual_size_bytes=made.virtual_size_bytes,
            generation=made.generation,
        )
    )


def uncreate_image(context: Context, action: Action, made_by: str) -> Steps[None]:
    """Deletes the image, if that attempt made it."""
    yield from make_up_for(context, action.create_image.target, made_by)
