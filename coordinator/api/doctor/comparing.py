"""Compares what was seen of one host with what the coordinator knows: one difference, one finding.

Pure. What is told here was seen once; whoever calls looks again before he believes it, since work
goes on meanwhile. Each difference has an advice, and a fix only where nothing that is open names
it; the agent removes an image only while its owner tag names the attempt and nobody reads it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from coordinator.api.doctor.standing import AT, GONE, Expected, Known, Place, Standing


class Kind(StrEnum):
    """What is different, as in the contract."""

    HOST_AWAY = "HOST_AWAY"
    POOL_FAILING = "POOL_FAILING"
    POOLS_DIFFER = "POOLS_DIFFER"
    POOL_NOT_SHARED = "POOL_NOT_SHARED"
    ATTEMPT_STRAY = "ATTEMPT_STRAY"
    ATTEMPT_UNKNOWN = "ATTEMPT_UNKNOWN"
    ATTEMPT_MISSING = "ATTEMPT_MISSING"
    OUTCOME_DIFFERS = "OUTCOME_DIFFERS"
    IMAGE_ORPHAN = "IMAGE_ORPHAN"
    IMAGE_MISSING = "IMAGE_MISSING"
    IMAGE_UNSAFE = "IMAGE_UNSAFE"
    IMAGE_OF_ANOTHER_CLUSTER = "IMAGE_OF_ANOTHER_CLUSTER"
    STAGED_LEFT = "STAGED_LEFT"
    STAGED_UNKNOWN = "STAGED_UNKNOWN"
    FENCE_LEFT = "FENCE_LEFT"
    FOREIGN = "FOREIGN"


class Fix(StrEnum):
    """What can be done about it, as in the contract."""

    NONE = "UNSPECIFIED"
    REMOVE_IMAGE = "REMOVE_IMAGE"
    REMOVE_STAGED = "REMOVE_STAGED"
    REMOVE_FENCE = "REMOVE_FENCE"
    CANCEL_ATTEMPT = "CANCEL_ATTEMPT"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One difference."""

    kind: Kind
    host: str
    pool_id: str = ""
    subject: str
    attempt: str = ""
    message: str
    advice: str
    fix: Fix = Fix.NONE
    allocated_bytes: int = 0
    generation: int = 0  # of the image that it is about, as it was seen

    @property
    def name(self) -> str:
        """Returns its name, the same at each look."""
        kind = self.kind.lower().replace("_", "-")
        subject = "/".join(part for part in (self.pool_id, self.subject) if part)
        return f"hosts/{self.host}/findings/{kind}/{subject}"


# -- what was seen ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenAttempt:
    """An attempt in a journal."""

    name: str
    open: bool
    outcome: str  # "SUCCEEDED", "FAILED", …; empty while it is open or nobody knows
    is_action: bool
    tombstoned: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenImage:
    """An image, or a snapshot as "image@snapshot"."""

    place: Place
    cluster_id: str
    attempt: str  # empty of an import
    generation: int = 0  # of an image; 0: it is a snapshot, or its driver counts none
    allocated_bytes: int


class Odd(StrEnum):
    """What something is that is no image, as agents tell it."""

    STAGED = "STAGED"
    FENCE = "FENCE"
    UNSAFE = "UNSAFE"
    FOREIGN = "FOREIGN"


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenOddity:
    """Something in a pool that is no image."""

    kind: Odd
    pool_id: str
    name: str
    attempt: str
    why: str
    in_use: bool
    allocated_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenPool:
    """A pool as one host tells of it."""

    pool_id: str
    identity: str
    shared: bool
    problem: str  # empty when it serves
    looked_at: bool = True  # False: it was by way of another host, or could not be


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What was seen of one host."""

    host: str
    incarnation: str = ""
    pools: Sequence[SeenPool] = ()
    attempts: Sequence[SeenAttempt] = ()
    images: Sequence[SeenImage] = ()
    oddities: Sequence[SeenOddity] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Knowledge:
    """What the coordinator knows that bears on it, read after it was seen."""

    cluster_id: str
    of: Callable[[str], Known]  # by an attempt's name
    accepted: Sequence[str] = ()  # attempts that the host has taken, and not ended
    expected: Sequence[Expected] = ()
    # Attempts of settled workflows whose hosts have been told to forget them: none can be late.
    forgotten: Collection[str] = ()
    # Images that open workflows name, each with one of them: nothing of theirs is taken away.
    held: Mapping[Place, str] = field(default_factory=dict)


# -- comparing ----------------------------------------------------------------------------------


def compare(seen: Seen, knowledge: Knowledge) -> list[Finding]:
    """Returns every difference, in the order of their kinds."""
    found = [
        *_of_pools(seen),
        *_of_attempts(seen, knowledge),
        *_of_images(seen, knowledge),
        *_of_oddities(seen, knowledge),
    ]
    places = {kind: place for place, kind in enumerate(Kind)}
    return sorted(found, key=lambda finding: (places[finding.kind], finding.name))


def _of_pools(seen: Seen) -> Iterator[Finding]:
    for pool in seen.pools:
        if pool.problem:
            yield Finding(
                kind=Kind.POOL_FAILING,
                host=seen.host,
                pool_id=pool.pool_id,
                subject="",
                message=pool.problem,
                advice="look at the storage, then at the agent's log",
            )


def _of_attempts(seen: Seen, knowledge: Knowledge) -> Iterator[Finding]:
    listed = {attempt.name for attempt in seen.attempts}
    for name in knowledge.accepted:
        if name not in listed:
            yield Finding(
                kind=Kind.ATTEMPT_MISSING,
                host=seen.host,
                subject=name,
                attempt=name,
                message="the coordinator heard that it was accepted; the journal does not have it",
                advice="the journal was replaced or went back: see `countermand host get`",
            )
    for attempt in seen.attempts:
        known = knowledge.of(attempt.name)
        if attempt.open and known.standing is Standing.NOT_OURS:
            yield Finding(
                kind=Kind.ATTEMPT_UNKNOWN,
                host=seen.host,
                subject=attempt.name,
                attempt=attempt.name,
                message="it is open in the journal; the coordinator has no such workflow",
                advice="was the coordinator's database restored from an older backup?",
            )
        elif attempt.open and known.standing in GONE and attempt.is_action:
            yield Finding(
                kind=Kind.ATTEMPT_STRAY,
                host=seen.host,
                subject=attempt.name,
                attempt=attempt.name,
                message=f"it is open in the journal; for the coordinator it is {_words(known)}",
                advice="let it be cancelled",
                fix=Fix.CANCEL_ATTEMPT,
            )
        elif _outcomes_differ(attempt, known):
            yield Finding(
                kind=Kind.OUTCOME_DIFFERS,
                host=seen.host,
                subject=attempt.name,
                attempt=attempt.name,
                message=f"{attempt.outcome} in the journal, {known.state} at the coordinator",
                advice="compare the image with what the workflow should have left",
            )


def _outcomes_differ(attempt: SeenAttempt, known: Known) -> bool:
    if attempt.tombstoned or not attempt.outcome or known.state is None:
        return False
    if known.standing in {Standing.OPEN, Standing.MADE_UP_FOR, Standing.NEVER}:
        return False  # it will be heard of, or does not matter any more
    return (attempt.outcome == "SUCCEEDED") is not (known.state == "SUCCEEDED")


def _of_images(seen: Seen, knowledge: Knowledge) -> Iterator[Finding]:
    there = {image.place for image in seen.images}
    unsafe = {
        Place(oddity.pool_id, oddity.name.removeprefix("images/"))
        for oddity in seen.oddities
        if oddity.kind is Odd.UNSAFE
    }
    for expected in knowledge.expected:
        if expected.place not in there | unsafe:
            yield Finding(
                kind=Kind.IMAGE_MISSING,
                host=seen.host,
                pool_id=expected.place.pool_id,
                subject=expected.place.name,
                attempt=expected.attempt,
                message="an open workflow has made it, and it is not there",
                advice="cancel the workflow, or pause it and run the task that made it again",
            )
    for image in seen.images:
        if not image.attempt:
            continue  # an administrator's
        if image.cluster_id != knowledge.cluster_id:
            yield Finding(
                kind=Kind.IMAGE_OF_ANOTHER_CLUSTER,
                host=seen.host,
                pool_id=image.place.pool_id,
                subject=image.place.name,
                attempt=image.attempt,
                message=f"it belongs to cluster {image.cluster_id}",
                advice="is that coordinator still in use? Ask it; nothing is done from here",
                allocated_bytes=image.allocated_bytes,
            )
            continue
        known = knowledge.of(image.attempt)
        if known.standing in GONE:
            yield _orphan(seen.host, image, known, knowledge)
        elif known.place is not None and known.place != image.place:
            yield Finding(
                kind=Kind.IMAGE_ORPHAN,
                host=seen.host,
                pool_id=image.place.pool_id,
                subject=image.place.name,
                attempt=image.attempt,
                message=f"its owner tag is of an attempt that made {'/'.join(known.place)}",
                advice="somebody has copied or renamed it: move it away, and import it to keep it",
                allocated_bytes=image.allocated_bytes,
            )


def _orphan(host: str, image: SeenImage, known: Known, knowledge: Knowledge) -> Finding:
    name = image.place.name.partition(AT)[0]
    holder = knowledge.held.get(Place(image.place.pool_id, name), "")
    advice, fix = "let it be removed", Fix.REMOVE_IMAGE
    if holder:
        advice, fix = f"wait until {holder}, which names it, is settled", Fix.NONE
    elif not known.settled:
        advice, fix = "wait until its workflow is settled", Fix.NONE
    elif known.in_doubt:
        advice = "it may have succeeded before an older database was put back: is it in use?"
        fix = Fix.NONE
    return Finding(
        kind=Kind.IMAGE_ORPHAN,
        host=host,
        pool_id=image.place.pool_id,
        subject=image.place.name,
        attempt=image.attempt,
        message=f"it is there; the attempt that made it is {_words(known)}",
        advice=advice,
        fix=fix,
        allocated_bytes=image.allocated_bytes,
        generation=image.generation,
    )


def _of_oddities(seen: Seen, knowledge: Knowledge) -> Iterator[Finding]:
    open_here = {attempt.name for attempt in seen.attempts if attempt.open}
    for oddity in seen.oddities:
        if oddity.in_use or oddity.attempt in open_here:
            continue
        if finding := _of_oddity(seen.host, oddity, knowledge):
            yield finding


def _of_oddity(host: str, oddity: SeenOddity, knowledge: Knowledge) -> Finding | None:
    kind, advice, fix = Kind.FOREIGN, "find out whose it is; nothing of ours needs it", Fix.NONE
    message = oddity.why
    known = knowledge.of(oddity.attempt) if oddity.attempt else None
    match oddity.kind:
        case Odd.UNSAFE:
            kind, advice = Kind.IMAGE_UNSAFE, "look at it, and move it out of the pool's folder"
        case Odd.FOREIGN:
            pass
        case Odd.STAGED if known is None:
            message = "an import was begun and not ended"
            advice = "import it again, or remove the folder"
        case Odd.STAGED if known is not None and known.standing is Standing.NOT_OURS:
            kind, advice = Kind.STAGED_UNKNOWN, "its own agent sweeps it, if it still has one"
        case Odd.STAGED if known is not None and known.standing is not Standing.OPEN:
            kind, advice, fix = Kind.STAGED_LEFT, "let it be removed", Fix.REMOVE_STAGED
            message = f"{oddity.why}; the attempt is {_words(known)}"
        case Odd.FENCE if (
            known is not None and known.settled and oddity.attempt in knowledge.forgotten
        ):
            kind, advice, fix = Kind.FENCE_LEFT, "let it be removed", Fix.REMOVE_FENCE
            message = "its workflow is settled, and its host has forgotten the attempt"
        case _:
            return None
    return Finding(
        kind=kind,
        host=host,
        pool_id=oddity.pool_id,
        subject=oddity.name,
        attempt=oddity.attempt,
        message=message,
        advice=advice,
        fix=fix,
        allocated_bytes=oddity.allocated_bytes,
    )


def _words(known: Known) -> str:
    return {
        Standing.NEVER: "none that it ever sent",
        Standing.NO_EFFECT: "one that failed or was cancelled",
        Standing.MADE_UP_FOR: "made up for",
        Standing.STANDS: "done",
        Standing.OPEN: "open",
        Standing.NOT_OURS: "unknown",
    }[known.standing]


# -- across hosts -------------------------------------------------------------------------------


def compare_pools(hosts: Sequence[Seen]) -> list[Finding]:
    """Returns the differences between what several hosts say of the same pools."""
    found: list[Finding] = []
    first: dict[str, tuple[str, SeenPool]] = {}
    for seen in hosts:
        for pool in seen.pools:
            if not pool.identity:
                continue
            other_host, other = first.setdefault(pool.pool_id, (seen.host, pool))
            if other_host == seen.host:
                continue
            if pool.identity != other.identity:
                found.append(
                    _of_two(
                        Kind.POOLS_DIFFER,
                        seen.host,
                        pool.pool_id,
                        f"it is other storage than on host {other_host}",
                        "give one of the two pools another id: the same id means the same storage",
                    )
                )
            elif not (pool.shared and other.shared):
                alone = seen.host if not pool.shared else other_host
                found.append(
                    _of_two(
                        Kind.POOL_NOT_SHARED,
                        alone,
                        pool.pool_id,
                        f"{seen.host} and {other_host} reach it, and {alone} takes it for its own",
                        f"add the option `shared` to the pool in the configuration of {alone}",
                    )
                )
    return found


def _of_two(kind: Kind, host: str, pool_id: str, message: str, advice: str) -> Finding:
    return Finding(
        kind=kind, host=host, pool_id=pool_id, subject="", message=message, advice=advice
    )
