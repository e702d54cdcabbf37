"""One pool behind a plug-in: the folder that says what is an image, and who keeps its data."""

from __future__ import annotations

import json
import logging
import uuid
from dataclasses import asdict, replace
from pathlib import Path

from agent.drivers.content import FileContent
from agent.drivers.csi.abilities import Abilities, abilities_of
from agent.drivers.csi.node import Node
from agent.drivers.csi.options import Options
from agent.drivers.csi.plugin import Answer, Plugin
from agent.drivers.csi.records import Record, Records, name_of, write_durably
from agent.drivers.csi.volumes import VolumeLayout, Volumes
from agent.drivers.driver import Format, PoolConfig, Work
from agent.drivers.files import Files
from agent.drivers.label import Label
from agent.drivers.plugins import ConfigInvalid
from agent.drivers.staging import Staging
from countermand.rpc import names
from countermand.rpc.errors import ImageNotFound, VerbUnsupported

log = logging.getLogger(__name__)

# What a plug-in said that it can do, for a start while it is away.
KNOWN = "plugin.json"

# Of somebody who only wants to know how the pool is: he waits for nobody.
ONCE_S = 0.0

# The best that a plug-in can be.
EVERYTHING = Abilities(
    controller=frozenset({"CREATE_DELETE_VOLUME", "CREATE_DELETE_SNAPSHOT", "CLONE_VOLUME"}),
    shows=True,
)


class CsiPool:
    """What all that works on one pool has in common."""

    def __init__(
        self, config: PoolConfig, options: Options, files: Files, identity: str = ""
    ) -> None:
        """Asks the plug-in what it can do; one that is away is remembered by what it said before.

        Raises:
            ConfigInvalid: It is away and was never heard, or is not the one that made the volumes.
        """
        self.config = config
        self.files = files
        self.options = options
        self.identity = identity
        self.plugin = Plugin(
            config.pool_id, config.path, secrets=options.secrets, patience_s=options.patience_s
        )
        self.records = Records(config.pool_id, options.labels, files)
        self.node = Node(self.plugin, options.targets, lambda: self.abilities)
        self.volumes = Volumes(self.plugin, self.node, self.records)
        self.layout = VolumeLayout(
            config.pool_id, options.labels, files, self.volumes, self.records
        )
        folders = replace(config, path=options.labels)
        self.staging = Staging(folders, files, identity, layout=self.layout)
        self.abilities = self.meet()

    @property
    def verbs(self) -> frozenset[str]:
        """Returns what can be done here."""
        return verbs_of(self.abilities, zeroed=self.options.zeroed)

    def meet(self, *, asked_only: bool = False) -> Abilities:
        """Returns what the plug-in can do, or could when it was last heard."""
        known = self._remembered(self.options.labels)
        # Which node it is, no host can know from another's plug-in.
        own = self.options.targets if self.config.shared else self.options.labels
        known_here = self._remembered(own)
        where = f"pool {self.config.pool_id}: the plug-in at {self.config.path}"
        try:
            met = abilities_of(self.plugin, patience_s=ONCE_S)
        except Answer as answer:
            if asked_only:
                raise
            if known_here is None:
                raise ConfigInvalid(f"{where} does not answer ({answer}): is it running?") from None
            log.warning("plugin.away", extra={"pool": self.config.pool_id, "error": str(answer)})
            return known_here
        if known is not None and known.name != met.name:
            why = f"is {met.name}; what is in this pool was made by {known.name}"
            raise ConfigInvalid(f"{where} {why}: is this the right socket?")
        if not self.config.read_only:
            if known is None:
                self._remember(self.options.labels, met)
            if met != known_here:
                self._remember(own, met)
        return met

    def _remembered(self, folder: Path) -> Abilities | None:
        try:
            fields = json.loads((folder / KNOWN).read_text())
            sets = {key: frozenset(fields[key]) for key in ("controller", "node")}
            return Abilities(**{**fields, **sets})
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            where, todo = folder / KNOWN, "remove it once the plug-in answers"
            why = f"pool {self.config.pool_id}: cannot read {where}: {todo}"
            raise ConfigInvalid(why) from error

    def _remember(self, folder: Path, met: Abilities) -> None:
        fields = {**asdict(met), "controller": sorted(met.controller), "node": sorted(met.node)}
        write_durably(self.files, folder / KNOWN, json.dumps(fields, indent=1).encode())

    def image(self, name: str) -> tuple[Label, Record]:
        """Returns the label and the record of an image, or of a snapshot by its name."""
        try:
            label = self.layout.label(name)
        except ImageNotFound:
            self.staging.need_pool()
            raise
        return label, self.layout.record(name)

    def content(self, record: Record, handle: int, size_bytes: int) -> FileContent:
        """Returns what is read of a device; its id tells it, since it tells no time of change."""
        return FileContent(
            files=self.node.files, handle=handle, size_bytes=size_bytes, identity=record.id
        )

    def need_raw(self, verb: str, image_format: Format) -> None:
        """Raises unless a format is the one that volumes have."""
        if image_format is not Format.RAW:
            why = "its images are volumes, and those are raw: set the format to raw"
            raise VerbUnsupported(pool=self.config.pool_id, verb=verb, why=why)

    def name(self, work: Work, name: str) -> str:
        """Returns the name under which the plug-in is asked for an image or snapshot.

        An attempt is made once, so its name will do. An image may be imported, removed and imported
        again: each time another volume is meant, while the one before may still be on its way out.
        """
        attempt = work.attempt
        if names.parse_attempt(attempt) is None:
            attempt = f"{attempt} {uuid.uuid4()}"
        return name_of(self.identity, work.cluster_id, attempt, name)


def verbs_of(abilities: Abilities, *, zeroed: bool) -> frozenset[str]:
    """Returns the verbs that follow from what a plug-in can do."""
    can, shows = abilities.controller, abilities.shows
    makes = "CREATE_DELETE_VOLUME" in can
    snapshots = "CREATE_DELETE_SNAPSHOT" in can
    offered = {
        "create_image": makes and (shows or zeroed),
        "copy_image": makes and shows,
        "clone_image": makes and "CLONE_VOLUME" in can,
        "delete_image": makes,
        "create_snapshot": makes and snapshots,
        "delete_snapshot": makes and snapshots,
        "verify_image": shows,
        "noop": True,
    }
    return frozenset(verb for verb, can_do in offered.items() if can_do)
