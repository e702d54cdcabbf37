"""The low-watermark of each host: no new intent below it will ever be sent there.

It is what makes forgetting safe. An agent that was told of it takes no unknown attempt below it for
a new one, so evidence may go once it is above every intent that the workflow ever had on that host;
whatever of it may still be under way is then refused, whether the agent ever had it or not.

- An intent is counted from the commit that brings it until its attempt has an outcome, or is no
  longer its task's last: then it is never sent again. What waits for a slot, is recalled or stands
  in a paused workflow is counted as well. What was made up for without ever having been heard of is
  not: its own late arrival must be refused, and is.
- A compensation, a rerun and a retry have intents of their own, higher than any before.
- What is decided and not committed has a higher intent than what is committed, and so has whatever
  the next life of the coordinator begins, which goes on from the store's own count.
- Other coordinators send as well: what is told to agents is below the floor of each of them.
- A late request has the intent that it was sent with, below the watermark; a repeated Forget with
  an older watermark lowers nothing.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable

from coordinator.runtime.floors import Floor
from coordinator.runtime.ports import Delivery
from coordinator.saga.commands import SendCancel
from coordinator.saga.spec import owner_of
from coordinator.saga.workflow import Workflow

COMPACT_AT = 10_000  # what is over is looked for once so much has gathered behind a lasting attempt

_Placed = tuple[int, str, int, int]  # (intent, workflow id, task, number)


class Watermarks:
    """The intents that may still be sent, by host; costs what changes, however many are open."""

    def __init__(self, committed: Callable[[str], Workflow | None]) -> None:
        """Asks for open workflows as they are committed."""
        self._committed = committed
        self._placed: dict[str, list[_Placed]] = {}  # heaps; what is over stays until it is lowest
        self._known: set[int] = set()  # their intents: no two attempts have the same
        self._compact_at: dict[str, int] = {}
        self.next_intent = 1  # higher than any committed, and not higher than any to come

    def go_on_from(self, next_intent: int) -> None:
        """Hears below what no intent will come any more, but for those that are placed."""
        self.next_intent = next_intent

    def placed(self, workflow: Workflow, commands: Iterable[Delivery]) -> None:
        """Hears what is asked of hosts, durably."""
        for command in commands:
            attempt = workflow.task(command.task).attempts[command.number - 1]
            self.next_intent = max(self.next_intent, attempt.intent + 1)
            if isinstance(command, SendCancel) or attempt.intent in self._known:
                continue  # it has its place since it was first asked for
            if owner_of(attempt.host):
                continue  # an owner keeps no evidence, and is never told to forget any
            self._known.add(attempt.intent)
            placed = self._placed.setdefault(attempt.host, [])
            heapq.heappush(placed, (attempt.intent, workflow.id, command.task, command.number))
            if len(placed) > self._compact_at.get(attempt.host, COMPACT_AT):
                self._compact(attempt.host)

    def of(self, host_id: str) -> int:
        """Returns the intent below which nothing new will be sent to a host."""
        placed = self._placed.get(host_id, [])
        while placed and self._is_over(placed[0]):
            self._known.discard(heapq.heappop(placed)[0])
        return placed[0][0] if placed else self.next_intent

    def lowest(self) -> int:
        """Returns the intent below which no attempt of any host is open, hence none is fenced."""
        return min(map(self.of, tuple(self._placed)), default=self.next_intent)

    def floor(self) -> Floor:
        """Returns all of it together, for other coordinators."""
        hosts = {host: self.of(host) for host in tuple(self._placed)}
        lower = {host: intent for host, intent in hosts.items() if intent < self.next_intent}
        return Floor(next_intent=self.next_intent, hosts=lower, fences=self.lowest())

    def _is_over(self, placed: _Placed) -> bool:
        intent, workflow_id, task, _ = placed
        workflow = self._committed(workflow_id)
        if workflow is None:
            return True
        last = workflow.task(task).attempts[-1:]
        # By its intent: a later attempt may have the task.
        return not (last and last[0].intent == intent and last[0].open)

    def _compact(self, host_id: str) -> None:
        lasting = [each for each in self._placed[host_id] if not self._is_over(each)]
        self._known -= {each[0] for each in self._placed[host_id]} - {each[0] for each in lasting}
        heapq.heapify(lasting)
        self._placed[host_id] = lasting
        self._compact_at[host_id] = max(COMPACT_AT, 2 * len(lasting))
