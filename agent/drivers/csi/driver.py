"""The `csi` driver: images are volumes of any plug-in that speaks the Container Storage Interface.

What an image is, is decided in a folder of ours, the pool's labels, which looks and works as a
pool of the `file` driver does: made in staging, shown by one rename, taken away by one. Where that
driver keeps a data file, this one keeps a record of a volume (see `volumes`).

What can be done follows from what the plug-in says that it can do:

    delete_image                       CREATE_DELETE_VOLUME
    create_image                       the same, and a Node service unless new volumes read as zeros
    copy_image                         the same, and a Node service: data moves through this host
    clone_image                        CLONE_VOLUME
    create_snapshot, delete_snapshot   CREATE_DELETE_SNAPSHOT
    verify_image                       a Node service

Never offered: resize_image, since a volume that has grown cannot shrink back, and the contract says
that growing is made up for; revert_image, since no volume takes the content of a snapshot, and
putting another volume in its place would take it from whoever has it attached.

Where several hosts share a pool they share its labels, on storage that all of them reach.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from agent.drivers.csi import options as options_of
from agent.drivers.csi.looking import Looking
from agent.drivers.csi.making import Making
from agent.drivers.csi.options import Options
from agent.drivers.csi.pool import EVERYTHING, CsiPool, verbs_of
from agent.drivers.csi.removing import Removing
from agent.drivers.driver import Driver, Made, PoolConfig, Step, Steps, Work
from agent.drivers.files import Files, RealFiles
from agent.drivers.folders import FolderType, words
from agent.drivers.layout import MARK, Layout
from agent.drivers.plugins import ConfigInvalid
from countermand.rpc.errors import VerbUnsupported


class CsiDriver:
    """Serves one pool; every method may be called from any thread."""

    def __init__(
        self, config: PoolConfig, options: Options, files: Files, identity: str = ""
    ) -> None:
        """Asks the plug-in what it can do; one that is away is remembered by what it said before.

        Raises:
            ConfigInvalid: It is away and was never heard, or is not the one that made the volumes.
        """
        self.config = config
        self.pool = CsiPool(config, options, files, identity)
        self.layout = self.pool.layout
        making, removing, looking = Making(self.pool), Removing(self.pool), Looking(self.pool)
        self.create = making.create
        self.copy = making.copy
        self.clone = making.clone
        self.import_file = making.import_file
        self.create_snapshot = making.create_snapshot
        self.delete = removing.delete
        self.delete_snapshot = removing.delete_snapshot
        self.make_up_for = removing.make_up_for
        self.make_up_for_snapshot = removing.make_up_for_snapshot
        self.staged = removing.staged
        self.discard = removing.discard
        self.fence = removing.fence
        self.remove_fence = removing.remove_fence
        self.find = looking.find
        self.list_images = looking.list_images
        self.reading = looking.reading
        self.verify = looking.verify
        self.report = looking.report
        self.survey = looking.survey

    @property
    def verbs(self) -> frozenset[str]:
        """Returns what it can do here, as far as its plug-in was heard."""
        return self.pool.verbs

    def revert(
        self,
        work: Work,  # noqa: ARG002 - as the protocol has it
        image_id: str,  # noqa: ARG002 - likewise
        snapshot_id: str,  # noqa: ARG002 - likewise
        *,
        safety_id: str,  # noqa: ARG002 - likewise
        expected_generation: int = 0,  # noqa: ARG002 - likewise
    ) -> Steps[Made]:
        """Refuses: it is not among the verbs."""
        yield Step()
        why = "no volume takes the content of a snapshot"
        raise VerbUnsupported(pool=self.config.pool_id, verb="revert_image", why=why)

    def make_up_for_revert(
        self,
        work: Work,  # noqa: ARG002 - as the protocol has it
        image_id: str,  # noqa: ARG002 - likewise
        *,
        safety_id: str,  # noqa: ARG002 - likewise
        made_by: str,  # noqa: ARG002 - likewise
    ) -> Steps[None]:
        """Makes up for nothing: no revert ever began here."""
        yield Step()


@dataclass(frozen=True, slots=True, kw_only=True)
class CsiType:
    """Pools behind CSI plug-ins: each is known by the folder of its labels."""

    verbs: frozenset[str] = verbs_of(EVERYTHING, zeroed=True)
    options: Mapping[str, str] = field(default_factory=lambda: options_of.OPTIONS)

    def folder(self, pool: PoolConfig) -> Path | None:
        """Returns the folder that a pool must have to itself."""
        return options_of.read(pool).labels

    def check(self, pool: PoolConfig) -> None:
        """Refuses a pool that it cannot serve."""
        options_of.read(pool)

    def identity(self, pool: PoolConfig) -> str:
        """Returns what the mark of the labels says; empty if there is none."""
        return _LABELS.identity(_labels(pool))

    def mark(self, pool: PoolConfig, identity: str) -> str:
        """Marks the labels durably, unless another host was faster."""
        return _LABELS.mark(_labels(pool), identity)

    def open(self, pool: PoolConfig, identity: str) -> CsiDriver:
        """Serves a pool; marks it if nobody has: its volumes are named after its identity."""
        if not identity and not pool.read_only:
            identity = self.mark(pool, str(uuid.uuid4()))
        options = options_of.read(pool)
        _take_targets(pool, options, identity)
        files = RealFiles(journals_beside=pool.journals_beside)
        return CsiDriver(pool, options, files, identity)


def _labels(pool: PoolConfig) -> PoolConfig:
    return replace(pool, path=options_of.read(pool).labels)


def _take_targets(pool: PoolConfig, options: Options, identity: str) -> None:
    """Marks where volumes are shown as this pool's: another one would take back what it uses.

    Raises:
        ConfigInvalid: It is another pool's already, be it of another agent of this host.
    """
    targets, identity = options.targets, identity or f"the labels in {options.labels}"
    where = f"pool {pool.pool_id}: targets={targets}"
    try:
        targets.mkdir(mode=0o750, parents=True, exist_ok=True)
        mark = Layout(pool.pool_id, targets, RealFiles()).mark()
    except OSError as error:
        raise ConfigInvalid(f"{where} cannot be used: {words(error)}") from error
    except ValueError:
        raise ConfigInvalid(f"{where}: {MARK} in it says nothing that we wrote") from None
    if mark is None:
        _LABELS.mark(replace(pool, path=targets), identity)
    elif (mark.pool_id, mark.identity) != (pool.pool_id, identity):
        raise ConfigInvalid(
            f"{where} is where pool {mark.pool_id} of {mark.identity} shows volumes: name one of"
            f" its own, or remove {targets / MARK} if that pool is no more"
        )


def _never(pool: PoolConfig, _identity: str) -> Driver:
    raise AssertionError(pool)


_LABELS = FolderType(verbs=frozenset(), opening=_never)

CSI = CsiType()
