"""DeleteSnapshot: forgets a snapshot for good; nothing makes up for it."""

from __future__ import annotations

from agent.drivers.driver import Snapshots, Steps
from agent.verbs.context import Context
from countermand.v1.verb_pb2 import Action, DeleteSnapshotOutput, Output


def delete_snapshot(context: Context, action: Action) -> Steps[Output]:
    """Removes a snapshot; an absent one is a success."""
    request = action.delete_snapshot
    gone = yield from context.target(request.target, Snapshots).delete_snapshot(
        context.work,
        request.target.image_id,
        request.snapshot_id,
        expected_generation=request.expected_generation,
    )
    return Output(
        delete_snapshot=DeleteSnapshotOutput(existed=gone.existed, generation=gone.generation)
    )
