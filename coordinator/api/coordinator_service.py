"""CoordinatorService: which coordinators share the store, and how they stand."""

from __future__ import annotations

from typing import Protocol

from coordinator.api import requests
from coordinator.api.requests import Context
from coordinator.runtime.ports import SessionState, SessionView
from coordinator.wire.history import timestamp
from countermand.rpc.names import coordinator_name
from countermand.v1 import coordinator_pb2 as pb
from countermand.v1.coordinator_pb2_grpc import CoordinatorServiceServicer

_STATES = {state: pb.Coordinator.State.Value(f"STATE_{state}") for state in SessionState}


class Sessions(Protocol):
    """What is asked of the store."""

    async def sessions(self) -> list[SessionView]:
        """Returns all sessions, the oldest first."""


class CoordinatorService(CoordinatorServiceServicer):
    """Serves what is known of coordinators: the same at each of them."""

    def __init__(self, *, store: Sessions) -> None:
        """Keeps what it asks."""
        self._store = store

    async def ListCoordinators(
        self, request: pb.ListCoordinatorsRequest, context: Context
    ) -> pb.ListCoordinatorsResponse:
        """Returns one page of coordinators, the oldest first."""
        limit = requests.page_size(request.page_size)
        token = request.page_token
        after = requests.number(token, "page_token") if token else 0
        found = [each for each in await self._store.sessions() if each.id > after]
        page = found[:limit]
        return pb.ListCoordinatorsResponse(
            coordinators=map(_shown, page),
            next_page_token=str(page[-1].id) if len(found) > limit else "",
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
