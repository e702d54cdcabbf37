"""Whether a workflow is traced is decided once; the engine's choice comes first."""

from __future__ import annotations

from dataclasses import replace

import pytest

from coordinator.traces.projection import Projection
from coordinator.traces.sampling import ALL, Sampler, sampler_of
from countermand.rpc.collector import CollectorInvalid
from countermand.rpc.telemetry import new_trace
from tests.traces.test_projection import projected, told

YES = new_trace()
NO = replace(YES, sampled=False)
IDS = [f"workflow-{number}" for number in range(2000)]


def settings(name: str, argument: str = "") -> dict[str, str]:
    return {"OTEL_TRACES_SAMPLER": name, "OTEL_TRACES_SAMPLER_ARG": argument}


def test_everything_is_sent_unless_somebody_says_otherwise():
    assert sampler_of({}) == ALL
    assert ALL.takes("w", None)
    assert (ALL.takes("w", YES), ALL.takes("w", NO)) == (True, False)


def test_a_share_is_drawn_by_the_id():
    some = sampler_of(settings("traceidratio", "0.1"))
    taken = [name for name in IDS if some.takes(name, None)]
    assert 100 < len(taken) < 300
    assert taken == [name for name in IDS if some.takes(name, None)]
    more = sampler_of(settings("traceidratio", "0.5"))
    assert all(more.takes(name, None) for name in taken), (
        "a greater share has the smaller one in it"
    )


def test_an_engines_choice_counts_where_it_is_asked():
    asked = sampler_of(settings("parentbased_always_off"))
    assert (asked.takes("w", YES), asked.takes("w", None)) == (True, False)
    unasked = sampler_of(settings("always_on"))
    assert unasked == Sampler(1.0, asks_parent=False)
    assert unasked.takes("w", NO)


@pytest.mark.parametrize(
    ("name", "argument", "said"),
    [
        ("sometimes", "", "OTEL_TRACES_SAMPLER is"),
        ("traceidratio", "many", "OTEL_TRACES_SAMPLER_ARG is"),
        ("parentbased_traceidratio", "1.5", "OTEL_TRACES_SAMPLER_ARG is"),
    ],
)
def test_a_setting_that_cannot_be_used_is_named(name, argument, said):
    with pytest.raises(CollectorInvalid, match=said):
        sampler_of(settings(name, argument))


def test_nothing_is_projected_of_a_workflow_that_is_not_sampled():
    events = told("a; b", "b:fail").events
    events[0].workflow_started.unsampled = True
    assert projected(events) == []
    projection = Projection()
    for event in events:
        assert not projection.settled or event is events[0]
        projection.take(event)
        assert projection.size <= 2, "the root, and nothing that grows with the workflow"
    assert projection.settled
