"""The verbs as the stories of `conformance` tell them: before, the action, its opposite, after."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeVar

from agent.drivers.driver import (
    Clones,
    Content,
    Copies,
    Creates,
    Deletes,
    Driver,
    Format,
    ImageFound,
    Resizes,
    Snapshots,
    Steps,
    Verifies,
    Work,
)

MIB = 2**20
SIZE_BYTES = 5 * MIB
# Data, a hole that is longer than any block, and an odd end.
END = SIZE_BYTES - MIB // 4
OLD = b"\x01" * 4096 + bytes(END - 4096) + b"\x02" * (SIZE_BYTES - END - 512) + b"\x03" * 512

# Something asked of a driver on behalf of an attempt; and of what makes up for another one.
Sent = Callable[[Driver, Work], Steps[object]]
MakeUp = Callable[[Driver, Work, str], Steps[object]]

D = TypeVar("D", bound=Driver)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One verb, and what there is before and after it."""

    needs: frozenset[str]  # the verbs without which it cannot be told
    before: tuple[Sent, ...]
    act: Sent
    make_up: MakeUp | None = None
    images: tuple[str, ...] = ("base",)  # after it
    snapshots: tuple[str, ...] | None = None  # of the base, after it
    holds: bytes | None = None  # what was made, or else the base, is read as after it


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """A content that is not on any storage."""

    data: bytes = OLD

    @property
    def name(self) -> str:
        """Returns a name for people."""
        return "memory"

    @property
    def size_bytes(self) -> int:
        """Returns how many bytes there are."""
        return len(self.data)

    @property
    def identity(self) -> str:
        """Returns what never changes."""
        return "memory"

    def find(self) -> ImageFound:
        """Looks like an image of somebody else's."""
        return ImageFound(
            image_id="memory",
            format=Format.RAW,
            virtual_size_bytes=len(self.data),
            allocated_bytes=len(self.data),
            generation=1,
            cluster_id="",
            attempt="",
            create_time=datetime(2030, 1, 1, tzinfo=UTC),
            digest="",
            chain=(),
            snapshots=(),
        )

    @contextmanager
    def reading(self, layout: Format) -> Iterator[Content]:
        """Opens it; it is raw."""
        assert layout is Format.RAW, "a raw source has no other layout"
        yield self

    def next_data(self, offset: int) -> tuple[int, int] | None:
        """Returns its two extents."""
        for begin, end in ((0, 4096), (END, len(self.data))):
            if offset < end:
                return max(begin, offset), end
        return None

    def pread(self, buffer: memoryview, offset: int) -> int:
        """Fills the buffer from an offset."""
        data = self.data[offset : offset + len(buffer)]
        buffer[: len(data)] = data
        return len(data)


# -- what is asked -------------------------------------------------------------------------------


def _as(kind: type[D], driver: Driver) -> D:
    """Returns a driver as one that can do something; its verbs said so."""
    assert isinstance(driver, kind), f"no {kind.__name__}"
    return driver


def create(image_id: str) -> Sent:
    """Makes an empty image."""

    def sent(driver: Driver, work: Work) -> Steps[object]:
        return _as(Creates, driver).create(
            work, image_id, image_format=Format.RAW, size_bytes=SIZE_BYTES, preallocated=False
        )

    return sent


def copy(image_id: str) -> Sent:
    """Fills an image from memory."""

    def sent(driver: Driver, work: Work) -> Steps[object]:
        return _as(Copies, driver).copy(
            work, Memory(), image_id, image_format=None, take_digest=False
        )

    return sent


def clone(driver: Driver, work: Work) -> Steps[object]:
    """Makes an image that shares the base's data."""
    return _as(Clones, driver).clone(work, "base", "made", copy_allowed=True)


def delete(driver: Driver, work: Work) -> Steps[object]:
    """Removes the base."""
    return _as(Deletes, driver).delete(work, "base")


def create_snapshot(snapshot_id: str) -> Sent:
    """Remembers what the base holds."""

    def sent(driver: Driver, work: Work) -> Steps[object]:
        return _as(Snapshots, driver).create_snapshot(work, "base", snapshot_id)

    return sent


def delete_snapshot(driver: Driver, work: Work) -> Steps[object]:
    """Forgets what the base held."""
    return _as(Snapshots, driver).delete_snapshot(work, "base", "old")


def revert(safety_id: str) -> Sent:
    """Puts the base back."""

    def sent(driver: Driver, work: Work) -> Steps[object]:
        return _as(Snapshots, driver).revert(work, "base", "old", safety_id=safety_id)

    return sent


def grow(size_bytes: int) -> Sent:
    """Makes the base larger."""

    def sent(driver: Driver, work: Work) -> Steps[object]:
        return _as(Resizes, driver).resize(
            work, "base", size_bytes=size_bytes, shrink_allowed=False
        )

    return sent


def verify(driver: Driver, work: Work) -> Steps[object]:  # noqa: ARG001 - as all that is sent
    """Reads the base."""
    return _as(Verifies, driver).verify("base", digest="")


# -- what makes up for it ------------------------------------------------------------------------


def unmake(driver: Driver, work: Work, made_by: str) -> Steps[object]:
    """Removes the image that was made."""
    return driver.make_up_for(work, "made", made_by=made_by)


def unsnapshot(driver: Driver, work: Work, made_by: str) -> Steps[object]:
    """Removes the snapshot that was made."""
    return _as(Snapshots, driver).make_up_for_snapshot(work, "base", "made", made_by=made_by)


def unrevert(driver: Driver, work: Work, made_by: str) -> Steps[object]:
    """Puts back what the revert replaced."""
    return _as(Snapshots, driver).make_up_for_revert(
        work, "base", safety_id="safe", made_by=made_by
    )


def ungrow(driver: Driver, work: Work, made_by: str) -> Steps[object]:
    """Shrinks the base back."""
    return _as(Resizes, driver).make_up_for_resize(work, "base", made_by=made_by)


ZEROS = bytes(SIZE_BYTES)
BASE = (create("base"),)
WRITTEN = (copy("base"),)
SNAPSHOTTED = (create("base"), create_snapshot("old"), grow(2 * SIZE_BYTES))
_CREATES = frozenset({"create_image"})
_REVERTS = _CREATES | {"create_snapshot", "resize_image", "revert_image"}

CASES: Mapping[str, Case] = {
    "create": Case(needs=_CREATES, before=(), act=create("made"), make_up=unmake, images=("made",)),
    "copy": Case(
        needs=frozenset({"copy_image"}),
        before=(),
        act=copy("made"),
        make_up=unmake,
        images=("made",),
        holds=OLD,
    ),
    "clone": Case(
        needs=frozenset({"create_image", "clone_image"}),
        before=BASE,
        act=clone,
        make_up=unmake,
        images=("base", "made"),
        holds=ZEROS,
    ),
    "clone what was written": Case(
        needs=frozenset({"copy_image", "clone_image"}),
        before=WRITTEN,
        act=clone,
        make_up=unmake,
        images=("base", "made"),
        holds=OLD,
    ),
    "delete": Case(
        needs=frozenset({"create_image", "delete_image"}), before=BASE, act=delete, images=()
    ),
    "create snapshot": Case(
        needs=_CREATES | {"create_snapshot"},
        before=BASE,
        act=create_snapshot("made"),
        make_up=unsnapshot,
        snapshots=("made",),
    ),
    "delete snapshot": Case(
        needs=_CREATES | {"create_snapshot", "delete_snapshot"},
        before=(*BASE, create_snapshot("old")),
        act=delete_snapshot,
        snapshots=(),
    ),
    # The base has grown since its snapshot, so that what it holds can be told from that.
    "revert": Case(
        needs=_REVERTS, before=SNAPSHOTTED, act=revert(""), snapshots=("old",), holds=ZEROS
    ),
    "revert safely": Case(
        needs=_REVERTS,
        before=SNAPSHOTTED,
        act=revert("safe"),
        make_up=unrevert,
        snapshots=("old", "safe"),
        holds=ZEROS,
    ),
    "resize": Case(
        needs=_CREATES | {"resize_image"},
        before=BASE,
        act=grow(2 * SIZE_BYTES),
        make_up=ungrow,
        holds=2 * ZEROS,
    ),
    "verify": Case(needs=frozenset({"copy_image", "verify_image"}), before=WRITTEN, act=verify),
}
