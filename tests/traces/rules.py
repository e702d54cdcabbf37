"""What a viewer such as Jaeger needs of the spans of one trace, as assertions.

Its page takes the first reference that it finds in the trace as the parent, links included; a
circle of them leaves the page empty, a root with any reference makes the trace look incomplete, and
a span that is longer than its parent is taken for one of a clock that is wrong.
"""

from __future__ import annotations

from collections.abc import Sequence

from opentelemetry.proto.trace.v1.trace_pb2 import Span

AFTERWARDS = {"late report"}  # may come when its workflow has settled, which is below the root


def check(spans: Sequence[Span], *, settled: bool) -> None:
    """Asserts that the spans of one trace can be drawn.

    Args:
        spans: In the order in which they were sent.
        settled: Whether the workflow has: until then parents may be missing.
    """
    by_id = {span.span_id: span for span in spans}
    assert len(by_id) == len(spans), "two spans have one id"
    assert len({span.trace_id for span in spans}) == 1, "they are in several traces"
    for span in spans:
        assert len(span.span_id) == 8, span.name
        assert len(span.trace_id) == 16, span.name
        assert 0 < span.start_time_unix_nano < span.end_time_unix_nano, f"{span.name}: its times"
        _check_links(span, by_id)
        _check_within(span, by_id)
        _check_not_its_own_ancestor(span, by_id)
    if settled:
        roots = [span for span in spans if not span.parent_span_id]
        assert len(roots) == 1, [root.name for root in roots]
        assert not roots[0].links, "the root has a link"
        orphans = [s.name for s in spans if s.parent_span_id and s.parent_span_id not in by_id]
        assert not orphans, orphans


def _check_links(span: Span, by_id: dict[bytes, Span]) -> None:
    for link in span.links:
        if link.trace_id != span.trace_id:
            continue  # to the engine
        assert link.span_id != span.span_id, f"{span.name} is linked to itself"
        linked = by_id.get(link.span_id)
        if linked is not None:
            earlier = linked.start_time_unix_nano <= span.start_time_unix_nano
            assert earlier, f"{span.name} is linked to {linked.name}, which is later"


def _check_within(span: Span, by_id: dict[bytes, Span]) -> None:
    parent = by_id.get(span.parent_span_id)
    if parent is None or _is_of_an_agent(span) or span.name in AFTERWARDS:
        return
    begins = parent.start_time_unix_nano <= span.start_time_unix_nano
    assert begins, f"{span.name} begins before {parent.name}"
    ends = span.end_time_unix_nano <= parent.end_time_unix_nano
    assert ends, f"{span.name} ends after {parent.name}"


def _is_of_an_agent(span: Span) -> bool:
    """Returns whether another clock has measured it."""
    return span.name.startswith("agent.") or span.kind == Span.SPAN_KIND_SERVER


def _check_not_its_own_ancestor(span: Span, by_id: dict[bytes, Span]) -> None:
    seen = {span.span_id}
    above = by_id.get(span.parent_span_id)
    while above is not None:
        assert above.span_id not in seen, f"{span.name} is its own ancestor"
        seen.add(above.span_id)
        above = by_id.get(above.parent_span_id)
