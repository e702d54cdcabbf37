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
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from google.protobuf.message import Message

from agent.drivers.driver import Format, Work
from agent.drivers.file import FileDriver
from coordinator.runtime.ports import Change
from coordinator.saga import history
from coordinator.saga.states import SETTLED, TASK_TABLE, WORKFLOW_TABLE, TaskState, WorkflowState
from coordinator.saga.workflow import Workflow
from countermand.rpc import crash
from countermand.rpc.errors import Busy, CountermandError, FieldInvalid, HostUnreachable
from countermand.rpc.names import parse_attempt, workflow_name
from countermand.v1 import workflow_pb2 as pb
from tests.saga import invariants
from tests.simulation import workload
from tests.simulation.clock import VirtualClock, VirtualLoop
from tests.simulation.disk import Disk, LiveFiles
from tests.simulation.network import Network
from tests.simulation.nodes import AgentNode, CoordinatorNode, Node, Surroundings, task_factory
from tests.simulation.stores import Model, Storage

HOSTS = ("host-a", "host-b", "host-c")
STORM_S = 90.0  # how long things fail
PATIENCE_S = 3600.0  # and how long everything may take to come right afterwards
RETRY_S = 1.0

_TASK_MOVES = {(before, after) for (before, _), after in TASK_TABLE.items()}
_WORKFLOW_MOVES = {(before, after) for (before, _), after in WORKFLOW_TABLE.items()}


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


@dataclass(frozen=True, slots=True)
class Report:
    """What became of one seed."""

    seed: int
    settled: dict[str, WorkflowState]
    deaths: int
    trace: str  # a hash: the same seed gives the same
    virtual_s: float


class World(Surroundings):
    """A cluster of one coordinator and three agents."""

    def __init__(
        self,
        seed: int,
        *,
        faults: Faults = Faults(),
        store: Callable[[], Storage] = Model,
        verbose: bool = False,
    ) -> None:
        """Draws everything from the seed."""
        self.seed = seed
        self.faults = faults
        self.verbose = verbose
        self.chance = random.Random(seed)
        self.loop = VirtualLoop()
        self.clock = VirtualClock(self.loop)
        self.calm = False
        self.deaths = 0
        self.violation: Violation | None = None
        self.settled: dict[str, WorkflowState] = {}
        self.storage = store()
        self._trace = hashlib.sha256()
        self._cut_until = dict.fromkeys((*HOSTS, "coordinator"), 0.0)
        self._ledger: dict[str, str] = {}  # attempt → "published" or "undone"
        self.network = Network(self, lambda host: self.agents[host])
        self.agents = {
            host: AgentNode(host, self, capacity_bytes=self.chance.choice((1 << 20, 200_000)))
            for host in HOSTS
        }
        self.coordinator = CoordinatorNode(
            self,
            open_store=lambda: self.storage.open(self.new_id),
            connect=self.network.connect,
            hosts=HOSTS,
        )
        self.load = workload.draw(self.chance, HOSTS)
        self.acknowledged: set[str] = set()
        self.cancelled: set[str] = set()

    def broken(self, what: str) -> Violation:
        """Returns what to raise, and keeps it: whoever raises it may be in a task of a node."""
        violation = Violation(f"seed {self.seed}: {what}")
        self.violation = self.violation or violation
        return violation

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

    def _end(self) -> None:
        for node in (self.coordinator, *self.agents.values()):
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
        for node in (*self.agents.values(), self.coordinator):
            await node.start()
        engines = [asyncio.ensure_future(self._engine(job)) for job in self.load.jobs]
        killer = asyncio.ensure_future(self._killer())
        cutter = asyncio.ensure_future(self._cutter())
        await asyncio.sleep(STORM_S)
        killer.cancel()
        cutter.cancel()
        self.calm = True
        self.note("calm")
        for node in (*self.agents.values(), self.coordinator):
            if not node.alive:
                await node.start()
        await asyncio.gather(*engines)
        await self._until_settled()
        for agent in self.agents.values():
            agent.kill()
            await agent.start()  # the sweep of a new life
        await asyncio.sleep(1.0)
        self._check_end()
        self._check()

    async def _until_settled(self) -> None:
        while True:
            open_ = [w for w in self.storage.workflows() if not w.settled]
            if not open_:
                return
            if self.loop.time() > STORM_S + PATIENCE_S:
                raise self.broken(f"never settled: {_told(open_[0])}")
            self._check()
            await asyncio.sleep(1.0)

    def _check(self) -> None:
        """Raises what was found wrong in a task of a node."""
        if self.violation:
            raise self.violation

    # -- faults ---------------------------------------------------------------------------------

    async def _killer(self) -> None:
        nodes: tuple[Node, ...] = (*self.agents.values(), self.coordinator)
        while True:
            await asyncio.sleep(self.chance.expovariate(1 / self.faults.kill_every_s))
            self.chance.choice(nodes).kill()

    async def _cutter(self) -> None:
        while True:
            await asyncio.sleep(self.chance.expovariate(1 / self.faults.cut_every_s))
            host = self.chance.choice(HOSTS)
            self._cut_until[host] = self.loop.time() + self.chance.random() * self.faults.cut_s_max
            self.note(f"{host} is cut off")

    def died(self, node: Node) -> None:
        """Has a dead node started again after a while."""
        self.deaths += 1
        if isinstance(node, AgentNode):
            self.loop.call_soon(self._recount, node)
        else:
            self.storage.died()
        if not self.calm:
            down_s = self.chance.random() * self.faults.down_s_max
            # In no process: it is called in the one that has just died.
            context = contextvars.Context()
            self.loop.call_later(down_s, self._restart, node, context=context)

    def _restart(self, node: Node) -> None:
        if not node.alive and not self.calm:
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
        return (
            self._cut_until[host] > self.loop.time()
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

    # -- the engine -----------------------------------------------------------------------------

    async def _engine(self, job: workload.Job) -> None:
        """Submits one workflow until that is acknowledged, and perhaps cancels it."""
        await asyncio.sleep(job.at_s)
        request = pb.StartWorkflowRequest(workflow_id=job.id, spec=job.spec)
        await self._ask("StartWorkflow", request)
        self.acknowledged.add(job.id)
        if job.cancel_after_s is None:
            return
        await asyncio.sleep(job.cancel_after_s)
        cancel = pb.CancelWorkflowRequest(
            name=workflow_name(job.id), request_id=self.new_id(), reason="simulated"
        )
        try:
            await self._ask("CancelWorkflow", cancel)
        except CountermandError as error:
            if error.reason != "STATE_FORBIDS":
                raise
        else:
            self.cancelled.add(job.id)

    async def _ask(self, rpc: str, request: Message) -> Any:
        context = SimpleNamespace(invocation_metadata=lambda: ())
        while True:

            def method() -> Any:
                service = self.coordinator.workflows
                if service is None:
                    raise HostUnreachable(address="coordinator")
                return getattr(service, rpc)(request, context)

            try:
                return await self.network.call(self.coordinator, method, "coordinator", 10.0)
            except (HostUnreachable, Busy) as error:
                self.note(f"{rpc}: {error.reason}")
                await asyncio.sleep(RETRY_S)
            except FieldInvalid as error:
                raise self.broken(f"{error}") from error

    # -- what is seen ---------------------------------------------------------------------------

    def note(self, text: str) -> None:
        """Writes a line of the trace."""
        line = f"{self.loop.time():10.4f} {text}"
        self._trace.update(line.encode())
        if self.verbose:
            print(line)

    def sent(self, rpc: str, request: Message) -> None:
        """Checks I5: no request leaves without a committed intent that describes it."""
        header = getattr(request, "header", None)
        if header is None:
            return
        self.note(f"{rpc} {header.attempt} epoch {header.owner_epoch}")
        name = parse_attempt(header.attempt)
        assert name is not None, header.attempt
        workflow = self.storage.workflow(name.workflow_id)
        if workflow is None:
            raise self.broken(f"I5: {rpc} for {name}: there is no such workflow")
        task = workflow.task(workflow.plan.by_name[name.task_id])
        if name.number > len(task.attempts):
            raise self.broken(f"I5: {rpc} for {name} was never committed")
        attempt = task.attempts[name.number - 1]
        if attempt.intent != header.intent_sequence:
            raise self.broken(f"I5: {name} goes out with another intent")

    def committing(self, changes: Sequence[Change]) -> None:
        """Checks what a coordinator is about to commit."""
        for change in changes:
            workflow = change.workflow
            self.note(f"commit {workflow.id} v{workflow.version} {workflow.state}")
            try:
                _check_change(change)
            except AssertionError as error:
                raise self.broken(f"{error}") from error

    def renamed(self, agent: str, source: str, target: str) -> None:
        """Checks I1 and I2 as effects appear and go."""
        disk = self.agents[agent].disk
        attempt = _owner(disk, source)
        if not attempt:
            return
        self.note(f"{agent}: {source} → {target}")
        if "/images/" in target:
            if self._ledger.get(attempt) == "undone":
                raise self.broken(f"I2: {attempt} takes effect again")
            tombstoned = (
                self.agents[agent]
                .journal.execute("SELECT tombstoned FROM attempts WHERE name = ?", (attempt,))
                .fetchone()
            )
            if tombstoned and tombstoned[0]:
                raise self.broken(f"I1: {attempt} shows after its compensation")
            self._ledger[attempt] = "published"
        else:
            if self._ledger.get(attempt) != "published":
                raise self.broken(f"I2: {attempt} is undone twice")
            self._ledger[attempt] = "undone"

    def _recount(self, agent: AgentNode) -> None:
        """Sets the ledger right after a power cut took renames back."""
        visible = {a for a in _images(agent.disk).values() if a}
        for attempt in visible:
            self._ledger[attempt] = "published"
        for attempt, state in tuple(self._ledger.items()):
            name = parse_attempt(attempt)
            if name is None or state != "published" or attempt in visible:
                continue
            if self.load.host_of(name.workflow_id, name.task_id) == agent.name:
                del self._ledger[attempt]

    # -- the end --------------------------------------------------------------------------------

    def _check_end(self) -> None:
        workflows = {workflow.id: workflow for workflow in self.storage.workflows()}
        for job_id in sorted(self.acknowledged):
            if job_id not in workflows:
                raise self.broken(f"I8: {job_id} was acknowledged and is gone")
            self.settled[job_id] = workflows[job_id].state
        for job_id in sorted(self.cancelled):
            workflow = workflows[job_id]
            if workflow.state is not WorkflowState.COMPENSATED:
                raise self.broken(f"I8: {job_id} was cancelled: {_told(workflow)}")
        self._check_history()
        for host, agent in self.agents.items():
            self._check_disk(host, agent.disk, workflows)

    def _check_history(self) -> None:
        last: dict[str, int] = {}
        for stored in self.storage.events():
            if stored.sequence != last.get(stored.workflow_id, 0) + 1:
                raise self.broken(f"I7: a gap in {stored.workflow_id}")
            last[stored.workflow_id] = stored.sequence

    def _check_disk(self, host: str, disk: Disk, workflows: dict[str, Workflow]) -> None:
        """Checks I3, I4 and I11: exactly what succeeded is there, whole, and nothing else."""
        expected = self.load.furniture(host)
        contents: dict[str, bytes | None] = {}
        for job in self.load.jobs:
            workflow = workflows.get(job.id)
            if workflow is None or workflow.state is not WorkflowState.SUCCEEDED:
                continue
            for task in job.tasks:
                record = workflow.task(workflow.plan.by_name[task.name])
                if task.host != host or record.state is not TaskState.SUCCEEDED:
                    continue
                action = record.action
                assert action is not None, task.name
                if task.deletes:
                    expected.pop(task.target, None)
                elif task.target:
                    made_by = f"workflows/{job.id}/tasks/{task.name}/attempts/{action.number}"
                    expected[task.target] = made_by
                    contents[task.target] = task.content
        found = _images(disk)
        if found != expected:
            raise self.broken(f"I3: {host} holds {found}, expected {expected}")
        for path, content in contents.items():
            file = disk.names[f"{path}/data.raw"]
            assert file is not None, path
            if content is not None and bytes(file.data) != content:
                raise self.broken(f"I3: {path} is not what was copied")
        staged = [n for n in disk.names if "/staging/" in n]
        if staged:
            raise self.broken(f"I11: left in staging: {staged}")


def _check_change(change: Change) -> None:
    """Asserts I7, I4 and what else one decision shows."""
    workflow = change.workflow
    for entry in change.history:
        fact = entry.fact
        if isinstance(fact, history.TaskMoved):
            assert (fact.before, fact.after) in _TASK_MOVES, f"I7: {fact}"
        elif isinstance(fact, history.WorkflowMoved):
            assert (fact.before, fact.after) in _WORKFLOW_MOVES, f"I7: {fact}"
            assert fact.before not in SETTLED, f"I7: {fact}"
            assert fact.after is not WorkflowState.QUARANTINED, _told(workflow)
    invariants.one_effect_at_a_time(workflow)
    invariants.the_verdict_is_true(workflow)
    invariants.nothing_is_stuck(workflow)


def _images(disk: Disk) -> dict[str, str]:
    """Returns the images on a disk with the attempts that made them."""
    return {
        path: _owner(disk, path)
        for path in sorted(disk.names)
        if path.rpartition("/")[0].endswith("/images")
    }


def _owner(disk: Disk, folder: str) -> str:
    label = disk.names.get(f"{folder}/image.json")
    if label is None or not label.data:
        return ""
    attempt = json.loads(bytes(label.data)).get("attempt", "")
    return attempt if isinstance(attempt, str) and parse_attempt(attempt) else ""


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


def _told(workflow: Workflow) -> str:
    tasks = ", ".join(
        f"{workflow.plan.nodes[index].name}: {task.state}" for index, task in workflow.tasks()
    )
    return f"{workflow.id} is {workflow.state} ({tasks})"
