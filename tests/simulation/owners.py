"""Owners of external tasks: vendors' processes that die and come back.

Each follows the protocol of `external_task.proto` over the network that loses and repeats: it hears
what waits for it, accepts, works, says that it is alive, adds tasks, ends, stops and makes up. It
may die between any two of these; its array (`accounts.Array`) stays, with what it has noted there
before it said it. What nobody waits for any more it forgets, as the contract says, and leaves what
it has made to whoever decided so. What else it does is in:

    adding    tasks that it adds to workflows
    jobs      workflows of its own
    mischief  what must be refused
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from random import Random
from typing import Any

from countermand.rpc.errors import CountermandError, HostUnreachable
from countermand.rpc.names import workflow_name
from countermand.v1 import external_task_pb2 as pb
from countermand.v1.attempt_pb2 import Attempt
from countermand.v1.failure_pb2 import Failure
from tests.simulation.accounts import Array
from tests.simulation.adding import CLONE, JOB, LOOK_S, Adding
from tests.simulation.desk import Desk
from tests.simulation.jobs import Jobs
from tests.simulation.means import Means, OwnersWorld
from tests.simulation.mischief import Mischief
from tests.simulation.nodes import Node
from tests.simulation.workload import OwnJob

BEAT_S = 0.6

Request = pb.ExternalRequest
_OVER = frozenset({"ATTEMPT_CLOSED", "WORKFLOW_NOT_FOUND"})


@dataclass(slots=True, eq=False)
class _Work:
    """One attempt that a process works on."""

    request: Request
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None
    accepted: bool = False
    ending: bool = False
    silent_until_s: float = 0.0

    @property
    def name(self) -> str:
        return self.request.attempt

    @property
    def kind(self) -> str:
        return self.request.task_kind


class OwnerNode(Node):
    """One vendor: its array, its jobs, and the process that it has just now."""

    world: OwnersWorld

    def __init__(self, name: str, world: OwnersWorld, desk: Desk, jobs: tuple[OwnJob, ...]) -> None:
        """Begins dead."""
        super().__init__(name, world)
        self.desk = desk
        self.jobs = jobs
        self.array = world.accounts.arrays[name] = Array(name)

    @property
    def is_done(self) -> bool:
        """Returns whether all its own workflows are done with."""
        return all(job.id in self.array.over for job in self.jobs)

    async def start(self) -> None:
        """Begins a new life, which knows only what the array holds."""
        self.begin_life()
        self.spawn(_Process(self).run())


class _Process:
    """One life of a vendor: everything here is lost with it."""

    def __init__(self, node: OwnerNode) -> None:
        self.means = Means(node.name, node.world, node.desk)
        self.jobs = node.jobs
        self.world = node.world
        self.chance: Random = node.world.chance
        self.accounts = node.world.accounts
        self.array = node.array
        self.adding = Adding(self.means)
        self.mischief = Mischief(self.means, self.adding)
        self.works: dict[str, _Work] = {}
        self.over: set[str] = set()  # attempts that this life has done with

    async def run(self) -> None:
        """Begins to do everything that it does."""
        jobs = Jobs(self.means)
        listens = self.chance.choice((self._watch, self._poll))
        for work in (listens(), self._beat(), self.adding.join(), *map(jobs.see_to, self.jobs)):
            self.means.begin(work)

    # -- hearing --------------------------------------------------------------------------------

    async def _poll(self) -> None:
        while True:
            asked: list[Request] = []
            page = pb.ListExternalTasksRequest(owner_id=self.means.name, page_size=5)
            while True:
                answer = await self.means.ask("ListExternalTasks", page)
                asked += answer.requests
                page.page_token = answer.next_page_token
                if not page.page_token:
                    break
            for name in sorted(self.works.keys() - {each.attempt for each in asked}):
                self._closed(name)
            for each in asked:
                self._hear(each)
            await self.means.sleep(LOOK_S)

    async def _watch(self) -> None:
        while True:
            named: set[str] = set()
            known = set(self.works)
            request = pb.WatchExternalTasksRequest(owner_id=self.means.name)
            watch = self.means.desk.watch("WatchExternalTasks", request, at=self.means.name)
            try:
                async for update in watch:
                    match update.WhichOneof("update"):
                        case "request":
                            named.add(update.request.attempt)
                            self._hear(update.request)
                        case "closed":
                            self._closed(update.closed)
                        case _:
                            for name in sorted(known - named):
                                self._closed(name)
                            known = set()
            except HostUnreachable:
                await asyncio.sleep(0.5)

    def _hear(self, request: Request) -> None:
        with self.world.asserting():
            self.accounts.asked(request)
        name = request.attempt
        work = self.works.get(name)
        if name in self.over:
            return
        if work is None:
            work = self.works[name] = _Work(request)
            does = self._compensate if request.kind == Request.KIND_COMPENSATE else self._act
            work.task = self.means.begin(self._work(work, does))
        if request.kind == Request.KIND_CANCEL:
            work.stopping.set()

    def _closed(self, name: str) -> None:
        """Forgets an attempt that nobody waits for any more."""
        work = self.works.get(name)
        if work is not None and not work.ending:
            self.over.add(name)
            assert work.task is not None, name
            work.task.cancel()

    async def _work(self, work: _Work, does: Callable[[_Work], Coroutine[Any, Any, None]]) -> None:
        try:
            await does(work)
        finally:
            self.over.add(work.name)
            self.works.pop(work.name, None)

    async def _beat(self) -> None:
        """Says of everything that it works on that it is alive, unless it is silent."""
        while True:
            await asyncio.sleep(BEAT_S * (0.5 + self.chance.random() / 2))
            now = _now()
            alive = [w for w in self.works.values() if w.accepted and w.silent_until_s <= now]
            if alive:
                self.means.begin(self._say_alive(alive))

    async def _say_alive(self, alive: list[_Work]) -> None:
        request = pb.HeartbeatExternalTasksRequest()
        for work in alive:
            token = work.request.capability_token
            request.heartbeats.add(attempt=work.name, capability_token=token)
        try:
            answer = await self.means.desk.once(
                "HeartbeatExternalTasks", request, at=self.means.name
            )
        except HostUnreachable:
            return
        for each in answer.answers:
            if each.state == Attempt.STATE_CANCELLING and each.attempt in self.works:
                self.works[each.attempt].stopping.set()
            elif each.state == Attempt.STATE_UNSPECIFIED:
                self._closed(each.attempt)

    # -- actions --------------------------------------------------------------------------------

    async def _act(self, work: _Work) -> None:
        """Does what is asked, or what an earlier life has begun of it."""
        if self.means.happens(0.1):
            await self.means.sleep(20.0)  # it answers late
        if not work.stopping.is_set() and not await self._accept(work):
            return
        if work.name not in self.array.said:
            ended = await self._do(work)
            if ended is None:
                return
            self.array.said[work.name] = ended
        await self._end(work)

    async def _accept(self, work: _Work) -> bool:
        """Takes an attempt on; returns whether there is something to do or to stop."""
        if self.means.happens(0.05):
            await self.mischief.be_somebody_else(work.name)
        self.accounts.wanted.add(work.name)
        request = pb.AcceptExternalTaskRequest(
            attempt=work.name, capability_token=work.request.capability_token
        )
        try:
            answer = await self.means.ask("AcceptExternalTask", request)
        except CountermandError as error:
            if error.reason == "STATE_FORBIDS":
                work.stopping.set()
            return error.reason == "STATE_FORBIDS"
        with self.world.asserting():
            self.accounts.accepted(answer.request)
        work.accepted = True
        if work.request.HasField("heartbeat_timeout") and self.means.happens(0.12):
            timeout_s = work.request.heartbeat_timeout.ToTimedelta().total_seconds()
            now = _now()
            work.silent_until_s = now + timeout_s * (1 + self.chance.random() * 3)
        return True

    async def _do(self, work: _Work) -> pb.EndExternalTaskRequest | None:
        """Does the work of an attempt; returns how it ends, None if nobody waits for it."""
        if self._is_ended_from_outside(work):
            await self.adding.parts(work.request)
            await self.means.until(
                lambda: work.stopping.is_set() or not self._is_ended_from_outside(work)
            )
        parts = await self.adding.parts(work.request)
        heeds = not self.means.happens(0.1)  # a stop may lose the race
        fails = self.means.happens(0.25)
        made_at, steps = self.chance.randrange(3), 3
        for step in range(steps):
            if work.stopping.is_set() and heeds:
                return await self._stopped(work)
            if work.kind == CLONE and step == made_at and not self.array.make(work.name):
                return None  # an administrator has seen to it
            await self.means.sleep(4.0)
            if self.means.happens(0.3):
                await self._report(work, step)
        if work.silent_until_s and self.chance.random() < 0.7:
            await self.means.until(lambda: self.world.calm or work.silent_until_s <= _now())
        failed = await self.adding.rest(parts, work.stopping)
        if work.stopping.is_set() and heeds:
            return await self._stopped(work)
        if fails or failed:
            self.array.remove(work.name)
            return _failed(retriable=self.chance.random() < 0.75)
        if work.kind == CLONE and not self.array.make(work.name):
            return None
        return _left(work.name, fault="a drill" if self.means.happens(0.1) else "")

    def _is_ended_from_outside(self, work: _Work) -> bool:
        """Returns whether an attempt stands for a workflow that is not ended by it."""
        jobs = (job for job in self.jobs if work.name.startswith(f"{workflow_name(job.id)}/"))
        waits = any(not job.by_main and job.id not in self.array.left for job in jobs)
        return work.kind == JOB and waits

    async def _stopped(self, work: _Work) -> pb.EndExternalTaskRequest:
        """Stops as it was asked, at once or much later."""
        if self.means.happens(0.2):
            work.silent_until_s = 1e9
            await self.means.sleep(60.0)
        self.array.remove(work.name)
        return pb.EndExternalTaskRequest(cancelled=True)

    async def _report(self, work: _Work, step: int) -> None:
        request = pb.ReportExternalTaskRequest(
            attempt=work.name, capability_token=work.request.capability_token
        )
        request.progress.done = self.chance.randint(step, step + 2)
        request.progress.total, request.progress.unit = 5, "steps"
        try:
            answer = await self.means.ask("ReportExternalTask", request)
        except CountermandError as error:
            if error.reason == "STATE_FORBIDS" and not work.accepted:
                return
            if error.reason not in _OVER:
                raise self.world.broken(f"{work.name}: a report is refused: {error!r}") from error
        else:
            self.accounts.reported(work.name, request.progress.done)
            if answer.attempt.state == Attempt.STATE_CANCELLING:
                work.stopping.set()

    async def _end(self, work: _Work) -> None:
        """Says how an attempt has ended, until that is known or nobody wants to."""
        work.ending = True
        request = pb.EndExternalTaskRequest()
        request.CopyFrom(self.array.said[work.name])
        request.attempt, request.capability_token = work.name, work.request.capability_token
        request.report_id = self.world.new_id()
        while True:
            try:
                await self.means.ask("EndExternalTask", request)
            except CountermandError as error:
                if error.reason != "STATE_FORBIDS":
                    return  # nobody waits for it: it is forgotten
                # Parts of it are not at rest.
                request.force = self.chance.random() < 0.3
                request.report_id = self.world.new_id()
                await self.means.sleep(LOOK_S)
            else:
                break
        with self.world.asserting():
            self.accounts.end(request)
        if self.means.happens(0.3):
            await self.mischief.say_more(request)

    # -- compensations --------------------------------------------------------------------------

    async def _compensate(self, work: _Work) -> None:
        """Makes up for an attempt, once it is not worked on here any more."""
        doing = self.works.get(work.request.compensates)
        if doing is not None and doing.task is not None:
            self.over.add(doing.name)
            doing.task.cancel()
            await asyncio.wait([doing.task])
        if self.means.happens(0.15):
            await self.means.sleep(60.0)  # nobody is there
        if not await self._accept(work):
            return
        await self.means.sleep(3.0)
        if self.means.happens(0.15):
            work.silent_until_s = 1e9
            await self.means.sleep(90.0)  # nobody goes on
        if work.name not in self.array.said:
            if self.means.happens(0.2):
                self.array.said[work.name] = _failed(retriable=self.chance.random() < 0.5)
            else:
                self.array.remove(work.request.compensates)
                empty = pb.EndExternalTaskRequest()
                empty.output.SetInParent()
                self.array.said[work.name] = empty
        await self._end(work)


def _now() -> float:
    return asyncio.get_running_loop().time()


def _left(attempt: str, *, fault: str) -> pb.EndExternalTaskRequest:
    """Returns that an attempt has taken effect, with all that any of them promises."""
    ended = pb.EndExternalTaskRequest()
    ended.output.update({"volume": attempt.replace("/", "."), "size": 4096, "fault": fault})
    return ended


def _failed(*, retriable: bool) -> pb.EndExternalTaskRequest:
    failure = Failure(reason="ARRAY_FULL", message="There is no room.", retriable=retriable)
    return pb.EndExternalTaskRequest(failure=failure)
