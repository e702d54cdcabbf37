"""The `file` driver: raw and qcow2 images in folders of a local or shared file system.

Everything is made under a private staging name that contains the attempt, flushed, then renamed
into place together with its owner tag. See `layout` for how a pool looks on disk.
"""

from __future__ import annotations

from agent.drivers import fencing, qemu
from agent.drivers.driver import Format, PoolConfig, PoolFound
from agent.drivers.failing import read_only
from agent.drivers.files import Files, RealFiles
from agent.drivers.filling import Filling
from agent.drivers.folders import FolderType
from agent.drivers.looking import Looking
from agent.drivers.making import Making
from agent.drivers.removing import Removing
from agent.drivers.resizing import Resizing
from agent.drivers.snapshots import Snapshots
from agent.drivers.staging import Staging
from countermand.rpc.errors import CountermandError

VERBS = frozenset(
    {
        "create_image",
        "copy_image",
        "clone_image",
        "delete_image",
        "resize_image",
        "create_snapshot",
        "delete_snapshot",
        "revert_image",
        "verify_image",
        "noop",
    }
)


class FileDriver:
    """Serves one pool; every method may be called from any thread."""

    def __init__(
        self,
        config: PoolConfig,
        files: Files,
        identity: str = "",
        *,
        staging: Staging | None = None,
        formats: tuple[Format, ...] = tuple(Format),
    ) -> None:
        """Makes the pool's folders where they are missing, and counts what is in use.

        With an identity, the pool's folder is believed only while it carries that identity. Another
        driver brings a staging of its own.
        """
        self.config = config
        self.verbs = VERBS
        self._formats = formats
        self._staging = staging or Staging(config, files, identity)
        self.files = files
        self.layout = self._staging.layout
        self.room = self._staging.room
        self.filling = Filling(self._staging)
        making = Making(self._staging, self.filling, formats)
        self.create = making.create
        self.copy = making.copy
        self.clone = making.clone
        self.import_file = making.import_file
        removing = Removing(self._staging)
        self.delete = removing.delete
        self.make_up_for = removing.make_up_for
        snapshots = Snapshots(self._staging, self.filling.duplicate, removing)
        self.create_snapshot = snapshots.create
        self.make_up_for_snapshot = snapshots.make_up_for_create
        self.delete_snapshot = snapshots.delete
        self.revert = snapshots.revert
        self.make_up_for_revert = snapshots.make_up_for_revert
        resizing = Resizing(self._staging)
        self.resize = resizing.resize
        self.make_up_for_resize = resizing.make_up_for
        looking = Looking(self._staging, self.filling)
        self.find = looking.find
        self.list_images = looking.list_images
        self.reading = looking.reading
        self.verify = looking.verify
        self.survey = looking.survey

    def report(self) -> PoolFound:
        """Returns the pool's room and abilities."""
        problem: CountermandError | None = None
        try:
            self._staging.need_pool()
        except OSError as error:
            problem = self._staging.error(error, "its images")
        space = self.files.space(self.layout.path)
        if problem is None and space.read_only and not self.config.read_only:
            problem = read_only(self.config.pool_id)
        formats = self._formats if qemu.is_installed() else (Format.RAW,)
        return PoolFound(
            capacity_bytes=self.config.quota_bytes or space.capacity_bytes,
            used_bytes=self.room.used_bytes,
            free_bytes=self.room.free_bytes(),
            reserved_bytes=self.room.reserved_bytes,
            problem=problem,
            formats=formats,
            verbs=self.verbs,
        )

    def staged(self) -> list[str]:
        """Returns the attempts that have something half-made in this pool."""
        return self.layout.attempts_staged()

    def discard(self, attempt: str) -> None:
        """Removes what an attempt has half made; nothing is fine."""
        self._staging.discard(attempt)

    def fence(self, attempt: str) -> None:
        """Returns once no effect of an attempt can begin or become visible; some may be there."""
        with self._staging.translating("its images"):
            fencing.fence(self._staging, attempt)

    def remove_fence(self, attempt: str) -> None:
        """Removes the fence of an attempt; nothing is fine."""
        with self._staging.translating("its images"):
            fencing.remove_fence(self._staging, attempt)


def _open(pool: PoolConfig, identity: str) -> FileDriver:
    return FileDriver(pool, RealFiles(journals_beside=pool.journals_beside), identity)


FILE = FolderType(verbs=VERBS, opening=_open)
