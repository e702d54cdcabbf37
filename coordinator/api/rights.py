"""Whose an external task is, and who may report on its attempts.

A caller shows the task's capability token, whatever it asks. What it names is looked up here, and
only here: what is foreign, or does not exist, is refused before anything else is looked at.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from functools import lru_cache
from hmac import compare_digest

from coordinator.api.shown import Showing
from coordinator.api.tokens import Tokens
from coordinator.runtime.owners import Waiting
from coordinator.saga.workflow import Attempt, Workflow
from coordinator.wire.external import owner_called
from countermand.rpc.errors import AttemptClosed, FieldInvalid, NoSuchAttempt, NotOwner, Violation
from countermand.rpc.names import AttemptName, parse_attempt

log = logging.getLogger(__name__)

EXPECTED_MAX = 20_000  # tokens of attempts that are heard again and again; about 300 bytes each


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """An attempt that a caller has named and may report on."""

    name: AttemptName
    workflow: Workflow
    index: int
    attempt: Attempt

    def now(self, workflow: Workflow) -> Named:
        """Returns the same attempt as it is now."""
        attempt = workflow.task(self.index).attempts[self.name.number - 1]
        return replace(self, workflow=workflow, attempt=attempt)

    def closed(self, why: str = "") -> AttemptClosed:
        """Returns what a report is answered that comes too late, and logs it."""
        task = self.workflow.task(self.index)
        why = why or f"it is {self.attempt.state}, and its task {task.state}"
        if self.attempt.number < len(task.attempts):
            why += f"; attempt {len(task.attempts)} has followed"
        log.warning("report.refused", extra={"attempt": str(self.name), "why": why})
        return AttemptClosed(attempt=str(self.name), why=why)


class Rights:
    """Knows tasks by their names, and their owners by the tokens that they show."""

    def __init__(self, *, tokens: Tokens, showing: Showing) -> None:
        """Keeps what it asks."""
        self._tokens = tokens
        self._showing = showing
        # Half of what a heartbeat among many costs, were it worked out each time.
        self._expected = lru_cache(EXPECTED_MAX)(self._expect)

    def token(self, owner: str, task: str) -> str:
        """Returns what proves the right to report on a task."""
        return self._tokens.of(owner, task)

    def check(self, token: str, owner: str, task: str) -> None:
        """Raises NotOwner unless a token is the task's."""
        if not self._tokens.is_of(token, owner, task):
            why = "its capability token is another" if token else "it needs its capability token"
            log.warning("report.refused", extra={"task": task, "why": why})
            raise NotOwner(name=task, why=why)

    def may_report(self, token: str, waiting: Waiting) -> bool:
        """Returns whether a token is that of an attempt that waits for its owner."""
        return compare_digest(token.encode(), self._expected(waiting.owner, waiting.name))

    def _expect(self, owner: str, attempt: str) -> bytes:
        return self.token(owner, task_of(attempt)).encode()

    async def named(self, name: str, token: str) -> Named:
        """Returns an attempt that the caller may report on; raises what tells why not."""
        parsed = parse_attempt(name)
        if parsed is None:
            why = "must be workflows/{workflow}/tasks/{task}/attempts/{attempt}"
            raise FieldInvalid(Violation("attempt", why))
        workflow = await self._showing.find(parsed.workflow_id)
        index = self._showing.index_of(workflow, parsed.task_id)
        spec = workflow.plan.nodes[index].task
        owner = owner_called(spec) if spec else ""
        if not owner:
            raise NotOwner(name=parsed.task, why="it is no external task")
        self.check(token, owner, parsed.task)
        attempts = workflow.task(index).attempts
        if parsed.number > len(attempts):
            raise NoSuchAttempt(name=name, count=len(attempts))
        return Named(
            name=parsed, workflow=workflow, index=index, attempt=attempts[parsed.number - 1]
        )

    async def newest(self, named: Named) -> Named:
        """Returns an attempt as it is now, also of a workflow that has settled meanwhile."""
        return named.now(await self._showing.newest(named.name.workflow_id))


def task_of(attempt: str) -> str:
    """Returns the name of the task in that of its attempt."""
    return attempt.rpartition("/attempts/")[0]
