"""CoordinatorService: which coordinators share the store, how they stand, and that they go on."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Protocol

from coordinator.api import requests
from coordinator.api.deciding import PRINCIPAL
from coordinator.api.requests import Context
from coordinator.runtime.ports import (
    Given,
    HostView,
    Recovered,
    Recovery,
    SessionState,
    SessionView,
)
from coordinator.wire.history import timestamp
from countermand.rpc.errors import FieldInvalid, RecoveryNotRequired, Violation
from countermand.rpc.names import coordinator_name
from countermand.v1 import coordinator_pb2 as pb
from countermand.v1.agent_pb2 import HostReport
from countermand.v1.coordinator_pb2_grpc import CoordinatorServiceServicer

log = logging.getLogger(__name__)

REASON_MAX = 1024  # characters
_STATES = {state: pb.Coordinator.State.Value(f"STATE_{state}") for state in SessionState}


class Sessions(Protocol):
    """What is asked of the store."""

    async def sessions(self) -> list[SessionView]:
        """Returns all sessions, the oldest first."""

    async def recovery(self) -> Recovery | None:
        """Returns why nothing is to be decided; None if all is well."""

    async def recover(
        self, principal: str, reason: str, heard: Given | None = None
    ) -> Recovered | None:
        """Lets coordinators go on; None if nothing is required."""


class Agents(Protocol):
    """What is asked of the hosts."""

    def all(self) -> Mapping[str, HostView]:
        """Returns every host by its id."""


class CoordinatorService(CoordinatorServiceServicer):
    """Serves what is known of coordinators: the same at each of them."""

    def __init__(self, *, store: Sessions, hosts: Agents) -> None:
        """Keeps what it asks."""
        self._store = store
        self._hosts = hosts

    async def ListCoordinators(
        self, request: pb.ListCoordinatorsRequest, context: Context
    ) -> pb.ListCoordinatorsResponse:
        """Returns one page of coordinators, the oldest first, and whether somebody has to look."""
        limit = requests.page_size(request.page_size)
        token = request.page_token
        after = requests.number(token, "page_token") if token else 0
        recovery, views = await self._store.recovery(), await self._store.sessions()
        found = [each for each in views if each.id > after]
        page = found[:limit]
        return pb.ListCoordinatorsResponse(
            coordinators=map(_shown, page),
            next_page_token=str(page[-1].id) if len(found) > limit else "",
            recovery=_recovery(recovery, _open(views)) if recovery else None,
        )

    async def ConfirmRecovery(
        self, request: pb.ConfirmRecoveryRequest, context: Context
    ) -> pb.ConfirmRecoveryResponse:
        """Has coordinators go on with a database that went back in time."""
        _check(request)
        if await self._store.recovery() is None:
            raise RecoveryNotRequired
        # While it is required nothing is begun and nothing ends: there are as many at the end.
        paused = _open(await self._store.sessions())
        # If the process stops here, all of it is as it was; and right after, each goes on.
        heard = _heard(self._hosts.all().values())
        recovered = await self._store.recover(PRINCIPAL, request.reason, heard)
        if recovered is None:  # somebody else was faster
            raise RecoveryNotRequired
        log.warning("recovery.confirmed", extra={"reason": request.reason, "paused": paused})
        return pb.ConfirmRecoveryResponse(
            paused_workflows=paused, owner_epoch=recovered.owner_epoch
        )


def _check(request: pb.ConfirmRecoveryRequest) -> None:
    requests.demand(request, "reason")
    if len(request.reason) > REASON_MAX:
        raise FieldInvalid(Violation("reason", f"is longer than {REASON_MAX} characters"))


def _heard(views: Iterable[HostView]) -> Given:
    """Returns the highest that agents say that they have heard of: of those that are connected."""
    said = [view.report.heard for view in views if isinstance(view.report, HostReport)]
    return Given(
        owner_epoch=max((each.owner_epoch for each in said), default=0),
        next_intent=1 + max((each.intent_sequence for each in said), default=0),
    )


def _open(views: list[SessionView]) -> int:
    """Returns how many workflows are open: each is some session's, if only of one that ended."""
    return sum(view.workflows for view in views)


def _recovery(recovery: Recovery, open_workflows: int) -> pb.Recovery:
    return pb.Recovery(
        why=recovery.why,
        notice_time=timestamp(recovery.notice_time),
        open_workflows=open_workflows,
    )


def _shown(view: SessionView) -> pb.Coordinator:
    return pb.Coordinator(
        name=coordinator_name(view.id),
        place=view.name,
        state=_STATES[view.state],
        answers=view.own,
        keeps_house=view.keeps_house,
        open_workflows=view.workflows,
        version=view.version,
        schema_revision=view.schema,
        start_time=timestamp(view.start_time),
        expire_time=timestamp(view.expire_time),
    )
