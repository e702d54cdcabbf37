"""Every story of the core as a trace: what Jaeger draws, whoever projects it, and how often."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from coordinator.saga import history
from coordinator.saga.advance import Decision
from coordinator.traces.projection import Projection
from coordinator.wire.history import event_to_proto
from coordinator.wire.view import traceparent_of
from countermand.rpc.names import attempt_name
from countermand.rpc.telemetry import new_trace, parse_traceparent
from countermand.v1.event_pb2 import HistoryEvent
from tests.saga import invariants
from tests.saga.language import Play, script, terms, tree
from tests.saga.random_external import ExternalRun
from tests.saga.random_workflows import RandomRun
from tests.saga.test_transitions import STORIES
from tests.traces import rules

SEEDS = 200


def events_of(decision: Decision) -> Iterable[HistoryEvent]:
    workflow = decision.workflow
    for entry in decision.history:
        if isinstance(entry.fact, history.LeftBehind):
            # The tasks of stories have no verb, in whose words a leftover is told.
            plain = replace(entry, fact=history.LocksTaken())
            event = event_to_proto(workflow.id, workflow.plan, plain)
            event.leftover_recorded.leftover.reason = entry.fact.reason
            yield event
        else:
            yield event_to_proto(workflow.id, workflow.plan, entry)


@dataclass
class Told(Play):
    """A play that keeps its events as they are stored."""

    events: list[HistoryEvent] = field(default_factory=list)

    def take(self, decision: Decision) -> None:
        self.events.extend(events_of(decision))
        super().take(decision)


def told(text: str, setup: str = "", *, newest_first: bool = False) -> Told:
    play = Told(script=script(setup), newest_first=newest_first)
    play.begin(tree(text), {"size": 7, "no": False}, beside=terms(text))
    play.run()
    return play


def projected(events: Iterable[HistoryEvent]) -> list[Span]:
    projection = Projection()
    return [span for event in events for span in projection.take(event)]


def tree_of(spans: Sequence[Span]) -> list[str]:
    """Returns the trace as lines, each indented below its parent, in the order of their start."""
    below: dict[bytes, list[Span]] = {}
    for span in spans:
        below.setdefault(span.parent_span_id, []).append(span)

    def lines(span: Span, depth: int) -> Iterable[str]:
        error = " !" if span.status.code == Status.STATUS_CODE_ERROR else ""
        yield "  " * depth + span.name + error
        children = below.get(span.span_id, [])
        for child in sorted(children, key=lambda each: each.start_time_unix_nano):
            yield from lines(child, depth + 1)

    return [line for root in below[b""] for line in lines(root, 0)]


def test_every_story_can_be_drawn():
    for row in STORIES:
        if not row.defect:
            play = told(row.tree, row.setup, newest_first=row.newest_first)
            try:
                rules.check(projected(play.events), settled=play.workflow.settled)
            except AssertionError as error:
                error.add_note(f"{row.id}: {row.tree} {row.setup}")
                raise


def shown(text: str, setup: str = "") -> list[str]:
    return tree_of(projected(told(text, setup).events))


@pytest.mark.parametrize("kind", [RandomRun, ExternalRun])
def test_random_workflows_can_be_drawn(kind, monkeypatch):
    for seed in range(SEEDS):
        events: list[HistoryEvent] = []
        monkeypatch.setattr(
            invariants, "check", lambda *seen, to=events: to.extend(events_of(seen[-1]))
        )
        run = kind(seed)
        run.play()
        assert run.workflow.settled
        rules.check(projected(events), settled=True)


def test_another_projection_of_the_same_history_is_the_same_to_the_byte():
    """Whoever dies after whatever event: the next one takes what is stored from the beginning."""
    events = told("a; (b | c:retry=2); d", "c:retriable,lost+fail undo-a:fail,ok").events
    whole = projected(events)

    for life in range(1, len(events)):
        before, after = Projection(), Projection()
        sent = [span for event in events[:life] for span in before.take(event)]
        again = [span for event in events[:life] for span in after.take(event)]
        sent += [span for event in events[life:] for span in after.take(event)]
        assert again == sent[: len(again)]
        assert [span.SerializeToString(deterministic=True) for span in sent] == [
            span.SerializeToString(deterministic=True) for span in whole
        ]


def test_a_failure_is_seen_where_it_happened_with_what_was_made_up_for():
    assert shown("a; (b | c); d", "c:fail") == [
        "workflow story !",
        "  accepted",
        "  a",
        "    a attempt 1",
        "  b",
        "    b attempt 1",
        "  c !",
        "    c attempt 1 !",
        "  compensation",
        "    compensate b",
        "      compensate b attempt 2",
        "    compensate a",
        "      compensate a attempt 2",
    ]


def test_what_somebody_decided_stands_beside_what_it_was_about():
    assert shown("a; b:pause", "b:fail resume+rerun-b@PAUSED") == [
        "workflow story",
        "  accepted",
        "  a",
        "    a attempt 1",
        "  b !",
        "    b attempt 1 !",
        "  on-failure b",
        "  paused",
        "  resume",
        "  rerun b",
        "  b",
        "    b attempt 2",
    ]


def test_a_part_hangs_below_what_it_is_a_part_of():
    assert shown("a:ext; c", "a:run+wait+ok add-a-x:ro@run:a x:ok") == [
        "workflow story",
        "  accepted",
        "  a",
        "    a attempt 1",
        "    x",
        "      x attempt 1",
        "  c",
        "    c attempt 1",
    ]


# Of `a; (b | c:retry=2); d`, where c fails for good: what was sent before an upgrade is sent again
# after it, and has to be the same. A change of these bytes shows once more in each trace under way.
STORED_BYTES = "6a4b29d7389b23f459bd83c37a50381bbf177a0685b96bbc86ae43fbfb6dc481"


def test_a_trace_is_the_same_to_the_byte_in_every_version():
    events = told("a; (b | c:retry=2); d", "c:retriable,lost+fail undo-a:fail,ok").events
    sent = b"".join(span.SerializeToString(deterministic=True) for span in projected(events))
    assert sha256(sent).hexdigest() == STORED_BYTES


def test_an_undoing_is_linked_to_what_it_makes_up_for():
    spans = {span.name: span for span in projected(told("a; b", "b:fail").events)}

    assert spans["compensate a"].links[0].span_id == spans["a"].span_id
    assert spans["compensate a attempt 2"].links[0].span_id == spans["a attempt 1"].span_id


def test_attempts_have_the_ids_that_agents_are_told():
    play = told("a")
    (attempt,) = [s for s in projected(play.events) if s.kind == Span.SPAN_KIND_CLIENT]
    name = attempt_name("w", "a", 1)

    told_agents = parse_traceparent(traceparent_of(play.workflow, name))

    assert told_agents is not None
    assert attempt.span_id.hex() == told_agents.span_id
    assert attempt.trace_id.hex() == told_agents.trace_id


def test_the_engines_span_is_linked_from_a_child_of_the_root():
    """A root with a link looks incomplete in Jaeger."""
    engine = new_trace()
    (started, *rest) = told("a").events
    started.workflow_started.traceparent = engine.traceparent

    spans = {span.name: span for span in projected([started, *rest])}

    assert not spans["workflow story"].links
    (link,) = spans["accepted"].links
    assert (link.trace_id.hex(), link.span_id.hex()) == (engine.trace_id, engine.span_id)
    assert spans["workflow story"].trace_id.hex() != engine.trace_id
