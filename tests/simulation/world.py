"""One simulated cluster under one seed: real coordinator, real agents, everything that can fail.

    World(seed).run()

plays workflows against faults for a while, then heals everything and waits until each workflow has
settled. Every invariant that can be seen from outside is checked as it happens, and the disks at
the end. A violation carries the seed; the same seed gives the same trace.
"""

from __future__ import annotations

import asyncio
import contextvars
import hashlib
import random
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from google.protobuf.message import Message

from agent.drivers.driver import Format, Work
from agent.drivers.file import FileDriver
from coordinator.agents.forgetting import FORGET_S
from coordinator.runtime.ports import Change, Claim, HostRecord, Opening
from coordinator.saga.spec import owner_of
from coordinator.saga.states import TaskState, WorkflowState
from coordinator.saga.workflow import Workflow
from countermand.rpc import crash
from countermand.rpc.errors import (
    CountermandError,
    FieldInvalid,
    ImageBusy,
    RecoveryNotRequired,
)
from countermand.rpc.names import parse_attempt, workflow_name
from countermand.v1 import workflow_pb2 as pb
from countermand.v1.agent_pb2 import ForgetRequest
from countermand.v1.coordinator_pb2 import ConfirmRecoveryRequest, ListCoordinatorsRequest
from tests.simulation import effects, workload
from tests.simulation.accounts import Accounts
from tests.simulation.clock import VirtualClock, VirtualLoop
from tests.simulation.desk import DONE, IN_DOUBT, Desk
from tests.simulation.disk import Disk, LiveFiles
from tests.simulation.freezing import FreezableLoop
from tests.simulation.means import OwnersWorld
from tests.simulation.network import Life, Network
from tests.simulation.nodes import AgentNode, CoordinatorNode, Node, node_of, task_factory
from tests.simulation.operators import Helper, Honest, Operator
from tests.simulation.owners import OwnerNode
from tests.simulation.promises import Promises, told
from tests.simulation.replicas import Several, Trouble, count_of, trusts_clock
from tests.simulation.rewinding import Loses, Rewinding, copied, put_back
from tests.simulation.rewinding import draw as rewinding_of
from tests.simulation.sessions import Sessions
from tests.simulation.stores import Model, Storage

HOSTS = ("host-a", "host-b", "host-c")
STORM_S = 90.0  # how long things fail
FORGETTING_S = 300.0  # how long evidence may stay once everything has settled
LOOKED_S = 1500.0  # where it is found only by looking at all that an agent has
CLEANING_S = 300.0  # and how long the store may keep sessions that are over
PATIENCE_S = 3600.0  # and how long everything may take to come right afterwards
REFUSED_S = 4.0  # after which a workflow that was refused its images, or its hosts, is tried again
REFUSALS_MAX = 20  # of one that does not wait in line for images: then it is given up


class Violation(AssertionError):
    """Something happened that must never happen."""


@dataclass(frozen=True, slots=True)
class Faults:
    """How bad the storm is; every figure is a chance unless its name says otherwise."""

    crash_point: float = 0.01
    kill_every_s: float = 12.0
    down_s_max: float = 20.0
    message_lost: float = 0.03
    message_repeated: float = 0.05
    lost_found_again: float = 0.5
    cut_every_s: float = 30.0
    cut_s_max: float = 25.0
    forget_s: float = FORGET_S  # how often agents are told to forget; 0: never
    # Where there are several coordinators.
    trouble: Trouble = field(default_factory=Trouble)
    # When an agent starts again.
    journal_lost: float = 0.0
    pool_lost_too: float = 0.0
    journal_copied: float = 0.0
    journal_restored: float = 0.0


@dataclass(frozen=True, slots=True)
class Report:
    """What became of one seed."""

    seed: int
    settled: dict[str, WorkflowState]
    deaths: int
    trace: str  # a hash: the same seed gives the same
    virtual_s: float


class World(OwnersWorld):
    """A cluster of one coordinator, or several, and three agents, perhaps with owners of tasks."""

    def __init__(
        self,
        seed: int,
        *,
        faults: Faults = Faults(),
        store: Callable[[], Storage] = Model,
        plain: float = workload.PLAIN_WORLDS,
        external: float = workload.EXTERNAL_WORLDS,
        several: bool = False,
        rewound: bool = False,
        verbose: bool = False,
    ) -> None:
        """Draws everything from the seed; with several coordinators, how many as well.

        Where the store goes back in time it is the model, and there are no owners of tasks.
        """
        self.seed = seed
        self.faults = faults
        self.verbose = verbose
        self.chance = random.Random(seed)
        self.loop = FreezableLoop() if several else VirtualLoop()
        self.clock = VirtualClock(self.loop)
        self.calm = False
        self.deaths = 0
        self.violation: Violation | None = None
        self.settled: dict[str, WorkflowState] = {}
        self.storage: Storage = Model(self._store_now) if several else store()
        self._trace = hashlib.sha256()
        self._cut_until = dict.fromkeys((*HOSTS, "coordinator"), 0.0)
        self._ledger = effects.Ledger()
        self.promises = Promises()
        self.network = Network(self, lambda host: self.agents[host])
        self.agents = {
            host: AgentNode(host, self, capacity_bytes=self.chance.choice((1 << 20, 200_000)))
            for host in HOSTS
        }
        names = [f"coordinator-{number}" for number in range(1, count_of(seed) + 1)]
        self.coordinators = [self._coordinator(name) for name in names if several] or [
            self._coordinator()
        ]
        self.coordinator = self.coordinators[0]
        self.several = self._several() if several else None
        self.accounts = Accounts(committed=self.promises.workflows, now=self.loop.time)
        self.desk = Desk(
            self.network,
            self._choose,
            self.note,
            self._check,
            listener=self._served,
        )
        # By dice of its own: worlds without owners are what they are without these.
        is_external = random.Random(f"owners {seed}").random() < external
        is_external = is_external and not several and not rewound
        self.load = workload.draw(
            self.chance, HOSTS, plain=plain, external=is_external, crowded=several
        )
        self.coordinator.has_owners = bool(self.load.owners)
        self.owners = {
            owner: OwnerNode(
                owner,
                self,
                self.desk,
                tuple(job for job in self.load.own_jobs if job.request.owner_id == owner),
            )
            for owner in self.load.owners
        }
        self._cut_until |= dict.fromkeys(self.load.owners, 0.0)
        self.rewinding = self._rewinding() if rewound else None
        self.lost_with_pools: set[str] = set()  # attempts whose effects were lost with a pool
        self.acknowledged: set[str] = set()
        self.cancelled: set[str] = set()

    def _coordinator(self, name: str = "") -> CoordinatorNode:
        """Returns the coordinator, or one of several by its name, each with ways of its own."""
        node = CoordinatorNode(
            self,
            open_store=lambda: self.storage.open(self.new_id, name),
            connect=lambda host: self.network.connect(host, way=f"{name} {host}" if name else host),
            hosts=HOSTS,
            forget_s=self.faults.forget_s,
            name=name or "coordinator",
            is_shared=bool(name),
        )
        node.trusts_clock = trusts_clock(self.seed)
        return node

    def _rewinding(self) -> Rewinding:
        assert isinstance(self.storage, Model)
        for node in self.coordinators:
            node.at_once, node.may_fail = frozenset(), True
        rewinding = Rewinding(
            plan=rewinding_of(self.seed, several=self.several is not None),
            kept=self.storage.kept,
            promises=self.promises,
            sessions=self.several.sessions if self.several else None,
            note=self.note,
        )
        self.promises.is_forgiven = rewinding.is_forgiven
        return rewinding

    def _several(self) -> Several:
        return Several(
            nodes=self.coordinators,
            sessions=Sessions(now=self._store_now),
            chance=self.chance,
            time=self.loop.time,
            note=self.note,
        )

    def _store_now(self) -> datetime:
        """Returns the time by the clock of a shared store."""
        return self.clock.now() + (self.several.ahead if self.several else timedelta())

    def _choose(self) -> CoordinatorNode:
        """Returns whom engines, operators and owners call."""
        return self.several.anybody() if self.several else self.coordinator

    def broken(self, what: str) -> Violation:
        """Returns what to raise, and keeps it: whoever raises it may be in a task of a node."""
        violation = Violation(f"seed {self.seed}: {what}")
        self.violation = self.violation or violation
        return violation

    @contextmanager
    def asserting(self) -> Iterator[None]:
        """Makes violations of failed assertions, and of our own mistakes."""
        try:
            yield
        except Violation:
            raise
        except AssertionError as error:
            raise self.broken(f"{error}") from error
        except Exception as error:
            raise self.broken(f"{error!r}") from error

    # -- running --------------------------------------------------------------------------------

    def run(self) -> Report:
        """Plays the whole story.

        Raises:
            Violation: An invariant was broken.
        """
        self.loop.set_task_factory(task_factory)  # type: ignore[arg-type]
        self.loop.set_exception_handler(lambda *_: None)  # the dead leave their errors behind
        try:
            self.loop.run_until_complete(self._story())
        except Violation:
            raise
        except AssertionError as error:
            raise self.broken(f"{error}") from error
        finally:
            virtual_s = self.loop.time()
            self._end()
        return Report(
            seed=self.seed,
            settled=self.settled,
            deaths=self.deaths,
            trace=self._trace.hexdigest(),
            virtual_s=virtual_s,
        )

    @property
    def _nodes(self) -> tuple[Node, ...]:
        """Returns every process, in the order in which they are started."""
        return (*self.agents.values(), *self.coordinators, *self.owners.values())

    def _end(self) -> None:
        for node in (*self.coordinators, *self.agents.values(), *self.owners.values()):
            node.kill()
        pending = asyncio.all_tasks(self.loop)
        for task in pending:
            task.cancel()
        self.loop.run_until_complete(asyncio.gather(*pending, return_exceptions=True))
        self.loop.close()
        for agent in self.agents.values():
            agent.journal.close()
        self.storage.close()

    async def _story(self) -> None:
        for host, agent in self.agents.items():
            _furnish(agent.disk, agent, self.load, host)
        for node in self._nodes:
            await node.start()
        engines = [asyncio.ensure_future(self._engine(job)) for job in self.load.jobs]
        storm = [
            self._killer(),
            self._cutter(),
            *((self._accepter(),) if self.faults.journal_lost else ()),
            *(Operator(self, self.desk, HOSTS).work() for _ in range(self.load.operators)),
            *(self.several.storm(self.faults.trouble) if self.several else ()),
            *(self._rewind(self.rewinding) if self.rewinding else ()),
        ]
        raging = [asyncio.ensure_future(each) for each in storm]
        await self._wait(STORM_S, (*engines, *raging))
        for each in raging:
            each.cancel()
        self.calm = True
        self.note("calm")
        if self.several:
            self.several.calm()
        for node in self._nodes:
            if not node.alive:
                await node.start()
        if self.rewinding:
            engines.append(asyncio.ensure_future(self._since()))
        helper = asyncio.ensure_future(self._help())
        await self._until_settled((*engines, helper))
        if self.several:
            await self._until_sessions_are_gone(self.several, (*engines, helper))
        if self.faults.forget_s:
            await self._until_forgotten((*engines, helper))
        helper.cancel()
        for agent in self.agents.values():
            agent.kill()
            await agent.start()  # the sweep of a new life
        await asyncio.sleep(1.0)
        await self._check_end()
        self._check()

    async def _help(self) -> None:
        """Gives everything what it needs, until cancelled."""
        if self.rewinding is None:
            await Helper(self, self.desk, HOSTS).work()
            return
        helps = Honest if self.rewinding.plan.honest else Helper
        helping = helps(self, self.desk, HOSTS).work()
        await asyncio.gather(self._look(self.rewinding), helping)

    async def _wait(self, seconds: float, working: Sequence[asyncio.Future[None]]) -> None:
        """Lets time pass; raises what was found wrong meanwhile."""
        until = self.loop.time() + seconds
        while self.loop.time() < until:
            await asyncio.sleep(min(1.0, until - self.loop.time()))
            self._check()
            for each in working:
                if each.done():
                    each.result()

    async def _until_settled(self, working: Sequence[asyncio.Future[None]]) -> None:
        engines = working[:-1]
        owners = self.owners.values()
        while (
            self.open_workflows()
            or not all(engine.done() for engine in engines)
            or not all(owner.is_done for owner in owners)
        ):
            await self._wait(1.0, working)
            if self.loop.time() > STORM_S + PATIENCE_S:
                waiting = "; ".join(map(told, self.open_workflows()))
                raise self.broken(f"never settled: {waiting or 'a start is never answered'}")

    async def _until_sessions_are_gone(
        self, several: Several, working: Sequence[asyncio.Future[None]]
    ) -> None:
        """Waits until the store keeps nothing of lives that are over, and no line is left."""
        until = self.loop.time() + CLEANING_S
        assert isinstance(self.storage, Model)
        while True:
            kept = self.storage.kept.sessions
            up = sorted(each.name for each in several.nodes if each.services)
            if len(up) == len(several.nodes) and up == sorted(k.name for k in kept.values()):
                return
            if self.loop.time() > until:
                raise self.broken(f"sessions: {kept} are kept, and {up} are up")
            await self._wait(1.0, working)

    async def _until_forgotten(self, working: Sequence[asyncio.Future[None]]) -> None:
        """Waits until no agent keeps evidence of anything, and none is known to."""
        until = self.loop.time() + (FORGETTING_S if self.rewinding is None else LOOKED_S)
        while kept := [*self.storage.evidence(), *self._in_journals()]:
            if self.loop.time() > until:
                raise self.broken(f"Z28: never forgotten: {kept[:5]}")
            await self._wait(1.0, working)

    def _in_journals(self) -> Iterator[tuple[str, str]]:
        for host, agent in self.agents.items():
            for name, state in agent.journal.execute("SELECT name, state FROM attempts"):
                # Of what a store has lost agents keep everything: a newer one may want it.
                if self.rewinding is None or effects.workflow_of(name) not in self.rewinding.gone:
                    yield host, f"{name} {state}"

    def open_workflows(self) -> list[Workflow]:
        """Returns what is committed and not settled."""
        return [each for each in self.promises.workflows.values() if not each.settled]

    def _check(self) -> None:
        """Raises what was found wrong in a task of a node."""
        if self.violation:
            raise self.violation

    # -- faults ---------------------------------------------------------------------------------

    async def _killer(self) -> None:
        nodes = self._nodes
        while True:
            await asyncio.sleep(self.chance.expovariate(1 / self.faults.kill_every_s))
            self.chance.choice(nodes).kill()

    async def _cutter(self) -> None:
        while True:
            await asyncio.sleep(self.chance.expovariate(1 / self.faults.cut_every_s))
            host = self.chance.choice((*HOSTS, *self.owners, *self._ways()))
            self._cut_until[host] = self.loop.time() + self.chance.random() * self.faults.cut_s_max
            self.note(f"{host} is cut off")

    def _ways(self) -> Iterator[str]:
        """Yields what may be cut of several coordinators: one, or its way to one host."""
        for node in self.coordinators if self.several else ():
            yield node.name
            yield from (f"{node.name} {host}" for host in HOSTS)

    async def _accepter(self) -> None:
        """Somebody who looks at hosts that are held, and accepts them sooner or later."""
        while True:
            await asyncio.sleep(self.chance.random() * 20.0)
            await Helper(self, self.desk, HOSTS).accept()

    def before_start(self, agent: AgentNode) -> None:
        """Loses a journal, copies it or puts an older copy back."""
        faults = self.faults
        if self.calm or not agent.life or not faults.journal_lost:
            return
        draw = self.chance.random()
        if draw < faults.journal_lost:
            self.note(f"{agent.name} loses its journal")
            agent.lose_journal()
            self._journal_changed(agent)
            self.promises.rewound.discard(agent.name)
            if self.chance.random() < faults.pool_lost_too:
                self.promises.pool_replaced(agent.name)
                lost = agent.replace_pool()
                self.note(f"{agent.name} loses its pool, and {lost}")
                self.lost_with_pools.update(lost)
                self._ledger.lost(lost)
        elif draw < faults.journal_lost + faults.journal_copied:
            agent.copy_journal()
        elif agent.copy is not None and self.chance.random() < faults.journal_restored:
            self.note(f"{agent.name} has an older journal")
            self._journal_changed(agent)
            self.promises.journal_restored(agent.name, agent.restore_journal())

    def _journal_changed(self, agent: AgentNode) -> None:
        if self.several:
            self.several.sessions.forget(agent.name)

    def died(self, node: Node) -> None:
        """Has a dead node started again after a while."""
        self.deaths += 1
        if isinstance(node, AgentNode):
            self.loop.call_soon(self._ledger.recount, node.name, node.disk)
        elif isinstance(node, CoordinatorNode):
            self.storage.died()
        # Also once all is calm one that could not renew in time hears of it, and stops.
        lasts = self.several or self.rewinding
        if not self.calm or (lasts and node in self.coordinators):
            down_s = self.chance.random() * (1.0 if self.calm else self.faults.down_s_max)
            # In no process: it is called in the one that has just died.
            context = contextvars.Context()
            self.loop.call_later(down_s, self._restart, node, context=context)

    def _restart(self, node: Node) -> None:
        if not node.alive and (not self.calm or self.several or self.rewinding):
            self.note(f"{node.name} starts")
            self._starting = self.loop.create_task(node.start())

    def crashes(self, node: Node, point: str) -> bool:
        """Returns whether a node dies here."""
        return not self.calm and self.chance.random() < self.faults.crash_point

    def delay_s(self) -> float:
        """Returns how long a message takes."""
        return self.chance.expovariate(100.0)

    def lost(self, host: str) -> bool:
        """Returns whether a message is lost."""
        if self.calm:
            return False
        # A way of several coordinators' is as good as both its ends, too.
        places = (host, *host.split(" ")) if " " in host else (host,)
        return (
            any(self._cut_until.get(place, 0.0) > self.loop.time() for place in places)
            or self.chance.random() < self.faults.message_lost
        )

    def found_again(self) -> bool:
        """Returns whether a lost request arrives after all."""
        return self.chance.random() < self.faults.lost_found_again

    def repeated(self) -> bool:
        """Returns whether a request arrives a second time."""
        return not self.calm and self.chance.random() < self.faults.message_repeated

    def late_s(self) -> float:
        """Returns how much later a repeat arrives."""
        return self.chance.random() ** 3 * 90.0

    # -- a store that goes back in time ---------------------------------------------------------

    def _rewind(self, rewinding: Rewinding) -> Iterator[Coroutine[Any, Any, None]]:
        """Yields what happens to the store while everything fails."""
        yield self._look(rewinding)
        if rewinding.plan.loses is not Loses.UNANSWERED:
            yield self._go_back(rewinding)

    async def _go_back(self, rewinding: Rewinding) -> None:
        await rewinding.to_copy.wait()
        rewinding.copy()
        await rewinding.to_put_back.wait()
        self._put_back(rewinding)
        if rewinding.plan.again:
            await rewinding.recovered.wait()
            await asyncio.sleep(rewinding.plan.looks_after_s / 2)
            self._put_back(rewinding)

    def _put_back(self, rewinding: Rewinding) -> None:
        if rewinding.plan.loses is Loses.SINCE_A_BACKUP:
            for node in self.coordinators:
                node.kill()
        rewinding.back_time = self.clock.now()
        rewinding.go_back({(node.name, node.life) for node in self.coordinators if node.alive})
        known = self.promises.workflows
        self.acknowledged &= known.keys()
        self.cancelled &= {each for each in known if known[each].cause is not None}

    async def _look(self, rewinding: Rewinding) -> None:
        """Somebody who is told some time after it was noticed, and lets everything go on."""
        while True:
            await asyncio.sleep(1.0)
            listed = await self.desk.ask("ListCoordinators", ListCoordinatorsRequest())
            if not listed.HasField("recovery"):
                continue
            await asyncio.sleep(rewinding.plan.looks_after_s)
            self.note(f"operator: goes on, though {listed.recovery.why}")
            with suppress(RecoveryNotRequired):
                await self.desk.ask("ConfirmRecovery", ConfirmRecoveryRequest(reason="simulated"))

    async def _since(self) -> None:
        """Submits one more once all is calm, and every host was greeted."""
        await asyncio.sleep(5.0)
        job = workload.draw_more(self.seed, HOSTS)
        if await self._submit(job):
            self.acknowledged.add(job.id)

    def is_unanswered(self, node: Node) -> Callable[[], bool] | None:
        """Returns what says whether what is asked of the store now was lost, its answer too."""
        rewinding = self.rewinding
        if rewinding is None or rewinding.plan.loses is not Loses.UNANSWERED or self.calm:
            return None
        if self.chance.random() >= rewinding.plan.unanswered:
            return None
        before = copied(rewinding.kept)

        def lost() -> bool:
            put_back(rewinding.kept, before)
            rewinding.lost += 1
            self.note(f"the store loses what {node.name} has asked for")
            if self.chance.random() < 0.5:
                node.kill()
            return True

        return lost

    def begins_anew(self, node: CoordinatorNode) -> None:
        """Has a coordinator begin another life."""
        node.kill()

    def opened(self, node: CoordinatorNode, opening: Opening) -> None:
        """Takes up what a coordinator begins with."""
        if self.rewinding is not None:
            self.rewinding.opened((node.name, node.life), opening)

    def asked_of_store(self, rpc: str, args: Sequence[Any], answer: Any) -> None:
        """Takes up what is said of a store that went back in time."""
        if rpc not in ("require_recovery", "recover"):
            return
        self.note(f"{rpc} {args} {answer}")
        with self.asserting():
            assert self.rewinding is not None, f"R5: it is noticed, and nothing was lost: {args}"
            if rpc == "require_recovery":
                self.rewinding.noticed(args[0])
            elif answer is not None:
                self.rewinding.confirmed(answer)

    # -- the engine -----------------------------------------------------------------------------

    async def _engine(self, job: workload.Job) -> None:
        """Submits one workflow until that is acknowledged, and perhaps cancels it."""
        await asyncio.sleep(job.at_s)
        if not await self._submit(job):
            return
        if job.id in self.promises.workflows:  # else it was lost since
            self.acknowledged.add(job.id)
        if job.cancel_after_s is None:
            return
        await asyncio.sleep(job.cancel_after_s)
        cancel = pb.CancelWorkflowRequest(
            name=workflow_name(job.id), request_id=self.new_id(), reason="simulated"
        )
        try:
            await self.desk.ask("CancelWorkflow", cancel)
        except CountermandError as error:
            is_gone = self.rewinding is not None and job.id in self.rewinding.gone
            if error.reason != "STATE_FORBIDS" and not is_gone:
                raise self.broken(f"{error}") from error
        else:
            if self.rewinding is None or cancel.request_id in self.promises.carried_out:
                self.cancelled.add(job.id)

    async def _submit(self, job: workload.Job) -> bool:
        """Returns whether a workflow was started: one that is refused its images may not be."""
        request = pb.StartWorkflowRequest(workflow_id=job.id, spec=job.spec, input=job.input)
        refusals = 0
        while refusals < REFUSALS_MAX:
            try:
                await self.desk.ask("StartWorkflow", request)
            except ImageBusy as error:
                self.note(f"{job.id} is refused: {error}")
                refusals += 1
            except FieldInvalid as error:
                if "draining" not in f"{error}":
                    raise self.broken(f"{error}") from error
                self.note(f"{job.id} is refused: {error}")
            else:
                return True
            await asyncio.sleep(REFUSED_S)
        return False

    def removed_by_hand(self, host: str, path: str, attempt: str) -> bool:
        """Removes the image of an attempt by hand; returns whether nothing of it is left."""
        disk = self.agents[host].disk
        if path in disk.names and effects.owner(disk, path) == attempt:
            self.note(f"{host}: {path} is removed by hand")
            effects.remove_by_hand(disk, path)
            self._ledger.gone(host, attempt)
        return True

    def removed_from_array(self, host: str, attempt: str) -> bool:
        """Removes by hand what an owner made; returns whether nothing of it is left."""
        self.note(f"{host}: {attempt} is removed by hand")
        self.owners[owner_of(host)].array.remove_by_hand(attempt)
        return True

    def is_made(self, workflow_id: str, task: str, path: str) -> bool:
        """Returns whether an image is on some disk that an attempt of a task has made."""
        owners = (effects.owner(agent.disk, path) for agent in self.agents.values())
        names = filter(None, map(parse_attempt, filter(None, owners)))
        return any((name.workflow_id, name.task_id) == (workflow_id, task) for name in names)

    @property
    def times_back(self) -> int:
        """Returns how often the store went back in time."""
        return self.rewinding.times if self.rewinding else 0

    def is_cleared(self, workflow_id: str) -> bool:
        """Returns whether a workflow was removed before its time."""
        return self.accounts.may_be_gone(workflow_id)

    # -- what is seen ---------------------------------------------------------------------------

    def note(self, text: str) -> None:
        """Writes a line of the trace."""
        line = f"{self.loop.time():10.4f} {text}"
        self._trace.update(line.encode())
        if self.verbose:
            print(line)

    def sent(self, host: str, rpc: str, request: Message) -> None:
        """Checks what leaves a coordinator."""
        if isinstance(request, ForgetRequest):
            self.note(f"Forget below {request.low_watermark}: {', '.join(request.workflows)}")
            with self.asserting():
                self._check_sent(rpc, lambda promises: promises.check_forgotten(request))
                if self.several and not self._lived_through():
                    mark = request.low_watermark
                    self.several.sessions.forgets(host, mark, self.open_workflows())
        header = getattr(request, "header", None)
        if header is None:
            return
        self.note(f"{rpc} {header.attempt} epoch {header.owner_epoch}")
        name = parse_attempt(header.attempt)
        assert name is not None, header.attempt
        with self.asserting():
            intent, epoch = header.intent_sequence, header.owner_epoch
            self._check_sent(rpc, lambda known: known.check_sent(rpc, name, intent, epoch))
            if self.rewinding:
                self.rewinding.ordered(_life(), host)
            if self.several and not self._lived_through():
                self.several.sessions.sent(_life(), name, epoch, intent)

    def _check_sent(self, rpc: str, check: Callable[[Promises], None]) -> None:
        """Checks what leaves a coordinator by what is committed, or was when that was lost."""
        if self.rewinding is None:
            check(self.promises)
            return
        self.rewinding.sent(_life(), rpc)
        errors = []
        for known in self.rewinding.known_by(_life()):
            try:
                check(known)
            except (AssertionError, KeyError) as error:
                errors.append(error)
            else:
                return
        raise errors[0]

    def _lived_through(self) -> bool:
        return self.rewinding is not None and self.rewinding.lived_through(_life())

    def taken(self, host: str, rpc: str, request: Message, sender: Life | None) -> None:
        """Checks what an agent has taken."""
        if self.rewinding and hasattr(request, "header"):
            self.rewinding.taken(host, request.header.intent_sequence)
        if self.several is None or sender is None:
            return
        header = getattr(request, "header", None)
        epoch = header.owner_epoch if header else getattr(request, "owner_epoch", 0)
        name = parse_attempt(header.attempt if header else getattr(request, "name", ""))
        if name is not None and epoch:
            self.note(f"{host} takes {rpc} {name} epoch {epoch} of {sender[0]}")
            with self.asserting():
                self.several.sessions.taken(host, sender, name.workflow_id, epoch)

    def cut_from_store(self, node: Node) -> float:
        """Returns after how long a call to a shared store fails; 0: it does not."""
        return self.several.cut_from_store(node) if self.several else 0.0

    def stored(self, node: Node, rpc: str, args: Sequence[Any], answer: Any) -> None:
        """Checks I6 of what a shared store has answered."""
        assert self.several is not None
        life = (node.name, node.life)
        if self.verbose and rpc in ("open", "claim", "end_session", "take_intents"):
            self.note(f"{node.name}: {rpc} {_answer_told(answer)}")
        with self.asserting():
            if self.rewinding and rpc == "open":
                self.rewinding.shared_opened(answer)
            if rpc == "commit":
                self.promises.hears_since = self.several.hears_since(node)
                self.several.sessions.committed(life, args[0])
            else:
                self.several.sessions.answered(life, rpc, answer)

    def committing(self, changes: Sequence[Change]) -> None:
        """Checks what a coordinator is about to commit."""
        for change in changes:
            workflow = change.workflow
            self.note(f"commit {workflow.id} v{workflow.version} {workflow.state}")
            if self.verbose:
                for entry in change.history:
                    name = workflow.plan.nodes[entry.task].name if entry.task >= 0 else ""
                    self.note(f"    {name} {entry.fact}")
        # An id that was used before: the store refuses it.
        fresh = [change for change in changes if not self._is_used(change)]
        with self.asserting():
            self.promises.check(fresh)
            for change in fresh:
                self.accounts.committing(change)

    def committed(self, changes: Sequence[Change]) -> None:
        """Takes up what a coordinator has committed."""
        for change in changes:
            if self._is_used(change):
                raise self.broken(f"I2: {change.workflow.id} is started again")
        self.promises.made(changes)
        if self.rewinding is not None:
            with self.asserting():
                for attempt in self.rewinding.committed(changes):
                    self._ledger.anew(attempt)

    def _is_used(self, change: Change) -> bool:
        """Returns whether a change starts what was started, settled and removed before."""
        known = self.promises.workflows.get(change.workflow.id)
        is_over = known is not None and known.settled and self.is_cleared(known.id)
        return is_over and change.version_before == 0

    def host_kept(self, record: HostRecord) -> None:
        """Takes up what a coordinator has stored of a host."""
        # What an agent was told to forget by a store that is no more it seems to have lost.
        if record.held and not self.faults.journal_lost and not self.times_back:
            raise self.broken(f"Z11: {record.id} is held, and nothing was lost: {record.held}")
        self.promises.host_kept(record, self.clock.now())

    def _served(self, rpc: str, request: Message, answer: Message, begin_s: float) -> None:
        with self.asserting():
            self.accounts.serve(rpc, request, answer, begin_s)

    def listening(self) -> None:
        """Takes up since when a coordinator listens to owners."""
        self.accounts.listening_s = self.loop.time()

    def renamed(self, agent: str, source: str, target: str) -> None:
        """Checks I1 and I2 as effects appear and go."""
        attempt = effects.owner(self.agents[agent].disk, source)
        if not attempt:
            return
        self.note(f"{agent}: {source} → {target}")
        journal = self.agents[agent].journal
        found = journal.execute("SELECT tombstoned FROM attempts WHERE name = ?", (attempt,))
        row = found.fetchone()
        with self.asserting():
            self._ledger.renamed(
                agent, attempt, shows="/images/" in target, buried=bool(row and row[0])
            )
            if self.rewinding and "/images/" not in target:
                self.rewinding.vanishes(attempt)

    # -- the end --------------------------------------------------------------------------------

    async def _check_end(self) -> None:
        workflows = {workflow.id: workflow for workflow in self.storage.workflows()}
        for job_id in sorted(self.acknowledged):
            if job_id not in workflows:
                raise self.broken(f"I8: {job_id} was acknowledged and is gone")
        self.settled = {each.id: each.state for each in workflows.values()}
        for job_id in sorted(self.cancelled):
            if not _is_undone(workflows[job_id]):
                raise self.broken(f"I8: {job_id} was cancelled: {told(workflows[job_id])}")
        for workflow in self.promises.workflows.values():
            stored = workflows.get(workflow.id)
            if stored is None and workflow.settled and self.is_cleared(workflow.id):
                continue
            if stored is None or (stored.version, stored.state) != (
                workflow.version,
                workflow.state,
            ):
                raise self.broken(f"I8: {workflow.id} was committed otherwise: {told(workflow)}")
        self._check_history()
        self._check_requests()
        leftovers = {each: await self._leftovers(each) for each in sorted(workflows)}
        disks = {host: agent.disk for host, agent in self.agents.items()}
        with self.asserting():
            effects.check_disks(
                disks,
                self.load,
                workflows,
                leftovers,
                lost=self.lost_with_pools,
                dark=self.rewinding.dark if self.rewinding else (),
                dark_until=self.rewinding.back_time if self.rewinding else None,
            )
            self.accounts.check_end(workflows, leftovers)
        for node in self.coordinators:
            # One whose session has just ended is about to begin its next life.
            if node.loop and (lines := node.loop._locks._lines):
                raise self.broken(f"locks: somebody stands in line for {sorted(lines)}")

    async def _leftovers(self, workflow_id: str) -> set[str]:
        """Returns the attempts whose effects a workflow lists as left."""
        request = pb.GetWorkflowRequest(name=workflow_name(workflow_id))
        shown = (await self.desk.ask("GetWorkflow", request)).workflow
        return {each.attempt for each in shown.leftovers}

    def _check_history(self) -> None:
        last: dict[str, int] = {}
        for stored in self.storage.events():
            if stored.sequence != last.get(stored.workflow_id, 0) + 1:
                raise self.broken(f"I7: a gap in {stored.workflow_id}")
            last[stored.workflow_id] = stored.sequence

    def _check_requests(self) -> None:
        """Checks I8: what was answered as done is done, what was only refused is not."""
        done = self.promises.carried_out
        for request_id, outcomes in sorted(self.desk.served.items()):
            if request_id in done and not outcomes & {DONE, IN_DOUBT}:
                raise self.broken(f"S-R13: request {request_id} was refused, and is done")
        for request_id, (workflow_id, version) in done.items():
            etag = self.desk.etags[request_id]
            if etag and version != int(etag) + 1:
                raise self.broken(f"S-R18: {request_id} is done to another {workflow_id}")
        forgiven = self.rewinding.forgiven if self.rewinding else set()
        for request_id in sorted(self.desk.told - done.keys()):
            if request_id not in self.desk.unrecorded | forgiven:
                raise self.broken(f"I8: request {request_id} was answered, and is not done")


def _life() -> Life:
    """Returns the life of the process that this is running in."""
    node = node_of()
    assert node is not None
    return node.name, node.life


def _answer_told(answer: Any) -> str:
    if isinstance(answer, Claim):
        return f"{[each.workflow.id for each in answer.workflows]} epoch {answer.owner_epoch}"
    return f"session {answer.owner_epoch}" if isinstance(answer, Opening) else f"{answer}"


def _is_undone(workflow: Workflow) -> bool:
    """Returns whether a workflow is made up for, but for what an operator gave up."""
    given_up = any(task.state is TaskState.ABANDONED for _, task in workflow.tasks())
    return workflow.state is WorkflowState.COMPENSATED or (
        workflow.state is WorkflowState.FAILED and given_up
    )


def _furnish(disk: Disk, agent: AgentNode, load: workload.Load, host: str) -> None:
    """Brings templates and other people's images in, as an administrator would."""
    files = LiveFiles(disk, lambda: None, lambda _source, _to: None)
    drivers = {pool.pool_id: FileDriver(pool, files) for pool in agent.pools}
    for pool_id, image_id, content in load.imports(host):
        source = Path("/import")
        handle = files.open_to_write(source)
        files.truncate(handle, len(content))
        files.pwrite(handle, memoryview(bytearray(content)), 0)
        files.close(handle)
        work = Work(
            attempt=f"import/{image_id}",
            cluster_id="",
            note="",
            now=agent.world.clock.now,
            crash=crash.never,
        )
        steps = drivers[pool_id].import_file(work, source, image_id, image_format=Format.RAW)
        for _ in steps:
            pass
        files.remove_file(source)
    disk.flush_names()
