"""Looks on while it happens: the history as it is told to everybody, and the agents' epochs."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from dataclasses import dataclass, field

from countermand.client import Client
from countermand.rpc.errors import CountermandError
from countermand.v1.event_pb2 import HistoryEvent
from countermand.v1.task_pb2 import Task
from countermand.v1.workflow_state_pb2 import WorkflowState
from tests.endtoend.checks import SETTLED, read
from tests.endtoend.cluster import Cluster

LOOK_S = 5.0


@dataclass(slots=True)
class Told:
    """What was told of one workflow."""

    sequence: int = 0
    epoch: int = 0
    decided: list[tuple[float, int]] = field(default_factory=list)  # when it came to which epoch
    state: str = ""


@dataclass(slots=True)
class Watch:
    """What was seen so far."""

    cluster: Cluster
    complain: list[str]
    told: dict[str, Told] = field(default_factory=dict)
    settled: list[float] = field(default_factory=list)  # when, by this process
    epochs: dict[tuple[str, str], int] = field(default_factory=dict)  # by host and workflow

    async def follow(self) -> None:
        """Follows the history until cancelled: no event is missing, none comes twice."""
        position = 0
        async with Client(self.cluster.coordinator_addresses) as client:
            while True:
                try:
                    async for event in client.events(position):
                        position = event.position
                        self._note(event)
                except CountermandError as error:
                    self.complain.append(f"a watch of everything ended: {error!r}")
                await asyncio.sleep(1)

    def _note(self, event: HistoryEvent) -> None:
        workflow_id = event.workflow.removeprefix("workflows/")
        told = self.told.setdefault(workflow_id, Told())
        if event.sequence != told.sequence + 1:
            self.complain.append(f"{workflow_id}: {event.sequence} was told after {told.sequence}")
        told.sequence = event.sequence
        if event.HasField("owner_changed"):
            self._came_to(workflow_id, event.owner_changed.owner_epoch, above=True, event=event)
        elif event.HasField("attempt_started"):
            self._came_to(workflow_id, event.attempt_started.owner_epoch, above=False, event=event)
        elif event.HasField("task_state_changed"):
            is_lost = event.task_state_changed.after == Task.STATE_FAILED
            if is_lost and "/tasks/wants-" in event.task:
                self.complain.append(f"{event.task} failed: somebody else had its image")
        elif event.HasField("workflow_state_changed"):
            state = WorkflowState.Name(event.workflow_state_changed.after)
            told.state = state.removeprefix("WORKFLOW_STATE_")
            if told.state in SETTLED:
                self.settled.append(time.time())

    def _came_to(self, workflow_id: str, epoch: int, *, above: bool, event: HistoryEvent) -> None:
        told = self.told[workflow_id]
        if epoch < told.epoch or (above and epoch == told.epoch):
            self.complain.append(f"{workflow_id}: epoch {epoch} followed {told.epoch}")
        if above:
            told.decided.append((event.time.ToNanoseconds() / 1e9, epoch))
        told.epoch = epoch

    async def look_at_agents(self) -> None:
        """Looks until cancelled: no agent ever accepts an epoch below one that it has seen."""
        while True:
            for host in self.cluster.agents:
                for workflow, epoch in await asyncio.to_thread(self._epochs, host):
                    before = self.epochs.get((host, workflow), 0)
                    if epoch < before:
                        self.complain.append(f"{host}, {workflow}: epoch {before} became {epoch}")
                    self.epochs[host, workflow] = epoch
            await asyncio.sleep(LOOK_S)

    def _epochs(self, host: str) -> list[tuple[str, int]]:
        path = self.cluster.agents[host].data / "journal.sqlite"
        try:
            rows = read(path, "SELECT workflow, highest FROM epochs")
        except sqlite3.OperationalError:  # busy for a moment
            return []
        return [(row["workflow"], row["highest"]) for row in rows]
