"""Volumes and snapshots behind a plug-in: each made under one name, and never lost sight of.

A plug-in chooses its own ids and carries no owner tags, so which volume is which image is written
in a folder of ours, as `volume.json` beside the image's label:

    before it is asked    the record holds the name and all else that the plug-in will be asked with
    once it answered      the record holds the id as well
    the label's rename    decides, as for any image: from then on, and no earlier, it is an image

The name comes from the pool, the cluster, the attempt and the image, so no two attempts ever ask
for the same volume, and one attempt asks for it as often as it likes. A record without an id stands
for a volume that may exist, or be on its way: asking for it once more is what tells its id, since a
listing tells no names. That may even make the volume, for a moment, which is then removed.

While a host that shares the pool writes to a volume, its record names the host's node: whoever
removes what a lost host had half made takes the volume from there first, or leaves it.

A volume is removed before its record is; so whatever was taken out of sight can be purged by
anybody who finds the record, as often as it takes. Who has lost the records has lost the pool, as
with any driver: they belong on storage as safe as the volumes.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import grpc

from agent import crash_points
from agent.drivers.csi.node import CAPABILITY, Node
from agent.drivers.csi.plugin import (
    Answer,
    Kind,
    NotSettled,
    Plugin,
    Send,
    pauses,
    sending,
    waiting,
)
from agent.drivers.csi.records import RECORD, Record, Records, Thing
from agent.drivers.csi.v1 import csi_pb2 as csi
from agent.drivers.driver import OutcomeUnknown, Step, Steps, Work
from agent.drivers.files import FileKind, Files, FileStat
from agent.drivers.label import Label
from agent.drivers.layout import Layout
from countermand.rpc.errors import (
    CountermandError,
    FieldInvalid,
    ImageInUse,
    NoSpace,
    Violation,
)

# Kept by the journal before a plug-in is asked, so that a next life goes on with the record.
ASKED = json.dumps({"asked": True})

# Said of a name that the plug-in would have known, had it ever made something under it.
_PROVE_ABSENCE = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.NOT_FOUND,  # its source
        grpc.StatusCode.OUT_OF_RANGE,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.UNIMPLEMENTED,
    }
)


class Volumes:
    """Has volumes and snapshots made and removed."""

    def __init__(self, plugin: Plugin, node: Node, records: Records) -> None:
        """Asks nothing yet."""
        self._plugin = plugin
        self._node = node
        self._records = records

    def make(self, work: Work, folder: Path, wanted: Record, *, image: str) -> Steps[Record]:
        """Has what is wanted made, or what an earlier life wanted; writes down what it is."""
        record = self._records.read(folder)
        if record is None:
            yield Step(note=ASKED) if not work.note else Step()
            record = wanted
            self._records.write(folder, record)
        if record.id:
            return record
        try:
            made = yield from self._made(record, image)
            # Whoever dies here leaves a record without an id, and asks again.
            work.crash(crash_points.AFTER_VOLUME)
            self._records.write(folder, made)
        except (OSError, CountermandError):
            self._forget_without(folder, record, image)
            raise
        return made

    def _made(self, record: Record, image: str) -> Steps[Record]:
        """Asks until the plug-in has made it."""
        try:
            try:
                return (yield from self._asked(record))
            except Answer as answer:
                if answer.code is not grpc.StatusCode.ALREADY_EXISTS:
                    raise
                # Nobody else has this name. What has it is ours, and the plug-in knows it no more
                # for what it is: perhaps it was not finished. It goes, and another one comes.
                self.forget(record, image=image)
                return (yield from self._asked(record))
        except Answer as answer:
            if answer.kind in {Kind.REFUSED, Kind.BROKEN}:
                raise self._refused(record, answer, image) from answer
            # The record stays: whoever looks again asks for the same.
            raise OutcomeUnknown(self._plugin.not_settled(answer, image)) from answer

    def _asked(self, record: Record) -> Steps[Record]:
        """Asks until it is ready to be used."""
        for pause_s in pauses():
            answer = yield from self._plugin.steps(self._asking(record))
            made, is_ready = _told(record, answer)
            if not made.id:
                raise Answer(grpc.StatusCode.INTERNAL, "it made something, and told no id of it")
            if is_ready:
                return made
            yield from waiting(pause_s)  # a snapshot is cut, and not uploaded yet
        raise AssertionError("pauses never end")

    def _forget_without(self, folder: Path, record: Record, image: str) -> None:
        """Removes what was made for a folder that has gone: nobody else would ever look for it."""
        if self._records.read(folder) is not None:
            return
        try:
            self.forget(record, image=image)
        except NotSettled as error:
            raise OutcomeUnknown(error) from error

    def take_from_lost(self, record: Record, *, place: str) -> None:
        """Returns once no other host can write to what a record stands for."""
        if record.id:
            self._node.take_from(record.id, record.nodes, image=record.name, place=place)

    def forget(self, record: Record, *, image: str) -> None:
        """Returns once what a record stands for is not there, and will not come.

        Raises:
            ImageInUse: The plug-in keeps it, since others need it.
            NotSettled: It may be there still.
        """
        known = record if record.id else self._known(record, image)
        if known is None:
            return
        if known.thing is Thing.VOLUME:
            self._node.hide(known.id, image=image)
        try:
            self._remove(known)
        except Answer as answer:
            if answer.code is grpc.StatusCode.NOT_FOUND:
                return
            if answer.code is grpc.StatusCode.FAILED_PRECONDITION:
                holder = f"others, as its plug-in says ({answer.details})"
                raise ImageInUse(image=image, pool=self._plugin.pool_id, holder=holder) from answer
            raise self._plugin.not_settled(answer, image) from answer

    def _known(self, record: Record, image: str) -> Record | None:
        """Returns a record with its id; None when there is nothing under its name."""
        try:
            return _told(record, self._plugin.ask(self._asking(record)))[0]
        except Answer as answer:
            if answer.code in _PROVE_ABSENCE:
                return None
            if answer.code is grpc.StatusCode.ALREADY_EXISTS and _is_clone(record):
                # It is there, and has forgotten what it is a clone of: asked without, it tells.
                return self._known(replace(record, source=""), image)
            raise self._plugin.not_settled(answer, image) from answer

    def _asking(
        self, record: Record
    ) -> Send[csi.CreateVolumeResponse | csi.CreateSnapshotResponse]:
        """Returns what asks for it, the same every time."""
        controller, secrets = self._plugin.controller, self._plugin.secrets
        if record.thing is Thing.SNAPSHOT:
            return sending(
                controller.CreateSnapshot,
                csi.CreateSnapshotRequest(
                    source_volume_id=record.source, name=record.name, secrets=secrets
                ),
            )
        request = csi.CreateVolumeRequest(
            name=record.name,
            capacity_range=csi.CapacityRange(required_bytes=record.size_bytes),
            volume_capabilities=[CAPABILITY],
            parameters=record.parameters,
            secrets=secrets,
        )
        if record.topology:
            here = csi.Topology(segments=record.topology)
            request.accessibility_requirements.requisite.append(here)
            request.accessibility_requirements.preferred.append(here)
        if record.source:
            request.volume_content_source.volume.volume_id = record.source
        return sending(controller.CreateVolume, request)

    def _remove(self, record: Record) -> None:
        controller, secrets = self._plugin.controller, self._plugin.secrets
        if record.thing is Thing.SNAPSHOT:
            gone = csi.DeleteSnapshotRequest(snapshot_id=record.id, secrets=secrets)
            self._plugin.ask(sending(controller.DeleteSnapshot, gone))
        else:
            request = csi.DeleteVolumeRequest(volume_id=record.id, secrets=secrets)
            self._plugin.ask(sending(controller.DeleteVolume, request))

    def _refused(self, record: Record, answer: Answer, image: str) -> CountermandError:
        """Returns our error for what the plug-in would not make."""
        if answer.code is grpc.StatusCode.RESOURCE_EXHAUSTED:
            return NoSpace(pool=self._plugin.pool_id, needed=answer.details)
        if answer.code is grpc.StatusCode.OUT_OF_RANGE:
            why = f"the plug-in makes none of {record.size_bytes} bytes: {answer.details}"
            return FieldInvalid(Violation("virtual_size_bytes", why))
        return self._plugin.failed(answer, image)


def _is_clone(record: Record) -> bool:
    return record.thing is Thing.VOLUME and bool(record.source)


def _told(
    record: Record, reply: csi.CreateVolumeResponse | csi.CreateSnapshotResponse
) -> tuple[Record, bool]:
    """Returns a record with what a plug-in told, and whether it is ready to be used."""
    if isinstance(reply, csi.CreateSnapshotResponse):
        return replace(record, id=reply.snapshot.snapshot_id), reply.snapshot.ready_to_use
    volume = reply.volume
    made = replace(
        record,
        id=volume.volume_id,
        context=dict(volume.volume_context),
        capacity_bytes=volume.capacity_bytes or record.size_bytes,
    )
    return made, True


class VolumeLayout(Layout):
    """The folders of a pool whose data is behind a plug-in: what is purged takes its volume along.

    Whoever purges, be it a cancel, a compensation, a sweep or the fence of another host, comes
    through here: so no record ever goes before its volume.
    """

    def __init__(
        self, pool_id: str, path: Path, files: Files, volumes: Volumes, records: Records
    ) -> None:
        """Refers to a pool's folder; nothing is touched."""
        super().__init__(pool_id, path, files)
        self._volumes = volumes
        self._records = records

    def data(self, image_id: str, label: Label) -> tuple[Path, FileStat]:  # noqa: ARG002 - it says nothing of it
        """Returns where an image's record is, having made sure that it names a volume."""
        self.record(image_id)
        path = self.image(image_id) / RECORD
        found = self.files.stat(path)
        if found is None:
            raise self.unsafe(image_id, f"{RECORD} is missing")
        return path, found

    def record(self, image_id: str) -> Record:
        """Returns the record of an image, or of a snapshot by its name.

        Raises:
            ImageUnsafe: It names no volume, or cannot be read.
        """
        record = self._records.read(self.image(image_id))
        if record is None or not record.id:
            raise self.unsafe(image_id, f"its {RECORD} names no volume")
        return record

    def purge(self, folder: Path) -> None:
        """Removes a folder and all that is in it, its volume first."""
        found = self.files.stat(folder)
        if found is not None and found.kind is FileKind.FOLDER:
            record = self._records.read(folder)
            if record is not None:
                self._volumes.take_from_lost(record, place=self._records.place(folder))
                self._volumes.forget(record, image=f"what is staged as {record.name}")
        super().purge(folder)
