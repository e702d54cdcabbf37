"""HostService: the hosts that tasks may be sent to."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Iterator, Sequence

from coordinator.api import audit, requests
from coordinator.api.requests import Context
from coordinator.runtime.draining import blocking, names
from coordinator.runtime.loop import Loop
from coordinator.runtime.ports import (
    AuditEvent,
    Clock,
    HostChange,
    HostRecord,
    Hosts,
    HostState,
    HostView,
    Store,
)
from coordinator.saga.workflow import Workflow
from coordinator.wire.failure import failure_to_proto
from coordinator.wire.history import timestamp
from countermand.rpc.errors import (
    AgentTaken,
    CountermandError,
    FieldInvalid,
    HostBusy,
    HostIdTaken,
    HostNotFound,
    HostRefused,
    HostUnreachable,
    Violation,
    WrongCluster,
)
from countermand.rpc.names import ID_RULE, host_name, is_id, task_name, workflow_name
from countermand.v1 import host_pb2 as pb
from countermand.v1.agent_pb2 import HostReport
from countermand.v1.host_pb2_grpc import HostServiceServicer

log = logging.getLogger(__name__)

_STATES = {state: pb.Host.State.Value(f"STATE_{state}") for state in HostState}
_KINDS = {change: pb.HostEvent.Kind.Value(f"KIND_{change}") for change in HostChange}
PORT_MAX = 65_535


class HostService(HostServiceServicer):
    """Serves hosts."""

    def __init__(self, *, loop: Loop, store: Store, hosts: Hosts, clock: Clock) -> None:
        """Keeps what it asks."""
        self._loop = loop
        self._store = store
        self._hosts = hosts
        self._clock = clock
        self._changing = asyncio.Lock()  # hosts are added and removed one at a time

    async def AddHost(self, request: pb.AddHostRequest, context: Context) -> pb.AddHostResponse:
        """Adds a host whose agent answers."""
        _check_add(request)
        async with self._changing:
            return pb.AddHostResponse(host=await self._add(request))

    async def _add(self, request: pb.AddHostRequest) -> pb.Host:
        if host := self._hosts.all().get(request.host_id):
            if host.record.address != request.address:
                raise HostIdTaken(name=host_name(request.host_id), address=host.record.address)
            return await self._shown(host)
        self._refuse_taken(request.address)
        try:
            self._refuse_taken(request.address, await self._hosts.probe(request.address))
        except (AgentTaken, WrongCluster):
            raise
        except HostRefused:
            if not request.unreachable_allowed:
                raise
        except CountermandError as error:
            if not request.unreachable_allowed:
                raise HostUnreachable(address=request.address) from error
        record = HostRecord(
            id=request.host_id, address=request.address, create_time=self._clock.now()
        )
        event = self._event(record.id, HostChange.ADDED)
        await self._store.put_host(record, event)
        _log(record.id, event)
        # If the process stops here, the host is connected to at the next start.
        wait_s = 0.0 if request.unreachable_allowed else requests.READY_S_MAX
        await self._hosts.begin(record, wait_s=wait_s)
        self._loop.redeliver(record.id)
        return await self._shown(self._hosts.all()[record.id])

    def _refuse_taken(self, address: str, incarnation: str = "") -> None:
        """Raises for an agent that a host has already: what it does would be counted twice."""
        for host_id, host in sorted(self._hosts.all().items()):
            is_known = incarnation and host.record.incarnation == incarnation
            if is_known or host.record.address == address:
                raise AgentTaken(address=address, name=host_name(host_id))

    async def GetHost(
        self, request: pb.HostServiceGetHostRequest, context: Context
    ) -> pb.HostServiceGetHostResponse:
        """Returns one host."""
        host = self._host(request.name)
        workflows = await self._using(host)
        shown = self._shown_with(host, workflows)
        if host.record.draining:
            shown.blocking_tasks.extend(self._blocking(host.record.id, workflows))
        return pb.HostServiceGetHostResponse(host=shown)

    async def ListHosts(
        self, request: pb.ListHostsRequest, context: Context
    ) -> pb.ListHostsResponse:
        """Returns one page of hosts, in order of their ids."""
        limit = requests.page_size(request.page_size)
        hosts = self._hosts.all()
        ids = sorted(host_id for host_id in hosts if host_id > request.page_token)
        page = ids[:limit]
        workflows = await self._using(*(hosts[host_id] for host_id in page))
        return pb.ListHostsResponse(
            hosts=[self._shown_with(hosts[host_id], workflows) for host_id in page],
            next_page_token=page[-1] if len(ids) > limit else "",
        )

    async def DrainHost(
        self, request: pb.DrainHostRequest, context: Context
    ) -> pb.DrainHostResponse:
        """Gives a host no new tasks, or again; answers with the tasks that block the drain."""
        requests.demand(request, "request_id", "reason")
        async with self._changing:
            host_id = self._host(request.name).record.id
            if request.undrain:
                event = self._event(host_id, HostChange.UNDRAINED, request.reason)
                has_changed = await self._hosts.undrain(host_id, event)
            else:
                event = self._event(host_id, HostChange.DRAINED, request.reason)
                has_changed = await self._hosts.drain(host_id, event)
            if has_changed:
                _log(host_id, event)
        host = self._host(request.name)
        workflows = await self._using(host)
        blocked = self._blocking(host_id, workflows) if host.record.draining else ()
        shown = self._shown_with(host, workflows)
        return pb.DrainHostResponse(host=shown, blocking_tasks=blocked)

    async def AcceptHost(
        self, request: pb.AcceptHostRequest, context: Context
    ) -> pb.AcceptHostResponse:
        """Takes a quarantined host as it is now; one that is not is left as it is."""
        requests.demand(request, "request_id", "reason")
        async with self._changing:
            host = self._host(request.name)
            event = self._event(host.record.id, HostChange.ACCEPTED, request.reason)
            if await self._hosts.accept(host.record.id, event):
                _log(host.record.id, event)
        return pb.AcceptHostResponse(host=await self._shown(self._host(request.name)))

    async def RemoveHost(
        self, request: pb.RemoveHostRequest, context: Context
    ) -> pb.RemoveHostResponse:
        """Removes a host that no open workflow needs."""
        requests.demand(request, "request_id", "reason")
        async with self._changing:
            host = self._host(request.name)
            await self._refuse_busy(host.record.id)
            # Once its line has ended no workflow is placed on it; one may have been meanwhile.
            await self._hosts.end(host.record.id)
            try:
                await self._refuse_busy(host.record.id)
            except HostBusy:
                await self._hosts.begin(host.record, wait_s=0.0)
                self._loop.redeliver(host.record.id)
                raise
            event = self._event(host.record.id, HostChange.REMOVED, request.reason)
            await self._store.remove_host(host.record.id, event)
            _log(host.record.id, event)
        return pb.RemoveHostResponse()

    async def ListHostEvents(
        self, request: pb.ListHostEventsRequest, context: Context
    ) -> pb.ListHostEventsResponse:
        """Returns one page of what was done to hosts, the last first."""
        subject = host_name(requests.host_id(request.name) if request.name else "")
        events, token = await audit.page(self._store, subject, request)
        return pb.ListHostEventsResponse(events=map(_event, events), next_page_token=token)

    def _event(self, host_id: str, change: HostChange, reason: str = "") -> AuditEvent:
        return audit.done(host_name(host_id), change, self._clock, reason=reason)

    async def _refuse_busy(self, host_id: str) -> None:
        for workflow_id, _ in self._hosts.expected(host_id):
            raise HostBusy(name=host_name(host_id), workflow=workflow_name(workflow_id))
        for workflow in await self._open_on(host_id):
            if names(workflow, host_id):
                raise HostBusy(name=host_name(host_id), workflow=workflow_name(workflow.id))

    async def _using(self, *hosts: HostView) -> Sequence[Workflow]:
        """Returns open workflows, all of those that may keep one of some hosts from being drained.

        There are none to be looked at if no host drains.
        """
        draining = [host.record.id for host in hosts if host.record.draining]
        if not draining:
            return ()
        return await self._open_on(*draining)

    async def _open_on(self, *host_ids: str) -> Sequence[Workflow]:
        """Returns open workflows, all of those that have to do with some hosts."""
        # Where it has none, they may be nobody's: until somebody has looked at the store.
        if not self._store.shared and (own := self._loop.open_workflows()):
            return own
        return [stored.workflow for stored in await self._store.open_naming(host_ids)]

    def _blocking(self, host_id: str, workflows: Iterable[Workflow]) -> Iterator[str]:
        """Yields the names of the tasks that keep a host from being drained."""
        views = self._hosts.all().values()
        draining = {view.record.id for view in views if view.record.draining}
        expected = set(self._hosts.expected(host_id))  # a host was chosen, not durably yet
        for workflow in workflows:
            chosen = {index for workflow_id, index in expected if workflow_id == workflow.id}
            for index in sorted(chosen.union(blocking(workflow, host_id, draining))):
                yield task_name(workflow.id, workflow.plan.nodes[index].name)

    async def _shown(self, host: HostView) -> pb.Host:
        return self._shown_with(host, await self._using(host))

    def _shown_with(self, host: HostView, workflows: Sequence[Workflow]) -> pb.Host:
        shown = _shown(host)
        if host.record.draining and host.state is not HostState.QUARANTINED:
            is_blocked = any(True for _ in self._blocking(host.record.id, workflows))
            shown.state = pb.Host.STATE_DRAINING if is_blocked else pb.Host.STATE_DRAINED
        return shown

    def _host(self, name: str) -> HostView:
        host = self._hosts.all().get(requests.host_id(name))
        if host is None:
            raise HostNotFound(name=name)
        return host


def _log(host_id: str, done: AuditEvent) -> None:
    """Says what was done, once that is durable."""
    log.info("host.%s", done.change.lower(), extra={"host": host_id, "reason": done.reason})


def _check_add(request: pb.AddHostRequest) -> None:
    found = []
    if not is_id(request.host_id):
        found.append(Violation("host_id", f"{request.host_id!r} {ID_RULE}"))
    host, _, port = request.address.rpartition(":")
    is_port = port.isascii() and port.isdecimal() and len(port) <= len(str(PORT_MAX))
    if not host or not is_port or not 0 < int(port) <= PORT_MAX:
        found.append(Violation("address", "must be host:port, such as 127.0.0.1:7701"))
    if found:
        raise FieldInvalid(*found)


def _shown(host: HostView) -> pb.Host:
    shown = pb.Host(
        name=host_name(host.record.id),
        address=host.record.address,
        state=_STATES[host.state],
        problem=failure_to_proto(host.problem),
        incarnation=host.record.incarnation,
        open_attempts=host.open_attempts,
        window=host.window,
        create_time=timestamp(host.record.create_time),
        seen_time=timestamp(host.seen_time),
    )
    if isinstance(host.report, HostReport):
        shown.pools.extend(host.report.pools)
        shown.version = host.report.version
        shown.custom_verbs.extend(host.report.custom_verbs)
    return shown


def _event(event: AuditEvent) -> pb.HostEvent:
    assert isinstance(event.change, HostChange), event
    return pb.HostEvent(
        host=event.subject,
        position=event.position,
        time=timestamp(event.time),
        kind=_KINDS[event.change],
        principal=event.principal,
        reason=event.reason,
        finding=event.detail,
        failure=failure_to_proto(event.failure),
    )
