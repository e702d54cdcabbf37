"""All hosts of a coordinator: a line to each, the records of them, and tasks that look for one.

What looks for a host is looked at again whenever a host comes up, is added or is undrained. It is
level-triggered by the workflow's own record: a task that no longer waits is forgotten, a workflow
that is held gets none until it goes on.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from coordinator.agents.connection import CALL_TIMEOUT_S, Connect
from coordinator.agents.ears import Ears
from coordinator.agents.forgetting import FORGET_S
from coordinator.agents.line import Line
from coordinator.agents.placing import (
    Needs,
    Offer,
    choose,
    choose_fencer,
    needs_of,
    nowhere,
    problem_of,
    why_none,
)
from coordinator.agents.slots import WINDOW
from coordinator.agents.tickets import Server
from coordinator.runtime import crash_points
from coordinator.runtime.ports import (
    AuditEvent,
    Chance,
    Clock,
    Delivery,
    HostRecord,
    HostView,
    Order,
    Store,
    StoreError,
)
from coordinator.saga.commands import ChooseHost, Recall, Withdraw
from coordinator.saga.events import AttemptLost, HostChosen
from coordinator.saga.states import TaskState, WorkflowState
from coordinator.saga.workflow import Workflow
from coordinator.wire.arguments import READING
from coordinator.wire.failure import failure_from_proto
from coordinator.wire.order import name_of
from countermand.rpc import telemetry
from countermand.rpc.crash import Crash
from countermand.rpc.errors import CountermandError, HostNotFound, WrongCluster
from countermand.rpc.names import attempt_name, host_name
from countermand.v1.agent_pb2 import GetHostRequest

log = logging.getLogger(__name__)

FOLLOW_S = 1.0  # between two looks at what other coordinators have done with hosts
FOLLOW_S_MAX = 5.0
FOLLOW_REST = 20  # so many times as long as it took to read all of them: there may be thousands


@dataclass(slots=True, kw_only=True)
class _Wish:
    """A task that looks for a host."""

    command: ChooseHost
    needs: Needs
    chosen: str = ""  # what the loop was told, until it has made that durable


@dataclass(slots=True, kw_only=True)
class _Wishes:
    """The tasks of one workflow that look for hosts."""

    workflow: Workflow  # as committed
    by_task: dict[int, _Wish] = field(default_factory=dict)

    def stands(self, command: ChooseHost) -> bool:
        """Returns whether a task still waits for a host, for the same attempt."""
        task = self.workflow.task(command.task)
        waits = task.state is TaskState.READY and task.due_time is None
        return waits and len(task.attempts) + 1 == command.number

    def held(self, command: ChooseHost) -> bool:
        """Returns whether a task does not start for the time being."""
        return self.workflow.holding and not self.workflow.plan.is_end_action(command.task)


class Fleet:
    """Delivers orders to hosts, each by its own line: a slow one delays no other."""

    def __init__(
        self,
        *,
        store: Store,
        connect: Connect,
        cluster_id: str,
        clock: Clock,
        chance: Chance,
        crash: Crash,
        ears: Ears,
        window: int = WINDOW,
        forget_s: float = FORGET_S,
        trusted: Callable[[], bool] = lambda: True,
    ) -> None:
        """Keeps its ports; `open` connects to the known hosts."""
        self._trusted = trusted
        self._store = store
        self._connect = connect
        self._cluster_id = cluster_id
        self._clock = clock
        self._chance = chance
        self._crash = crash
        self._ears = ears
        self._window = window
        self._forget_s = forget_s
        self._wishes: dict[str, _Wishes] = {}  # by workflow
        self._expected: Counter[str] = Counter()  # by host: chosen, and not heard of again
        self._lines: dict[str, Line] = {}
        self._running: dict[str, asyncio.Task[None]] = {}
        self._redeliver: Callable[[str], None] | None = None  # where there are others
        self._looking = asyncio.Lock()

    async def open(self) -> None:
        """Begins to connect to every known host."""
        for record in await self._store.hosts():
            self._begin(record)

    async def follow(self, redeliver: Callable[[str], None], live: Callable[[], int]) -> None:
        """Hears what other coordinators do with hosts, until cancelled.

        What open workflows ask of a host that is new here is delivered again. All coordinators that
        live share each host's window.
        """
        self._redeliver = redeliver
        now, took_s = asyncio.get_running_loop().time, 0.0
        while True:
            await asyncio.sleep(min(max(FOLLOW_S, FOLLOW_REST * took_s), FOLLOW_S_MAX))
            began = now()
            window = max(1, self._window // live())
            for line in self._lines.values():
                line.resize_window(window)
            try:
                await self.look()
            except StoreError as error:
                log.warning("hosts.not_read", extra={"error": str(error)})
            else:
                took_s = now() - began

    async def look(self) -> None:
        """Hears at once what other coordinators have done with hosts, where there are others.

        Raises:
            StoreError: The store failed.
        """
        if self._redeliver is None:
            return
        async with self._looking:  # what was read earlier is not taken up later
            before = set(self._lines)  # what is added while all are read is not among them
            records = await self._store.hosts()
            for host_id in before - {record.id for record in records}:
                await self.end(host_id)
            for record in records:
                if known := self._lines.get(record.id):
                    known.learn(record)
                else:
                    self._begin(record)
                    self._redeliver(record.id)
            self._choose_again()

    async def close(self) -> None:
        """Ends every line; what they were seeing to is in the store."""
        for task in self._running.values():
            task.cancel()
        await asyncio.gather(*self._running.values(), return_exceptions=True)

    def greet_anew(self) -> None:
        """Greets every agent once more: what it has heard of is compared with what is stored."""
        for line in self._lines.values():
            line.greet_anew()

    def all(self) -> Mapping[str, HostView]:
        """Returns every host by its id."""
        return {host_id: line.view() for host_id, line in self._lines.items()}

    async def begin(self, record: HostRecord, *, wait_s: float) -> None:
        """Connects to a host, and waits for its first answer for at most so long."""
        if record.id not in self._lines:
            self._begin(record)
        await self._lines[record.id].ready(wait_s)

    def _begin(self, record: HostRecord) -> None:
        line = Line(
            record,
            connect=self._connect,
            cluster_id=self._cluster_id,
            clock=self._clock,
            chance=self._chance,
            crash=self._crash,
            ears=self._ears,
            window=self._window,
            forget_s=self._forget_s,
            when_up=self._choose_again,
            servers=self._server,
            owner_of=self._owner_of,
            trusted=self._trusted,
        )
        self._lines[record.id] = line
        # Whoever has added the host is not who calls it ever after.
        context = telemetry.untraced()
        running = asyncio.create_task(line.run(), name=f"line {record.id}", context=context)
        self._running[record.id] = running

    def _owner_of(self, incarnation: str) -> str:
        """Returns the host whose agent has a journal; empty if none has."""
        lines = self._lines.values()
        return next((x.record.id for x in lines if x.record.incarnation == incarnation), "")

    def _server(self, host_id: str) -> Server | None:
        line = self._lines.get(host_id)
        return line.server() if line else None

    async def end(self, host_id: str) -> None:
        """Ends the line to a host."""
        self._lines.pop(host_id, None)
        if task := self._running.pop(host_id, None):
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def probe(self, address: str) -> str:
        """Returns the incarnation of the agent at an address, if it would serve this cluster.

        Raises:
            CountermandError: It would not, or does not answer.
        """
        connection = self._connect(address)
        try:
            answer = await connection.call("GetHost", GetHostRequest(), timeout_s=CALL_TIMEOUT_S)
        finally:
            await connection.close()
        if answer.host.cluster_id not in ("", self._cluster_id):
            raise WrongCluster(expected=answer.host.cluster_id, cluster_id=self._cluster_id)
        return str(answer.host.incarnation)

    async def drain(self, host_id: str, event: AuditEvent | None = None) -> bool:
        """Gives a host no new tasks, from now on and after any restart."""
        line = self._lines[host_id]
        return await line.keep(lambda record: replace(record, draining=True), event)

    async def undrain(self, host_id: str, event: AuditEvent | None = None) -> bool:
        """Gives a host tasks again."""
        line = self._lines[host_id]
        has_changed = await line.keep(lambda record: replace(record, draining=False), event)
        self._choose_again()
        return has_changed

    async def accept(self, host_id: str, event: AuditEvent | None = None) -> bool:
        """Takes a quarantined host as it is now, and waits for it for a while."""
        line = self._lines[host_id]
        has_changed = await line.accept(event)
        await line.ready(CALL_TIMEOUT_S)
        return has_changed

    # -- orders ---------------------------------------------------------------------------------

    def deliver(self, order: Order) -> None:
        """Hands an order to its host's line, or looks for a host."""
        workflow, command = order.workflow, order.command
        match command:
            case ChooseHost():
                needs = needs_of(workflow, command.task)
                wishes = self._wishes.setdefault(workflow.id, _Wishes(workflow=workflow))
                wishes.workflow = workflow
                self._forget(wishes, command.task)
                wishes.by_task[command.task] = wish = _Wish(command=command, needs=needs)
                self._choose(wishes, wish)
            case Withdraw():
                if line := self._lines.get(command.host):
                    line.orders.withdraw(_name(workflow, command.task, command.number))
            case Recall():
                if line := self._lines.get(command.host):
                    name = _name(workflow, command.task, command.number)
                    line.orders.recall(workflow, command, name)
            case _:
                self._send(workflow, command, ask_first=order.ask_first)

    def _send(self, workflow: Workflow, command: Delivery, *, ask_first: bool) -> None:
        if line := self._lines.get(command.host):
            line.orders.deliver(workflow, command, ask_first=ask_first)
            return
        # Hosts that open workflows name are not removed, so this came in between. Whatever was sent
        # before is not known here: no verdict is taken from that.
        error: CountermandError = HostNotFound(name=host_name(command.host))
        name = name_of(workflow, command)
        log.error("order.homeless", extra={"attempt": name, "host": command.host})
        failure = failure_from_proto(error.failure(attempt=name, host_id=command.host))
        event = AttemptLost(task=command.task, number=command.number, failure=failure)
        self._ears.event(workflow.id, event)

    def moved(self, workflow: Workflow, changed: frozenset[int]) -> None:
        """Hears that a workflow has changed: what no longer looks for a host is forgotten."""
        wishes = self._wishes.get(workflow.id)
        if wishes is None:
            return
        was_held, wishes.workflow = wishes.workflow.holding, workflow
        for task in changed & wishes.by_task.keys():
            if not wishes.stands(wishes.by_task[task].command):
                self._forget(wishes, task)
        is_over = workflow.settled or workflow.state is WorkflowState.QUARANTINED
        if is_over or not wishes.by_task:
            for task in tuple(wishes.by_task):
                self._forget(wishes, task)
            del self._wishes[workflow.id]
        elif workflow.holding and not was_held:
            for wish in wishes.by_task.values():
                if wishes.held(wish.command):
                    self._tell(wish, "")  # the loop takes no host up now, and asks again later

    # -- choosing -------------------------------------------------------------------------------

    def _choose(self, wishes: _Wishes, wish: _Wish) -> None:
        """Tells the loop of a host for a task, if there is one now."""
        command = wish.command
        if wishes.held(command):
            return
        offers = tuple(self._offers())
        host = choose(offers, wish.needs, named=command.candidates, avoid=command.avoid)
        if host is None:
            return
        self._tell(wish, host)
        self._crash(crash_points.HOST_CHOSEN)
        event = HostChosen(task=command.task, number=command.number, host=host)
        self._ears.event(wishes.workflow.id, event)

    def _choose_again(self) -> None:
        for wishes in self._wishes.values():
            for wish in wishes.by_task.values():
                if not wish.chosen:
                    self._choose(wishes, wish)

    def _tell(self, wish: _Wish, host: str) -> None:
        """Notes what the loop is told about a task; an empty host takes it back."""
        if wish.chosen:
            self._expected[wish.chosen] -= 1
        if host:
            self._expected[host] += 1
        wish.chosen = host

    def _forget(self, wishes: _Wishes, task: int) -> None:
        if wish := wishes.by_task.pop(task, None):
            self._tell(wish, "")

    def _offers(self) -> Iterator[Offer]:
        return (self._offer(line) for line in self._lines.values())

    def _offer(self, line: Line) -> Offer:
        return Offer(
            host=line.record.id,
            state=line.state,
            draining=line.record.draining,
            report=line.report,
            load=len(line.orders) + self._expected[line.record.id],
            identities=dict(line.record.pools or ()),
        )

    def expected(self, host_id: str) -> Sequence[tuple[str, int]]:
        """Returns the tasks for which a host was chosen and nothing of it is durable yet."""
        return tuple(
            (workflow_id, task)
            for workflow_id, wishes in self._wishes.items()
            for task, wish in wishes.by_task.items()
            if wish.chosen == host_id
        )

    # -- in words -------------------------------------------------------------------------------

    def placement_problem(self, host_id: str, pools: frozenset[str], verb: str) -> str | None:
        """Returns why a new verb on some pools cannot run on a host, or None."""
        needs = Needs(pools=pools - {""}, verb=verb)
        if not host_id:
            return nowhere(self._offers(), needs)
        line = self._lines.get(host_id)
        if line is None:
            known = ", ".join(sorted(self._lines)) or "none so far"
            return f"there is no host {host_id!r}; known: {known}"
        if line.record.draining and verb != READING:
            return f"host {host_id!r} is draining: it gets no new tasks; choose another"
        return problem_of(self._offer(line), needs)

    def fencer(
        self, lost: str, pools: frozenset[str], wanted: str, asked: Collection[str] = ()
    ) -> tuple[str, str]:
        """Returns the host that settles an attempt of a lost one; or nothing, and why not."""
        return choose_fencer(tuple(self._offers()), lost, pools, wanted, asked)

    def waiting_for_host(self, workflow_id: str, task: int) -> str:
        """Returns why no host is found for a task, in words; empty if none is looked for."""
        wishes = self._wishes.get(workflow_id)
        wish = wishes.by_task.get(task) if wishes else None
        if wishes is None or wish is None or wish.chosen or wishes.held(wish.command):
            return ""
        return why_none(tuple(self._offers()), wish.needs, wish.command.candidates)

    def waiting_for_slot(self, workflow: Workflow, task: int) -> str:
        """Returns what keeps a task's attempt from leaving for its host; empty if nothing does."""
        attempts = workflow.task(task).attempts
        line = self._lines.get(attempts[-1].host) if attempts else None
        if line is None:
            return ""
        name = _name(workflow, task, attempts[-1].number)
        if source_host := line.orders.source_awaited(name):
            return f"{source_host}, which serves its source"
        place = line.orders.position(name)
        return f"a slot on {line.record.id}, {_ordinal(place)} in line" if place else ""


def _name(workflow: Workflow, task: int, number: int) -> str:
    return attempt_name(workflow.id, workflow.plan.nodes[task].name, number)


def _ordinal(place: int) -> str:
    if place % 100 in (11, 12, 13):
        return f"{place}th"
    return f"{place}{({1: 'st', 2: 'nd', 3: 'rd'}).get(place % 10, 'th')}"
