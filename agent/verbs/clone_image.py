"""CloneImage: makes an image that shares data; made up for by deleting the clone."""

from __future__ import annotations

from agent.drivers.driver import Clones, Steps
from agent.verbs.context import Context, make_up_for
from countermand.v1.verb_pb2 import Action, CloneImageOutput, Output


def clone_image(context: Context, action: Action) -> Steps[Output]:
    """Makes an image that shares its source's data until written."""
    request = action.clone_image
    made = yield from context.target(request.target, Clones).clone(
        context.work,
        request.source.image_id,
        request.target.image_id,
        copy_allowed=request.copy_allowed,
    )
    return Output(
        clone_image=CloneImageOutput(
            image=request.target,
            virtual_size_bytes=made.virtual_size_bytes,
            shared=made.shared,
            generation=made.generation,
        )
    )


def unclone_image(context: Context, action: Action, made_by: str) -> Steps[None]:
    """Deletes the clone, if that attempt made it."""
    yield from make_up_for(context, action.clone_image.target, made_by)
