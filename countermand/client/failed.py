"""The one exception that a workflow's failure becomes, with everything an engine's log needs."""

from __future__ import annotations

from collections.abc import Sequence

from countermand.drawing.made_up import how_made_up, is_by_hand
from countermand.rpc import names
from countermand.v1.event_pb2 import Leftover
from countermand.v1.failure_pb2 import Failure
from countermand.v1.task_pb2 import Task
from countermand.v1.workflow_pb2 import Workflow
from countermand.v1.workflow_state_pb2 import WorkflowState

# Beyond this a message is a table: `countermand workflow get` draws it.
NAMED_MAX = 8


class WorkflowFailed(Exception):
    """A workflow settled as COMPENSATED or FAILED."""

    def __init__(
        self,
        workflow: Workflow,
        *,
        compensated: Sequence[Task],
        leftovers: Sequence[Leftover],
        failed: Sequence[Task] = (),
    ) -> None:
        """Keeps the workflow, why it failed, what was made up for and what is left.

        Args:
            workflow: As it was settled.
            compensated: What was made up for, in the order in which it was.
            leftovers: What is left.
            failed: Every task that failed, the one that is the cause among them or not.
        """
        self.workflow = workflow
        self.failed = tuple(failed)
        self.cause: Failure = workflow.cause
        self.compensated = tuple(compensated)
        self.leftovers = tuple(leftovers)
        super().__init__(self._message())

    def _message(self) -> str:
        """Returns what failed and why, what was made up for, and what is left."""
        said = (self._what_failed(), self._others(), self._made_up_for(), self._left_behind())
        return " ".join(filter(None, said))

    def _others(self) -> str:
        """Returns what failed beside the cause."""
        attempt = names.parse_attempt(self.cause.attempt)
        others = [task for task in self.failed if not attempt or task.name != attempt.task]
        if not (attempt and others):
            return ""  # of what was cancelled, nothing that failed is why
        told = _listing([f"{_id(task)}{_on(task)} ({task.failure.reason})" for task in others])
        return f"Failed, too: {told}."

    def _what_failed(self) -> str:
        message = self.cause.message
        if self.cause.reason == "CANCELLED" and not self.cause.attempt and message:
            # "Cancelled by ann: wrong template." says it all.
            return _sentence(f"{self.workflow.name} was {message[:1].lower()}{message[1:]}")
        attempt = names.parse_attempt(self.cause.attempt)
        ordered = self.cause.reason == "CANCELLED" and not attempt
        verb = "was cancelled" if ordered else "failed"
        where = f" in task {attempt.task_id}" if attempt else ""
        if self.cause.host_id:
            where += f" on {self.cause.host_id}"
        reason = self.cause.reason or "no reason was recorded"
        said = f": {message}" if message else ""
        return _sentence(f"{self.workflow.name} {verb}{where} ({reason}){said}")

    def _made_up_for(self) -> str:
        if not self.compensated:
            return "Nothing had to be made up for." if self._clean() else "Nothing was made up for."
        return f"Made up for: {_listing([_made_up(task) for task in self.compensated])}."

    def _left_behind(self) -> str:
        if self.leftovers:
            left = [
                f"{leftover.description} on {leftover.host_id}"
                if leftover.host_id
                else leftover.description  # an owner's: it names the owner
                for leftover in self.leftovers
            ]
            return f"Left behind: {_listing(left)}."
        if not self._clean():
            return "What was done is kept."
        # What somebody did by hand nobody has looked at.
        by_hand = any(map(is_by_hand, self.compensated))
        return f"Nothing is {'known to be ' if by_hand else ''}left behind."

    def _clean(self) -> bool:
        return self.workflow.state == WorkflowState.WORKFLOW_STATE_COMPENSATED


def _made_up(task: Task) -> str:
    how = f" ({words})" if (words := how_made_up(task)) else ""
    return f"{_id(task)}{_on(task)}{how}"


def _id(task: Task) -> str:
    parsed = names.parse_task(task.name)
    return parsed[1] if parsed else task.name


def _on(task: Task) -> str:
    return f" on {task.host_id}" if task.host_id else ""


def _listing(words: Sequence[str]) -> str:
    more = len(words) - NAMED_MAX
    return ", ".join(words[:NAMED_MAX]) + (f" and {more} more" if more > 0 else "")


def _sentence(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else f"{text}."
