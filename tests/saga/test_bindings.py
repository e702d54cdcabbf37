"""Values flow from earlier tasks and from the input into attempts, and their origin is kept.

In these stories an attempt that succeeds leaves `image`: its task's name and its own number. The
input is `size`, 7.
"""

from __future__ import annotations

from dataclasses import replace

from coordinator.saga.commands import Timer
from coordinator.saga.events import TimerFired
from coordinator.saga.spec import Binding, GroupSpec, TaskSpec
from coordinator.saga.workflow import Inbound
from tests.saga.language import Play, play, script, tree


def inbound(told: Play, name: str) -> list[tuple[Inbound, ...]]:
    """Returns what came into each attempt of a task."""
    task = told.workflow.task(told.workflow.plan.by_name[name])
    return [attempt.inbound for attempt in task.attempts]


def output(told: Play, name: str) -> dict[str, object]:
    """Returns what later tasks may read of a task."""
    return dict(told.workflow.task(told.workflow.plan.by_name[name]).output)


def test_an_output_flows_into_a_later_task_and_its_origin_is_kept():
    told = play("a; b; c:takes=a.image")
    assert inbound(told, "c") == [
        (Inbound(field="image", value="a.1", origin="tasks.a.output.image"),)
    ]
    assert inbound(told, "b") == [()]


def test_the_input_flows_into_a_task():
    told = play("a:takes=input.size")
    assert inbound(told, "a") == [(Inbound(field="size", value=7, origin="input.size"),)]


def test_the_output_is_that_of_the_attempt_that_succeeded():
    """S-B1: earlier attempts failed and left nothing."""
    told = play("a:retry=3; b:takes=a.image", "a:retriable,retriable,ok")
    assert inbound(told, "b")[0][0].value == "a.3"


def test_every_attempt_is_given_its_values_again():
    told = play("a; b:retry=2:takes=a.image", "b:retriable,ok")
    assert [values[0].value for values in inbound(told, "b")] == ["a.1", "a.1"]


def test_a_retry_resolves_its_bindings_anew():
    """The attempt before keeps what it was given; the next one reads what there is now."""
    told = Play(script=script("a:ok b:retriable"))
    told.begin(tree("a; b:retry=2:takes=a.image"))
    told.step()
    told.step()
    told.timers.clear()
    image = told.workflow.task(1).last
    told.workflow = _with_output(told, {"image": "mended"})
    told.perform(TimerFired(timer=Timer.DUE, task=2, number=2))
    assert [values[0].value for values in inbound(told, "b")] == ["a.1", "mended"]
    assert image.output == {"image": "a.1"}


def _with_output(told: Play, values: dict[str, str]):
    """Returns the workflow as if the first task had left something else."""
    task = told.workflow.task(1)
    attempt = replace(task.last, output=values)
    nodes = list(told.workflow.nodes)
    nodes[1] = replace(task, attempts=(attempt,))
    return replace(told.workflow, nodes=tuple(nodes))


def test_what_was_made_up_for_is_no_longer_readable_but_stays_in_history():
    """S-G10."""
    told = play("a; b", "b:fail")
    assert output(told, "a") == {}
    action = told.workflow.task(1).action
    assert action is not None
    assert action.output == {"image": "a.1"}


def test_what_is_being_made_up_for_is_not_readable_either():
    told = play("a; b", "b:fail undo-a:hang")
    assert output(told, "a") == {}


def test_a_compensation_leaves_no_output_of_its_own():
    told = play("a | b", "a:run+wait+fail")
    compensation = told.workflow.task(2).last
    assert compensation.compensates == 1
    assert output(told, "b") == {}


def test_a_value_that_is_not_there_fails_the_task_before_anything_is_sent():
    """S-C6: a clear failure, instead of an action with a hole."""
    binding = Binding(field="checksum", task="a", path="checksum")
    root = tree("a; b")
    _, b = root.members
    assert isinstance(b, TaskSpec)
    bound = TaskSpec(name="b", host=b.host, verb=b.verb, bindings=(binding,))
    told = Play(script=script(""))
    told.begin(GroupSpec(name="root", kind=root.kind, members=(root.members[0], bound)))
    told.run()
    assert told.story() == "do:a ok:a fail:b turn undo:a undone:a = COMPENSATED"
    cause = told.workflow.cause
    assert cause is not None
    assert cause.reason == "BINDING_MISSING"
    assert dict(cause.metadata) == {"field": "checksum", "source": "tasks.a.output.checksum"}
