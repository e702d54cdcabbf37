"""Intents as the agent's requests."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from coordinator.saga.commands import SendAction, SendCompensation
from coordinator.saga.plan import Plan
from coordinator.saga.states import AttemptKind, AttemptState, TaskState
from coordinator.saga.workflow import (
    About,
    Attempt,
    Failure,
    Group,
    Inbound,
    Task,
    Workflow,
    fresh_nodes,
)
from coordinator.wire.order import CAUSES_MAX, Call, call_of
from countermand.client.spec import action_of, compensate_by, image, parallel, policy, task
from countermand.rpc.request_hash import request_hash
from countermand.v1.image_pb2 import ImageAddress
from countermand.v1.verb_pb2 import CopyImage, DeleteImage, Noop
from tests.wire.specs import copy, plan, spec_of

NOW = datetime(2026, 6, 1, tzinfo=UTC)
CAUSE = Failure(reason="NO_SPACE", message="full", attempt="workflows/w/tasks/t/attempts/1")


def workflow(plan_: Plan, **tasks: Task) -> Workflow:
    """Returns a running workflow, some of its tasks as given."""
    nodes = list(fresh_nodes(plan_))
    for name, given in tasks.items():
        nodes[plan_.by_name[name]] = given
    return Workflow(
        id="w",
        about=About(kind="k"),
        plan=plan_,
        nodes=tuple(nodes),
        owner_epoch=4,
        create_time=NOW,
        update_time=NOW,
    )


def attempt(number: int, **fields: Any) -> Attempt:
    given = {"kind": AttemptKind.ACTION, "state": AttemptState.SUCCEEDED, **fields}
    return Attempt(number=number, host="a", intent=number, create_time=NOW, **given)


def made_up_for(**fields: Any) -> Task:
    """Returns a task whose action succeeded and whose compensation is on its way."""
    kind = AttemptKind.COMPENSATION
    given: dict[str, object] = {"state": AttemptState.STARTING, "compensates": 1, **fields}
    return Task(state=TaskState.COMPENSATING, attempts=(attempt(1), attempt(2, kind=kind, **given)))


def call(workflow_: Workflow, name: str, command=SendCompensation, number: int = 2) -> Call:
    index = workflow_.plan.by_name[name]
    sent = command(task=index, number=number, host="a")
    return call_of(workflow_, sent, cluster_id="c", incarnation="i")


def test_timeouts_of_an_action_go_to_its_agent():
    spec = spec_of(
        copy(
            "one",
            policy=policy(run_timeout=timedelta(seconds=3), stall_timeout=timedelta(seconds=2)),
        )
    )
    sent = call(workflow(plan(spec), one=Task(attempts=(attempt(1),))), "one", SendAction, 1)
    header = sent.request.header  # type: ignore[attr-defined]
    assert (sent.rpc, header.run_timeout.seconds, header.stall_timeout.seconds) == (
        "CopyImage",
        3,
        2,
    )


def test_no_timeout_is_none():
    sent = call(
        workflow(plan(spec_of(copy("one"))), one=Task(attempts=(attempt(1),))), "one", SendAction, 1
    )
    header = sent.request.header  # type: ignore[attr-defined]
    assert not header.HasField("run_timeout")
    assert not header.HasField("stall_timeout")


OVERRIDING = spec_of(
    copy(
        "one",
        policy=policy(run_timeout=timedelta(seconds=3)),
        compensation=compensate_by(
            DeleteImage(target=ImageAddress(pool_id="pool")),
            bindings={"target.image_id": "tasks.one.output.image.image_id"},
        ),
    )
)


def test_another_verb_in_the_place_of_the_opposite_is_sent_as_itself():
    inbound = (Inbound(field="target.image_id", value="x", origin="tasks.one.output"),)
    sent = call(
        workflow(plan(OVERRIDING), one=made_up_for(overriding=True, inbound=inbound)), "one"
    )
    request = sent.request
    assert sent.rpc == "DeleteImage"
    assert request.delete_image.target == image("pool/x")  # type: ignore[attr-defined]
    header = request.header  # type: ignore[attr-defined]
    assert header.attempt == "workflows/w/tasks/one/attempts/2"
    assert header.request_hash == request_hash(action_of(DeleteImage(target=image("pool/x"))))
    assert not header.HasField("run_timeout")  # compensations have none


def test_an_operators_replacement_goes_before_the_specs():
    action = action_of(Noop(failure_message="by hand"))
    task_ = made_up_for(overriding=True, replacement=action.SerializeToString())
    sent = call(workflow(plan(OVERRIDING), one=task_), "one")
    assert (sent.rpc, sent.request.noop.failure_message) == ("Noop", "by hand")  # type: ignore[attr-defined]


def test_where_nobody_knows_the_verbs_own_opposite_is_sent():
    sent = call(workflow(plan(OVERRIDING), one=made_up_for()), "one")
    assert sent.rpc == "Compensate"
    assert sent.request.compensates == "workflows/w/tasks/one/attempts/1"  # type: ignore[attr-defined]
    assert sent.request.action == action_of(  # type: ignore[attr-defined]
        CopyImage(source=image("pool/base"), target=image("pool/one"))
    )


def failed(number: int) -> Task:
    failure = Failure(reason="DRILL", message=str(number))
    return Task(state=TaskState.FAILED, failure=failure)


def test_a_compensation_tells_of_every_failure_once():
    """S-G3: the cause first, then those of the groups around, then those of other tasks."""
    members = [copy(name) for name in ("one", "two", "three", "four")]
    found = workflow(
        plan(spec_of(parallel("g", *members))),
        one=made_up_for(),
        two=Task(state=TaskState.FAILED, failure=CAUSE),
        three=failed(3),
        four=Task(state=TaskState.SUCCEEDED, failure=Failure(reason="EARLIER", message="mended")),
    )
    group = found.nodes[found.plan.by_name["g"]]
    assert isinstance(group, Group)
    nodes = list(found.nodes)
    nodes[found.plan.by_name["g"]] = replace(group, failure=Failure(reason="G", message="g"))
    sent = call(replace(found, cause=CAUSE, nodes=tuple(nodes)), "one")
    causes = sent.request.causes  # type: ignore[attr-defined]
    assert [cause.reason for cause in causes] == ["NO_SPACE", "G", "DRILL"]


def test_a_compensation_is_known_again_when_more_has_failed():
    """Its hash is the same, or the agent would take it for another one."""
    found = workflow(plan(spec_of(copy("one"), copy("two"))), one=made_up_for())
    more = workflow(found.plan, one=made_up_for(), two=failed(2))
    first, second = (call(w, "one").request for w in (found, replace(more, cause=CAUSE)))
    assert len(second.causes) == 2  # type: ignore[attr-defined]
    assert first.header == second.header  # type: ignore[attr-defined]


def test_of_thousands_of_failures_the_nearest_are_told():
    names = [f"t{number}" for number in range(600)]
    members = [task(name, host="a", action=Noop()) for name in names]
    tasks = {name: failed(number) for number, name in enumerate(names)}
    found = workflow(plan(spec_of(parallel("g", *members))), **{**tasks, "t300": made_up_for()})
    causes = call(found, "t300").request.causes  # type: ignore[attr-defined]
    assert len(causes) == CAUSES_MAX
    assert {abs(int(cause.message) - 300) < 150 for cause in causes} == {True}
