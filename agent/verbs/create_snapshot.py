"""CreateSnapshot: remembers an image's content; made up for by deleting that snapshot."""

from __future__ import annotations

from agent.drivers.driver import Snapshots, Steps
from agent.verbs.context import Context
from countermand.v1.verb_pb2 import Action, CreateSnapshotOutput, Output


def create_snapshot(context: Context, action: Action) -> Steps[Output]:
    """Remembers an image's present content."""
    request = action.create_snapshot
    made = yield from context.target(request.target, Snapshots).create_snapshot(
        context.work,
        request.target.image_id,
        request.snapshot_id,
        expected_generation=request.expected_generation,
    )
    return Output(
        create_snapshot=CreateSnapshotOutput(
            snapshot_id=request.snapshot_id, generation=made.generation
        )
    )


def uncreate_snapshot(context: Context, action: Action, made_by: str) -> Steps[None]:
    """Deletes the snapshot, if that attempt made it."""
    request = action.create_snapshot
    yield from context.target(request.target, Snapshots).make_up_for_snapshot(
        context.work, request.target.image_id, request.snapshot_id, made_by=made_by
    )
