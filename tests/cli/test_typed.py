"""Which values of a resume are texts, whatever they look like."""

from __future__ import annotations

from countermand.cli.typed import SET, texts_in
from countermand.client.spec import parallel, sequence, workflow_spec
from countermand.v1.task_pb2 import Task
from countermand.v1.workflow_spec_pb2 import Node

OUTPUT = "--output"
W = "workflows/w/tasks"

PROMISED = Node.ExternalTask(outputs={"volume": "string", "size": "int64"})
SPEC = workflow_spec(
    "w", sequence("root", parallel("copies", Node(name="clone", external_task=PROMISED)))
)
TASKS = [
    Task(name=f"{W}/copies", kind=Task.KIND_PARALLEL),
    Task(name=f"{W}/clone", parent=f"{W}/copies", kind=Task.KIND_EXTERNAL, verb="acme/clone"),
    Task(name=f"{W}/copy", kind=Task.KIND_VERB, verb="copy_image"),
    Task(name=f"{W}/check", kind=Task.KIND_VERB, verb="x.check"),
]


def test_what_an_external_task_is_asked_is_a_text_and_so_is_what_promised_to_be_one():
    is_text = texts_in(SPEC, TASKS)
    for task in ("clone", "copies"):  # the group has it as well
        assert is_text(SET, task, "arguments.lun")
        assert is_text(OUTPUT, task, "volume")
        assert not is_text(OUTPUT, task, "size")
    assert not is_text(SET, "other", "arguments.lun")


def test_of_a_verb_the_contract_says_what_is_a_text():
    is_text = texts_in(SPEC, TASKS)
    assert is_text(SET, "copy", "target.image_id")
    assert is_text(OUTPUT, "copy", "image.image_id")
    assert not is_text(SET, "copy", "arguments.target")
    assert not is_text(SET, "check", "arguments.depth")  # of a plug-in's verb nobody knows
