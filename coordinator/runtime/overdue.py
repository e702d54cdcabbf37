"""Has attempts fenced that are out of time on a host that does not answer, where another host can.

Only what its policy has bounded, only once it was asked to stop and its host stayed silent, and
only on storage that both hosts call shared: there one rename decides, and being too quick about it
costs a retry and nothing else. Whatever else is lost waits for its host, or for an operator. It
looks at what is committed, so a restart loses nothing; what it asks for is in the history, as a
policy's wish.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

from coordinator.runtime.ports import HostState, HostView
from coordinator.saga.events import Ask, FenceRequested
from coordinator.saga.states import TaskState
from coordinator.saga.workflow import BY_POLICY, Task, Workflow

LOOK_S = 5.0  # on top of the silence after which an attempt is called lost

# The pools in which a task may leave something.
Pools = Callable[[Workflow, int], frozenset[str]]


class Workflows(Protocol):
    """What it asks of the loop."""

    def open_workflows(self) -> Sequence[Workflow]:
        """Returns every open workflow as committed."""

    def hear(self, workflow_id: str, event: FenceRequested) -> None:
        """Takes a wish."""


class Fencers(Protocol):
    """What it asks of the hosts."""

    def all(self) -> Mapping[str, HostView]:
        """Returns every host by its id."""

    def fencer(self, lost: str, pools: frozenset[str], wanted: str) -> tuple[str, str]:
        """Returns the host that settles an attempt of a lost one; or nothing, and why not."""


async def fence_for_ever(*, loop: Workflows, hosts: Fencers, pools: Pools) -> None:
    """Looks now and again, until cancelled."""
    while True:
        await asyncio.sleep(LOOK_S)
        fence_overdue(loop=loop, hosts=hosts, pools=pools)


def fence_overdue(*, loop: Workflows, hosts: Fencers, pools: Pools) -> None:
    """Asks the loop to have every such attempt fenced."""
    for workflow in loop.open_workflows():
        for index, task in _overdue(workflow, hosts):
            host, _why = hosts.fencer(task.last.host, pools(workflow, index), "")
            if host and task.too_late is not None:
                ask = Ask(
                    principal=BY_POLICY,
                    reason=task.too_late.message,
                    request_id="",
                    version=workflow.version,
                )
                loop.hear(workflow.id, FenceRequested(ask=ask, task=index, host=host))


def _overdue(workflow: Workflow, hosts: Fencers) -> Iterator[tuple[int, Task]]:
    known = hosts.all()
    for index, task in workflow.tasks():
        if task.too_late is None or task.state is not TaskState.CANCELLING or task.last.fence_host:
            continue
        view = known.get(task.last.host)
        if view is None or view.state in (HostState.SUSPECT, HostState.UNREACHABLE):
            yield index, task
