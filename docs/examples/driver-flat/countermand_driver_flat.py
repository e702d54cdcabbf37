"""The driver `flat`: raw images that are plain files, `<image id>.raw`, as libvirt's folders have.

The owner tag is an extended attribute of the file: one link shows both, one rename takes both away.
What is half-made has no name but one in `.staging`, which says whose it is.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from agent import crash_points
from agent.drivers.content import FileContent
from agent.drivers.driver import (
    Content,
    Format,
    ImageFound,
    Made,
    PoolConfig,
    PoolFound,
    Source,
    Step,
    Steps,
    Work,
)
from agent.drivers.failing import NotMounted, translating, visible
from agent.drivers.files import RealFiles
from agent.drivers.folders import FolderType, carries
from agent.drivers.plugins import ConfigInvalid
from countermand.rpc import names
from countermand.rpc.errors import (
    FieldInvalid,
    GenerationMismatch,
    ImageExists,
    ImageNotFound,
    VerbUnsupported,
    Violation,
)

VERBS = frozenset({"create_image", "copy_image", "clone_image", "delete_image", "noop"})
ATTRIBUTE = "user.countermand"
SUFFIX = ".raw"
BUFFER_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class Tag:
    """Whose an image is."""

    cluster_id: str
    attempt: str
    create_time: str
    generation: int = 1
    shared: bool = False


# Writes to an open file that nobody sees, and returns whether it shares data.
Fill = Callable[[int], Steps[bool]]


class FlatDriver:
    """Serves one folder; every method may be called from any thread."""

    def __init__(self, config: PoolConfig, identity: str) -> None:
        """Makes the folder of what is half-made."""
        self.config = config
        self.verbs = VERBS
        self._identity = identity
        self._files = RealFiles(journals_beside=config.journals_beside)
        self._staging = config.path / ".staging"
        if not config.read_only:
            self._staging.mkdir(exist_ok=True)

    # -- verbs ----------------------------------------------------------------------------------

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
        _need_raw(image_format, "create_image.format")

        def fill(handle: int) -> Steps[bool]:
            os.ftruncate(handle, size_bytes)
            if preallocated:
                os.posix_fallocate(handle, 0, size_bytes)
            yield Step()
            return False

        return (yield from self._make(work, image_id, fill))

    def copy(
        self,
        work: Work,
        source: Source,
        image_id: str,
        *,
        image_format: Format | None,
        take_digest: bool,
    ) -> Steps[Made]:
        """Copies what a guest would read; a copy that was cut short begins again."""

        def fill(handle: int) -> Steps[bool]:
            found = source.find()
            _need_raw(image_format or found.format, "copy_image.format")
            if take_digest:
                raise FieldInvalid(Violation("copy_image.take_digest", "is not served by flat"))
            with source.reading(Format.RAW) as content:
                yield from _write(handle, content, work)
            return False

        return (yield from self._make(work, image_id, fill))

    def clone(
        self, work: Work, source_id: str, image_id: str, *, copy_allowed: bool
    ) -> Steps[Made]:
        """Shares the source's data, where the file system can."""

        def fill(handle: int) -> Steps[bool]:
            with self.reading(source_id, Format.RAW) as content:
                yield Step()
                if self._files.share(content.handle, handle):
                    return True
                if not copy_allowed:
                    raise VerbUnsupported(
                        pool=self.config.pool_id, verb="clone_image", why="there are no reflinks"
                    )
                yield from _write(handle, content, work)
            return False

        return (yield from self._make(work, image_id, fill))

    def delete(self, work: Work, image_id: str, *, expected_generation: int = 0) -> Steps[bool]:
        """Removes an image: out of sight first, for good after."""
        with translating(self.config.pool_id, image_id, work):
            tag = self._tag(image_id)
            if tag is None:
                self._settle(work.attempt)  # an earlier life may have come to it, and not to this
                return bool(work.note)
            life = f"{tag.attempt} {tag.create_time}"
            if work.note not in ("", life):
                return True  # another image has the name by now: ours has gone
            if expected_generation not in (0, tag.generation):
                raise GenerationMismatch(
                    image=image_id,
                    pool=self.config.pool_id,
                    generation=tag.generation,
                    expected=expected_generation,
                    owner=tag.attempt,
                )
            yield Step(note=life, note_needed=True)  # so that the next life knows it was there
            yield Step(last=True)
            self._take_away(image_id, work.attempt)
            return True

    def make_up_for(self, work: Work, image_id: str, *, made_by: str) -> Steps[bool]:
        """Removes what exactly that attempt made; nothing is fine."""
        with translating(self.config.pool_id, image_id, work):
            self._need_pool()
            begun = made_by in self.staged()
            self.discard(made_by)
            work.crash(crash_points.IN_COMPENSATION)
            yield Step()
            if not self._is_of(image_id, work, made_by):
                self._settle(made_by)
                return begun  # somebody else's image, or none
            self._take_away(image_id, made_by)
            return True

    # -- how an image comes, and goes --------------------------------------------------------------

    def _make(self, work: Work, image_id: str, fill: Fill) -> Steps[Made]:
        """Fills a file that nobody sees, and shows it by one link, together with its tag."""
        staged, path = self._staged(work.attempt), self._path(image_id)
        with translating(self.config.pool_id, image_id, work):
            self._need_pool()
            if self._is_of(image_id, work, work.attempt):  # an earlier life could not say so
                self._settle(work.attempt)
                return self._made(image_id)
            self._refuse_taken(image_id)
            yield Step()
            try:
                self.discard(work.attempt)
                with staged.open("xb") as file:
                    shared = yield from fill(file.fileno())
                    tag = Tag(
                        cluster_id=work.cluster_id,
                        attempt=work.attempt,
                        create_time=work.now().isoformat(),
                        shared=shared,
                    )
                    os.setxattr(file.fileno(), ATTRIBUTE, json.dumps(asdict(tag)).encode())
                    os.fsync(file.fileno())
                yield Step(last=True)
                work.crash(crash_points.BEFORE_RENAME)
                self._need_pool()
                self._link(staged, path, image_id)
            except Exception:
                self.discard(work.attempt)
                raise
            work.crash(crash_points.AFTER_RENAME)
            with visible(self.config.pool_id, image_id):
                self._settle(work.attempt)
            return self._made(image_id)

    def _link(self, staged: Path, path: Path, image_id: str) -> None:
        try:
            path.hardlink_to(staged)  # unlike a rename, never in the place of another
        except FileExistsError:
            self._refuse_taken(image_id)
            raise

    def _take_away(self, image_id: str, attempt: str) -> None:
        self._path(image_id).rename(self._staged(attempt))
        with visible(self.config.pool_id, image_id):
            self._settle(attempt)

    def _settle(self, attempt: str) -> None:
        """Makes sure that what was shown, or taken away, lasts; forgets what was staged."""
        self._need_pool()
        self._files.flush_folder(self.config.path)
        self.discard(attempt)

    def staged(self) -> list[str]:
        """Returns the attempts that have something half-made."""
        return [name.replace("@", "/") for name in self._files.list_folder(self._staging)]

    def discard(self, attempt: str) -> None:
        """Removes what an attempt has half made."""
        self._staged(attempt).unlink(missing_ok=True)

    # -- looking --------------------------------------------------------------------------------

    def find(self, image_id: str) -> ImageFound:
        """Looks at one image."""
        with translating(self.config.pool_id, image_id):
            tag = self._tag(image_id)
            if tag is None:
                raise ImageNotFound(image=image_id, pool=self.config.pool_id)
            stat = self._path(image_id).stat()
            return ImageFound(
                image_id=image_id,
                format=Format.RAW,
                virtual_size_bytes=stat.st_size,
                allocated_bytes=stat.st_blocks * 512,
                generation=tag.generation,
                cluster_id=tag.cluster_id,
                attempt=tag.attempt,
                create_time=datetime.fromisoformat(tag.create_time),
                digest="",
                chain=(),
                snapshots=(),
            )

    def list_images(self, *, after: str, count_max: int) -> list[ImageFound]:
        """Returns images in order of their ids; a file without a tag is none of ours."""
        with translating(self.config.pool_id, "its images"):
            self._need_pool()
            listed = sorted(path.stem for path in self.config.path.glob(f"*{SUFFIX}"))
            ours = [name for name in listed if names.is_id(name) and self._tag(name)]
        return [self.find(name) for name in ours if name > after][:count_max]

    @contextmanager
    def reading(self, image_id: str, layout: Format) -> Iterator[FileContent]:
        """Opens an image."""
        _need_raw(layout, "layout")
        with translating(self.config.pool_id, image_id):
            found = self.find(image_id)
            with self._path(image_id).open("rb") as file:
                yield FileContent(
                    files=self._files,
                    handle=file.fileno(),
                    size_bytes=found.virtual_size_bytes,
                    identity=f"{found.attempt} {os.fstat(file.fileno()).st_mtime_ns}",
                )

    def report(self) -> PoolFound:
        """Returns the pool's room and abilities."""
        space = self._files.space(self.config.path)
        return PoolFound(
            capacity_bytes=space.capacity_bytes,
            used_bytes=space.capacity_bytes - space.free_bytes,
            formats=(Format.RAW,),
            verbs=self.verbs,
        )

    def _made(self, image_id: str) -> Made:
        tag, stat = self._tag(image_id), self._path(image_id).stat()
        assert tag is not None, image_id
        return Made(
            image_id=image_id,
            virtual_size_bytes=stat.st_size,
            written_bytes=stat.st_blocks * 512,
            generation=tag.generation,
            shared=tag.shared,
        )

    def _path(self, image_id: str) -> Path:
        if not names.is_id(image_id):  # no path is ever made of anything else
            raise FieldInvalid(Violation("image_id", names.ID_RULE))
        return self.config.path / f"{image_id}{SUFFIX}"

    def _staged(self, attempt: str) -> Path:
        return self._staging / attempt.replace("/", "@")

    def _tag(self, image_id: str) -> Tag | None:
        """Returns whose an image is; None if there is none, or none that is safe and ours."""
        path = self._path(image_id)
        if path.is_symlink() or not path.is_file():
            self._need_pool()  # what is not mounted has not gone
            return None
        try:
            return Tag(**json.loads(os.getxattr(path, ATTRIBUTE)))
        except OSError as error:
            if error.errno == errno.ENODATA:
                return None
            raise

    def _is_of(self, image_id: str, work: Work, attempt: str) -> bool:
        tag = self._tag(image_id)
        return tag is not None and (tag.cluster_id, tag.attempt) == (work.cluster_id, attempt)

    def _refuse_taken(self, image_id: str) -> None:
        tag = self._tag(image_id)
        if tag is not None or os.path.lexists(self._path(image_id)):
            owner = tag.attempt if tag else "somebody unknown"
            raise ImageExists(image=image_id, pool=self.config.pool_id, owner=owner)

    def _need_pool(self) -> None:
        if self._identity and not carries(self.config, self._identity):
            raise NotMounted(f"is it mounted? {self.config.path} has not the mark that it had")


def _need_raw(wanted: Format, field: str) -> None:
    if wanted is not Format.RAW:
        raise FieldInvalid(Violation(field, "must be raw"))


def _write(handle: int, content: Content, work: Work) -> Steps[None]:
    """Writes what a content holds, and leaves its holes out."""
    buffer, offset = memoryview(bytearray(BUFFER_BYTES)), 0
    while (extent := content.next_data(offset)) is not None:
        offset, end = extent
        while offset < end:
            count = content.pread(buffer[: min(len(buffer), end - offset)], offset)
            if count == 0:
                raise OSError(errno.EIO, "the source became shorter")
            offset += os.pwrite(handle, buffer[:count], offset)
            work.crash(crash_points.IN_COPY)
            yield Step(done=offset, total=content.size_bytes)
    os.ftruncate(handle, content.size_bytes)


def _check(pool: PoolConfig) -> None:
    for option, value in (("quota", pool.quota_bytes), ("bandwidth", pool.bandwidth_bytes_per_s)):
        if value is not None:
            raise ConfigInvalid(f"{option}: driver flat keeps to none; leave it out")
    if pool.shared:
        raise ConfigInvalid("shared: driver flat has no fences; leave it out")


FLAT = FolderType(verbs=VERBS, opening=FlatDriver, checking=_check)
