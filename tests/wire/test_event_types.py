"""What events are called outside: every one has a name, and nothing secret is in any."""

from __future__ import annotations

import pytest
from google.protobuf.descriptor import Descriptor

from coordinator.wire.event_types import ENDS, TYPES, fits, problem_of, type_of
from coordinator.wire.history import event_to_proto
from countermand.v1 import annotation_pb2
from countermand.v1.event_pb2 import GroupStateChanged, HistoryEvent
from countermand.v1.task_pb2 import Task
from countermand.v1.webhook_pb2 import WebhookEvent
from countermand.v1.workflow_state_pb2 import WorkflowState
from tests.store.walks import Walk


def event(kind: str, *, task: str = "", **fields) -> HistoryEvent:
    found = HistoryEvent(task=task)
    getattr(found, kind).SetInParent()
    for name, value in fields.items():
        setattr(getattr(found, kind), name, value)
    return found


@pytest.mark.parametrize(
    ("told", "called"),
    [
        (event("workflow_started"), "workflow.started"),
        (
            event("workflow_state_changed", after=WorkflowState.WORKFLOW_STATE_COMPENSATED),
            "workflow.compensated",
        ),
        (
            event("task_state_changed", task="t", after=Task.STATE_COMPENSATION_BLOCKED),
            "task.compensation_blocked",
        ),
        (
            event("group_state_changed", task="g", after=GroupStateChanged.STATE_RECOVERED),
            "group.recovered",
        ),
        (event("attempt_started", task="t"), "attempt.started"),
        (event("attempt_ended", task="t", state=5), "attempt.succeeded"),
        (event("retry_scheduled", task="t"), "task.retry_scheduled"),
        (event("intervention"), "workflow.intervention"),
        (event("intervention", task="t"), "task.intervention"),
        (event("owner_changed"), "workflow.owner_changed"),
        (event("leftover_recorded", task="t"), "task.leftover_recorded"),
        (HistoryEvent(), "workflow.unknown"),
    ],
)
def test_an_event_is_called_by_where_it_leads_or_by_its_field(told, called):
    assert type_of(told) == called


def test_whatever_happens_has_a_type_that_can_be_asked_for():
    for seed in range(30):
        walk = Walk(f"w-{seed}", seed=seed)
        while not walk.workflow.settled:
            for entry in walk.change.history:
                told = type_of(event_to_proto("w", walk.workflow.plan, entry))
                assert told in TYPES
                assert problem_of(told) == ""
            while walk.step() is None:
                pass


def test_what_is_asked_for_fits_by_name_by_subject_or_always():
    assert fits("task.failed", ["task.failed"])
    assert fits("task.failed", ["workflow.*", "task.*"])
    assert fits("task.failed", ["*"])
    assert not fits("task.failed", ["workflow.failed", "task.succeeded", "group.*"])
    assert set(ENDS) <= TYPES


@pytest.mark.parametrize("wanted", ["", "task", "task.", "task.*.*", "*.failed", "Task.failed"])
def test_what_there_is_none_of_is_no_type(wanted):
    assert problem_of(wanted)


def test_nothing_that_is_told_is_marked_sensitive():
    """Whoever adds such a field to an event has to keep it from receivers first."""
    seen: set[str] = set()

    def sensitive(message: Descriptor) -> list[str]:
        if message.full_name in seen:
            return []
        seen.add(message.full_name)
        found = []
        for field in message.fields:
            if field.GetOptions().Extensions[annotation_pb2.sensitive]:
                found.append(field.full_name)
            if field.message_type is not None:
                found += sensitive(field.message_type)
        return found

    assert sensitive(WebhookEvent.DESCRIPTOR) == []
    assert "countermand.v1.Intervention" in seen
