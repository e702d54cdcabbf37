"""Which of the values that people write for a resume are texts, whatever they look like.

The arguments of an external task are texts, and so is what its spec promises as one; of a verb the
contract says which fields are. Everything else is what it looks like: `arguments.plain`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Final

from google.protobuf.descriptor import FieldDescriptor

from countermand.cli.arguments import pair, plain
from countermand.cli.external_words import promised_in
from countermand.client import Run
from countermand.client.spec_fields import scalar_at
from countermand.drawing.tasks import task_id
from countermand.v1.task_pb2 import Task
from countermand.v1.verb_pb2 import Action, Output
from countermand.v1.workflow_pb2 import WorkflowView
from countermand.v1.workflow_spec_pb2 import WorkflowSpec

IsText = Callable[[str, str, str], bool]  # (option, id of a task, field): whether that is a text

SET: Final = "--set"
_TEXTS = frozenset({FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_ENUM})
_MESSAGES = {SET: Action.DESCRIPTOR, "--output": Output.DESCRIPTOR}


def never(_option: str, _task: str, _field: str) -> bool:
    """Returns that nothing is known to be a text."""
    return False


async def texts_of(run: Run, pairs: Collection[str]) -> IsText:
    """Returns what is a text in a workflow; asks for it only if some value might be none."""
    if all(isinstance(plain(pair(text, SET)[1]), str) for text in pairs):
        return never
    spec = (await run.get(WorkflowView.WORKFLOW_VIEW_FULL)).spec
    return texts_in(spec, await run.tasks())


def texts_in(spec: WorkflowSpec, tasks: Collection[Task]) -> IsText:
    """Returns what is a text in a workflow: of a group, what is one in a task of it."""
    above = {task.name: task.parent for task in tasks}

    def within(name: str) -> Iterator[str]:
        while name:
            yield task_id(name)
            name = above.get(name, "")

    def is_text(option: str, task: str, field: str) -> bool:
        leaves = (leaf for leaf in tasks if leaf.verb and task in within(leaf.name))
        return any(_is_text(spec, option, leaf, field) for leaf in leaves)

    return is_text


def _is_text(spec: WorkflowSpec, option: str, task: Task, field: str) -> bool:
    if task.kind == Task.KIND_EXTERNAL:
        promised = promised_in(spec, task_id(task.name))
        return option == SET or promised.get(field) == "string"
    verb = _MESSAGES[option].fields_by_name.get(task.verb)
    if verb is None or verb.message_type is None:
        return False
    found = scalar_at(verb.message_type, field)
    return found is not None and found.type in _TEXTS
