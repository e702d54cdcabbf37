"""Has attempts fenced that are out of time on a host that does not answer, where another host can.

Only what its policy has bounded, only once it was asked to stop and its host stayed silent, and
only on storage that both hosts call shared and that is known to be the same: there one rename
decides, and being too quick about it costs a retry and nothing else. Whatever else is lost waits
for its host, or for an operator.

Of an attempt each other host is asked once: one that cannot would say so for ever. Once none is
left, it is an operator's; the task says what may be done, and the history what each host said. It
looks at what is committed, so a restart loses nothing, and asks each of them once more; what it
asks for is in the history, as a policy's wish.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from coordinator.runtime.ports import HostState, HostView
from coordinator.saga.events import Ask, FenceRequested
from coordinator.saga.states import TaskState
from coordinator.saga.turn import Decision
from coordinator.saga.workflow import BY_POLICY, Failure, Workflow
from countermand.rpc.names import attempt_name, workflow_name

log = logging.getLogger(__name__)

LOOK_S = 5.0  # on top of the silence after which an attempt is called lost
_SILENT = (HostState.SUSPECT, HostState.UNREACHABLE)

# The pools in which a task may leave something.
Pools = Callable[[Workflow, int], frozenset[str]]


class Workflows(Protocol):
    """What it asks of the loop."""

    def late_workflows(self) -> Sequence[Workflow]:
        """Returns every open workflow in which something is too late, as committed."""

    async def ask(self, workflow_id: str, what: FenceRequested) -> Decision:
        """Returns what was decided about a wish, once it is durable."""


class Fencers(Protocol):
    """What it asks of the hosts."""

    def all(self) -> Mapping[str, HostView]:
        """Returns every host by its id."""

    def fencer(
        self, lost: str, pools: frozenset[str], wanted: str, asked: Collection[str] = ()
    ) -> tuple[str, str]:
        """Returns the host that settles an attempt of a lost one; or nothing, and why not."""


async def fence_for_ever(*, loop: Workflows, hosts: Fencers, pools: Pools) -> None:
    """Looks now and again, until cancelled."""
    overdue = Overdue(loop=loop, hosts=hosts, pools=pools)
    while True:
        await asyncio.sleep(LOOK_S)
        await overdue.look()


@dataclass(slots=True)
class _Asked:
    """The hosts that were asked to fence one attempt."""

    hosts: set[str] = field(default_factory=set)
    is_told: bool = False  # that nobody else is left


class Overdue:
    """Asks for fences, and remembers whom it has asked."""

    def __init__(self, *, loop: Workflows, hosts: Fencers, pools: Pools) -> None:
        """Keeps what it looks at."""
        self._loop = loop
        self._hosts = hosts
        self._pools = pools
        # By workflow, and by task and attempt: for as long as something in that is too late.
        self._asked: dict[str, dict[tuple[int, int], _Asked]] = {}

    async def look(self) -> None:
        """Has every such attempt fenced by a host that was not asked before."""
        silent = {host for host, view in self._hosts.all().items() if view.state in _SILENT}
        late = self._loop.late_workflows()
        standing = {workflow.id for workflow in late}
        self._asked = {id_: asked for id_, asked in self._asked.items() if id_ in standing}
        for workflow in late:
            await asyncio.sleep(0)  # there may be thousands: whoever else is due comes in between
            try:
                await self._see_to(workflow, silent)
            except Exception:
                # One that cannot be processed must not end the coordinator, nor keep the others.
                log.exception("overdue.failed", extra={"workflow": workflow_name(workflow.id)})

    async def _see_to(self, workflow: Workflow, silent: Collection[str]) -> None:
        for index, task in workflow.tasks():
            if task.too_late is None or task.state is not TaskState.CANCELLING:
                continue
            if task.last.host in silent and not task.last.fence_host:
                await self._fence(workflow, index, task.too_late)

    async def _fence(self, workflow: Workflow, index: int, why: Failure) -> None:
        last = workflow.task(index).last
        asked = self._asked.setdefault(workflow.id, {}).setdefault((index, last.number), _Asked())
        pools = self._pools(workflow, index)
        if not pools:
            return  # it leaves nothing that a rename could decide about
        host, problem = self._hosts.fencer(last.host, pools, "", asked.hosts)
        if host:
            ask = Ask(
                principal=BY_POLICY,
                reason=why.message,
                request_id="",
                version=workflow.version,
            )
            wish = FenceRequested(ask=ask, task=index, host=host)
            decision = await self._loop.ask(workflow.id, wish)
            if decision.refusal is None:  # else it has moved on, and is looked at anew
                asked.hosts.add(host)
        elif asked.hosts and not asked.is_told:
            asked.is_told = True
            name = attempt_name(workflow.id, workflow.plan.nodes[index].name, last.number)
            log.warning("attempt.not_fenced", extra={"attempt": name, "reason": problem})
