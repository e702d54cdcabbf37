"""RevertImage: puts an image back to a snapshot; made up for by way of a safety snapshot."""

from __future__ import annotations

from agent.drivers.driver import Snapshots, Steps
from agent.verbs.context import Context
from countermand.v1.verb_pb2 import Action, Output, RevertImageOutput


def revert_image(context: Context, action: Action) -> Steps[Output]:
    """Puts an image back to a snapshot, having taken the safety snapshot if there is to be one."""
    request = action.revert_image
    made = yield from context.target(request.target, Snapshots).revert(
        context.work,
        request.target.image_id,
        request.snapshot_id,
        safety_id=request.safety_snapshot_id,
        expected_generation=request.expected_generation,
    )
    return Output(
        revert_image=RevertImageOutput(
            generation=made.generation, safety_snapshot_id=request.safety_snapshot_id
        )
    )


def unrevert_image(context: Context, action: Action, made_by: str) -> Steps[None]:
    """Reverts to the safety snapshot and deletes it, if that attempt made it."""
    request = action.revert_image
    yield from context.target(request.target, Snapshots).make_up_for_revert(
        context.work,
        request.target.image_id,
        safety_id=request.safety_snapshot_id,
        made_by=made_by,
    )


def can_unrevert(action: Action) -> bool:
    """Returns whether anything can make up for a revert: without a safety snapshot, nothing."""
    return bool(action.revert_image.safety_snapshot_id)
