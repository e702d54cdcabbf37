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

import json
import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from pathlib import Path

import grpc

from agent import crash_points
from agent.drivers import copying, fencing, surveying
from agent.drivers.content import FileContent
from agent.drivers.csi import options as options_of
from agent.drivers.csi.node import CAPABILITY, Node, Padded, size_of, wipe
from agent.drivers.csi.options import Options
from agent.drivers.csi.plugin import Abilities, Answer, Kind, NotSettled, Plugin, sending
from agent.drivers.csi.v1 import csi_pb2 as csi
from agent.drivers.csi.volumes import (
    RECORD,
    Record,
    Records,
    Thing,
    VolumeLayout,
    Volumes,
    name_of,
)
from agent.drivers.digest import Leaves
from agent.drivers.driver import (
    Content,
    Driver,
    Format,
    ImageFound,
    Made,
    Oddity,
    OddityKind,
    OutcomeUnknown,
    PoolConfig,
    PoolFound,
    SnapshotFound,
    SnapshotGone,
    Source,
    Step,
    Steps,
    Work,
)
from agent.drivers.files import FileKind, Files, RealFiles
from agent.drivers.filling import LEAVES
from agent.drivers.folders import FolderType
from agent.drivers.layout import AT, Label, snapshot_name, snapshots_among
from agent.drivers.plugins import ConfigInvalid
from agent.drivers.staging import Staging
from countermand.rpc import names
from countermand.rpc.errors import (
    CountermandError,
    DigestMismatch,
    FieldInvalid,
    ImageInUse,
    ImageNotFound,
    ImageUnsafe,
    SnapshotNotFound,
    StorageFailed,
    VerbUnsupported,
    Violation,
)

log = logging.getLogger(__name__)

# What a plug-in said that it can do, for a start while it is away.
KNOWN = "plugin.json"

# Asked when somebody wants to know how the pool is: it waits for nobody.
ONCE_S = 0.0

# The best that a plug-in can be.
EVERYTHING = Abilities(
    controller=frozenset({"CREATE_DELETE_VOLUME", "CREATE_DELETE_SNAPSHOT", "CLONE_VOLUME"}),
    shows=True,
)

Fill = Callable[[Path], Steps[Label]]


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
        self.files = files
        self._options = options
        self._identity = identity
        self._plugin = Plugin(
            config.pool_id, config.path, secrets=options.secrets, patience_s=options.patience_s
        )
        self._records = Records(files)
        self._node = Node(self._plugin, options.targets, lambda: self._abilities)
        self._volumes = Volumes(self._plugin, self._node, self._records)
        self.layout = VolumeLayout(
            config.pool_id, options.labels, files, self._volumes, self._records
        )
        self._staging = Staging(
            replace(config, path=options.labels),
            files,
            identity,
            layout=self.layout,
        )
        self.room = self._staging.room
        self._abilities = self._meet()

    # -- the plug-in ----------------------------------------------------------------------------

    @property
    def verbs(self) -> frozenset[str]:
        """Returns what it can do here."""
        return verbs_of(self._abilities, zeroed=self._options.zeroed)

    def _meet(self, *, asked_only: bool = False) -> Abilities:
        """Returns what the plug-in can do, or could when it was last heard."""
        known = self._remembered()
        where = f"pool {self.config.pool_id}: the plug-in at {self.config.path}"
        try:
            met = self._plugin.abilities(patience_s=ONCE_S)
        except Answer as answer:
            if asked_only:
                raise
            if known is None:
                raise ConfigInvalid(f"{where} does not answer ({answer}): is it running?") from None
            log.warning("plugin.away", extra={"pool": self.config.pool_id, "error": str(answer)})
            return known
        if known is not None and known.name != met.name:
            why = f"is {met.name}; what is in this pool was made by {known.name}"
            raise ConfigInvalid(f"{where} {why}: is this the right socket?")
        self._remember(met)
        return met

    def _remembered(self) -> Abilities | None:
        try:
            fields = json.loads((self._options.labels / KNOWN).read_text())
            sets = {key: frozenset(fields[key]) for key in ("controller", "node")}
            return Abilities(**{**fields, **sets})
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            where = self._options.labels / KNOWN
            raise ConfigInvalid(f"pool {self.config.pool_id}: cannot read {where}") from error

    def _remember(self, met: Abilities) -> None:
        if self.config.read_only:
            return
        fields = {**asdict(met), "controller": sorted(met.controller), "node": sorted(met.node)}
        draft = self._options.labels / f"{KNOWN}.new"
        draft.write_text(json.dumps(fields, indent=1))
        draft.replace(self._options.labels / KNOWN)

    # -- making ---------------------------------------------------------------------------------

    def create(
        self,
        work: Work,
        image_id: str,
        *,
        image_format: Format,
        size_bytes: int,
        preallocated: bool,  # noqa: ARG002 - when the room is taken is the plug-in's business
    ) -> Steps[Made]:
        """Makes an empty image, which reads as zeros."""
        self._need_raw("create_image", image_format)

        def fill(folder: Path) -> Steps[Label]:
            record = yield from self._volume(work, folder, image_id, size_bytes=size_bytes)
            if not self._options.zeroed:
                with self._writing(record, image_id) as handle:
                    yield from wipe(handle, 0, size_of(handle))
                    self.files.flush(handle)
            return self._label(work, record)

        return (yield from self._make(work, image_id, fill))

    def copy(
        self,
        work: Work,
        source: Source,
        image_id: str,
        *,
        image_format: Format | None,
        flatten: bool,
        take_digest: bool,
    ) -> Steps[Made]:
        """Copies what a guest reads of an image, of this pool or of any other."""

        def fill(folder: Path) -> Steps[Label]:
            found = source.find()
            self._need_raw("copy_image", image_format or found.format)
            if found.chain and not flatten:
                why = f"{source.name} reads through {found.chain[0]}: set it to copy the chain"
                raise FieldInvalid(Violation("copy_image.flatten", why))
            note = self._good_note(work, folder)
            record = yield from self._volume(
                work, folder, image_id, size_bytes=found.virtual_size_bytes
            )
            with source.reading(Format.RAW) as content:
                return (
                    yield from self._fill(
                        work, folder, record, image_id, content, note=note, take_digest=take_digest
                    )
                )

        return (yield from self._make(work, image_id, fill))

    def import_file(
        self, work: Work, path: Path, image_id: str, *, image_format: Format
    ) -> Steps[Made]:
        """Brings in a file of an administrator's; the only place where a path is named."""
        self._need_raw("import", image_format)

        def fill(folder: Path) -> Steps[Label]:
            found = self.files.stat(path)
            if found is None or found.kind is not FileKind.FILE:
                raise self.layout.unsafe(image_id, f"{path.name} is no plain file")
            record = yield from self._volume(work, folder, image_id, size_bytes=found.size_bytes)
            with self._staging.reading(path) as handle:
                content = FileContent(
                    files=self.files,
                    handle=handle,
                    size_bytes=found.size_bytes,
                    identity=found.identity,
                )
                return (
                    yield from self._fill(
                        work, folder, record, image_id, content, note="", take_digest=False
                    )
                )

        return (yield from self._make(work, image_id, fill))

    def clone(
        self,
        work: Work,
        source_id: str,
        image_id: str,
        *,
        copy_allowed: bool,  # noqa: ARG002 - a plug-in that clones does not ask
    ) -> Steps[Made]:
        """Makes an image from another; what they share, if anything, the plug-in does not say."""

        def fill(folder: Path) -> Steps[Label]:
            label, source = self._image(source_id)
            record = yield from self._volume(
                work, folder, image_id, size_bytes=label.virtual_size_bytes, source=source.id
            )
            return self._label(work, record)

        return (yield from self._make(work, image_id, fill))

    def create_snapshot(
        self, work: Work, image_id: str, snapshot_id: str, *, expected_generation: int = 0
    ) -> Steps[Made]:
        """Remembers an image's present content; the generation is that of the content."""
        name = snapshot_name(image_id, snapshot_id)

        def fill(folder: Path) -> Steps[Label]:
            label, source = self._image(image_id)
            self._staging.expect(image_id, label, expected_generation)
            wanted = Record(thing=Thing.SNAPSHOT, name=self._name(work, name), source=source.id)
            yield from self._volumes.make(work, folder, wanted, image=name)
            made = self._staging.label(work, Format.RAW, label.virtual_size_bytes)
            return replace(made, generation=label.generation)

        return (yield from self._make(work, name, fill))

    def _make(self, work: Work, name: str, fill: Fill) -> Steps[Made]:
        """Fills a staging folder and shows it; what is not settled is not called so."""
        try:
            return (yield from self._staging.make(work, name, fill, resumable=True))
        except NotSettled as error:
            if error.kind is Kind.BROKEN:
                # It will not say, perhaps never: the record stays in staging, where it is seen, and
                # every sweep asks for it again. An attempt that never ended would help nobody.
                raise error.as_failed() from error
            raise OutcomeUnknown(error) from error

    def _volume(
        self, work: Work, folder: Path, image_id: str, *, size_bytes: int, source: str = ""
    ) -> Steps[Record]:
        """Has an image's volume made, or finds the one that an earlier life had made."""
        wanted = Record(
            thing=Thing.VOLUME,
            name=self._name(work, image_id),
            size_bytes=size_bytes,
            source=source,
            parameters=self._options.parameters,
        )
        return (yield from self._volumes.make(work, folder, wanted, image=image_id))

    def _name(self, work: Work, name: str) -> str:
        return name_of(self._identity, work.cluster_id, work.attempt, name)

    def _good_note(self, work: Work, folder: Path) -> str:
        """Returns the note of an earlier life, if the volume is the one that it speaks of."""
        record = self._records.read(folder)
        return work.note if record is not None and record.id else ""

    def _fill(
        self,
        work: Work,
        folder: Path,
        record: Record,
        image_id: str,
        content: Content,
        *,
        note: str,
        take_digest: bool,
    ) -> Steps[Label]:
        """Copies a content into a volume, which may be larger: the rest reads as zeros."""
        with self._writing(record, image_id) as handle:
            size = size_of(handle)
            if size < content.size_bytes:
                why = f"it made {size} bytes for {content.size_bytes}"
                raise self._plugin.failed(Answer(grpc.StatusCode.OUT_OF_RANGE, why), image_id)
            copy = copying.Copy(
                files=self._node.files,
                # All that a guest sees of it is copied, and digested.
                source=Padded(content=content, size_bytes=size),
                target=handle,
                offset=copying.Offset.after(note, source=content.identity),
                room=self.room,
                folder=self.layout.account(folder),
                crash=work.crash,
                flush_bytes=self.config.flush_bytes,
            )
            if work.note or not self._options.zeroed:  # an earlier life may have written to it
                yield from wipe(handle, copy.offset.begin, size)
            label = replace(self._label(work, record), virtual_size_bytes=size)
            if take_digest:
                return (yield from self._copy_digested(copy, folder, label))
            return replace(label, written_bytes=(yield from copy.run()))

    def _copy_digested(self, copy: copying.Copy, folder: Path, label: Label) -> Steps[Label]:
        """Copies a content with its digest; what is known of that lies beside the record."""
        path = folder / LEAVES
        with self._staging.writing(path) as handle:
            self.files.flush_folder(folder)
            copy.leaves = Leaves(self.files, handle)
            written = yield from copy.run()
        self.files.remove_file(path)
        digest = copy.leaves.digest.of(copy.source.size_bytes)
        return replace(label, written_bytes=written, digest=digest)

    def _label(self, work: Work, record: Record) -> Label:
        return self._staging.label(work, Format.RAW, record.capacity_bytes)

    def _need_raw(self, verb: str, image_format: Format) -> None:
        if image_format is not Format.RAW:
            why = "its images are volumes, and those are raw: set the format to raw"
            raise VerbUnsupported(pool=self.config.pool_id, verb=verb, why=why)

    @contextmanager
    def _writing(self, record: Record, image_id: str) -> Iterator[int]:
        with self._node.device(record.id, record.context, image=image_id, to_write=True) as handle:
            yield handle

    # -- removing -------------------------------------------------------------------------------

    def delete(self, work: Work, image_id: str, *, expected_generation: int = 0) -> Steps[bool]:
        """Removes an image, or a snapshot by its name; returns whether it was there."""
        with self._staging.working(work, image_id):
            with self._staging.looking(work, image_id):
                self._staging.need_pool()
                if work.note and self.files.stat(self.layout.staged(work.attempt)) is not None:
                    self._purge(work, image_id)  # an earlier life took it away
                    return True
            try:
                with self._staging.looking(work, image_id):
                    label, record = self._image(image_id)
            except (ImageNotFound, SnapshotNotFound):
                with self._staging.looking(work, image_id):
                    self._staging.need_pool()  # it may have gone since
                    if work.note:  # an earlier life may not have come to flush it
                        self._staging.flush_folders()
                return bool(work.note)
            life = f"{label.attempt} {label.create_time}"
            if work.note and work.note != life:
                return True  # another image has the name by now: ours has gone
            self._staging.expect(image_id, label, expected_generation)
            self._refuse_needed(image_id, record)
            yield Step(note=life, note_needed=True)
            yield Step(last=True)
            self._staging.take_away(image_id, attempt=work.attempt)
            work.crash(crash_points.AFTER_RENAME)
            self._purge(work, image_id)
            return True

    def _purge(self, work: Work, image_id: str) -> None:
        """Has the plug-in remove what was taken away; puts it back if others need it."""
        try:
            self._staging.purge(image_id, attempt=work.attempt)
        except NotSettled as error:
            raise OutcomeUnknown(error) from error
        except ImageInUse:
            folder, image = self.layout.staged(work.attempt), self.layout.image(image_id)
            try:
                self.files.rename(folder, image)
                self._staging.flush_folders()
            except OSError as error:  # somebody has made another of that name
                raise OutcomeUnknown(self._staging.error(error, image_id)) from error
            self._staging.tidy(work.attempt)
            raise

    def _refuse_needed(self, image_id: str, record: Record) -> None:
        """Raises while something is being made from an image: it could not be asked for again."""
        for attempt in self.layout.attempts_staged():
            staged = self._records.read(self.layout.staged(attempt))
            if staged is not None and record.id and staged.source == record.id:
                raise ImageInUse(image=image_id, pool=self.config.pool_id, holder=attempt)

    def delete_snapshot(
        self, work: Work, image_id: str, snapshot_id: str, *, expected_generation: int = 0
    ) -> Steps[SnapshotGone]:
        """Removes a snapshot."""
        name = snapshot_name(image_id, snapshot_id)
        with self._staging.working(work, image_id), self._staging.looking(work, image_id):
            label = self.layout.owner(image_id)
            if label is not None and self.layout.owner(name) is not None:  # else it has gone
                self._staging.expect(image_id, label, expected_generation)
        existed = yield from self.delete(work, name)
        return SnapshotGone(existed=existed, generation=label.generation if label else 0)

    def make_up_for(self, work: Work, image_id: str, *, made_by: str) -> Steps[bool]:
        """Removes what exactly that attempt made, half-made things too; returns whether any."""
        with self._staging.translating(image_id):
            self._staging.need_pool()
            begun = made_by in self.layout.attempts_staged()
            self._staging.discard(made_by)
            work.crash(crash_points.IN_COMPENSATION)
            yield Step()
            label = self.layout.owner(image_id)
            if label is None or not self._staging.is_of(label, work, made_by):
                self._staging.need_pool()  # it may have gone since
                self._staging.flush_folders()  # an earlier life may not have come to it
                return begun  # somebody else's image, or none
            self._refuse_needed(image_id, self._image(image_id)[1])
            self._staging.take_back(image_id, made_by=made_by)
            work.crash(crash_points.IN_COMPENSATION)
            self._staging.purge(image_id, attempt=made_by)
            return True

    def make_up_for_snapshot(
        self, work: Work, image_id: str, snapshot_id: str, *, made_by: str
    ) -> Steps[bool]:
        """Removes the snapshot that exactly that attempt made; returns whether any."""
        name = snapshot_name(image_id, snapshot_id)
        return (yield from self.make_up_for(work, name, made_by=made_by))

    def revert(
        self,
        work: Work,
        image_id: str,
        snapshot_id: str,
        *,
        safety_id: str,
        expected_generation: int = 0,
    ) -> Steps[Made]:
        """Refuses: it is not among the verbs."""
        yield Step()
        what = f"{image_id} to {snapshot_id} {safety_id} {expected_generation} {work.attempt}"
        raise VerbUnsupported(pool=self.config.pool_id, verb="revert_image", why=what)

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

    # -- looking --------------------------------------------------------------------------------

    def verify(self, image_id: str, *, digest: str) -> Steps[str]:
        """Reads an image, and checks that its digest is this one; returns the digest."""
        with self.reading(image_id, Format.RAW) as content:
            found = yield from copying.digest_content(content)
        if digest and found != digest:
            raise DigestMismatch(
                image=image_id, pool=self.config.pool_id, found=found, expected=digest
            )
        return found

    @contextmanager
    def reading(self, image_id: str, layout: Format) -> Iterator[Content]:
        """Opens an image: RAW is what a guest reads."""
        self._need_raw("reading", layout)
        with self._staging.translating(image_id):
            label, record = self._image(image_id)
            with self._node.device(
                record.id, record.context, image=image_id, to_write=False
            ) as handle:
                content = self._content(record, handle, label.virtual_size_bytes)
                yield replace(content, identity=f"{content.identity} {label.generation}")

    def _content(self, record: Record, handle: int, size_bytes: int) -> FileContent:
        """Returns what is read of a device; its id tells it, since it tells no time of change."""
        return FileContent(
            files=self._node.files, handle=handle, size_bytes=size_bytes, identity=record.id
        )

    def _image(self, name: str) -> tuple[Label, Record]:
        """Returns the label and the record of an image, or of a snapshot by its name."""
        try:
            label = self.layout.label(name)
        except ImageNotFound:
            self._staging.need_pool()
            raise
        return label, self.layout.record(name)

    def find(self, image_id: str) -> ImageFound:
        """Looks at one image, and asks the plug-in whether its volume is there."""
        with self._staging.translating(image_id):
            found = self._found(image_id, self.layout.snapshots(image_id))
            _, record = self._image(image_id)
        asked = csi.ValidateVolumeCapabilitiesRequest(
            volume_id=record.id,
            volume_context=record.context,
            volume_capabilities=[CAPABILITY],
            parameters=record.parameters,
            secrets=self._plugin.secrets,
        )
        try:
            self._plugin.ask(sending(self._plugin.controller.ValidateVolumeCapabilities, asked))
        except Answer as answer:
            if answer.code is grpc.StatusCode.NOT_FOUND:
                raise self.layout.unsafe(image_id, f"its volume {record.id} is gone") from answer
            if answer.code is not grpc.StatusCode.UNIMPLEMENTED:
                raise self._plugin.failed(answer, image_id) from answer
        return found

    def _found(self, image_id: str, snapshots: list[str]) -> ImageFound:
        label, _ = self._image(image_id)
        return ImageFound(
            image_id=image_id,
            format=Format.RAW,
            virtual_size_bytes=label.virtual_size_bytes,
            allocated_bytes=label.virtual_size_bytes,  # the plug-in knows; it is not asked
            generation=label.generation,
            cluster_id=label.cluster_id,
            attempt=label.attempt,
            create_time=datetime.fromisoformat(label.create_time),
            digest=label.digest,
            chain=(),
            snapshots=tuple(self._snapshots_found(snapshots)),
        )

    def _snapshots_found(self, snapshots: list[str]) -> list[SnapshotFound]:
        """Returns the snapshots of these names, oldest first."""
        found: list[SnapshotFound] = []
        for name in snapshots:
            with suppress(SnapshotNotFound, ImageUnsafe):  # it went, or the survey tells of it
                label, _ = self._image(name)
                found.append(
                    SnapshotFound(
                        snapshot_id=name.partition(AT)[2],
                        cluster_id=label.cluster_id,
                        attempt=label.attempt,
                        create_time=datetime.fromisoformat(label.create_time),
                    )
                )
        return sorted(found, key=lambda snapshot: snapshot.create_time)

    def list_images(self, *, after: str, count_max: int) -> list[ImageFound]:
        """Returns images in order of their ids, as the labels say; the plug-in is not asked."""
        found: list[ImageFound] = []
        with self._staging.translating("any image"):
            self._staging.need_pool()
            listed = self.files.list_folder(self.layout.images)
            snapshots: dict[str, list[str]] = {}
            for image_id, name in snapshots_among(listed):
                snapshots.setdefault(image_id, []).append(name)
            for name in listed:
                if name <= after or not names.is_id(name):
                    continue
                if len(found) == count_max:
                    break
                try:
                    found.append(self._found(name, snapshots.get(name, [])))
                except ImageNotFound:
                    continue  # it went while we looked
                except ImageUnsafe as error:
                    log.warning("image.unsafe", extra=error.metadata)
        return found

    def report(self) -> PoolFound:
        """Returns the pool's room and abilities, as the plug-in tells them now."""
        problem: CountermandError | None = None
        used = free = 0
        try:
            images = self.list_images(after="", count_max=sys.maxsize)
            used = sum(found.virtual_size_bytes for found in images)
            self._abilities = self._meet(asked_only=True)
            free = self._free_bytes()
        except Answer as answer:
            problem = self._plugin.failed(answer, "any image")
        except ConfigInvalid as error:
            problem = StorageFailed(pool=self.config.pool_id, error=error, image="any image")
        except CountermandError as error:
            problem = error
        return PoolFound(
            capacity_bytes=used + free,
            used_bytes=used,
            free_bytes=free,
            problem=problem,
            formats=(Format.RAW,),
            verbs=self.verbs,
        )

    def _free_bytes(self) -> int:
        """Returns the room that the plug-in says is left; 0 if it says nothing of it."""
        if "GET_CAPACITY" not in self._abilities.controller:
            return 0
        asked = csi.GetCapacityRequest(
            volume_capabilities=[CAPABILITY], parameters=self._options.parameters
        )
        send = sending(self._plugin.controller.GetCapacity, asked)
        return self._plugin.ask(send, patience_s=ONCE_S).available_capacity

    # -- what is no image -----------------------------------------------------------------------

    def staged(self) -> list[str]:
        """Returns the attempts that have something half-made in this pool."""
        self._node.sweep()  # whoever sweeps asks this first
        return self.layout.attempts_staged()

    def discard(self, attempt: str) -> None:
        """Removes what an attempt has half made; nothing is fine."""
        self._staging.discard(attempt)

    def fence(self, attempt: str) -> None:
        """Returns once no effect of an attempt can begin or become visible; some may be there."""
        with self._staging.translating("any image"):
            fencing.fence(self._staging, attempt)

    def remove_fence(self, attempt: str) -> None:
        """Removes the fence of an attempt; nothing is fine."""
        with self._staging.translating("any image"):
            fencing.remove_fence(self._staging, attempt)

    def survey(self) -> list[Oddity]:
        """Returns what is in the pool and is no image; volumes of nobody's are not told of.

        Whose a volume is that no label names, nobody can say: other pools and other systems use
        the same plug-in.
        """
        ours = {KNOWN, self._options.targets.name}
        with self._staging.translating("any image"):
            found = [
                oddity
                for oddity in surveying.survey(self.layout)
                if oddity.name not in ours and not oddity.name.endswith(f"/{RECORD}")
            ]
            return [*found, *self._without_volume()]

    def _without_volume(self) -> Iterator[Oddity]:
        """Yields the images whose volumes the plug-in does not list any more."""
        if "LIST_VOLUMES" not in self._abilities.controller:
            return
        records: list[tuple[str, Record]] = []
        for name in self.files.list_folder(self.layout.images):
            with suppress(CountermandError):
                records.append((name, self._image(name)[1]))
        listed = self._listed()
        for name, record in records:
            if record.thing is Thing.VOLUME and record.id not in listed:
                yield Oddity(
                    kind=OddityKind.UNSAFE,
                    name=f"images/{name}",
                    why=f"the plug-in lists no volume {record.id} any more",
                )

    def _listed(self) -> set[str]:
        """Returns the ids of all volumes of the plug-in."""
        ids: set[str] = set()
        page = csi.ListVolumesResponse()
        try:
            while True:
                asked = csi.ListVolumesRequest(starting_token=page.next_token)
                page = self._plugin.ask(sending(self._plugin.controller.ListVolumes, asked))
                ids |= {entry.volume.volume_id for entry in page.entries}
                if not page.next_token:
                    return ids
        except Answer as answer:
            raise self._plugin.failed(answer, "any image") from answer


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
        """Serves a pool."""
        return CsiDriver(pool, options_of.read(pool), RealFiles(), identity)


def _labels(pool: PoolConfig) -> PoolConfig:
    return replace(pool, path=options_of.read(pool).labels)


def _never(pool: PoolConfig, _identity: str) -> Driver:
    raise AssertionError(pool)


_LABELS = FolderType(verbs=frozenset(), opening=_never)

CSI = CsiType()
