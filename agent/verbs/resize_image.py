"""ResizeImage: changes an image's size; growing is made up for by shrinking back what is unused."""

from __future__ import annotations

from agent.drivers.driver import Resizes, Steps
from agent.verbs.context import Context
from countermand.v1.verb_pb2 import Action, Output, ResizeImageOutput


def resize_image(context: Context, action: Action) -> Steps[Output]:
    """Changes an image's virtual size; the size it has already is a success."""
    request = action.resize_image
    resized = yield from context.target(request.target, Resizes).resize(
        context.work,
        request.target.image_id,
        size_bytes=request.virtual_size_bytes,
        shrink_allowed=request.shrink_allowed,
        expected_generation=request.expected_generation,
    )
    return Output(
        resize_image=ResizeImageOutput(
            previous_size_bytes=resized.previous_size_bytes,
            virtual_size_bytes=resized.virtual_size_bytes,
            generation=resized.generation,
        )
    )


def unresize_image(context: Context, action: Action, made_by: str) -> Steps[None]:
    """Shrinks the image back, if that attempt has grown it and nobody has used that."""
    target = action.resize_image.target
    yield from context.target(target, Resizes).make_up_for_resize(
        context.work, target.image_id, made_by=made_by
    )


def can_unresize(action: Action) -> bool:
    """Returns whether anything can make up for a resize: of one that may shrink, nothing."""
    return not action.resize_image.shrink_allowed
