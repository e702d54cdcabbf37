"""A small CSI plug-in: volumes are files in a folder, shown by a hard link; a process of its own.

    python -m tests.agent.csi_plugin --socket /run/x.sock --folder /srv/x

It keeps the interface's promises, and no more than those: what is new reads as garbage, sizes are
rounded up, a volume that is shown somewhere cannot be removed, and ids tell nothing. It can be
killed at any moment: what it has not written down in full is removed when it starts again.

Tests make it misbehave by files: each line of `faults/<Call>` is what one call of that name does,
and is used up by it: a word of `FAULTS`, or the name of a status to answer with.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NoReturn

import grpc

from agent.drivers.csi.v1 import csi_pb2 as csi
from agent.drivers.csi.v1 import csi_pb2_grpc

MIB = 2**20
CONTROLLER = (
    "CREATE_DELETE_VOLUME",
    "PUBLISH_UNPUBLISH_VOLUME",
    "LIST_VOLUMES",
    "GET_CAPACITY",
    "CREATE_DELETE_SNAPSHOT",
    "CLONE_VOLUME",
)
NODE = ("STAGE_UNSTAGE_VOLUME",)
NOWHERE: dict[str, Any] = {"targets": [], "staged": ""}  # a volume, on a node


class RefusedError(Exception):
    def __init__(self, code: grpc.StatusCode, why: str) -> None:
        self.code = code
        super().__init__(why)


def refuse(code: str, why: str) -> NoReturn:
    raise RefusedError(grpc.StatusCode[code], why)


def need(value: Any, field: str) -> None:
    if not value:
        refuse("INVALID_ARGUMENT", f"{field} is missing")


def die() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


# Before it does what it is asked for, and after.
FAULTS: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
    "die-before": (die, bool),
    "die-after": (bool, die),
    "lose-reply": (bool, lambda: refuse("UNAVAILABLE", "the reply got lost")),
    "wait": (lambda: time.sleep(0.4), bool),
}


class Store:
    """The files of volumes and snapshots, and what is written down of them."""

    def __init__(self, folder: Path, *, capacity_bytes: int, round_to: int) -> None:
        self.folder = folder
        self.capacity_bytes = capacity_bytes
        self.round_to = round_to
        self._busy: set[str] = set()
        self._lock = threading.Lock()
        for kind in ("volumes", "snapshots", "shown", "faults"):
            (folder / kind).mkdir(parents=True, exist_ok=True)
        for data in folder.glob("*/*.data"):
            if not data.with_suffix(".json").exists():
                data.unlink()  # half-made

    @contextlib.contextmanager
    def busy(self, *names: str) -> Iterator[None]:
        """Refuses to do two things at once with one name or id."""
        with self._lock:
            if self._busy & set(names):
                refuse("ABORTED", f"an operation is pending for {' or '.join(names)}")
            self._busy |= set(names)
        try:
            yield
        finally:
            with self._lock:
                self._busy -= set(names)

    def all(self, kind: str) -> dict[str, dict[str, Any]]:
        found = {}
        for path in sorted((self.folder / kind).glob("*.json")):
            with contextlib.suppress(FileNotFoundError):
                found[path.stem] = json.loads(path.read_text())
        return found

    def get(self, kind: str, key: str) -> dict[str, Any]:
        known = self.all(kind).get(key)
        if known is None:
            refuse("NOT_FOUND", f"no {key} in {kind}")
        return known

    def put(self, kind: str, key: str, **fields: Any) -> dict[str, Any]:
        draft = self.folder / kind / f"{key}.new"
        draft.write_text(json.dumps(fields))
        draft.rename(draft.with_suffix(".json"))
        return fields

    def drop(self, kind: str, key: str) -> None:
        for suffix in ("json", "data"):
            (self.folder / kind / f"{key}.{suffix}").unlink(missing_ok=True)

    def data(self, kind: str, key: str) -> Path:
        return self.folder / kind / f"{key}.data"

    @property
    def free_bytes(self) -> int:
        used: int = sum(each["size"] for each in self.all("volumes").values())
        return self.capacity_bytes - used

    def fault(self, call: str) -> str:
        """Returns how a call is to misbehave, once."""
        path = self.folder / "faults" / call
        with self._lock:
            lines = path.read_text().split() if path.exists() else []
            if lines:
                path.write_text("\n".join(lines[1:]))
        return lines[0] if lines else ""

    def log(self, call: str) -> None:
        with self._lock, (self.folder / "calls.log").open("a") as log:
            log.write(f"{call}\n")


class Plugin:
    """What it does when it is called; the names of the methods are those of the calls."""

    def __init__(
        self,
        store: Store,
        *,
        name: str,
        secret: str,
        zone: str,
        node_id: str,
        forgetful: bool,
        controller: list[str],
        node: list[str],
        shows: bool,
    ) -> None:
        self.store = store
        self.name = name
        self.secret = secret
        self.zone = zone
        self.node_id = node_id
        self.forgetful = forgetful
        self.controller = controller
        self.node = node
        self.shows = shows

    def check(self, secrets: Mapping[str, str]) -> None:
        if secrets.get("word") != self.secret:
            refuse("UNAUTHENTICATED", "another secret is needed")

    # -- Identity -------------------------------------------------------------------------------

    def GetPluginInfo(self, _request):
        return csi.GetPluginInfoResponse(name=self.name, vendor_version="1")

    def GetPluginCapabilities(self, _request):
        reply = csi.GetPluginCapabilitiesResponse()
        if self.controller:
            reply.capabilities.add().service.type = csi.PluginCapability.Service.CONTROLLER_SERVICE
        if self.zone:
            constrained = csi.PluginCapability.Service.VOLUME_ACCESSIBILITY_CONSTRAINTS
            reply.capabilities.add().service.type = constrained
        return reply

    def Probe(self, _request):
        return csi.ProbeResponse()

    # -- Controller -----------------------------------------------------------------------------

    def ControllerGetCapabilities(self, _request):
        reply = csi.ControllerGetCapabilitiesResponse()
        for name in self.controller:
            reply.capabilities.add().rpc.type = csi.ControllerServiceCapability.RPC.Type.Value(name)
        return reply

    def CreateVolume(self, request):
        need(request.name, "name")
        need(request.volume_capabilities, "volume_capabilities")
        zones = {zone.segments["zone"] for zone in request.accessibility_requirements.requisite}
        if self.zone and self.zone not in zones:
            refuse("RESOURCE_EXHAUSTED", f"there is only {self.zone}")
        source = request.volume_content_source
        origin = source.volume.volume_id or source.snapshot.snapshot_id
        kind = "volumes" if source.volume.volume_id else "snapshots"
        size = self._size(request.capacity_range)
        wanted = {
            "name": request.name,
            "size": size,
            "origin": origin,
            "parameters": dict(request.parameters),
        }
        with self.store.busy(request.name, *([origin] if origin else [])):
            for key, known in self.store.all("volumes").items():
                if known["name"] == request.name:
                    if known != wanted:
                        refuse("ALREADY_EXISTS", f"{request.name} exists, and is another")
                    return csi.CreateVolumeResponse(volume=self._volume(key, known))
            if origin:
                least = self.store.get(kind, origin)["size"]
                if size < least:
                    refuse("OUT_OF_RANGE", f"the source has {least} bytes")
            if size > self.store.free_bytes:
                refuse("RESOURCE_EXHAUSTED", f"{self.store.free_bytes} bytes are left")
            key = f"vol-{uuid.uuid4()}"
            if self.forgetful:
                wanted["origin"] = ""
            data = self.store.data("volumes", key)
            if origin:
                shutil.copyfile(self.store.data(kind, origin), data)
                os.truncate(data, size)
            else:
                data.write_bytes(b"\xa5" * size)  # whoever had this space before
            return csi.CreateVolumeResponse(
                volume=self._volume(key, self.store.put("volumes", key, **wanted))
            )

    def _size(self, wanted: csi.CapacityRange) -> int:
        size = max(wanted.required_bytes, 1)
        size += -size % self.store.round_to
        if size > self.store.capacity_bytes or (wanted.limit_bytes and size > wanted.limit_bytes):
            refuse("OUT_OF_RANGE", f"no volume of {size} bytes is made here")
        return size

    def _volume(self, key: str, known: dict[str, Any]) -> csi.Volume:
        volume = csi.Volume(
            volume_id=key, capacity_bytes=known["size"], volume_context={"kept": "as told"}
        )
        if known["origin"].startswith("vol-"):
            volume.content_source.volume.volume_id = known["origin"]
        elif known["origin"]:
            volume.content_source.snapshot.snapshot_id = known["origin"]
        return volume

    def DeleteVolume(self, request):
        need(request.volume_id, "volume_id")
        with self.store.busy(request.volume_id):
            if request.volume_id in self.store.all("shown"):
                refuse("FAILED_PRECONDITION", "it is shown on a node")
            self.store.drop("volumes", request.volume_id)
        return csi.DeleteVolumeResponse()

    def ControllerPublishVolume(self, request):
        need(request.volume_id, "volume_id")
        need(request.node_id, "node_id")
        need(request.HasField("volume_capability"), "volume_capability")
        with self.store.busy(request.volume_id):
            self.store.get("volumes", request.volume_id)
            shown = self.store.all("shown").get(request.volume_id, {})
            if others := sorted({*shown} - {request.node_id}):
                refuse("FAILED_PRECONDITION", f"it is published to {others}")  # a single writer
            shown.setdefault(request.node_id, dict(NOWHERE))
            self.store.put("shown", request.volume_id, **shown)
        return csi.ControllerPublishVolumeResponse(publish_context={"attached": "yes"})

    def ControllerUnpublishVolume(self, request):
        need(request.volume_id, "volume_id")
        need(request.node_id, "node_id")
        with self.store.busy(request.volume_id):
            shown = self.store.all("shown").get(request.volume_id, {})
            places = shown.pop(request.node_id, NOWHERE)
            # What another node has, its own plug-in knows alone: that one is cut off.
            if request.node_id == self.node_id and places != NOWHERE:
                refuse("FAILED_PRECONDITION", "the node still has it")
            self._write(request.volume_id, shown)
        return csi.ControllerUnpublishVolumeResponse()

    def _write(self, volume_id: str, shown: dict[str, Any]) -> None:
        """Writes down on which nodes a volume is."""
        if shown:
            self.store.put("shown", volume_id, **shown)
        else:
            self.store.drop("shown", volume_id)

    def ValidateVolumeCapabilities(self, request):
        need(request.volume_id, "volume_id")
        need(request.volume_capabilities, "volume_capabilities")
        self.store.get("volumes", request.volume_id)
        confirmed = csi.ValidateVolumeCapabilitiesResponse.Confirmed(
            volume_capabilities=request.volume_capabilities
        )
        return csi.ValidateVolumeCapabilitiesResponse(confirmed=confirmed)

    def ListVolumes(self, request):
        keys = sorted(self.store.all("volumes"))
        begin = 0
        if request.starting_token:
            if request.starting_token not in keys:
                refuse("ABORTED", "no such token")
            begin = keys.index(request.starting_token)
        end = begin + (request.max_entries or 2)  # small pages: whoever lists must turn them
        reply = csi.ListVolumesResponse(next_token=keys[end] if end < len(keys) else "")
        volumes = self.store.all("volumes")
        for key in keys[begin:end]:
            reply.entries.add().volume.CopyFrom(self._volume(key, volumes[key]))
        return reply

    def GetCapacity(self, _request):
        return csi.GetCapacityResponse(available_capacity=self.store.free_bytes)

    def CreateSnapshot(self, request):
        need(request.name, "name")
        need(request.source_volume_id, "source_volume_id")
        with self.store.busy(request.name, request.source_volume_id):
            for key, known in self.store.all("snapshots").items():
                if known["name"] == request.name:
                    if known["source"] != request.source_volume_id:
                        refuse("ALREADY_EXISTS", f"{request.name} is of another volume")
                    ready = self.store.put("snapshots", key, **{**known, "ready": True})
                    return csi.CreateSnapshotResponse(snapshot=self._snapshot(key, ready))
            volume = self.store.get("volumes", request.source_volume_id)
            key = f"snap-{uuid.uuid4()}"
            origin = self.store.data("volumes", request.source_volume_id)
            shutil.copyfile(origin, self.store.data("snapshots", key))
            # Ready when it is asked for again, as one is that is still uploaded.
            cut = self.store.put(
                "snapshots",
                key,
                name=request.name,
                source=request.source_volume_id,
                size=volume["size"],
                ready=False,
            )
            return csi.CreateSnapshotResponse(snapshot=self._snapshot(key, cut))

    def _snapshot(self, key: str, known: dict[str, Any]) -> csi.Snapshot:
        snapshot = csi.Snapshot(
            snapshot_id=key,
            source_volume_id=known["source"],
            size_bytes=known["size"],
            ready_to_use=known["ready"],
        )
        snapshot.creation_time.GetCurrentTime()
        return snapshot

    def DeleteSnapshot(self, request):
        need(request.snapshot_id, "snapshot_id")
        self.store.drop("snapshots", request.snapshot_id)
        return csi.DeleteSnapshotResponse()

    # -- Node -----------------------------------------------------------------------------------

    def NodeGetInfo(self, _request):
        here = csi.Topology(segments={"zone": self.zone}) if self.zone else None
        return csi.NodeGetInfoResponse(node_id=self.node_id, accessible_topology=here)

    def NodeGetCapabilities(self, _request):
        reply = csi.NodeGetCapabilitiesResponse()
        for name in self.node:
            reply.capabilities.add().rpc.type = csi.NodeServiceCapability.RPC.Type.Value(name)
        return reply

    def _here(self, request: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """Returns where a volume is on all nodes, and on this one: the controller published it."""
        self.store.get("volumes", request.volume_id)
        shown = self.store.all("shown").get(request.volume_id, {})
        if "PUBLISH_UNPUBLISH_VOLUME" in self.controller and self.node_id not in shown:
            refuse("FAILED_PRECONDITION", "the controller has not published it")
        return shown, shown.setdefault(self.node_id, dict(NOWHERE))

    def _left(self, volume_id: str, **changed: Any) -> None:
        """Writes down what is left of a volume on this node, if it is there at all."""
        shown = self.store.all("shown").get(volume_id, {})
        if self.node_id not in shown:
            return
        shown[self.node_id] |= changed
        if shown[self.node_id] == NOWHERE and "PUBLISH_UNPUBLISH_VOLUME" not in self.controller:
            del shown[self.node_id]
        self._write(volume_id, shown)

    def NodeStageVolume(self, request):
        need(request.volume_id, "volume_id")
        need(request.staging_target_path, "staging_target_path")
        need(request.HasField("volume_capability"), "volume_capability")
        with self.store.busy(request.volume_id):
            shown, here = self._here(request)
            here["staged"] = request.staging_target_path
            self.store.put("shown", request.volume_id, **shown)
        return csi.NodeStageVolumeResponse()

    def NodeUnstageVolume(self, request):
        need(request.volume_id, "volume_id")
        need(request.staging_target_path, "staging_target_path")
        with self.store.busy(request.volume_id):
            self._left(request.volume_id, staged="")
        return csi.NodeUnstageVolumeResponse()

    def NodePublishVolume(self, request):
        need(request.volume_id, "volume_id")
        need(request.target_path, "target_path")
        need(request.HasField("volume_capability"), "volume_capability")
        with self.store.busy(request.volume_id):
            shown, here = self._here(request)
            if "STAGE_UNSTAGE_VOLUME" in self.node and not here["staged"]:
                refuse("FAILED_PRECONDITION", "it is not staged")
            target = Path(request.target_path)
            if not target.exists():
                target.hardlink_to(self.store.data("volumes", request.volume_id))
            here["targets"] = sorted({*here["targets"], request.target_path})
            self.store.put("shown", request.volume_id, **shown)
        return csi.NodePublishVolumeResponse()

    def NodeUnpublishVolume(self, request):
        need(request.volume_id, "volume_id")
        need(request.target_path, "target_path")
        with self.store.busy(request.volume_id):
            self.store.get("volumes", request.volume_id)
            shown = self.store.all("shown").get(request.volume_id, {})
            Path(request.target_path).unlink(missing_ok=True)
            targets = {*shown.get(self.node_id, NOWHERE)["targets"]} - {request.target_path}
            self._left(request.volume_id, targets=sorted(targets))
        return csi.NodeUnpublishVolumeResponse()


def servicer(plugin: Plugin, base: type) -> Any:
    """Returns a servicer whose calls are the plug-in's, with their faults."""
    methods: dict[str, Any] = {}
    for name in (name for name in vars(base) if hasattr(plugin, name)):

        def handle(_self, request, context, name=name):
            plugin.store.log(name)
            fault = plugin.store.fault(name)
            before, after = FAULTS.get(fault, (bool, bool))
            try:
                if fault and fault not in FAULTS:
                    refuse(fault, "as the test says")
                if plugin.secret and "secrets" in request.DESCRIPTOR.fields_by_name:
                    plugin.check(request.secrets)
                before()
                reply = getattr(plugin, name)(request)
                after()
                return reply
            except RefusedError as refused:
                return context.abort(refused.code, str(refused))

        methods[name] = handle
    return type(base.__name__, (base,), methods)()


def main() -> None:
    parser = argparse.ArgumentParser(description="Serves volumes that are files in a folder.")
    parser.add_argument("--socket", required=True, type=Path)
    parser.add_argument("--folder", required=True, type=Path)
    parser.add_argument("--without", default="", help="capabilities it has not, with commas")
    parser.add_argument("--capacity-bytes", default=256 * MIB, type=int)
    parser.add_argument("--round-to", default=MIB, type=int)
    parser.add_argument("--name", default="files.test.countermand")
    parser.add_argument("--secret", default="", help="the word that must come with every call")
    parser.add_argument("--zone", default="", help="from where alone its volumes are reached")
    parser.add_argument("--node", default="here", help="which host this is")
    parser.add_argument("--forgetful", action="store_true", help="of what clones were made from")
    words = parser.parse_args()
    missing = set(words.without.split(","))
    plugin = Plugin(
        Store(words.folder, capacity_bytes=words.capacity_bytes, round_to=words.round_to),
        name=words.name,
        secret=words.secret,
        zone=words.zone,
        node_id=words.node,
        forgetful=words.forgetful,
        controller=[name for name in CONTROLLER if name not in missing],
        node=[name for name in NODE if name not in missing],
        shows="NODE_SERVICE" not in missing,
    )
    server = grpc.server(ThreadPoolExecutor(16))
    csi_pb2_grpc.add_IdentityServicer_to_server(
        servicer(plugin, csi_pb2_grpc.IdentityServicer), server
    )
    if plugin.controller:
        csi_pb2_grpc.add_ControllerServicer_to_server(
            servicer(plugin, csi_pb2_grpc.ControllerServicer), server
        )
    if plugin.shows:
        csi_pb2_grpc.add_NodeServicer_to_server(servicer(plugin, csi_pb2_grpc.NodeServicer), server)
    words.socket.unlink(missing_ok=True)
    server.add_insecure_port(f"unix:{words.socket}")
    server.start()
    print("ready", flush=True)
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    server.stop(grace=1).wait()


if __name__ == "__main__":
    main()
