"""Looks at what a pool behind a plug-in holds, and at what is wrong with it."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime

import grpc

from agent.drivers import copying, surveying
from agent.drivers.csi.node import CAPABILITY
from agent.drivers.csi.plugin import Answer, sending
from agent.drivers.csi.pool import KNOWN, ONCE_S, CsiPool
from agent.drivers.csi.records import RECORD, Record, Thing
from agent.drivers.csi.v1 import csi_pb2 as csi
from agent.drivers.driver import (
    Content,
    Format,
    ImageFound,
    Oddity,
    OddityKind,
    PoolFound,
    SnapshotFound,
    Steps,
)
from agent.drivers.failing import read_only
from agent.drivers.label import AT
from agent.drivers.listing import list_images
from agent.drivers.plugins import ConfigInvalid
from countermand.rpc.errors import (
    CountermandError,
    DigestMismatch,
    ImageUnsafe,
    SnapshotNotFound,
    StorageFailed,
)

log = logging.getLogger(__name__)

# Somebody waits for an answer: sooner or later he is told that there is none.
LOOK_PATIENCE_S = 5.0


class Looking:
    """Finds, lists, reads and surveys the images of one pool."""

    def __init__(self, pool: CsiPool) -> None:
        """Touches nothing."""
        self._pool = pool

    def verify(self, image_id: str, *, digest: str) -> Steps[str]:
        """Reads an image, and checks that its digest is this one; returns the digest."""
        with self.reading(image_id, Format.RAW) as content:
            found = yield from copying.digest_content(content)
        if digest and found != digest:
            raise DigestMismatch(
                image=image_id, pool=self._pool.config.pool_id, found=found, expected=digest
            )
        return found

    @contextmanager
    def reading(self, image_id: str, layout: Format) -> Iterator[Content]:
        """Opens an image: RAW is what a guest reads."""
        self._pool.need_raw("reading", layout)
        with self._pool.staging.translating(image_id):
            label, record = self._pool.image(image_id)
            with self._pool.node.device(
                record.id, record.context, image=image_id, to_write=False
            ) as handle:
                content = self._pool.content(record, handle, label.virtual_size_bytes)
                yield replace(content, identity=f"{content.identity} {label.generation}")

    def find(self, image_id: str) -> ImageFound:
        """Looks at one image, and asks the plug-in whether its volume is there."""
        with self._pool.staging.translating(image_id):
            found = self._found(image_id, self._pool.layout.snapshots(image_id))
            _, record = self._pool.image(image_id)
        asked = csi.ValidateVolumeCapabilitiesRequest(
            volume_id=record.id,
            volume_context=record.context,
            volume_capabilities=[CAPABILITY],
            parameters=record.parameters,
            secrets=self._pool.plugin.secrets,
        )
        try:
            self._pool.plugin.ask(
                sending(self._pool.plugin.controller.ValidateVolumeCapabilities, asked),
                patience_s=LOOK_PATIENCE_S,
            )
        except Answer as answer:
            if answer.code is grpc.StatusCode.NOT_FOUND:
                raise self._pool.layout.unsafe(
                    image_id, f"its volume {record.id} is gone"
                ) from answer
            if answer.code is not grpc.StatusCode.UNIMPLEMENTED:
                raise self._pool.plugin.failed(answer, image_id) from answer
        return found

    def _found(self, image_id: str, snapshots: list[str]) -> ImageFound:
        label, _ = self._pool.image(image_id)
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
                label, _ = self._pool.image(name)
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
        return list_images(self._pool.staging, self._found, after=after, count_max=count_max)

    def report(self) -> PoolFound:
        """Returns the pool's room and abilities, as the plug-in tells them now."""
        problem: CountermandError | None = None
        used = free = 0
        try:
            images = self.list_images(after="", count_max=sys.maxsize)
            used = sum(found.virtual_size_bytes for found in images)
            self._pool.abilities = self._pool.meet(asked_only=True)
            free = self._free_bytes()
        except Answer as answer:
            problem = self._pool.plugin.failed(answer, "its images")
        except ConfigInvalid as error:
            problem = StorageFailed(pool=self._pool.config.pool_id, error=error, image="its images")
        except CountermandError as error:
            problem = error
        else:
            labels = self._pool.files.space(self._pool.layout.path)
            if labels.read_only and not self._pool.config.read_only:
                problem = read_only(self._pool.config.pool_id)
        return PoolFound(
            capacity_bytes=used + free,
            used_bytes=used,
            free_bytes=free,
            problem=problem,
            formats=(Format.RAW,),
            verbs=self._pool.verbs,
        )

    def _free_bytes(self) -> int:
        """Returns the room that the plug-in says is left; 0 if it says nothing of it."""
        if "GET_CAPACITY" not in self._pool.abilities.controller:
            return 0
        asked = csi.GetCapacityRequest(
            volume_capabilities=[CAPABILITY], parameters=self._pool.options.parameters
        )
        send = sending(self._pool.plugin.controller.GetCapacity, asked)
        return self._pool.plugin.ask(send, patience_s=ONCE_S).available_capacity

    def survey(self) -> list[Oddity]:
        """Returns what is in the pool and is no image; volumes of nobody's are not told of.

        Whose a volume is that no label names, nobody can say: other pools and other systems use
        the same plug-in.
        """
        ours = {KNOWN, self._pool.options.targets.name}
        with self._pool.staging.translating("its images"):
            found = [
                self._with_record(oddity)
                for oddity in surveying.survey(self._pool.layout)
                if oddity.name not in ours and not oddity.name.endswith(f"/{RECORD}")
            ]
            return [*found, *self._without_volume()]

    def _with_record(self, oddity: Oddity) -> Oddity:
        """Returns what is told of something half-made, whose record may be damaged."""
        if oddity.kind is not OddityKind.STAGED:
            return oddity
        own = self._pool.layout.path / oddity.name
        for folder in (own, own / "image"):
            try:
                self._pool.records.read(folder)
            except ImageUnsafe as error:
                return replace(oddity, why=error.metadata["why"])
        return oddity

    def _without_volume(self) -> Iterator[Oddity]:
        """Yields the images whose volumes the plug-in does not list any more."""
        if "LIST_VOLUMES" not in self._pool.abilities.controller:
            return
        records: list[tuple[str, Record]] = []
        for name in self._pool.files.list_folder(self._pool.layout.images):
            with suppress(CountermandError):
                records.append((name, self._pool.image(name)[1]))
        listed = self._listed()
        for name, record in records:
            if record.thing is Thing.VOLUME and record.id not in listed:
                yield Oddity(
                    kind=OddityKind.UNSAFE,
                    name=f"images/{name}",
                    why=f"the plug-in lists no volume {record.id} any more: delete the image, or"
                    " bring its volume back",
                )

    def _listed(self) -> set[str]:
        """Returns the ids of all volumes of the plug-in."""
        ids: set[str] = set()
        page = csi.ListVolumesResponse()
        try:
            while True:
                asked = csi.ListVolumesRequest(starting_token=page.next_token)
                send = sending(self._pool.plugin.controller.ListVolumes, asked)
                page = self._pool.plugin.ask(send, patience_s=LOOK_PATIENCE_S)
                ids |= {entry.volume.volume_id for entry in page.entries}
                if not page.next_token:
                    return ids
        except Answer as answer:
            raise self._pool.plugin.failed(answer, "its images") from answer
