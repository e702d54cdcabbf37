"""Nodes of the simulated cluster: processes that can die at any await and at any crash point.

A node's tasks are those begun in its context. When it dies they are cancelled, and everything that
reaches out of the process (disk, journal, store, network) refuses from then on, so that what still
unwinds has no effect.
"""

from __future__ import annotations

import asyncio
import contextvars
import random
import sqlite3
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from agent.drivers.driver import PoolConfig, Step
from agent.drivers.file import FileDriver
from agent.executors import InlineExecutor
from agent.journal import InlineJournal, Journal, Transaction
from agent.rows import IS_SEEN_TO
from agent.runner import Limits, Runner
from agent.service import AgentService
from agent.work import Outside
from coordinator.agents.connection import Connect
from coordinator.agents.ears import ears_of
from coordinator.agents.fleet import Fleet
from coordinator.api import recovering
from coordinator.api.coordinator_service import CoordinatorService
from coordinator.api.host_service import HostService
from coordinator.api.tokens import Tokens
from coordinator.api.workflow_service import WorkflowService
from coordinator.assembly import beside
from coordinator.owners.routing import Routing
from coordinator.runtime.guard import Guard
from coordinator.runtime.loop import Loop
from coordinator.runtime.ports import (
    Change,
    HostRecord,
    Opening,
    Recovery,
    Store,
    StoreError,
    StoreFencedError,
    StoreRewoundError,
)
from coordinator.runtime.retention import RETENTION
from coordinator.runtime.session import Keeper
from coordinator.runtime.watch import Watches
from countermand.rpc.server import Service
from countermand.v1.attempt_pb2 import Progress
from tests.simulation.clock import VirtualClock
from tests.simulation.disk import Disk, LiveFiles
from tests.simulation.effects import images, remove_by_hand
from tests.simulation.owning import OWNER_RPCS, Assembly, external_tasks, open_owners

T = TypeVar("T")


class Died(BaseException):
    """The process this was running in is dead."""


_NODE: contextvars.ContextVar[Node | None] = contextvars.ContextVar("node", default=None)


def node_of(context: contextvars.Context | None = None) -> Node | None:
    """Returns the process that a context belongs to, or the one that this is running in."""
    return _NODE.get() if context is None else context.get(_NODE)


class Node:
    """A process: alive or dead, with its tasks."""

    def __init__(self, name: str, world: Surroundings) -> None:
        """Begins dead."""
        self.name = name
        self.world = world
        self.alive = False
        self.life = 0
        self.held: list[Callable[[], None]] | None = None  # what waits while it is frozen
        self._tasks: dict[asyncio.Task[Any], None] = {}

    def begin_life(self) -> None:
        """Makes the node alive, with nothing running."""
        self.alive = True
        self.life += 1
        self._tasks = {}

    def spawn(self, coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Runs something in this node's process."""
        context = contextvars.copy_context()
        context.run(_NODE.set, self)
        return asyncio.get_running_loop().create_task(coroutine, context=context)

    def adopt(self, task: asyncio.Task[Any]) -> None:
        """Counts a task as this node's."""
        self._tasks[task] = None
        task.add_done_callback(lambda done: self._tasks.pop(done, None))

    def freeze(self) -> None:
        """Stops the process where it is; see `freezing.py`."""
        if self.alive and self.held is None:
            self.held = []
            self.world.note(f"{self.name} is frozen")

    def resume(self) -> None:
        """Lets a frozen process go on."""
        held, self.held = self.held, None
        if held is not None:
            self.world.note(f"{self.name} goes on")
        for release in held or ():
            release()

    def check(self) -> None:
        """Raises if the node is dead."""
        if not self.alive:
            raise Died(self.name)

    async def start(self) -> None:
        """Begins a new life."""
        raise NotImplementedError

    def kill(self) -> None:
        """Ends the process here and now."""
        if not self.alive:
            return
        self.alive = False
        self.world.note(f"{self.name} dies")
        self.resume()  # what was held back unwinds, and has no effect
        for task in tuple(self._tasks):
            task.cancel()
        self.world.died(self)

    def crash(self, point: str) -> None:
        """Dies at a crash point, if chance will have it."""
        self.check()
        if self.world.crashes(self, point):
            self.world.note(f"{self.name} at {point}")
            self.kill()
            raise Died(point)


def task_factory(
    loop: asyncio.AbstractEventLoop,
    coroutine: Coroutine[Any, Any, Any],
    *,
    context: contextvars.Context | None = None,
) -> asyncio.Task[Any]:
    """Makes tasks, and tells each node of its own."""
    node = node_of(context)
    task = asyncio.Task(coroutine, loop=loop, context=context)
    if node is not None:
        node.adopt(task)
        if not node.alive:
            task.cancel()
    return task


class Surroundings:
    """What nodes need of the world; `World` is the real one."""

    clock: VirtualClock
    chance: random.Random

    def note(self, text: str) -> None:
        """Writes a line of the trace."""

    def crashes(self, node: Node, point: str) -> bool:
        """Returns whether a node dies at a crash point."""
        raise NotImplementedError

    def died(self, node: Node) -> None:
        """Hears that a node died."""

    def before_start(self, agent: AgentNode) -> None:
        """Does something to what an agent starts on, if chance will have it."""

    def renamed(self, agent: str, source: str, target: str) -> None:
        """Hears that a folder was renamed on an agent's disk."""

    def committing(self, changes: Sequence[Change]) -> None:
        """Hears what a coordinator is about to commit."""

    def committed(self, changes: Sequence[Change]) -> None:
        """Hears what a coordinator has committed."""

    def host_kept(self, record: HostRecord) -> None:
        """Hears what a coordinator has stored of a host."""

    def broken(self, what: str) -> Exception:
        """Returns what to raise."""
        raise NotImplementedError

    def cut_from_store(self, node: Node) -> float:
        """Returns after how long a call to a shared store fails; 0: it does not."""
        return 0.0

    def stored(self, node: Node, rpc: str, args: Sequence[Any], answer: Any) -> None:
        """Hears of each call to a shared store that was answered."""

    def is_unanswered(self, node: Node) -> Callable[[], bool] | None:
        """Returns what says whether what is asked of the store now was lost, its answer too."""
        return None

    def begins_anew(self, node: CoordinatorNode) -> None:
        """Hears that a coordinator ends its life to begin another one at once."""

    def opened(self, node: CoordinatorNode, opening: Opening) -> None:
        """Hears what a coordinator begins with."""

    def asked_of_store(self, rpc: str, args: Sequence[Any], answer: Any) -> None:
        """Hears what any store has answered."""

    def listening(self) -> None:
        """Hears that a coordinator begins to listen to owners of external tasks."""

    def new_id(self) -> str:
        """Returns a fresh id."""
        return f"{self.chance.getrandbits(64):016x}"

    def jitter(self) -> float:
        """Returns a number in [0, 1)."""
        return self.chance.random()


# -- an agent -----------------------------------------------------------------------------------

DISK_STEP_S = 0.05  # at most: what a chunk takes


class _Journal(InlineJournal):
    """A journal whose flushes take time, in a process that may die meanwhile."""

    def __init__(self, node: Node, journal: Journal) -> None:
        super().__init__(journal)
        self._node = node

    async def transact(self, function: Callable[[Transaction], T]) -> T:
        self._node.check()
        await asyncio.sleep(self._node.world.chance.random() * 0.004)
        self._node.check()
        value = await super().transact(function)
        await asyncio.sleep(self._node.world.chance.random() * 0.004)
        self._node.check()
        return value


class AgentNode(Node):
    """One agent, its disk and its journal."""

    def __init__(self, host_id: str, world: Surroundings, *, capacity_bytes: int) -> None:
        """Begins with empty storage, dead."""
        super().__init__(host_id, world)
        self.disk = Disk(capacity_bytes)
        self.journal = sqlite3.connect(":memory:", isolation_level=None)
        self.copy: sqlite3.Connection | None = None  # of the journal, as it was some time ago
        self.restored = 0  # how often that copy was put back: no connection outlives it
        self.service: AgentService | None = None
        self.pools = (
            PoolConfig(pool_id="templates", path=Path("/templates")),
            PoolConfig(pool_id="scratch", path=Path("/scratch"), flush_bytes=4096),
            PoolConfig(pool_id=f"pool-{host_id}", path=Path("/pool"), flush_bytes=1024),
        )
        for path in ("/templates", "/scratch", "/pool"):
            self.disk.change("put", path)
        self.disk.flush_names()
        self.identities = {pool.pool_id: f"{host_id}-{pool.pool_id}" for pool in self.pools}

    async def start(self) -> None:
        """Begins a new life on the same storage, if nothing has happened to that."""
        self.world.before_start(self)
        self.begin_life()
        await self.spawn(self._start())

    async def _start(self) -> None:
        files = LiveFiles(
            self.disk, self.check, lambda source, to: self.world.renamed(self.name, source, to)
        )
        journal = _Journal(self, Journal(self.journal, new_id=self.world.new_id))
        runner = Runner(
            journal=journal,
            pools={pool.pool_id: FileDriver(pool, files) for pool in self.pools},
            executor=InlineExecutor(self._between),
            outside=Outside(
                now=self.world.clock.now,
                monotonic=asyncio.get_running_loop().time,
                crash=self.crash,
            ),
            limits=Limits(attempts_max=3, queue_max=4),
            host_id=self.name,
        )
        await runner.start()
        self.service = AgentService(
            runner,
            now=self.world.clock.now,
            version="simulated",
            identities=dict(self.identities),
        )

    # -- what happens to a journal --------------------------------------------------------------

    def lose_journal(self) -> None:
        """Begins a new journal; copies of the old one would be of another incarnation."""
        self.journal.close()
        self.journal = sqlite3.connect(":memory:", isolation_level=None)
        self.copy = None

    def copy_journal(self) -> None:
        """Keeps a copy of the journal, unless something in it is at work.

        That would be done once more by the agent alone, before anybody could notice.
        """
        if not self.journal.execute("SELECT 1 FROM sqlite_master WHERE name = 'meta'").fetchone():
            return
        if self.journal.execute(f"SELECT 1 FROM attempts WHERE {IS_SEEN_TO}").fetchone():
            return
        self.copy = sqlite3.connect(":memory:", isolation_level=None)
        self.journal.backup(self.copy)

    def restore_journal(self) -> int:
        """Puts the copy back in the place of the journal; returns its sequence."""
        assert self.copy is not None
        self.copy.backup(self.journal)
        self.restored += 1
        found = self.journal.execute("SELECT value FROM meta WHERE key = 'sequence'").fetchone()
        return int(found[0]) if found else 0

    def replace_pool(self) -> list[str]:
        """Puts another storage in the place of its own pool; returns what attempts had there.

        What belongs to others is brought back by its administrator.
        """
        pool = self.pools[-1]
        self.identities[pool.pool_id] += "-again"
        for name in [n for n in self.disk.names if n.startswith(f"{pool.path}/staging/")]:
            self.disk.change("remove", name)
        found = {path: owner for path, owner in images(self.disk).items() if owner}
        mine = {path: owner for path, owner in found.items() if path.startswith(f"{pool.path}/")}
        for path in mine:
            remove_by_hand(self.disk, path)
        self.disk.flush_names()
        return list(mine.values())

    async def _between(self, step: Step) -> None:
        """Lets each step take a moment: here others go on, and here it may die."""
        await asyncio.sleep(step.wait_s + self.world.chance.random() * DISK_STEP_S)
        self.check()

    def kill(self) -> None:
        """Ends the process; with a power cut, its disk forgets what was not flushed."""
        if not self.alive:
            return
        super().kill()
        self.service = None
        if self.journal.in_transaction:
            self.journal.execute("ROLLBACK")
        if self.world.chance.random() < 0.5:
            self.world.note(f"{self.name} loses power")
            self.disk.cut_power(self.world.chance)


# -- the coordinator ----------------------------------------------------------------------------

WORKFLOW_RPCS = (
    "StartWorkflow",
    "GetWorkflow",
    "GetResumeRequirements",
    "CancelWorkflow",
    "PauseWorkflow",
    "ResumeWorkflow",
    "DecideCompensation",
)
HOST_RPCS = ("ListHosts", "DrainHost", "AcceptHost")
COORDINATOR_RPCS = ("ListCoordinators", "ConfirmRecovery")


class _Store:
    """A store that takes time, in a process that may die before or after a commit.

    A shared one may refuse what is to be committed: what must hold is asked once it was taken.
    """

    def __init__(self, node: Node, inner: Store, *, at_once: frozenset[str]) -> None:
        self._node = node
        self._inner = inner
        self._at_once = at_once  # what takes no time
        self.shared = inner.shared

    def __getattr__(self, name: str) -> Callable[..., Any]:
        async def call(*args: Any, **kwargs: Any) -> object:
            world = self._node.world
            if name in self._at_once:
                self._node.check()
                return await getattr(self._inner, name)(*args, **kwargs)
            await self._pause()
            if self.shared and (wait_s := world.cut_from_store(self._node)):
                await asyncio.sleep(wait_s)
                self._node.check()
                raise StoreError("it cannot be reached")
            if name == "commit" and not self.shared:
                world.committing(args[0])
            is_unanswered = world.is_unanswered(self._node)
            value = await getattr(self._inner, name)(*args, **kwargs)
            if is_unanswered is not None and is_unanswered():
                self._node.check()
                raise StoreError("its connection is lost")
            world.asked_of_store(name, args, value)
            if self.shared:
                world.stored(self._node, name, args, value)
            if name == "commit":
                if self.shared:
                    world.committing(args[0])
                world.committed(args[0])
            elif name == "put_host":
                world.host_kept(args[0])
            elif name == "change_host" and value is not None and value[1]:
                world.host_kept(value[0])
            await self._pause()
            return value

        return call

    async def _pause(self) -> None:
        self._node.check()
        await asyncio.sleep(self._node.world.chance.random() * 0.004)
        self._node.check()


def _service(servicer: object) -> Service:
    """Returns a service as it is served, but not over gRPC here."""
    return Service(f"countermand.v1.{type(servicer).__name__}", lambda *_: None, servicer)


_Around = Callable[[Sequence[Service]], list[Service]]


def _gated(around: _Around, recovery: Recovery) -> _Around:
    """Returns what puts services through the gate of a store that went back in time, outermost."""
    return lambda made: recovering.around(around(made), recovery)


class CoordinatorNode(Node):
    """The coordinator; its store's content outlives it."""

    def __init__(
        self,
        world: Surroundings,
        *,
        open_store: Callable[[], Store],
        connect: Connect,
        hosts: Sequence[str],
        forget_s: float,
        name: str = "coordinator",
        is_shared: bool = False,
    ) -> None:
        """Begins dead."""
        super().__init__(name, world)
        self.may_fail = is_shared  # its store may not answer when it begins
        self._open_store = open_store
        self._connect = connect
        self._hosts = hosts
        self._forget_s = forget_s
        # Whether there are owners of external tasks. Where there are none, nothing is asked of the
        # store for them: what it takes is drawn, and seeds should stay what they are.
        self.has_owners = False
        # Whether it sends nothing once its lease may be over. No correctness rests on that.
        self.trusts_clock = True
        # What takes no time of what is asked of the store, for the same reason.
        self.at_once = frozenset({"given"})
        self.services: dict[str, Callable[..., Any]] = {}  # by the name of the RPC
        self.loop: Loop | None = None
        self._store: Any = None

    async def start(self) -> None:
        """Begins a new life on the same store."""
        self.begin_life()
        starting = self.spawn(self._start())
        if not self.may_fail:
            await starting
            return
        await asyncio.wait([starting])
        if not starting.cancelled() and (error := starting.exception()):
            if not isinstance(error, (StoreError, Died)):
                raise error
            self.kill()  # its store cannot be reached: it is started again

    async def _start(self) -> None:
        world = self.world
        store: Any = _Store(self, self._open_store(), at_once=self.at_once)
        self._store = store
        watches: Watches[Progress] = Watches()
        loop = Loop(store=store, clock=world.clock, chance=world, crash=self.crash, hints=watches)
        opening = await loop.open()
        world.opened(self, opening)
        guard = Guard(store, opening)
        for host in self._hosts:
            if host not in {record.id for record in await store.hosts()}:
                await store.put_host(
                    HostRecord(id=host, address=host, create_time=world.clock.now())
                )

        keeper = None
        if store.shared:
            keeper = Keeper(store=store, loop=loop, chance=world, session=opening.owner_epoch)
        fleet = Fleet(
            store=store,
            connect=self._connect,
            cluster_id=opening.cluster_id,
            clock=world.clock,
            chance=world,
            crash=self.crash,
            ears=ears_of(loop, store, watches.heard_progress, guard),
            forget_s=0 if opening.recovery else self._forget_s,
            trusted=keeper.trusted if keeper and self.trusts_clock else lambda: True,
        )
        assembly = Assembly(
            loop=loop,
            store=store,
            hosts=fleet,
            watches=watches,
            clock=world.clock,
            retention=RETENTION,
        )
        owners = None
        if self.has_owners:
            world.listening()
            owners = await open_owners(assembly)
        loop.attach(Routing(hosts=fleet, owners=owners) if owners else fleet)
        await fleet.open()
        others = beside(assembly, world.new_id)
        begin = asyncio.get_running_loop().create_task
        if keeper is None or others is None:
            looping = begin(loop.run())
            begin(self._run(guard, lambda: looping, guard.run))
        else:
            follow = partial(fleet.follow, loop.redeliver, keeper.live)
            begin(self._run(guard, loop.run, keeper.run, others.run, follow, guard.run))
        workflows = WorkflowService(
            loop=loop, store=store, hosts=fleet, watches=watches, clock=world.clock
        )
        hosts = HostService(loop=loop, store=store, hosts=fleet, clock=world.clock)
        served: list[tuple[object, tuple[str, ...]]] = [
            (workflows, WORKFLOW_RPCS),
            (hosts, HOST_RPCS),
            (CoordinatorService(store=store, hosts=fleet), COORDINATOR_RPCS),
        ]
        if owners is not None:
            tokens = Tokens(opening.token_key)
            served.append((external_tasks(assembly, owners, tokens), OWNER_RPCS))
        self.loop = loop
        around: _Around = others.routing.around if others else list
        if opening.recovery:
            around = _gated(around, opening.recovery)
        self.services = {
            rpc: getattr(service.servicer, rpc)
            for made, rpcs in served
            for service in around([_service(made)])
            for rpc in rpcs
        }

    async def _run(self, guard: Guard, *works: Callable[[], Awaitable[None]]) -> None:
        """Does its work until its session has ended: then it stops, and is started again.

        Where that is because its store went back in time, it goes on in another life at once.
        """
        try:
            await asyncio.gather(*(work() for work in works))
        except StoreFencedError as fenced:
            error = await guard.why_ended(fenced)
            self.world.note(f"{self.name} stops: {error}")
            if isinstance(error, StoreRewoundError):
                self.world.begins_anew(self)
        except Exception as error:
            raise self.world.broken(f"{self.name} fails: {error!r}") from error
        finally:
            self.kill()

    def stop(self) -> None:
        """Ends its session and then the process; what it does meanwhile is refused."""
        if self.alive and self._store is not None:
            self.world.note(f"{self.name} is told to stop")
            self._stopping = self.spawn(self._stop())

    async def _stop(self) -> None:
        with suppress(StoreError):
            await self._store.end_session()
        self.kill()

    def kill(self) -> None:
        """Ends the process."""
        self.services = {}
        self.loop = None
        super().kill()
