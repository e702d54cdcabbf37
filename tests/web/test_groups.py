"""Groups of a resume, worked out from the tasks alone: who stands for whom, and which has items."""

from __future__ import annotations

import pytest

from coordinator.web.forms import groups
from coordinator.web.forms.decisions import named
from coordinator.web.forms.fields import LOOSE_MAX, Field, Form, Problem, marked
from countermand.client.spec import for_each, nested, parallel, sequence, task, workflow_spec
from countermand.v1.task_pb2 import Task
from countermand.v1.verb_pb2 import Noop
from countermand.v1.workflow_pb2 import ResumeDecision
from countermand.v1.workflow_spec_pb2 import Node

LEAD = "workflows/w/tasks/"


def group(name: str, parent: str = "") -> Task:
    return Task(name=LEAD + name, parent=parent and LEAD + parent, kind=Task.KIND_PARALLEL)


def leaf(name: str, parent: str = "", *, failed: bool = True) -> Task:
    return Task(
        name=LEAD + name,
        parent=parent and LEAD + parent,
        kind=Task.KIND_VERB,
        verb="noop",
        needs_decision=failed,
    )


# Two items of two tasks each, and one beside them.
TREE = groups.Tree(
    (
        group("disks"),
        group("disks.0", "disks"),
        leaf("copy.0", "disks.0"),
        leaf("check.0", "disks.0", failed=False),
        group("disks.1", "disks"),
        leaf("copy.1", "disks.1"),
        leaf("check.1", "disks.1"),
        leaf("alone"),
    )
)


@pytest.mark.parametrize(
    ("most", "found"),
    [
        (4, ["copy.0", "copy.1", "check.1", "alone"]),
        (3, ["disks.0", "disks.1", "alone"]),
        (2, ["disks", "alone"]),
        (1, ["disks", "alone"]),  # nothing stands for both
    ],
)
def test_very_many_are_stood_for_by_groups_that_do_not_overlap(most, found) -> None:
    failed = [task.name for task in TREE.tasks if task.needs_decision]
    assert TREE.gathered(failed, most) == [LEAD + name for name in found]


def test_the_nearest_groups_of_several_are_offered() -> None:
    names = [LEAD + name for name in ("copy.0", "copy.1", "check.1", "alone")]
    assert TREE.shared(names) == [LEAD + "disks.1"]


def fan_out(name: str, *members: Node) -> Node:
    return for_each(parallel(name, *members), f"input.{name}", f"{name}_item")


@pytest.mark.parametrize(
    ("name", "has_items"),
    [
        ("disks", True),
        ("inner.0", True),  # within an item of another
        ("inner.0.3", True),
        ("part.deep", True),  # within a nested workflow
        ("plain", False),
        ("plain.0", False),
        ("isks", False),
    ],
)
def test_which_groups_have_items(name, has_items) -> None:
    step = task("step", host="a", action=Noop())
    deep = workflow_spec("deep", sequence("all", fan_out("deep", step)))
    spec = workflow_spec(
        "w",
        sequence(
            "all",
            fan_out("disks", fan_out("inner", step)),
            parallel("plain", step),
            nested("part", deep),
        ),
    )
    assert groups.is_fan_out(name, spec) is has_items


def test_items_are_groups_where_each_has_several_tasks() -> None:
    step = task("step", host="a", action=Noop())
    spec = workflow_spec("w", sequence("all", fan_out("disks", step)))
    disks = TREE.tasks[0]
    option = groups.rerun(disks, TREE, spec, [])
    ticks = [field.name for field in option.fields if field.name.startswith("item:")]
    assert ticks == ["item:disks:0:disks.0", "item:disks:1:disks.1"]
    card = Field(name=named("decide", "disks"), label="", options=[option])
    made = ResumeDecision(task=disks.name)
    made.rerun.SetInParent()
    typed = {"item:disks:1:disks.1": "yes", "others:disks": "yes"}
    [other] = groups.ticked(made, [card], typed, TREE)
    assert list(made.rerun.indices) == [1]
    assert (other.task, other.WhichOneof("decision")) == (LEAD + "disks.0", "skip")


def test_thousands_of_problems_do_not_hide_the_form() -> None:
    form = Form(title="", about="", back="", button="")
    _, told = marked(form, [Problem(said=f"step-{n} needs a decision") for n in range(3000)])
    assert len(told) == LOOSE_MAX + 1
    assert told[-1].said == f"and {3000 - LOOSE_MAX} more like these"
