"""Policies as submitted: checked, and inherited field by field from the group around."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import TypeVar

from google.protobuf.duration_pb2 import Duration

from coordinator.saga.spec import OnFailure, OnSiblingFailure, Policy, Retry
from coordinator.wire.values import span_from_proto
from countermand.rpc.errors import Violation
from countermand.v1 import workflow_spec_pb2 as spec_pb2

ATTEMPTS_MAX = 1000
DELAY_MAX = timedelta(days=1)
SHORTEST = timedelta(microseconds=1)
SPAN_MAX = timedelta(days=365)
PRIORITY_MAX = 1000
BACKOFF_PERCENT_MAX = 10_000

ON_FAILURE = {spec_pb2.Policy.OnFailure.Value(f"ON_FAILURE_{o}"): o for o in OnFailure}
_ON_SIBLING_FAILURE = {
    spec_pb2.Policy.OnSiblingFailure.Value(f"ON_SIBLING_FAILURE_{o}"): o for o in OnSiblingFailure
}
_NO_POLICY = spec_pb2.Policy()
_NO_RETRY = spec_pb2.Retry()

# Spans with the least that each may be.
_TIMEOUTS = ("start_timeout", "run_timeout", "stall_timeout")
_SPANS = {
    **dict.fromkeys(_TIMEOUTS, SHORTEST),
    "wait_before": timedelta(0),
    "wait_after": timedelta(0),
}

_REASON = re.compile(r"[A-Z][A-Z0-9_]{0,62}")


def policy_problems(policy: spec_pb2.Policy, path: str) -> Iterator[Violation]:
    """Yields what is wrong with a policy."""
    if policy == _NO_POLICY:
        return  # most nodes say nothing
    if policy.on_failure and policy.on_failure not in ON_FAILURE:
        yield Violation(f"{path}.on_failure", "is no value of this field")
    if policy.on_sibling_failure and policy.on_sibling_failure not in _ON_SIBLING_FAILURE:
        yield Violation(f"{path}.on_sibling_failure", "is no value of this field")
    yield from _retry_problems(policy.retry, f"{path}.retry")
    yield from _retry_problems(policy.compensation_retry, f"{path}.compensation_retry")
    if policy.compensation_retry.reasons:
        yield Violation(
            f"{path}.compensation_retry.reasons",
            "is for actions: a compensation is tried again whatever the reason; leave it out",
        )
    for name, least in _SPANS.items():
        if policy.HasField(name):  # type: ignore[arg-type]
            yield from span_problems(getattr(policy, name), f"{path}.{name}", least, SPAN_MAX)
    if not -PRIORITY_MAX <= policy.priority <= PRIORITY_MAX:
        yield Violation(f"{path}.priority", f"must be in -{PRIORITY_MAX} to {PRIORITY_MAX}")


def _retry_problems(retry: spec_pb2.Retry, path: str) -> Iterator[Violation]:
    if not 0 <= retry.attempts_max <= ATTEMPTS_MAX:
        yield Violation(f"{path}.attempts_max", f"must be in 0 to {ATTEMPTS_MAX}")
    if not 0 <= retry.jitter_percent <= 100:  # noqa: PLR2004  # a whole is 100 per cent
        yield Violation(f"{path}.jitter_percent", "must be in 0 to 100")
    if retry.backoff_percent and not 100 <= retry.backoff_percent <= BACKOFF_PERCENT_MAX:  # noqa: PLR2004
        yield Violation(
            f"{path}.backoff_percent",
            f"must be in 100 to {BACKOFF_PERCENT_MAX}: waits never shrink",
        )
    for name in ("delay", "delay_max"):
        yield from span_problems(getattr(retry, name), f"{path}.{name}", timedelta(0), DELAY_MAX)
    for number, reason in enumerate(retry.reasons):
        if not _REASON.fullmatch(reason):
            yield Violation(
                f"{path}.reasons[{number}]", "must be a failure's reason, such as NO_SPACE"
            )


def span_problems(
    span: Duration, path: str, least: timedelta, most: timedelta
) -> Iterator[Violation]:
    """Yields what is wrong with a span of time."""
    given = span_from_proto(span)
    if given is None or not least <= given <= most:
        yield Violation(path, f"must be in {least} to {most}")


def inherit(above: Policy, given: spec_pb2.Policy) -> Policy:
    """Returns a policy with what is given replacing what is inherited, field by field."""
    if given == _NO_POLICY:
        return above

    return Policy(
        retry=_inherit_retry(above.retry, given.retry),
        compensation_retry=_inherit_retry(above.compensation_retry, given.compensation_retry),
        on_failure=ON_FAILURE.get(given.on_failure, above.on_failure),
        on_sibling_failure=_ON_SIBLING_FAILURE.get(
            given.on_sibling_failure, above.on_sibling_failure
        ),
        start_timeout=_span(given, "start_timeout", above.start_timeout),
        run_timeout=_span(given, "run_timeout", above.run_timeout),
        stall_timeout=_span(given, "stall_timeout", above.stall_timeout),
        wait_before=_span(given, "wait_before", above.wait_before),
        wait_after=_span(given, "wait_after", above.wait_after),
        pause_before=(given.pause_before if given.HasField("pause_before") else above.pause_before),
        pause_on_success=(
            given.pause_on_success if given.HasField("pause_on_success") else above.pause_on_success
        ),
        priority=given.priority if given.HasField("priority") else above.priority,
    )


def _inherit_retry(above: Retry, given: spec_pb2.Retry) -> Retry:
    if given == _NO_RETRY:
        return above
    return replace(
        above,
        attempts_max=given.attempts_max or above.attempts_max,
        delay=_span(given, "delay", above.delay),
        delay_max=_span(given, "delay_max", above.delay_max),
        backoff_percent=given.backoff_percent or above.backoff_percent,
        jitter_percent=(
            given.jitter_percent if given.HasField("jitter_percent") else above.jitter_percent
        ),
        reasons=frozenset(given.reasons) or above.reasons,
    )


_Inherited = TypeVar("_Inherited", timedelta, timedelta | None)


def _span(
    message: spec_pb2.Policy | spec_pb2.Retry, name: str, inherited: _Inherited
) -> timedelta | _Inherited:
    """Returns a span that is given, or what is inherited; none is a span, too."""
    if not message.HasField(name):  # type: ignore[arg-type]
        return inherited
    found = span_from_proto(getattr(message, name))
    return inherited if found is None else found
