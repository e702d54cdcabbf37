"""Volumes as block devices of this host: shown for as long as somebody reads or writes them.

    targets/<token>/volume.json   which volume, so that a next life can take it back
    targets/<token>/stage/        what the plug-in prepares, if it does
    targets/<token>/device        where it shows the volume

Each volume is shown once, however many read it at the same time, and taken back when the last one
has gone. Whoever shows it holds a lock on its note; what a crash left shown, and nobody holds, is
taken back by the next sweep.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import stat
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from agent.drivers.csi.abilities import Abilities
from agent.drivers.csi.device import DeviceFiles
from agent.drivers.csi.plugin import Answer, Kind, Plugin, StillWritten, sending
from agent.drivers.csi.v1 import csi_pb2 as csi
from countermand.rpc.errors import CountermandError

log = logging.getLogger(__name__)

# A block device, written from one host: data moves through the host that copies.
CAPABILITY = csi.VolumeCapability(
    block=csi.VolumeCapability.BlockVolume(),
    access_mode=csi.VolumeCapability.AccessMode(
        mode=csi.VolumeCapability.AccessMode.SINGLE_NODE_WRITER
    ),
)

_NOTE = "volume.json"


@dataclass(slots=True)
class _Shown:
    """One volume on this host."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    users: int = 0
    claim: int | None = None  # the note, locked


class Node:
    """The volumes that this host shows; used from several threads."""

    def __init__(self, plugin: Plugin, targets: Path, abilities: Callable[[], Abilities]) -> None:
        """Shows nothing yet; abilities may become known later."""
        self._plugin = plugin
        self._targets = targets
        self._abilities = abilities
        self.files = DeviceFiles()
        self._guard = threading.Lock()
        self._shown: dict[str, _Shown] = {}  # a few bytes for each volume of this life

    @contextmanager
    def device(
        self, volume_id: str, context: Mapping[str, str], *, image: str, to_write: bool
    ) -> Iterator[int]:
        """Shows a volume and opens it.

        Raises:
            StorageFailed: The plug-in does not show it, or shows something else.
        """
        folder = self._folder(volume_id)
        shown = self._entry(volume_id)
        with shown.lock:
            if shown.users == 0:
                self._claim(shown, folder, volume_id, image)
                self._show(shown, folder, volume_id, context, image)
            shown.users += 1
        try:
            handle = self._open(folder / "device", image, to_write=to_write)
            try:
                yield handle
            finally:
                self.files.close(handle)
        finally:
            with shown.lock:
                shown.users -= 1
                if shown.users == 0:
                    self._hide_if_possible(shown, folder, volume_id, image)

    def hide(self, volume_id: str, *, image: str) -> None:
        """Returns once this host does not show a volume; nothing is fine.

        Raises:
            NotSettled: The plug-in has not taken it back so far.
        """
        shown = self._entry(volume_id)
        with shown.lock:
            folder = self._folder(volume_id)
            if folder.exists():
                self._claim(shown, folder, volume_id, image)
                self._hide(shown, folder, volume_id, image)

    def take_from(self, volume_id: str, nodes: Sequence[str], *, image: str, place: str) -> None:
        """Returns once none of these nodes but this one can write to a volume.

        Of a host that is lost: what it shows, nobody can take back there.

        Raises:
            StillWritten: The plug-in cannot cut it off, or does not say that it has.
            NotSettled: It has not so far.
        """
        self.need_to_reach(nodes, image=image, place=place)
        for node in self._others(nodes):
            detach = csi.ControllerUnpublishVolumeRequest(
                volume_id=volume_id, node_id=node, secrets=self._plugin.secrets
            )
            try:
                self._plugin.ask(sending(self._plugin.controller.ControllerUnpublishVolume, detach))
            except Answer as answer:
                if answer.kind is Kind.REFUSED:
                    raise self._still_written(node, str(answer), image, place) from answer
                raise self._plugin.not_settled(answer, image) from answer

    def need_to_reach(self, nodes: Sequence[str], *, image: str, place: str) -> None:
        """Raises StillWritten unless the plug-in could cut all of these nodes off."""
        if "PUBLISH_UNPUBLISH_VOLUME" in self._abilities().controller:
            return
        for node in self._others(nodes):
            why = "its plug-in has no PUBLISH_UNPUBLISH_VOLUME to cut it off with"
            raise self._still_written(node, why, image, place)

    def _others(self, nodes: Sequence[str]) -> list[str]:
        return [node for node in nodes if node != self._abilities().node_id]

    def _still_written(self, node: str, why: str, image: str, place: str) -> StillWritten:
        pool, holder = self._plugin.pool_id, f"node {node}"
        return StillWritten(image=image, pool=pool, holder=holder, why=why, record=place)

    def sweep(self) -> None:
        """Takes back what nobody uses; what cannot be is left for the next time."""
        for note in sorted(self._targets.glob(f"*/{_NOTE}")):
            try:
                volume_id = str(json.loads(note.read_text())["volume_id"])
            except (OSError, ValueError, KeyError):
                continue  # it went meanwhile, or was never written in full: then nothing was shown
            shown = self._entry(volume_id)
            with shown.lock:
                if shown.users:
                    continue
                try:
                    self._claim(shown, note.parent, volume_id, volume_id)
                except CountermandError:
                    continue  # another process reads it, or writes to it
                self._hide_if_possible(shown, note.parent, volume_id, volume_id)

    def _entry(self, volume_id: str) -> _Shown:
        with self._guard:
            return self._shown.setdefault(volume_id, _Shown())

    def _folder(self, volume_id: str) -> Path:
        token = hashlib.blake2b(volume_id.encode(), digest_size=8).hexdigest()
        return self._targets / token

    def _claim(self, shown: _Shown, folder: Path, volume_id: str, image: str) -> None:
        """Makes this process the one that shows a volume here.

        Raises:
            NotSettled: Another one does.
        """
        if shown.claim is not None:
            return
        try:
            shown.claim = _lock_note(folder, volume_id)
        except BlockingIOError:
            why = "another process of this host works on it"
            answer = Answer(grpc.StatusCode.UNAVAILABLE, why)
            raise self._plugin.not_settled(answer, image) from None

    def _show(
        self,
        shown: _Shown,
        folder: Path,
        volume_id: str,
        context: Mapping[str, str],
        image: str,
    ) -> None:
        """Asks in the order that the interface demands; each answer may be a repeat's."""
        abilities, node, controller = self._abilities(), self._plugin.node, self._plugin.controller
        secrets, published = self._plugin.secrets, csi.ControllerPublishVolumeResponse()
        try:
            if "PUBLISH_UNPUBLISH_VOLUME" in abilities.controller:
                attach = csi.ControllerPublishVolumeRequest(
                    volume_id=volume_id,
                    node_id=abilities.node_id,
                    volume_capability=CAPABILITY,
                    secrets=secrets,
                    volume_context=context,
                )
                published = self._plugin.ask(sending(controller.ControllerPublishVolume, attach))
            stage = csi.NodeStageVolumeRequest(
                volume_id=volume_id,
                publish_context=published.publish_context,
                staging_target_path=str(folder / "stage"),
                volume_capability=CAPABILITY,
                secrets=secrets,
                volume_context=context,
            )
            publish = csi.NodePublishVolumeRequest(
                volume_id=volume_id,
                publish_context=published.publish_context,
                target_path=str(folder / "device"),
                volume_capability=CAPABILITY,
                secrets=secrets,
                volume_context=context,
            )
            if "STAGE_UNSTAGE_VOLUME" in abilities.node:
                self._plugin.ask(sending(node.NodeStageVolume, stage))
                publish.staging_target_path = stage.staging_target_path
            self._plugin.ask(sending(node.NodePublishVolume, publish))
        except Answer as answer:
            self._hide_if_possible(shown, folder, volume_id, image)
            raise self._plugin.failed(answer, image) from answer

    def _hide(self, shown: _Shown, folder: Path, volume_id: str, image: str) -> None:
        """Takes back in the opposite order whatever may have been asked for."""
        abilities, node, controller = self._abilities(), self._plugin.node, self._plugin.controller
        target, stage = str(folder / "device"), str(folder / "stage")
        unpublish = csi.NodeUnpublishVolumeRequest(volume_id=volume_id, target_path=target)
        unstage = csi.NodeUnstageVolumeRequest(volume_id=volume_id, staging_target_path=stage)
        detach = csi.ControllerUnpublishVolumeRequest(
            volume_id=volume_id, node_id=abilities.node_id, secrets=self._plugin.secrets
        )
        calls: list[Callable[[], object]] = [
            lambda: self._plugin.ask(sending(node.NodeUnpublishVolume, unpublish))
        ]
        if "STAGE_UNSTAGE_VOLUME" in abilities.node:
            calls.append(lambda: self._plugin.ask(sending(node.NodeUnstageVolume, unstage)))
        if "PUBLISH_UNPUBLISH_VOLUME" in abilities.controller:
            calls.append(
                lambda: self._plugin.ask(sending(controller.ControllerUnpublishVolume, detach))
            )
        for call in calls:
            try:
                call()
            except Answer as answer:
                if answer.code is not grpc.StatusCode.NOT_FOUND:
                    raise self._plugin.not_settled(answer, image) from answer
        remove_place(folder)
        if shown.claim is not None:
            os.close(shown.claim)
            shown.claim = None

    def _hide_if_possible(self, shown: _Shown, folder: Path, volume_id: str, image: str) -> None:
        try:
            self._hide(shown, folder, volume_id, image)
        except CountermandError as error:
            log.warning("volume.still_shown", extra={"image": image, "error": str(error)})

    def _open(self, path: Path, image: str, *, to_write: bool) -> int:
        """Opens what the plug-in shows, if it is something that holds bytes."""
        flags = (os.O_RDWR if to_write else os.O_RDONLY) | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            mode = path.lstat().st_mode
            if stat.S_ISBLK(mode) or stat.S_ISREG(mode):
                # A device that is mounted is nobody's to write to.
                claim = os.O_EXCL if to_write and stat.S_ISBLK(mode) else 0
                return os.open(path, flags | claim)
            why = "something else"
        except OSError as error:
            why = error.strerror or str(error)
        answer = Answer(grpc.StatusCode.UNAVAILABLE, f"it shows no device at {path}: {why}")
        raise self._plugin.failed(answer, image)


def remove_place(folder: Path) -> None:
    """Removes where a volume was shown, as far as that is ours: notes, and folders that are empty.

    A plug-in that said NOT_FOUND may have left something mounted: nothing is followed into it.
    """
    for entry in folder.iterdir() if folder.is_dir() else ():
        with suppress(OSError):
            if entry.is_dir() and not entry.is_symlink():
                entry.rmdir()
            else:
                entry.unlink()
    with suppress(OSError):
        folder.rmdir()


def _lock_note(folder: Path, volume_id: str) -> int:
    """Returns the note of a volume, locked for as long as this process has it open.

    Raises:
        BlockingIOError: Another process has it.
    """
    path = folder / _NOTE
    while True:
        (folder / "stage").mkdir(parents=True, exist_ok=True, mode=0o750)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.exists() and path.stat().st_ino == os.fstat(handle).st_ino:
                # After a power cut nothing is shown any more: it need not be durable.
                os.pwrite(handle, json.dumps({"volume_id": volume_id}).encode(), 0)
                return handle
        except OSError:
            os.close(handle)
            raise
        os.close(handle)  # whoever had it has removed it meanwhile
