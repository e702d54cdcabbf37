"""What a CSI plug-in says that it can do, and where the host is at which it was asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TypeVar

import grpc

from agent.drivers.csi.plugin import Answer, Plugin, sending
from agent.drivers.csi.v1 import csi_pb2 as csi

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True, kw_only=True)
class Abilities:
    """What a plug-in says that it can do."""

    name: str = ""
    version: str = ""
    node_id: str = ""
    controller: frozenset[str] = frozenset()  # of ControllerServiceCapability.RPC.Type
    node: frozenset[str] = frozenset()  # of NodeServiceCapability.RPC.Type
    shows: bool = False  # there is a Node service at this socket
    # Where this host is, of a plug-in whose volumes are not reached from everywhere.
    topology: Mapping[str, str] = field(default_factory=dict)


def abilities_of(plugin: Plugin, *, patience_s: float) -> Abilities:
    """Asks a plug-in what it can do.

    Raises:
        Answer: It does not say.
    """
    asked = _Asking(plugin, patience_s)
    info = asked(plugin.identity.GetPluginInfo, csi.GetPluginInfoRequest())
    probe = asked(plugin.identity.Probe, csi.ProbeRequest())
    if probe.HasField("ready") and not probe.ready.value:
        raise Answer(grpc.StatusCode.UNAVAILABLE, "it is not ready")
    services = asked(plugin.identity.GetPluginCapabilities, csi.GetPluginCapabilitiesRequest())
    kinds = {capability.service.type for capability in services.capabilities}
    constrained = csi.PluginCapability.Service.VOLUME_ACCESSIBILITY_CONSTRAINTS in kinds
    controller: frozenset[str] = frozenset()
    if csi.PluginCapability.Service.CONTROLLER_SERVICE in kinds:
        told = asked(
            plugin.controller.ControllerGetCapabilities, csi.ControllerGetCapabilitiesRequest()
        )
        offered = (each.rpc.type for each in told.capabilities)
        controller = frozenset(_names(csi.ControllerServiceCapability.RPC.Type.Name, offered))
    here, node, shows = csi.NodeGetInfoResponse(), frozenset[str](), True
    try:
        here = asked(plugin.node.NodeGetInfo, csi.NodeGetInfoRequest())
        told_by_node = asked(plugin.node.NodeGetCapabilities, csi.NodeGetCapabilitiesRequest())
        offered_here = (each.rpc.type for each in told_by_node.capabilities)
        node = frozenset(_names(csi.NodeServiceCapability.RPC.Type.Name, offered_here))
    except Answer as answer:
        if answer.code is not grpc.StatusCode.UNIMPLEMENTED:
            raise
        shows = False  # a controller alone: it serves no data here
    return Abilities(
        name=info.name,
        version=info.vendor_version,
        node_id=here.node_id,
        controller=controller,
        node=node,
        shows=shows,
        topology=dict(here.accessible_topology.segments) if constrained else {},
    )


class _Asking:
    """Asks one thing after the other."""

    def __init__(self, plugin: Plugin, patience_s: float) -> None:
        self._plugin = plugin
        self._patience_s = patience_s

    def __call__(self, method: grpc.UnaryUnaryMultiCallable[R, T], request: R) -> T:
        return self._plugin.ask(sending(method, request), patience_s=self._patience_s)


def _names(name: Callable[[T], str], numbers: Iterator[T]) -> Iterator[str]:
    """Yields the names of capabilities; one that is newer than we are is left out."""
    for number in numbers:
        with suppress(ValueError):
            yield name(number)
