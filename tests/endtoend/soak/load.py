"""Engines that hand in workflows and wait for them, each through whichever coordinator answers.

They know of no trouble: their client is as patient as an engine's. What each workflow should come
to, and which images it should leave, is written down when it is handed in.
"""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta

from countermand.client import Client
from countermand.client.spec import parallel, sequence, task, workflow_spec
from countermand.rpc.errors import CountermandError, StateForbids
from countermand.v1.verb_pb2 import Noop
from countermand.v1.workflow_spec_pb2 import Node, WorkflowSpec
from countermand.v1.workflow_state_pb2 import WorkflowState
from tests.endtoend.cluster import TEMPLATES, Cluster, copy

BASE = f"{TEMPLATES}/base"
SHARED = 6  # images that many workflows want
THINKS_S = 1.0  # an engine, between two workflows, on average
SETTLES_S_MAX = 120.0  # longer than any trouble: who waits that long waits for ever
SUBMITS_S_MAX = 90.0
CANCELLED_SHARE = 0.08

SUCCEEDED, COMPENSATED = "SUCCEEDED", "COMPENSATED"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A workflow to hand in, and what is to become of it."""

    kind: str
    spec: WorkflowSpec
    ends: frozenset[str]
    images: frozenset[str] = frozenset()  # that it leaves if it succeeds


@dataclass(slots=True)
class Load:
    """Engines at work, and what became of what they wanted."""

    cluster: Cluster
    chance: random.Random
    complain: list[str]
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    handed_in: dict[str, Plan] = field(default_factory=dict)  # and perhaps not accepted
    accepted: set[str] = field(default_factory=set)
    ended: dict[str, str] = field(default_factory=dict)  # the state that an engine was told
    latencies_s: list[float] = field(default_factory=list)
    refused: int = 0

    async def run(self, engines: int) -> None:
        """Goes on until told to stop, and each engine has seen the end of its workflow."""
        async with Client(self.cluster.coordinator_addresses) as client:
            await asyncio.gather(*(self._engine(client, number) for number in range(engines)))

    async def _engine(self, client: Client, number: int) -> None:
        count = 0
        while not self.stop.is_set():
            count += 1
            await self._one(client, f"w-{number}-{count}")
            await asyncio.sleep(self.chance.uniform(0, 2 * THINKS_S))

    async def _one(self, client: Client, workflow_id: str) -> None:
        plan = self._draw(workflow_id)
        cancels = self.chance.random() < CANCELLED_SHARE
        if cancels:
            ends = plan.ends | {COMPENSATED}
            plan = Plan(kind=plan.kind, spec=plan.spec, ends=ends, images=plan.images)
        self.handed_in[workflow_id] = plan
        began = time.monotonic()
        try:
            patience = timedelta(seconds=SUBMITS_S_MAX)
            run = await client.submit(plan.spec, workflow_id=workflow_id, patience=patience)
        except CountermandError as error:
            self.refused += 1
            self.complain.append(f"{workflow_id} was not accepted: {error!r}")
            return
        self.accepted.add(workflow_id)
        try:
            if cancels:
                await asyncio.sleep(self.chance.uniform(0, 0.5))
                await self._cancel(client, workflow_id)
            ended = await run.wait(timedelta(seconds=SETTLES_S_MAX))
        except (CountermandError, TimeoutError) as error:
            self.complain.append(f"{workflow_id} ({plan.kind}): nobody heard of its end: {error!r}")
            return
        state = WorkflowState.Name(ended.state).removeprefix("WORKFLOW_STATE_")
        self.ended[workflow_id] = state
        self.latencies_s.append(time.monotonic() - began)
        if state not in plan.ends:
            self.complain.append(f"{workflow_id} ({plan.kind}) ended as {state}: {ended}")

    @staticmethod
    async def _cancel(client: Client, workflow_id: str) -> None:
        with suppress(StateForbids):  # it has settled
            await client.run(workflow_id).cancel("changed my mind")

    # -- plans ----------------------------------------------------------------------------------

    def _draw(self, workflow_id: str) -> Plan:
        kinds = (self._noops, self._copies, self._slow, self._failing, self._contended)
        [make] = self.chance.choices(kinds, weights=(4, 3, 4, 2, 3))
        return make(workflow_id)

    def _noops(self, workflow_id: str) -> Plan:
        del workflow_id
        nodes = [self._noop(f"noop-{number}") for number in range(3)]
        return _plan("noops", sequence("all", *nodes), SUCCEEDED)

    def _copies(self, workflow_id: str) -> Plan:
        targets = {
            host: f"pool-{host}/{workflow_id}-{host}"
            for host in self.chance.sample(sorted(self.cluster.hosts), 2)
        }
        copies = [copy(f"copy-{host}", host, BASE, target) for host, target in targets.items()]
        root = sequence("all", parallel("copies", *copies), self._noop("then"))
        return _plan("copies", root, SUCCEEDED, *targets.values())

    def _slow(self, workflow_id: str) -> Plan:
        """Returns one that is likely to be at work when its coordinator is killed."""
        host = self.chance.choice(sorted(self.cluster.hosts))
        targets = [f"slow-{host}/{workflow_id}-{number}" for number in range(2)]
        copies = [
            copy(f"copy-{number}", host, BASE, target) for number, target in enumerate(targets)
        ]
        return _plan("slow", sequence("all", *copies), SUCCEEDED, *targets)

    def _failing(self, workflow_id: str) -> Plan:
        host = self.chance.choice(sorted(self.cluster.hosts))
        first = copy("first", host, BASE, f"pool-{host}/{workflow_id}")
        both = parallel("both", self._noop("beside"), self._noop("fails", "on purpose"))
        return _plan("failing", sequence("all", first, both), COMPENSATED)

    def _contended(self, workflow_id: str) -> Plan:
        """Returns one that makes images which others make as well, and takes them back."""
        del workflow_id
        hosts = sorted(self.cluster.hosts)
        wanted = self.chance.sample(range(SHARED), 2)
        copies = [
            copy(f"wants-{number}", host, BASE, f"pool-{host}/shared-{number}")
            for number in wanted
            for host in [hosts[number % len(hosts)]]
        ]
        root = sequence("all", parallel("copies", *copies), self._noop("fails", "on purpose"))
        return _plan("contended", root, COMPENSATED)

    def _noop(self, name: str, failure: str = "") -> Node:
        host = self.chance.choice(sorted(self.cluster.hosts))
        return task(name, host=host, action=Noop(failure_message=failure))


def _plan(kind: str, root: Node, end: str, *images: str) -> Plan:
    spec = workflow_spec(kind, root)
    return Plan(kind=kind, spec=spec, ends=frozenset({end}), images=frozenset(images))
