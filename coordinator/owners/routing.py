"""An order's way: to the line of a host, or to the owner that stands in the place of one."""

from __future__ import annotations

from dataclasses import dataclass

from coordinator.runtime.ports import Agents, Order
from coordinator.saga.commands import ChooseHost
from coordinator.saga.spec import owner_of
from coordinator.saga.workflow import Workflow


@dataclass(frozen=True, slots=True, kw_only=True)
class Routing:
    """Delivers committed intents to whoever they are for."""

    hosts: Agents
    owners: Agents

    def deliver(self, order: Order) -> None:
        """Takes an order; returns at once."""
        command = order.command
        is_owner = not isinstance(command, ChooseHost) and owner_of(command.host)
        (self.owners if is_owner else self.hosts).deliver(order)

    def moved(self, workflow: Workflow, changed: frozenset[int]) -> None:
        """Hears which nodes of a workflow have changed, durably."""
        self.hosts.moved(workflow, changed)
        self.owners.moved(workflow, changed)
