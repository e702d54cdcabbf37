"""Tickets for copies across hosts: asked of the host that serves, handed to the one that reads.

A ticket does not live long, so each sending of an order brings another one, and so does each time
that an open attempt is asked about. A host that is away keeps those orders waiting that read from
it, and no others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from coordinator.agents.connection import CALL_TIMEOUT_S, Connection
from coordinator.saga.commands import SendAction
from coordinator.saga.workflow import Workflow
from coordinator.wire.actions import action_of
from coordinator.wire.order import Call
from countermand.rpc.errors import (
    CallUnsupported,
    CountermandError,
    FieldInvalid,
    HostNotFound,
    HostUnreachable,
    ImageNotFound,
    ImageUnsafe,
    PoolNotFound,
    SnapshotNotFound,
)
from countermand.rpc.names import host_name
from countermand.v1.agent_pb2 import CopyImageRequest, ServeImageRequest, SourceAccess
from countermand.v1.attempt_pb2 import AttemptHeader

# What the serving agent would say each time. Whatever else keeps it from serving may pass.
_CERTAIN = (
    CallUnsupported,
    FieldInvalid,
    HostNotFound,
    ImageNotFound,
    ImageUnsafe,
    PoolNotFound,
    SnapshotNotFound,
)


class SourceRefusedError(Exception):
    """A source that will never be served."""

    def __init__(self, cause: CountermandError) -> None:
        """Keeps why."""
        self.cause = cause
        super().__init__(str(cause))


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A host as a place to read from."""

    address: str
    incarnation: str
    connection: Connection | None  # None while it is away


# The host of an id; None of one that is not known.
FindServer = Callable[[str], Server | None]


def no_servers(host_id: str) -> None:
    """Returns that there is no such host."""


class Tickets:
    """Furnishes the orders of one host with tickets."""

    def __init__(self, find: FindServer) -> None:
        """Asks about hosts each time anew: they come and go."""
        self._find = find

    def awaited(self, workflow: Workflow, command: SendAction) -> str:
        """Returns the host that the source of an order is on, if that host is away."""
        if workflow.plan.task(command.task).verb != "copy_image":
            return ""
        attempt = workflow.task(command.task).attempts[command.number - 1]
        host_id = action_of(workflow, command.task, attempt).copy_image.source_host_id
        server = self._find(host_id) if host_id else None
        return host_id if server is not None and server.connection is None else ""

    async def furnish(self, call: Call) -> bool:
        """Puts a fresh ticket into a call; returns whether it needs one.

        Raises:
            HostUnreachable: The source's host cannot give one now.
            SourceRefusedError: It never will.
        """
        request = call.request
        if not isinstance(request, CopyImageRequest) or not request.copy_image.source_host_id:
            return False
        host_id = request.copy_image.source_host_id
        server = self._find(host_id)
        if server is None:
            raise SourceRefusedError(HostNotFound(name=host_name(host_id)))
        if server.connection is None:
            raise HostUnreachable(address=server.address)
        asked = ServeImageRequest(address=request.copy_image.source)
        asked.header.CopyFrom(_reading(request.header, server.incarnation))
        try:
            answer = await server.connection.call("ServeImage", asked, timeout_s=CALL_TIMEOUT_S)
        except _CERTAIN as error:
            raise SourceRefusedError(error) from error
        except CountermandError as error:
            # Its own line hears what is wrong with it: here it is only one that does not serve.
            raise HostUnreachable(address=server.address) from error
        access = SourceAccess(address=server.address, ticket=answer.ticket)
        request.source_access.CopyFrom(access)
        return True


def _reading(header: AttemptHeader, incarnation: str) -> AttemptHeader:
    """Returns the header of whoever reads, for the agent that serves."""
    return AttemptHeader(
        attempt=header.attempt,
        cluster_id=header.cluster_id,
        owner_epoch=header.owner_epoch,
        intent_sequence=header.intent_sequence,
        expected_incarnation=incarnation,
        traceparent=header.traceparent,
        tracestate=header.tracestate,
    )
