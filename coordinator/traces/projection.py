"""One workflow as a trace: each event of its history closes some spans, and opens others.

    workflow                       until it has settled; what is under it is sent before it
    ├─ accepted                    at once; carries the link to the engine's span
    ├─ task                        from when its turn came until it was at rest
    │  ├─ attempt                  CLIENT; the span of the agent's work is its child
    │  └─ part                     a task that an owner added under its own
    ├─ paused, blocked             for as long as that lasts
    ├─ compensation
    │  └─ compensate task          linked to the task
    │     └─ attempt               CLIENT; linked to the attempt that it makes up for
    └─ rerun, taken over, …        a mark: what somebody did, or what happened at that moment

Nothing but the events is looked at, so any process at any time makes the same spans, to the byte;
a viewer that is sent one twice keeps one. What Jaeger asks for besides, it gets: one root, without
a link; once the workflow has settled, a parent for everything else; links that go back in time.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from datetime import UTC
from typing import ClassVar, Final

from opentelemetry.proto.trace.v1.trace_pb2 import Span

from coordinator.traces.ids import span_id_of, trace_id_of
from coordinator.traces.writing import NO_FAILURE, fail, nanoseconds, note, tell
from countermand.drawing.tasks import SETTLED
from countermand.rpc.telemetry import parse_traceparent
from countermand.v1.attempt_pb2 import Attempt
from countermand.v1.event_pb2 import GroupStateChanged, HistoryEvent
from countermand.v1.failure_pb2 import Failure
from countermand.v1.task_pb2 import Task
from countermand.v1.workflow_state_pb2 import WorkflowState

LENGTH_NS_MIN: Final = 1000  # of a span without any, Jaeger warns; it draws whole microseconds
_SAMPLED = 1  # a flag of W3C
_ITEM = re.compile(r"(?<=.)\.\d+(?=\.|$)")  # of a fan-out, in the id of a task

# What holds a workflow up, and what that is called.
_HELD = {
    WorkflowState.WORKFLOW_STATE_PAUSING: "paused",
    WorkflowState.WORKFLOW_STATE_PAUSED: "paused",
    WorkflowState.WORKFLOW_STATE_BLOCKED: "blocked",
    WorkflowState.WORKFLOW_STATE_QUARANTINED: "quarantined",
}
_AT_REST = frozenset(
    {
        Task.STATE_SUCCEEDED,
        Task.STATE_FAILED,
        Task.STATE_CANCELLED,
        Task.STATE_SKIPPED,
        Task.STATE_COMPENSATED,
        Task.STATE_ABANDONED,
    }
)
_COMPENSATING = frozenset({Task.STATE_COMPENSATING, Task.STATE_COMPENSATION_BLOCKED})
_OUTCOMES = frozenset({Attempt.STATE_SUCCEEDED, Attempt.STATE_FAILED, Attempt.STATE_CANCELLED})
# Groups of which something goes on by itself, and what that is called.
_OF_GROUPS = {
    GroupStateChanged.STATE_COMPENSATING: "compensate",
    GroupStateChanged.STATE_RECOVERING: "recover",
}


class Projection:
    """The trace of one workflow, as far as its events have been taken."""

    def __init__(self) -> None:
        """Begins before the first event."""
        self.sequence = 0  # of the last event that was taken
        self._workflow = ""  # its name, which is also what the root is about
        self._trace_id = b""
        self._sampled = True
        self._open: dict[str, Span] = {}  # by what they are about, the oldest first
        self._closed: list[Span] = []  # by the event that is being taken
        self._last: dict[str, bytes] = {}  # the id of the last span about something
        self._begun: Counter[str] = Counter()  # how many there were
        self._wholes: dict[str, str] = {}  # parts, and what they are parts of
        self._below: dict[bytes, dict[str, None]] = {}  # by each open span, what is open below it
        self._reach: dict[bytes, int] = {}  # when what has closed below it ended

    @property
    def size(self) -> int:
        """Returns how many things it remembers, of about 200 bytes each."""
        return len(self._last)

    @property
    def settled(self) -> bool:
        """Returns whether nothing but marks can follow."""
        return bool(self.sequence) and self._workflow not in self._open

    def take(self, event: HistoryEvent) -> list[Span]:
        """Returns the spans that an event closes; events come in order, without a gap."""
        assert event.sequence == self.sequence + 1, (event.workflow, event.sequence, self.sequence)
        self.sequence = event.sequence
        kind = event.WhichOneof("event")
        # Of a trace that nobody wants only the root is kept: it says when the workflow settles.
        taken = self._TAKEN if self._sampled else self._OF_THE_ROOT
        if kind in taken:  # else of a newer version: what it closes is closed at the end
            taken[kind](self, event)
        closed, self._closed = self._closed, []
        return closed if self._sampled else []

    # -- the workflow -----------------------------------------------------------------------------

    def _started(self, event: HistoryEvent) -> None:
        self._workflow = event.workflow
        said = event.workflow_started
        self._sampled = not said.unsampled
        workflow_id = event.workflow.partition("/")[2]
        self._trace_id = trace_id_of(workflow_id, event.time.ToDatetime(tzinfo=UTC))
        root = self._begin(event, self._workflow, f"workflow {said.kind}".rstrip(), parent="")
        tell(root, kind=said.kind, principal=said.principal)
        accepted = self._mark(event, "accepted", kind=said.kind, principal=said.principal)
        engine = parse_traceparent(said.traceparent)
        if engine is not None:
            accepted.links.add(
                trace_id=bytes.fromhex(engine.trace_id), span_id=bytes.fromhex(engine.span_id)
            )

    def _workflow_moved(self, event: HistoryEvent) -> None:
        said = event.workflow_state_changed
        state = _word(WorkflowState.Name(said.after))
        held, compensation = f"{self._workflow}#held", _compensation(self._workflow)
        name = _HELD.get(said.after)
        if held in self._open and name != self._open[held].name:
            self._end(event, held)
        if name and held not in self._open:
            self._begin(event, held, name)
        if said.after == WorkflowState.WORKFLOW_STATE_COMPENSATING:
            if compensation not in self._open:
                self._begin(event, compensation, "compensation")
            if said.HasField("cause"):
                note(self._open[compensation], event, "cause", said.cause)
        if said.HasField("cause"):
            fail(self._open[self._workflow], said.cause)
        if said.after in SETTLED:
            for about in [*reversed(self._open)]:  # the root is the oldest
                self._end(event, about, workflow_state=state)

    # -- tasks ------------------------------------------------------------------------------------

    def _task_moved(self, event: HistoryEvent) -> None:
        said, task = event.task_state_changed, event.task
        state = _word(Task.State.Name(said.after))
        if said.after in _COMPENSATING:
            self._end(event, task, state=state)
            note(self._backward(event), event, state, said.failure)
            return
        self._end(event, _compensation(task), said.failure, state=state)
        if said.after in _AT_REST:
            begun = task in self._open
            if said.after == Task.STATE_SKIPPED and not begun:
                self._mark(event, f"skipped {_label(task)}", task=_short(task))
            self._end(event, task, said.failure, state=state)
        elif said.after != Task.STATE_PENDING:
            note(self._forward(event), event, state, said.failure)

    def _forward(self, event: HistoryEvent) -> Span:
        """Returns the span of a task that goes forward; opens it if its turn has just come."""
        if event.task in self._open:
            return self._open[event.task]
        whole = self._wholes.get(event.task)
        parent = whole if whole in self._open else self._workflow  # it may have ended first
        span = self._begin(event, event.task, _label(event.task), parent=parent)
        tell(span, task=_short(event.task))
        return span

    def _backward(self, event: HistoryEvent) -> Span:
        """Returns the span of a task that is made up for; opens it if its turn has just come."""
        about = _compensation(event.task)
        if about in self._open:
            return self._open[about]
        all_of_it = _compensation(self._workflow)
        parent = all_of_it if all_of_it in self._open else self._workflow
        span = self._begin(event, about, f"compensate {_label(event.task)}", parent=parent)
        tell(span, task=_short(event.task), compensates=_short(event.task))
        self._link(span, event.task)
        return span

    def _task_added(self, event: HistoryEvent) -> None:
        said = event.task_added
        if said.parent in self._last:  # a task at work; a group has no span
            self._wholes[event.task] = said.parent

    # -- attempts ---------------------------------------------------------------------------------

    def _attempt_started(self, event: HistoryEvent) -> None:
        said = event.attempt_started
        attempt = _attempt(event.task, said.attempt)
        compensates = said.kind == Attempt.KIND_COMPENSATION
        (self._backward if compensates else self._forward)(event)
        name = f"{'compensate ' if compensates else ''}{_label(event.task)} attempt {said.attempt}"
        parent = _compensation(event.task) if compensates else event.task
        span = self._begin(event, attempt, name, parent=parent, kind=Span.SPAN_KIND_CLIENT)
        tell(span, task=_short(event.task), attempt=attempt, host=said.host_id, owner=said.owner_id)
        if said.compensates:
            tell(span, compensates=_attempt(event.task, said.compensates))
            self._link(span, _attempt(event.task, said.compensates))

    def _attempt_ended(self, event: HistoryEvent) -> None:
        said = event.attempt_ended
        attempt = _attempt(event.task, said.attempt)
        state = _word(Attempt.State.Name(said.state))
        if said.state not in _OUTCOMES:
            self._note(attempt, event, state, said.failure)
            return
        if span := self._open.get(attempt):
            tell(span, done=said.progress.done, unit=said.progress.unit)
        self._end(event, attempt, said.failure, state=state)

    def _attempt_accepted(self, event: HistoryEvent) -> None:
        self._note(_attempt(event.task, event.attempt_accepted.attempt), event, "accepted")

    def _fence_moved(self, event: HistoryEvent) -> None:
        said = event.fence_changed
        name = f"fenced by {said.host_id}" if said.host_id else "fence refused"
        self._note(_attempt(event.task, said.attempt), event, name, said.failure)

    def _reported_late(self, event: HistoryEvent) -> None:
        said = event.late_report
        attempt = _attempt(event.task, said.attempt)
        state = _word(Attempt.State.Name(said.state))
        self._mark(event, "late report", task=_short(event.task), attempt=attempt, state=state)

    def _retry_scheduled(self, event: HistoryEvent) -> None:
        said = event.retry_scheduled
        about = _compensation(event.task)
        about = about if about in self._open else event.task
        self._note(about, event, f"retry in {said.delay.ToJsonString()}", said.failure)

    # -- what happens beside ----------------------------------------------------------------------

    def _group_moved(self, event: HistoryEvent) -> None:
        said = event.group_state_changed
        about = event.task or f"{self._workflow}#group"
        self._end(event, about, state=_word(GroupStateChanged.State.Name(said.after)))
        if name := _OF_GROUPS.get(said.after):
            span = self._begin(event, about, f"{name} {_label(event.task) or 'all'}")
            tell(span, group=_short(event.task), round=said.round)
            fail(span, said.failure)

    def _intervened(self, event: HistoryEvent) -> None:
        said = event.intervention
        name = f"{said.verb} {_label(event.task)}".rstrip()
        self._mark(
            event, name, task=_short(event.task), principal=said.principal, reason=said.reason
        )

    def _owner_moved(self, event: HistoryEvent) -> None:
        self._mark(event, "taken over", owner_epoch=event.owner_changed.owner_epoch)

    def _locks_taken(self, event: HistoryEvent) -> None:
        self._mark(event, "images locked")

    def _left_behind(self, event: HistoryEvent) -> None:
        left = event.leftover_recorded.leftover
        name = f"left behind by {_label(event.task)}"
        span = self._mark(event, name, task=_short(event.task), host=left.host_id)
        fail(span, Failure(reason="LEFT_BEHIND", message=f"{left.description}: {left.reason}"))

    _TAKEN: ClassVar[dict[str, Callable[[Projection, HistoryEvent], None]]] = {
        "workflow_started": _started,
        "workflow_state_changed": _workflow_moved,
        "task_state_changed": _task_moved,
        "task_added": _task_added,
        "attempt_started": _attempt_started,
        "attempt_accepted": _attempt_accepted,
        "attempt_ended": _attempt_ended,
        "fence_changed": _fence_moved,
        "late_report": _reported_late,
        "retry_scheduled": _retry_scheduled,
        "group_state_changed": _group_moved,
        "intervention": _intervened,
        "owner_changed": _owner_moved,
        "locks_taken": _locks_taken,
        "leftover_recorded": _left_behind,
    }
    _OF_THE_ROOT: ClassVar[dict[str, Callable[[Projection, HistoryEvent], None]]] = {
        "workflow_started": _started,
        "workflow_state_changed": _workflow_moved,
    }

    # -- spans ------------------------------------------------------------------------------------

    def _begin(
        self,
        event: HistoryEvent,
        about: str,
        name: str,
        *,
        parent: str | None = None,
        kind: Span.SpanKind.ValueType = Span.SPAN_KIND_INTERNAL,
    ) -> Span:
        """Opens a span about something, below the last one about its parent, or the root."""
        self._begun[about] += 1
        number = self._begun[about]
        above = self._workflow if parent is None else parent
        span = Span(
            trace_id=self._trace_id,
            span_id=span_id_of(about if number == 1 else f"{about}#{number}"),
            parent_span_id=self._last[above] if above else b"",
            name=name,
            kind=kind,
            start_time_unix_nano=nanoseconds(event.time),
            flags=_SAMPLED,
        )
        tell(span, workflow=self._workflow)
        self._open[about] = span
        self._below[span.span_id] = {}
        if span.parent_span_id in self._below:
            self._below[span.parent_span_id][about] = None
        self._last[about] = span.span_id
        return span

    def _end(
        self, event: HistoryEvent, about: str, failure: Failure = NO_FAILURE, **told: str
    ) -> None:
        """Closes the span about something, if there is one, and what is still open below it."""
        span = self._open.get(about)
        if span is None:
            return
        for each in reversed([*self._below[span.span_id]]):
            self._end(event, each)
        del self._open[about], self._below[span.span_id]
        # At the same moment as what is below it, it ends no earlier: that has a length as well.
        ends = max(
            nanoseconds(event.time),
            span.start_time_unix_nano + LENGTH_NS_MIN,
            self._reach.pop(span.span_id, 0),
        )
        span.end_time_unix_nano = ends
        above = span.parent_span_id
        if above in self._below:
            self._below[above].pop(about)
            self._reach[above] = max(ends, self._reach.get(above, 0))
        tell(span, **told)
        fail(span, failure)
        self._closed.append(span)

    def _mark(self, event: HistoryEvent, name: str, **told: str | int) -> Span:
        """Adds a span of next to no length: it is sent while the workflow goes on."""
        about = f"{self._workflow}#{event.sequence}"
        span = self._begin(event, about, name)
        tell(span, **told)
        self._end(event, about)
        del self._last[about], self._begun[about]  # nothing is ever below it, or linked to it
        return span

    def _note(
        self, about: str, event: HistoryEvent, name: str, failure: Failure = NO_FAILURE
    ) -> None:
        """Notes something on the span about what it is about, if that is still open."""
        if about in self._open:
            note(self._open[about], event, name, failure)

    def _link(self, span: Span, about: str) -> None:
        if about in self._last:
            span.links.add(trace_id=self._trace_id, span_id=self._last[about])


# -- names -----------------------------------------------------------------------------------------


def _compensation(of: str) -> str:
    """Returns what the span is about in which a task, or all of a workflow, is made up for."""
    return f"{of}#compensation"


def _attempt(task: str, number: int) -> str:
    return f"{task}/attempts/{number}"


def _short(task: str) -> str:
    """Returns a task's id out of its name."""
    return task.rpartition("/")[2]


def _label(task: str) -> str:
    """Returns what spans of a task are called: "disk.17" is one of many "disk".

    Viewers keep a list of all names: with a number in each it would be as long as a fan-out. The
    whole id is an attribute.
    """
    return _ITEM.sub("", _short(task))


def _word(name: str) -> str:
    """Returns a state as people read it: "STATE_RETRY_WAIT" is "RETRY_WAIT"."""
    return name.partition("STATE_")[2]
