"""What a storage driver is: the protocol that serves one kind of pool, and its words.

A driver's work comes as generators: each yields a `Step` at every chunk, before which it may be
stopped by an exception thrown in at that point, and returns what it made. It stops by raising one
of our errors, having swept what it had begun; GeneratorExit means that the process ends, and that
the work is to be found again. Nothing can stop it between making an effect visible and returning.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol, TypeVar

from countermand.rpc.crash import Crash
from countermand.rpc.errors import CountermandError

T = TypeVar("T")


class Format(StrEnum):
    """How the bytes of an image are laid out."""

    RAW = "raw"
    QCOW2 = "qcow2"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A place where the work may be stopped, and what is to be told or kept there."""

    done: int = 0
    total: int = 0  # 0: no progress to tell
    pulse: int = 0  # changes as the work moves on, where `done` is too coarse to show it
    note: str = ""  # kept in the journal before the work goes on; comes back in `Work.note`
    note_needed: bool = False  # without it the work must not go on; else it only saves time
    last: bool = False  # the effect follows at once: passing here is the point of no return
    wait_s: float = 0.0  # how long to wait, so as to keep to a bandwidth


Steps = Generator[Step, None, T]


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """On whose behalf a driver works, and what it needs from outside."""

    attempt: str
    cluster_id: str
    note: str  # what was last kept of an earlier life; empty at first
    resumed: bool = False  # an earlier life may have come to its effect
    now: Callable[[], datetime]
    crash: Crash


class OutcomeUnknown(Exception):
    """The storage did not say whether an effect is durable; the next start will look."""

    def __init__(self, cause: CountermandError) -> None:
        """Keeps what the storage did say."""
        self.cause = cause
        super().__init__(str(cause))


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """What a verb made, or found that it had made in an earlier life."""

    image_id: str
    virtual_size_bytes: int
    written_bytes: int
    generation: int
    digest: str = ""
    shared: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotGone:
    """What deleting a snapshot found."""

    existed: bool
    generation: int  # the image's; 0 if there is none


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotFound:
    """A snapshot as the storage holds it."""

    snapshot_id: str
    cluster_id: str
    attempt: str
    create_time: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFound:
    """An image as the storage holds it."""

    image_id: str
    format: Format
    virtual_size_bytes: int
    allocated_bytes: int
    generation: int
    cluster_id: str  # empty, as is the attempt, of an image that was imported
    attempt: str
    create_time: datetime
    digest: str
    chain: tuple[str, ...]  # the images below it, nearest first
    snapshots: tuple[SnapshotFound, ...]  # oldest first


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolFound:
    """A pool as this host sees it."""

    capacity_bytes: int
    used_bytes: int
    formats: tuple[Format, ...]
    verbs: frozenset[str]


class Driver(Protocol):
    """Serves one pool. Every method but the first may take long: call it in a thread."""

    pool_id: str
    read_only: bool
    # Several hosts reach it: what is half-made there may be another agent's.
    shared: bool
    verbs: frozenset[str]

    def create(
        self,
        work: Work,
        image_id: str,
        *,
        image_format: Format,
        size_bytes: int,
        preallocated: bool,
    ) -> Steps[Made]:
        """Makes an empty image."""
        ...

    def copy(
        self,
        work: Work,
        source: Driver,
        source_id: str,
        image_id: str,
        *,
        image_format: Format | None,
        flatten: bool,
        take_digest: bool,
    ) -> Steps[Made]:
        """Copies an image's data in full, from this pool or from another of the same driver."""
        ...

    def clone(
        self, work: Work, source_id: str, image_id: str, *, copy_allowed: bool
    ) -> Steps[Made]:
        """Makes an image that shares its source's data until written."""
        ...

    def delete(self, work: Work, image_id: str) -> Steps[bool]:
        """Removes an image; returns whether it was there."""
        ...

    def make_up_for(self, work: Work, image_id: str, *, made_by: str) -> Steps[bool]:
        """Removes what exactly that attempt made, half-made things too; returns whether any."""
        ...

    def create_snapshot(self, work: Work, image_id: str, snapshot_id: str) -> Steps[Made]:
        """Remembers an image's present content; the generation is that of the content."""
        ...

    def delete_snapshot(self, work: Work, image_id: str, snapshot_id: str) -> Steps[SnapshotGone]:
        """Removes a snapshot."""
        ...

    def make_up_for_snapshot(
        self, work: Work, image_id: str, snapshot_id: str, *, made_by: str
    ) -> Steps[bool]:
        """Removes the snapshot that exactly that attempt made; returns whether any."""
        ...

    def revert(self, work: Work, image_id: str, snapshot_id: str, *, safety_id: str) -> Steps[Made]:
        """Puts an image back to a snapshot; with a safety id, remembers first what it holds."""
        ...

    def make_up_for_revert(
        self, work: Work, image_id: str, *, safety_id: str, made_by: str
    ) -> Steps[None]:
        """Puts an image back to what it held before exactly that attempt, and forgets that."""
        ...

    def verify(self, image_id: str, *, digest: str) -> Steps[str]:
        """Checks that an image is whole, and that its digest is this one; returns the digest.

        Raises:
            DigestMismatch: It is another.
            ImageDamaged: It is not whole.
        """
        ...

    def find(self, image_id: str) -> ImageFound:
        """Looks at one image.

        Raises:
            ImageNotFound: There is none.
        """
        ...

    def list_images(self, *, after: str, count_max: int) -> list[ImageFound]:
        """Returns images in order of their ids."""
        ...

    def digest(self, image_id: str) -> Steps[str]:
        """Reads an image in full and returns its content's digest."""
        ...

    def report(self) -> PoolFound:
        """Returns the pool's room and abilities."""
        ...

    def staged(self) -> list[str]:
        """Returns the attempts that have something half-made in this pool."""
        ...

    def discard(self, attempt: str) -> None:
        """Removes what an attempt has half made; nothing is fine."""
        ...
