"""What a pool shows of images, how an attempt ended, and whether that is what was expected."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from countermand.sanity.promises import Broken, equal
from countermand.v1.attempt_pb2 import Attempt
from countermand.v1.image_pb2 import Image

OPEN = frozenset({Attempt.STATE_ACCEPTED, Attempt.STATE_RUNNING, Attempt.STATE_CANCELLING})
CERTAIN = frozenset({Attempt.STATE_SUCCEEDED, Attempt.STATE_FAILED, Attempt.STATE_CANCELLED})


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What a pool shows of one image; what may differ between two looks is left out."""

    made_by: str
    cluster_id: str
    generation: int
    format: int
    size_bytes: int
    snapshots: tuple[tuple[str, str], ...]  # (id, the attempt that took it)
    chain: tuple[str, ...] | None  # None, in what is expected: any


def seen(image: Image) -> Seen:
    """Returns what matters of an image."""
    return Seen(
        made_by=image.owner.attempt,
        cluster_id=image.owner.cluster_id,
        generation=image.generation,
        format=image.format,
        size_bytes=image.virtual_size_bytes,
        snapshots=tuple((one.snapshot_id, one.owner.attempt) for one in image.snapshots),
        chain=tuple(below.image_id for below in image.chain),
    )


def without_generations(picture: Mapping[str, Seen]) -> dict[str, Seen]:
    """Returns a picture in which nobody counts."""
    return {image_id: replace(one, generation=0) for image_id, one in picture.items()}


def shows(picture: Mapping[str, Seen], expected: Mapping[str, Seen], about: str) -> None:
    """Raises unless a picture is what was expected.

    Raises:
        Broken: It is not.
    """
    for image_id in sorted(picture.keys() | expected.keys()):
        one, other = picture.get(image_id), expected.get(image_id)
        if one is not None and other is not None and other.chain is None:
            one = replace(one, chain=None)
        equal(one or "no image", other or "no image", f"{about}, image {image_id}")


def must(attempt: Attempt, *states: Attempt.State.ValueType) -> Attempt:
    """Returns an attempt, which must be in one of these states.

    Raises:
        Broken: It is not.
    """
    if attempt.state not in states:
        expected = " or ".join(Attempt.State.Name(state) for state in states)
        raise Broken(expected=f"{attempt.name} is {expected}", seen=told(attempt))
    return attempt


def failed(attempt: Attempt, *reasons: str) -> Attempt:
    """Returns an attempt, which must have failed for one of these reasons.

    Raises:
        Broken: It has not.
    """
    if attempt.state != Attempt.STATE_FAILED or attempt.failure.reason not in reasons:
        expected = " or ".join(reasons)
        raise Broken(expected=f"{attempt.name} is STATE_FAILED / {expected}", seen=told(attempt))
    return attempt


def told(attempt: Attempt) -> str:
    """Returns what a person reads of an attempt's state."""
    state = Attempt.State.Name(attempt.state)
    failure = attempt.failure
    return f"{state} / {failure.reason}: {failure.message}" if failure.reason else state
