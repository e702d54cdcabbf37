"""Writes policies: how tries, times and failures are dealt with. Left out, a field is inherited."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from google.protobuf.duration_pb2 import Duration

from countermand.v1.workflow_spec_pb2 import Policy, Retry


def policy(
    *,
    retry: Retry | None = None,
    on_failure: Policy.OnFailure.ValueType = Policy.ON_FAILURE_UNSPECIFIED,
    on_sibling_failure: Policy.OnSiblingFailure.ValueType = Policy.ON_SIBLING_FAILURE_UNSPECIFIED,
    start_timeout: timedelta | None = None,
    run_timeout: timedelta | None = None,
    stall_timeout: timedelta | None = None,
    wait_before: timedelta | None = None,
    wait_after: timedelta | None = None,
    pause_before: bool | None = None,
    pause_on_success: bool | None = None,
    compensation_retry: Retry | None = None,
    priority: int | None = None,
) -> Policy:
    """Returns how tries, times and failures are dealt with; what is left out is inherited."""
    return Policy(
        retry=retry,
        on_failure=on_failure,
        on_sibling_failure=on_sibling_failure,
        start_timeout=duration(start_timeout),
        run_timeout=duration(run_timeout),
        stall_timeout=duration(stall_timeout),
        wait_before=duration(wait_before),
        wait_after=duration(wait_after),
        pause_before=pause_before,
        pause_on_success=pause_on_success,
        compensation_retry=compensation_retry,
        priority=priority,
    )


def retry(
    attempts_max: int,
    *,
    delay: timedelta | None = None,
    delay_max: timedelta | None = None,
    backoff_percent: int = 0,
    jitter_percent: int | None = None,
    reasons: Sequence[str] = (),
) -> Retry:
    """Returns further attempts by policy; `attempts_max` counts the first."""
    return Retry(
        attempts_max=attempts_max,
        delay=duration(delay),
        delay_max=duration(delay_max),
        backoff_percent=backoff_percent,
        jitter_percent=jitter_percent,
        reasons=reasons,
    )


def duration(span: timedelta | None) -> Duration | None:
    """Returns a span of time as the contract writes it; None for none."""
    if span is None:
        return None
    message = Duration()
    message.FromTimedelta(span)
    return message
