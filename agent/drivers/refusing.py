"""What is refused in a pool, and how it is said: nothing here changes anything."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from agent.drivers.driver import OutcomeUnknown, Work
from agent.drivers.failing import NotMounted, storage_error
from agent.drivers.label import AT, Label
from agent.drivers.layout import Layout
from countermand.rpc.errors import (
    AttemptFenced,
    Conflict,
    CountermandError,
    GenerationMismatch,
    ImageExists,
    ImageInUse,
    SnapshotExists,
)

HOLDERS_NAMED = 3


class Refusing:
    """The refusals of one pool."""

    def __init__(self, layout: Layout, identity: str) -> None:
        """With an identity, the pool's folder is believed only while it carries that."""
        self._layout = layout
        self._pool_id = layout.pool_id
        self._identity = identity

    def need_pool(self) -> None:
        """Raises NotMounted unless the pool being served is at its path now.

        Without its mount an empty folder is there: what it does not hold may exist all the same.
        """
        if not self._identity:
            return  # read-only, and nobody has ever written to it
        try:
            mark = self._layout.mark()
        except ValueError:
            mark = None
        if mark is None or mark.identity != self._identity:
            path = self._layout.path
            raise NotMounted(f"is it mounted? What is at {path} is not what was there before")

    def expect(self, image_id: str, label: Label, generation: int) -> None:
        """Raises unless an image has a generation; 0 is any."""
        if generation not in (0, label.generation):
            raise GenerationMismatch(
                image=image_id,
                pool=self._pool_id,
                generation=label.generation,
                expected=generation,
                owner=label.moved_by or "an import",
            )

    def refuse_taken(self, name: str) -> None:
        """Raises if the name of an image or snapshot is taken, by whatever it be."""
        label = self._layout.owner(name)
        if label is None and self._layout.files.stat(self._layout.image(name)) is None:
            return
        owner = (label.attempt or "an import") if label else "somebody unknown"
        image_id, at, snapshot_id = name.partition(AT)
        pool_id = self._pool_id
        if at:
            raise SnapshotExists(image=image_id, pool=pool_id, snapshot=snapshot_id, owner=owner)
        raise ImageExists(image=image_id, pool=pool_id, owner=owner)

    def refuse_read(self, image_id: str) -> None:
        """Raises if others read through an image."""
        if readers := self._layout.readers(image_id):
            raise self.in_use(image_id, readers)

    def refuse_foreign(self, image_id: str) -> None:
        """Raises if somebody has put something into an image's folder, which would go with it."""
        if foreign := self._layout.foreign(image_id):
            why = f"in its folder is {', '.join(foreign)}, which is not ours: move it elsewhere"
            raise self._layout.unsafe(image_id, why)

    def in_use(self, image_id: str, holders: list[str]) -> ImageInUse:
        """Returns the error that says who holds an image."""
        told = ", ".join(
            f"snapshot {snapshot} of image {image}" if at else image
            for image, at, snapshot in (holder.partition(AT) for holder in holders[:HOLDERS_NAMED])
        )
        if more := len(holders[HOLDERS_NAMED:]):
            told += f" and {more} more"
        return ImageInUse(image=image_id, pool=self._pool_id, holder=told)

    def changed(self, image_id: str) -> Conflict:
        """Returns the error that says that somebody else was at work on an image."""
        return Conflict(name=f"image {image_id} in pool {self._pool_id}")

    def fenced(self, attempt: str) -> AttemptFenced:
        """Returns the error that says that an attempt was fenced."""
        return AttemptFenced(attempt=attempt, pool=self._pool_id)

    @contextmanager
    def looking(self, work: Work, image_id: str) -> Iterator[None]:
        """Looks at what an earlier life may have done: if that fails, nothing is certain."""
        try:
            yield
        except OSError as error:
            if not work.resumed:
                raise
            raise OutcomeUnknown(self.error(error, image_id)) from error

    @contextmanager
    def working(self, work: Work, image_id: str) -> Iterator[None]:
        """As `translating`; an attempt that is fenced says so, whatever it ran into.

        Only of what is certain: where nobody knows whether its effect is durable, it may have come
        to it before the fence did.
        """
        try:
            with self.translating(image_id):
                yield
        except CountermandError as error:
            if self._layout.is_fenced(work.attempt):
                raise self.fenced(work.attempt) from error
            raise

    @contextmanager
    def translating(self, image_id: str) -> Iterator[None]:
        """Turns what the operating system says into our errors."""
        try:
            yield
        except OSError as error:
            raise self.error(error, image_id) from error

    def error(self, error: OSError, image_id: str) -> CountermandError:
        """Returns our error for one of the operating system's."""
        return storage_error(error, pool_id=self._pool_id, image_id=image_id)
