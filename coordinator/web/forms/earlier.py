"""Who decided last about what a form is about: told to whoever comes second."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from coordinator.web.calls import PAGE_MAX
from coordinator.web.forms.fields import Latest
from coordinator.web.shown import HOST_EVENTS
from coordinator.web.site import Site
from countermand.drawing.told import told
from countermand.rpc.errors import CountermandError
from countermand.v1.event_pb2 import HistoryEvent


async def latest(site: Site, params: Mapping[str, str]) -> Latest | None:
    """Returns the last decision about a workflow or a host; None where none is known."""
    try:
        if "workflow" in params:
            return await _of_workflow(site, params["workflow"])
        return await _of_host(site, params["host"]) if "host" in params else None
    except CountermandError:
        return None  # it may be gone by now; what is said without it is true as well


async def _of_workflow(site: Site, workflow_id: str) -> Latest | None:
    last = (await site.calls.workflow(workflow_id)).last_sequence
    page = await site.calls.events(workflow_id, after=max(last - PAGE_MAX, 0))
    found = _asked(page.events)
    if not found and last > PAGE_MAX:  # thousands of tasks may have been made up for since
        found = _asked(await site.calls.own_history(workflow_id, last))
    if not found:
        return None
    return Latest(said=told(found[-1]), time=found[-1].time)


def _asked(events: Sequence[HistoryEvent]) -> list[HistoryEvent]:
    """Returns what people asked for; a policy has no request."""
    return [event for event in events if event.intervention.request_id]


async def _of_host(site: Site, host_id: str) -> Latest | None:
    events = (await site.calls.host_events(host_id, size=1)).events
    if not events:
        return None
    [event] = events
    said = f"{event.principal or 'somebody'}: {HOST_EVENTS.get(event.kind, 'changed')}"
    said += f": {event.reason}" if event.reason else ""
    return Latest(said=said, time=event.time)
