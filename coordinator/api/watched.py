"""Whether somebody watches for owners of external tasks, at whichever coordinator.

What waits for them the store says, to each coordinator the same. Who watches only the one knows at
which they do: all are asked for the same page, and who does not answer in time is left out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TypeAlias

from coordinator.api import requests
from coordinator.api.briefly import Briefly
from coordinator.runtime.ports import SessionState, SessionView, StoreError
from countermand.v1 import external_task_pb2 as pb

# What a session answers to the same request, until a time of the event loop's clock.
Ask: TypeAlias = Callable[
    [int, pb.ListExternalOwnersRequest, float], Awaitable[pb.ListExternalOwnersResponse]
]


class Watched:
    """Adds to a page of owners for whom somebody watches elsewhere."""

    def __init__(
        self,
        *,
        sessions: Callable[[], Awaitable[Sequence[SessionView]]],
        ask: Ask,
        briefly: Briefly,
    ) -> None:
        """Keeps whom it asks, and how."""
        self._sessions = sessions
        self._ask = ask
        self._briefly = briefly

    async def add_to(
        self,
        page: pb.ListExternalOwnersResponse,
        request: pb.ListExternalOwnersRequest,
        until: float,
    ) -> pb.ListExternalOwnersResponse:
        """Returns a page to which others have added what they know, if they say so in time."""
        try:
            views = await self._sessions()
        except StoreError:
            return page  # what was read, was read
        others = [each.id for each in views if each.state is SessionState.ALIVE and not each.own]
        pages = await asyncio.gather(
            *(self._briefly.ask(each, partial(self._ask, each, request), until) for each in others)
        )
        return _joined([page, *filter(None, pages)], requests.page_size(request.page_size))


def _joined(
    pages: Sequence[pb.ListExternalOwnersResponse], size: int
) -> pb.ListExternalOwnersResponse:
    """Returns one page of what several say; the first of them says how owners stand."""
    found: dict[str, pb.ExternalOwner] = {}
    for owner in (owner for page in pages for owner in page.owners):
        known = found.setdefault(owner.owner_id, owner)
        known.watching = known.watching or owner.watching
    ends = [page.next_page_token for page in pages if page.next_page_token]
    # Beyond the end of the shortest it would be left out what that one knows.
    names = sorted(name for name in found if not ends or name <= min(ends))
    more = bool(ends) or len(names) > size
    names = names[:size]
    return pb.ListExternalOwnersResponse(
        owners=[found[name] for name in names], next_page_token=names[-1] if more else ""
    )
