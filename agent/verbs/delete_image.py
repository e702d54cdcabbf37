"""DeleteImage: removes an image for good; nothing makes up for it."""

from __future__ import annotations

from agent.drivers.driver import Deletes, Steps
from agent.verbs.context import Context
from countermand.v1.verb_pb2 import Action, DeleteImageOutput, Output


def delete_image(context: Context, action: Action) -> Steps[Output]:
    """Removes an image; an absent one is a success."""
    request = action.delete_image
    existed = yield from context.target(request.target, Deletes).delete(
        context.work,
        request.target.image_id,
        expected_generation=request.expected_generation,
    )
    return Output(delete_image=DeleteImageOutput(existed=existed))
