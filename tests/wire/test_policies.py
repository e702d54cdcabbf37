"""Policies are inherited field by field: from the workflow, the groups around, the task itself."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from google.protobuf import json_format
from google.protobuf.duration_pb2 import Duration

from coordinator.saga.spec import (
    DEFAULT_POLICY,
    OnFailure,
    OnSiblingFailure,
    Retry,
)
from coordinator.saga.spec import Policy as PolicyOfTask
from coordinator.wire.policies import inherit, policy_problems
from countermand.client.spec import parallel
from countermand.v1.workflow_spec_pb2 import Policy
from tests.wire.specs import copy, leaf, nested, plan, spec_of

EVERYTHING = {
    "retry": {
        "attempts_max": 3,
        "delay": "2s",
        "delay_max": "9s",
        "backoff_percent": 100,
        "jitter_percent": 0,
        "reasons": ["NO_SPACE"],
    },
    "on_failure": "ON_FAILURE_IGNORE",
    "on_sibling_failure": "ON_SIBLING_FAILURE_AWAIT",
    "start_timeout": "1s",
    "run_timeout": "2s",
    "stall_timeout": "3s",
    "wait_before": "4s",
    "wait_after": "5s",
    "pause_before": True,
    "pause_on_success": True,
    "compensation_retry": {"attempts_max": 7},
    "priority": -3,
}
ALL_OF_IT = PolicyOfTask(
    retry=Retry(
        attempts_max=3,
        delay=timedelta(seconds=2),
        delay_max=timedelta(seconds=9),
        backoff_percent=100,
        jitter_percent=0,
        reasons=frozenset({"NO_SPACE"}),
    ),
    compensation_retry=Retry(attempts_max=7),
    on_failure=OnFailure.IGNORE,
    on_sibling_failure=OnSiblingFailure.AWAIT,
    start_timeout=timedelta(seconds=1),
    run_timeout=timedelta(seconds=2),
    stall_timeout=timedelta(seconds=3),
    wait_before=timedelta(seconds=4),
    wait_after=timedelta(seconds=5),
    pause_before=True,
    pause_on_success=True,
    priority=-3,
)


def policy(**fields: Any) -> Policy:
    return json_format.ParseDict(fields, Policy())


def test_every_field_is_read():
    assert inherit(DEFAULT_POLICY, policy(**EVERYTHING)) == ALL_OF_IT


def test_what_is_not_said_is_inherited():
    assert inherit(ALL_OF_IT, policy()) == ALL_OF_IT
    for name, value in EVERYTHING.items():
        assert inherit(ALL_OF_IT, policy(**{name: value})) == ALL_OF_IT


def test_what_is_said_to_be_nothing_is_not_inherited():
    """Zero and false are values where a field can be unset."""
    nothing = policy(
        wait_before="0s", wait_after="0s", pause_before=False, pause_on_success=False, priority=0
    )
    nothing.retry.jitter_percent = 0
    found = inherit(ALL_OF_IT, nothing)
    assert (found.wait_before, found.wait_after) == (timedelta(0), timedelta(0))
    assert (found.pause_before, found.pause_on_success, found.priority) == (False, False, 0)
    assert found.retry == ALL_OF_IT.retry
    assert found.run_timeout == ALL_OF_IT.run_timeout


def test_the_nearest_says_it():
    inner = spec_of(copy("in"), policy=policy(priority=3))
    spec = spec_of(
        parallel(
            "g",
            copy("one", policy=policy(run_timeout="1s")),
            copy("two"),
            policy=policy(run_timeout="2s", on_failure="ON_FAILURE_PAUSE"),
        ),
        nested("sub", inner, policy=policy(priority=2, wait_after="3s")),
        copy("three"),
        policy=policy(run_timeout="9s", priority=1),
    )
    found = plan(spec)
    run = {n: leaf(found, n).policy.run_timeout for n in ("one", "two", "three", "sub.in")}
    second = timedelta(seconds=1)
    assert run == {"one": second, "two": 2 * second, "three": 9 * second, "sub.in": 9 * second}
    priority = {n: leaf(found, n).policy.priority for n in ("one", "three", "sub.in")}
    assert priority == {"one": 1, "three": 1, "sub.in": 3}
    assert leaf(found, "sub.in").policy.wait_after == 3 * second
    assert leaf(found, "one").policy.on_failure is OnFailure.PAUSE
    rules = {node.name: node.rules.on_failure for node in found.nodes if node.group}
    assert rules == {"root": None, "g": OnFailure.PAUSE, "sub": None}


def test_end_actions_inherit_from_the_workflow():
    spec = spec_of(copy("one"), on_success=[copy("end")], policy=policy(priority=5))
    assert leaf(plan(spec), "end").policy.priority == 5


FOREVER = Duration(seconds=2**62)  # beyond what a Duration may hold

WRONG = {
    "on_failure": policy(),
    "on_sibling_failure": policy(),
    "retry.attempts_max": policy(retry={"attempts_max": -1}),
    "retry.jitter_percent": policy(retry={"jitter_percent": 101}),
    "retry.backoff_percent": policy(retry={"backoff_percent": 50}),
    "retry.delay": policy(retry={"delay": "-1s"}),
    "retry.delay_max": policy(retry={"delay_max": "100000s"}),
    "retry.reasons[1]": policy(retry={"reasons": ["NO_SPACE", "no space"]}),
    "compensation_retry.attempts_max": policy(compensation_retry={"attempts_max": 1001}),
    "compensation_retry.reasons": policy(compensation_retry={"reasons": ["NO_SPACE"]}),
    "start_timeout": policy(start_timeout="0s"),
    "run_timeout": Policy(run_timeout=FOREVER),
    "stall_timeout": policy(stall_timeout="0s"),
    "wait_before": policy(wait_before="-1s"),
    "wait_after": policy(wait_after="32000000s"),
    "priority": policy(priority=1001),
}
WRONG["on_failure"].on_failure = 99  # type: ignore[assignment]
WRONG["on_sibling_failure"].on_sibling_failure = 99  # type: ignore[assignment]


@pytest.mark.parametrize("field", WRONG)
def test_a_policy_that_means_nothing_is_refused(field):
    [problem] = policy_problems(WRONG[field], "policy")
    assert problem.field == f"policy.{field}"


def test_a_good_policy_is_taken():
    assert list(policy_problems(policy(**EVERYTHING), "policy")) == []
