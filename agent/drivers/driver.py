"""What a storage driver is: the protocols that serve one kind of pool, and their words.

Every driver is a `Driver`: it finds, reads, lists and removes images, and knows what is half-made.
What else it can do it shows by being one of the other protocols as well, and by naming the verbs.

A driver's work comes as generators: each yields a `Step` at every chunk, before which it may be
stopped by an exception thrown in at that point, and returns what it made. It stops by raising one
of our errors, having swept what it had begun; GeneratorExit means that the process ends, and that
the work is to be found again. Nothing can stop it between making an effect visible and returning.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Protocol, TypeVar, runtime_checkable

from countermand.rpc.crash import Crash
from countermand.rpc.errors import CountermandError

T = TypeVar("T")

# What a crash may cost: a quarter of a second's work against a commit and a flush each time.
FLUSH_BYTES = 128 * 1024 * 1024


class Format(StrEnum):
    """How the bytes of an image are laid out."""

    RAW = "raw"
    QCOW2 = "qcow2"


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolConfig:
    """What an administrator says of a pool."""

    pool_id: str
    driver: str = "file"
    path: Path  # where the storage is: what it means is the driver's
    read_only: bool = False
    # Several hosts reach it: what this agent's journal does not know is left alone.
    shared: bool = False
    quota_bytes: int | None = None
    bandwidth_bytes_per_s: int | None = None
    # A journal lies on its disk, and must not wait long for data; None: nobody has found out.
    journals_beside: bool | None = None
    attempts_max: int | None = None  # None: as many as the host runs at all
    flush_bytes: int = FLUSH_BYTES
    options: Mapping[str, str] = field(default_factory=dict)  # the driver's own


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


class ProcessEnds(BaseException):
    """Raised within a step that waits long: the work is left as it is, as by GeneratorExit."""


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
    moved_by: str = ""  # the attempt that moved the generation to where it is


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolFound:
    """A pool as this host sees it."""

    capacity_bytes: int
    used_bytes: int
    free_bytes: int = 0  # may still be taken, within the quota and what the storage has left
    reserved_bytes: int = 0  # by attempts under way, and not written yet
    problem: CountermandError | None = None  # why it does not serve as it should
    formats: tuple[Format, ...]
    verbs: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Resized:
    """What a resize did, or found that it had done in an earlier life."""

    previous_size_bytes: int
    virtual_size_bytes: int
    generation: int


class OddityKind(StrEnum):
    """What something in a pool is that is no image; in order of their telling."""

    STAGED = "STAGED"  # half-made, or taken away and not purged
    FENCE = "FENCE"  # keeps a late start of an attempt out
    UNSAFE = "UNSAFE"  # has the name of an image, and is none that is safe to touch
    FOREIGN = "FOREIGN"  # nobody of ours has made it


@dataclass(frozen=True, slots=True, kw_only=True)
class Oddity:
    """Something in a pool that is no image."""

    kind: OddityKind
    name: str  # on the storage, below the pool
    attempt: str = ""  # of STAGED and FENCE
    allocated_bytes: int = 0
    why: str


class Content(Protocol):
    """The bytes of one image, open to be read: what a guest reads of it, or those of its file."""

    @property
    def size_bytes(self) -> int:
        """Returns how many there are."""
        ...

    @property
    def identity(self) -> str:
        """Changes when the bytes do: a durable offset is good for the same ones only."""
        ...

    def next_data(self, offset: int) -> tuple[int, int] | None:
        """Returns the next extent that holds data, as (begin, end), or None at the end."""
        ...

    def pread(self, buffer: memoryview, offset: int) -> int:
        """Fills the buffer from an offset; returns how much there was."""
        ...


class Source(Protocol):
    """An image to copy from: in a pool of this host, or served by the agent of another."""

    @property
    def name(self) -> str:
        """Returns the pool and the image, for people."""
        ...

    def find(self) -> ImageFound:
        """Looks at it.

        Raises:
            ImageNotFound: There is none.
            FieldInvalid: It reads through others, and that was not allowed.
        """
        ...

    def reading(self, layout: Format) -> AbstractContextManager[Content]:
        """Opens it: RAW is what a guest reads; QCOW2 the bytes of its file, if it stands alone."""
        ...


@runtime_checkable
class Driver(Protocol):
    """Serves one pool. Every method may take long and is called in a thread, of several at once."""

    @property
    def config(self) -> PoolConfig:
        """Returns what the administrator says of the pool."""
        ...

    @property
    def verbs(self) -> frozenset[str]:
        """Returns what it can do here."""
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

    def reading(self, image_id: str, layout: Format) -> AbstractContextManager[Content]:
        """Opens an image: RAW is what a guest reads, QCOW2 the bytes of its file."""
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

    def make_up_for(self, work: Work, image_id: str, *, made_by: str) -> Steps[bool]:
        """Removes what exactly that attempt made, half-made things too; returns whether any."""
        ...


@runtime_checkable
class Creates(Driver, Protocol):
    """Makes empty images."""

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


@runtime_checkable
class Copies(Driver, Protocol):
    """Fills images with what it reads elsewhere."""

    def copy(
        self,
        work: Work,
        source: Source,
        image_id: str,
        *,
        image_format: Format | None,
        take_digest: bool,
    ) -> Steps[Made]:
        """Copies an image's data in full, whatever it reads through."""
        ...


@runtime_checkable
class Clones(Driver, Protocol):
    """Makes images that share data."""

    def clone(
        self, work: Work, source_id: str, image_id: str, *, copy_allowed: bool
    ) -> Steps[Made]:
        """Makes an image that shares its source's data until written."""
        ...


@runtime_checkable
class Deletes(Driver, Protocol):
    """Removes images."""

    def delete(self, work: Work, image_id: str, *, expected_generation: int = 0) -> Steps[bool]:
        """Removes an image; returns whether it was there."""
        ...


@runtime_checkable
class Snapshots(Driver, Protocol):
    """Remembers what images hold, and puts it back."""

    def create_snapshot(
        self, work: Work, image_id: str, snapshot_id: str, *, expected_generation: int = 0
    ) -> Steps[Made]:
        """Remembers an image's present content; the generation is that of the content."""
        ...

    def delete_snapshot(
        self, work: Work, image_id: str, snapshot_id: str, *, expected_generation: int = 0
    ) -> Steps[SnapshotGone]:
        """Removes a snapshot, merging what it held into its neighbour where they share data."""
        ...

    def make_up_for_snapshot(
        self, work: Work, image_id: str, snapshot_id: str, *, made_by: str
    ) -> Steps[bool]:
        """Removes the snapshot that exactly that attempt made; returns whether any."""
        ...

    def revert(
        self,
        work: Work,
        image_id: str,
        snapshot_id: str,
        *,
        safety_id: str,
        expected_generation: int = 0,
    ) -> Steps[Made]:
        """Puts an image back to a snapshot; with a safety id, remembers first what it holds."""
        ...

    def make_up_for_revert(
        self, work: Work, image_id: str, *, safety_id: str, made_by: str
    ) -> Steps[None]:
        """Puts an image back to what it held before exactly that attempt, and forgets that."""
        ...


@runtime_checkable
class Resizes(Driver, Protocol):
    """Changes the size of images."""

    def resize(
        self,
        work: Work,
        image_id: str,
        *,
        size_bytes: int,
        shrink_allowed: bool,
        expected_generation: int = 0,
    ) -> Steps[Resized]:
        """Changes an image's virtual size."""
        ...

    def make_up_for_resize(self, work: Work, image_id: str, *, made_by: str) -> Steps[None]:
        """Shrinks an image back that exactly that attempt has grown, if nothing was written."""
        ...


@runtime_checkable
class Verifies(Driver, Protocol):
    """Says whether images are whole."""

    def verify(self, image_id: str, *, digest: str) -> Steps[str]:
        """Checks that an image is whole, and that its digest is this one; returns the digest.

        Raises:
            DigestMismatch: It is another.
            ImageDamaged: It is not whole.
        """
        ...


@runtime_checkable
class Imports(Driver, Protocol):
    """Brings in files of an administrator's."""

    def import_file(
        self, work: Work, path: Path, image_id: str, *, image_format: Format
    ) -> Steps[Made]:
        """Copies a file as an image; the only place where a path is named."""
        ...


@runtime_checkable
class Fences(Driver, Protocol):
    """Keeps a lost attempt of another host out of storage that several hosts reach."""

    def fence(self, attempt: str) -> None:
        """Returns once no effect of an attempt can begin or become visible; some may be there.

        One rename decides: what was not visible before it never will be. The attempt's own work,
        wherever it goes on, raises AttemptFenced, and leaves nothing. Repeatable.
        """
        ...

    def remove_fence(self, attempt: str) -> None:
        """Removes the fence of an attempt; nothing is fine."""
        ...


@runtime_checkable
class Surveys(Driver, Protocol):
    """Tells of what is in its pool and is no image."""

    def survey(self) -> list[Oddity]:
        """Returns what is in the pool and is no image, in order of kind and name."""
        ...


# What a driver must be for a verb to be offered in its pool.
NEEDS: Mapping[str, type[Driver] | None] = {
    "create_image": Creates,
    "copy_image": Copies,
    "clone_image": Clones,
    "delete_image": Deletes,
    "resize_image": Resizes,
    "create_snapshot": Snapshots,
    "delete_snapshot": Snapshots,
    "revert_image": Snapshots,
    "verify_image": Verifies,
    "noop": None,  # touches no storage
}


@dataclass(frozen=True, slots=True)
class LocalSource:
    """An image in a pool of this host."""

    driver: Driver
    image_id: str

    @property
    def name(self) -> str:
        """Returns the pool and the image."""
        return f"{self.driver.config.pool_id}/{self.image_id}"

    def find(self) -> ImageFound:
        """Looks at it."""
        return self.driver.find(self.image_id)

    def reading(self, layout: Format) -> AbstractContextManager[Content]:
        """Opens it."""
        return self.driver.reading(self.image_id, layout)
