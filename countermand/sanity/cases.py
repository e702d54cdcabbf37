"""The verbs in all the ways in which they are tried: what each needs first, and what it must show.

One row for one way of one verb. `prepare` makes what the action needs and returns the action;
`after` returns what the pool must show once it has succeeded, from what it showed before.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any

from countermand.sanity.probe import ONLY_READ, SIZE_BYTES, Probe, create
from countermand.sanity.promises import NotOffered
from countermand.sanity.seeing import Seen
from countermand.sanity.subject import Subject
from countermand.v1.image_pb2 import (
    IMAGE_FORMAT_QCOW2,
    IMAGE_FORMAT_RAW,
    ImageFormat,
    Pool,
)
from countermand.v1.verb_pb2 import (
    Action,
    CloneImage,
    CopyImage,
    CreateSnapshot,
    DeleteImage,
    DeleteSnapshot,
    Noop,
    ResizeImage,
    RevertImage,
    VerifyImage,
)

Picture = dict[str, Seen]
Prepare = Callable[[Probe], Awaitable[Action]]
After = Callable[[Probe, Picture, str], Awaitable[Picture]]

MADE = "made"  # what an action makes, if it makes an image
OLD = "old"
SAFE = "safe"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One way of one verb."""

    verb: str
    way: str = ""
    prepare: Prepare
    after: After
    needs: tuple[str, ...] = ()  # the verbs that prepare it
    formats: tuple[ImageFormat.ValueType, ...] = ()
    compensable: bool = True
    counts: bool = False  # it moves a generation on, and so does what makes up for it
    # It takes a name that must be free: a second attempt of the same is refused.
    taken: str = ""

    @property
    def makes(self) -> bool:
        """Returns whether it takes a name that must be free."""
        return bool(self.taken)

    @property
    def names_images(self) -> bool:
        """Returns whether it names any image."""
        return self.verb != "noop"

    @property
    def needs_image(self) -> bool:
        """Returns whether it fails where an image is missing."""
        absent_is_fine = {"create_image", "delete_image", "delete_snapshot", "noop"}
        return self.verb not in absent_is_fine

    @property
    def name(self) -> str:
        """Returns the verb and the way."""
        return f"{self.verb}:{self.way}" if self.way else self.verb

    def refusal(self, subject: Subject, pool: Pool) -> str:
        """Returns why this cannot be tried in a pool; empty if it can."""
        for verb in (self.verb, *self.needs):
            if verb not in pool.verbs:
                return f"pool {pool.pool_id} does not offer {verb}"
        for wanted in self.formats:
            if wanted not in pool.formats:
                return f"pool {pool.pool_id} does not offer {ImageFormat.Name(wanted)}"
        if pool.read_only and self.verb not in ONLY_READ:
            return f"pool {pool.pool_id} is read-only"
        return "" if subject.offers(self.verb, pool) else "left out by --verb"


# -- what is prepared ---------------------------------------------------------------------------


async def _create(probe: Probe) -> Action:
    return create(probe.address(MADE))


async def _create_qcow2(probe: Probe) -> Action:
    return create(probe.address(MADE), format=IMAGE_FORMAT_QCOW2)


async def _create_preallocated(probe: Probe) -> Action:
    return create(probe.address(MADE), preallocated=True)


async def _copy(probe: Probe) -> Action:
    return Action(copy_image=CopyImage(source=await probe.base(), target=probe.address(MADE)))


async def _convert(probe: Probe) -> Action:
    source = await probe.created("base", format=IMAGE_FORMAT_RAW)
    copy = CopyImage(source=source, target=probe.address(MADE), format=IMAGE_FORMAT_QCOW2)
    return Action(copy_image=copy)


async def _clone(probe: Probe) -> Action:
    source = await probe.created("base")
    return Action(
        clone_image=CloneImage(source=source, target=probe.address(MADE), copy_allowed=True)
    )


async def _overlay(probe: Probe) -> Action:
    source = await probe.created("base", format=IMAGE_FORMAT_QCOW2)
    return Action(clone_image=CloneImage(source=source, target=probe.address(MADE)))


async def _snapshot(probe: Probe, **fields: Any) -> Action:  # noqa: ANN401 - CreateImage's fields
    target = await probe.created("base", **fields)
    return Action(create_snapshot=CreateSnapshot(target=target, snapshot_id=OLD))


async def _snapshot_qcow2(probe: Probe) -> Action:
    return await _snapshot(probe, format=IMAGE_FORMAT_QCOW2)


async def _delete(probe: Probe) -> Action:
    return Action(delete_image=DeleteImage(target=await probe.created("base")))


async def _with_snapshot(probe: Probe, **fields: Any) -> Action:  # noqa: ANN401 - CreateImage's fields
    action = await _snapshot(probe, **fields)
    await probe.done(probe.attempt("snapshot"), action)
    return action


async def _delete_snapshot(probe: Probe, **fields: Any) -> Action:  # noqa: ANN401 - CreateImage's fields
    target = (await _with_snapshot(probe, **fields)).create_snapshot.target
    return Action(delete_snapshot=DeleteSnapshot(target=target, snapshot_id=OLD))


async def _delete_snapshot_qcow2(probe: Probe) -> Action:
    return await _delete_snapshot(probe, format=IMAGE_FORMAT_QCOW2)


async def _revert(probe: Probe) -> Action:
    target = (await _with_snapshot(probe)).create_snapshot.target
    return Action(revert_image=RevertImage(target=target, snapshot_id=OLD))


async def _revert_safely(probe: Probe) -> Action:
    action = await _revert(probe)
    action.revert_image.safety_snapshot_id = SAFE
    return action


async def _grow(probe: Probe) -> Action:
    target = await probe.created("base")
    return Action(resize_image=ResizeImage(target=target, virtual_size_bytes=2 * SIZE_BYTES))


async def _verify(probe: Probe) -> Action:
    return Action(verify_image=VerifyImage(target=await probe.created("base")))


async def _noop(_probe: Probe) -> Action:
    return Action(noop=Noop())


# -- what must be seen --------------------------------------------------------------------------


def _made(image_format: ImageFormat.ValueType, *, chain: tuple[str, ...] | None = ()) -> After:
    async def after(probe: Probe, before: Picture, name: str) -> Picture:
        own = Seen(
            made_by=name,
            cluster_id=probe.subject.cluster_id,
            generation=1,
            format=image_format,
            size_bytes=SIZE_BYTES,
            snapshots=(),
            chain=chain,
        )
        return {**before, MADE: own}

    return after


async def _made_like_its_source(probe: Probe, before: Picture, name: str) -> Picture:
    source = await probe.inspect(probe.subject.source or probe.address("base"))
    after = await _made(source.format)(probe, before, name)
    return {**after, MADE: replace(after[MADE], size_bytes=source.virtual_size_bytes)}


async def _same(_probe: Probe, before: Picture, _name: str) -> Picture:
    return before


async def _gone(_probe: Probe, before: Picture, _name: str) -> Picture:
    return {image_id: one for image_id, one in before.items() if image_id != "base"}


def _base(**changes: object) -> After:
    async def after(_probe: Probe, before: Picture, _name: str) -> Picture:
        return {**before, "base": replace(before["base"], **changes)}  # type: ignore[arg-type]

    return after


def _snapshot_taken(*, chain: tuple[str, ...] | None = ()) -> After:
    async def after(_probe: Probe, before: Picture, name: str) -> Picture:
        return {**before, "base": replace(before["base"], snapshots=((OLD, name),), chain=chain)}

    return after


def _reverted(*, safely: bool) -> After:
    async def after(_probe: Probe, before: Picture, name: str) -> Picture:
        base = before["base"]
        safe = ((SAFE, name),) if safely else ()
        base = replace(base, generation=base.generation + 1, snapshots=base.snapshots + safe)
        return {**before, "base": base}

    return after


RAW, QCOW2 = (IMAGE_FORMAT_RAW,), (IMAGE_FORMAT_QCOW2,)
BOTH = RAW + QCOW2
MAKE = ("create_image",)
SNAP = ("create_image", "create_snapshot")

CASES: tuple[Case, ...] = (
    Case(
        verb="create_image",
        prepare=_create,
        after=_made(IMAGE_FORMAT_RAW),
        formats=RAW,
        taken="IMAGE_EXISTS",
    ),
    Case(
        verb="create_image",
        way="qcow2",
        prepare=_create_qcow2,
        after=_made(IMAGE_FORMAT_QCOW2),
        formats=QCOW2,
        taken="IMAGE_EXISTS",
    ),
    Case(
        verb="create_image",
        way="preallocated",
        prepare=_create_preallocated,
        after=_made(IMAGE_FORMAT_RAW),
        formats=RAW,
        taken="IMAGE_EXISTS",
    ),
    Case(
        verb="copy_image",
        prepare=_copy,
        after=_made_like_its_source,
        needs=MAKE,
        formats=RAW,
        taken="IMAGE_EXISTS",
    ),
    Case(
        verb="copy_image",
        way="to-qcow2",
        prepare=_convert,
        after=_made(IMAGE_FORMAT_QCOW2),
        needs=MAKE,
        formats=BOTH,
        taken="IMAGE_EXISTS",
    ),
    Case(
        verb="clone_image",
        prepare=_clone,
        after=_made(IMAGE_FORMAT_RAW),
        needs=MAKE,
        formats=RAW,
        taken="IMAGE_EXISTS",
    ),
    Case(
        verb="clone_image",
        way="qcow2",
        prepare=_overlay,
        after=_made(IMAGE_FORMAT_QCOW2, chain=None),  # an overlay, or shared by the file system
        needs=MAKE,
        formats=QCOW2,
        taken="IMAGE_EXISTS",
    ),
    Case(
        verb="create_snapshot",
        prepare=_snapshot,
        after=_snapshot_taken(),
        needs=MAKE,
        taken="SNAPSHOT_EXISTS",
    ),
    Case(
        verb="create_snapshot",
        way="qcow2",
        prepare=_snapshot_qcow2,
        after=_snapshot_taken(chain=None),  # it may read through its snapshot
        needs=MAKE,
        formats=QCOW2,
        taken="SNAPSHOT_EXISTS",
    ),
    Case(
        verb="delete_snapshot",
        prepare=_delete_snapshot,
        after=_base(snapshots=()),
        needs=SNAP,
        compensable=False,
    ),
    Case(
        verb="delete_snapshot",
        way="qcow2",  # what it held is merged
        prepare=_delete_snapshot_qcow2,
        after=_base(snapshots=(), chain=()),
        needs=SNAP,
        formats=QCOW2,
        compensable=False,
    ),
    Case(
        verb="revert_image",
        prepare=_revert,
        after=_reverted(safely=False),
        needs=SNAP,
        compensable=False,
        counts=True,
    ),
    Case(
        verb="revert_image",
        way="safely",
        prepare=_revert_safely,
        after=_reverted(safely=True),
        needs=SNAP,
        counts=True,
        taken="SNAPSHOT_EXISTS",
    ),
    Case(
        verb="resize_image",
        prepare=_grow,
        after=_base(size_bytes=2 * SIZE_BYTES, generation=2),
        needs=MAKE,
        counts=True,
    ),
    Case(verb="delete_image", prepare=_delete, after=_gone, needs=MAKE, compensable=False),
    Case(verb="verify_image", prepare=_verify, after=_same, needs=MAKE),
    Case(verb="noop", prepare=_noop, after=_same),
)


def tried(subject: Subject, pool: Pool) -> list[tuple[Case, str]]:
    """Returns all cases, each with why it cannot be tried in a pool; empty if it can."""
    return [(case, case.refusal(subject, pool)) for case in CASES]


def first(subject: Subject, pool: Pool) -> Case:
    """Returns the first case that can be tried in a pool and leaves something to see.

    Raises:
        NotOffered: There is none.
    """
    for case, refusal in tried(subject, pool):
        if not refusal and case.taken:
            return case
    raise NotOffered(f"pool {pool.pool_id} offers no verb that makes anything")
