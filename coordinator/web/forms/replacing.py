"""The page of a replacement: another verb, or other arguments, in the place of a compensation.

look at it   every verb with what it takes; filled in with what was tried, and what the task made
check        what would be sent, value by value, beside what was sent so far; nothing is sent
replace it   exactly what was looked at

What is no id is said by the check. The contract has no way to try a replacement: what its host says
of it, such as that it does not reach a pool, is said when it is sent, and then nothing is done.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from google.protobuf import json_format

from coordinator.web.forms.arguments import field_of_path, paths_of
from coordinator.web.forms.fields import Change, Field, Form, Option, Problem, filled, reason
from coordinator.web.forms.outlook import place
from coordinator.web.forms.serving import CHECKED, REQUEST_ID, Deed, Given, Params, content_of
from coordinator.web.forms.tasks import COMPENSATED, form_about, read_both
from coordinator.web.forms.typed import json_object
from coordinator.web.shown import workflow_url
from coordinator.web.site import Site
from coordinator.wire.actions import action_problems
from countermand.drawing.tasks import task_id
from countermand.drawing.values import said
from countermand.drawing.words import task_look
from countermand.rpc.channel import CHANGE_TIMEOUT_S
from countermand.rpc.errors import FieldInvalid, Violation
from countermand.rpc.names import task_name
from countermand.v1.attempt_pb2 import Attempt
from countermand.v1.task_pb2 import Task
from countermand.v1.verb_pb2 import Action
from countermand.v1.workflow_pb2 import DecideCompensationRequest

VERB: Final = "verb"
STEP, SEND = "step", "send"
STRUCT: Final = "arguments"  # of a custom verb: written as JSON

# What takes something back stands first.
VERBS: Final[Mapping[str, str]] = {
    "delete_image": "Removes an image. There is nothing that brings it back.",
    "delete_snapshot": "Forgets a snapshot, and keeps what the image has now.",
    "revert_image": "Puts an image back to a snapshot: what was written since is gone.",
    "resize_image": "Changes an image's virtual size.",
    "noop": "Touches nothing: for when somebody else has seen to it, or will.",
    "create_snapshot": "Remembers an image's present content.",
    "create_image": "Makes an empty image.",
    "copy_image": "Copies an image's data in full.",
    "clone_image": "Makes an image that shares its source's data until written.",
    "verify_image": "Reads an image and says whether it is whole.",
    "custom": "A verb of a plug-in on the host.",
}


# -- what is asked --------------------------------------------------------------------------------


def possible(task: Task) -> str:
    """Returns why a task's compensation cannot be replaced; empty: it can."""
    if task.state not in COMPENSATED:
        word = task_look(task.state).word.capitalize()
        return f"{word}: there is no compensation to replace."
    if task.owner_id:
        return f"{task.owner_id} makes up for it in its own way: there is no verb to replace."
    if _acted(task) is None:
        return (
            "Nobody knows whether it took effect: only its own opposite can fence it. It may be"
            " tried again, marked as made up for by hand, or abandoned."
        )
    return ""


def _acted(task: Task) -> Attempt | None:
    """Returns the attempt that took effect, if that is known."""
    actions = [each for each in task.attempts if each.kind == Attempt.KIND_ACTION]
    took = actions and actions[-1].state == Attempt.STATE_SUCCEEDED
    return actions[-1] if took else None


def _tried(task: Task) -> Action:
    """Returns what was sent last to make up for a task; nothing for what its agent knows itself."""
    tries = [each for each in task.attempts if each.kind == Attempt.KIND_COMPENSATION]
    return tries[-1].action if tries else Action()


async def _look(site: Site, params: Params, typed: Mapping[str, str]) -> Form:
    workflow, task = await read_both(site, params)
    form = form_about(
        workflow,
        task,
        "Replace the compensation",
        "Replace it",
        happens=_stands(task),
        fields=[_choice(task), reason()],
        forbidden=possible(task),
        heading="How it stands",
        is_grave=True,
        checks_first=True,
    )
    if REQUEST_ID not in typed or form.forbidden:
        return form
    content = content_of(typed)
    if typed.get(STEP) == SEND and typed.get(CHECKED) == content:
        return replace(form, is_checked=True, checked=content)
    try:
        action = action_of(filled(form, typed), typed)
    except FieldInvalid as error:
        problems = [Problem(said=v.description, field=v.field) for v in error.violations]
        return replace(form, problems=problems)
    if action.WhichOneof("verb") and (wrong := list(action_problems(action, "replacement"))):
        problems = [Problem(said=v.description, field=field_of(v, form)) for v in wrong]
        return replace(form, problems=problems)
    return replace(form, checked=content, **_outcome(task, action))  # type: ignore[arg-type]


def _stands(task: Task) -> list[str]:
    lines = [f"So far it is made up for by: {task.opposite or 'its compensation'}."]
    if task.HasField("compensation_failure"):
        failure = task.compensation_failure
        lines.insert(0, f"Why it fails: {said(failure)} ({failure.reason})")
    return [*lines, f"What you choose below runs{place(task)} instead."]


def _outcome(task: Task, action: Action) -> dict[str, object]:
    """Returns what a form says of what would be sent."""
    verb = str(action.WhichOneof("verb"))
    name = task_id(task.name)
    opposite = task.opposite or "its compensation"
    sent = f"Instead of “{opposite}”, {verb.replace('_', ' ')} runs{place(task)}"
    return {
        "heading": "What will happen",
        "happens": [
            f"{sent}: now, or once the attempt that is out has ended.",
            "It is tried again until it succeeds or somebody decides again.",
            f"Once it succeeds, {name} counts as made up for.",
        ],
        "warnings": [f"Nobody checks that it makes up for what {name} did: look at what is there."],
        "changes": _changes(_tried(task), action),
    }


def _changes(tried: Action, action: Action) -> list[Change]:
    """Returns what would be sent, value by value; of another verb, what was tried says nothing."""
    was, verb = tried.WhichOneof("verb") or "its own opposite", str(action.WhichOneof("verb"))
    before, after = _flat(tried) if was == verb else {}, _flat(action)
    changed = [] if was == verb else [Change(about=verb, key="verb", before=was, after=verb)]
    return changed + [
        Change(about=verb, key=key, before=before.get(key, "-"), after=after.get(key, "-"))
        for key in dict.fromkeys([*after, *before])
    ]


def _choice(task: Task) -> Field:
    """Returns the field of the verb, with what each of them takes."""
    tried, acted = _tried(task), _acted(task)
    made = getattr(acted.action, str(acted.action.WhichOneof("verb")), None) if acted else None
    options = []
    for verb, hint in VERBS.items():
        now = getattr(tried, verb) if tried.WhichOneof("verb") == verb else None
        fields = [field_of_path(verb, each) for each in paths_of(verb, now, made)]
        options.append(Option(value=verb, label=verb.replace("_", " "), hint=hint, fields=fields))
    return Field(
        name=VERB,
        label="By which verb",
        kind="choice",
        value=tried.WhichOneof("verb") or "",
        options=options,
        is_required=True,
    )


# -- what was said --------------------------------------------------------------------------------


def action_of(form: Form, typed: Mapping[str, str]) -> Action:
    """Returns the action that was chosen, with every value of its type; raises FieldInvalid."""
    verb = typed.get(VERB, "")
    choice = next(field for field in form.fields if field.name == VERB)
    fields = next((option.fields for option in choice.options if option.value == verb), ())
    given: dict[str, Any] = {}
    wrong = []
    for field in fields:
        if text := typed.get(field.name, "").strip():
            try:
                _put(given, field.name.partition(":")[2], _read(field, text))
            except ValueError as error:
                wrong.append(Violation(field.name, str(error)))
    if wrong:
        raise FieldInvalid(*wrong)
    return json_format.ParseDict({verb: given}, Action()) if verb in VERBS else Action()


def _read(field: Field, text: str) -> object:
    """Returns a value as JSON has it; raises ValueError."""
    if field.kind == "number":
        if not text.removeprefix("-").isascii() or not text.removeprefix("-").isdecimal():
            raise ValueError(f"{text[:40]!r} is no whole number")
        return text  # as JSON writes them: a text, whatever their size
    if field.kind == "long":
        return json_object(text)
    return text == "true" if text in {"true", "false"} and field.kind == "pick" else text


def _put(whole: dict[str, Any], path: str, value: object) -> None:
    *lead, last = path.split(".")
    for part in lead:
        whole = whole.setdefault(part, {})
    whole[last] = value


def _flat(action: Action) -> dict[str, str]:
    """Returns the values of an action by their paths, as people write them."""
    verb = action.WhichOneof("verb")
    shown = json_format.MessageToDict(action, preserving_proto_field_name=True)
    return dict(_leaves(shown.get(verb or "", {}), ""))


def _leaves(value: object, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and path != STRUCT:
        for key, inner in value.items():
            yield from _leaves(inner, f"{path}.{key}" if path else key)
    else:
        yield path, value if isinstance(value, str) else json.dumps(value)


async def _send(site: Site, params: Params, given: Given) -> str:
    form = filled(await _look(site, params, given.typed), given.typed)
    request = DecideCompensationRequest(
        task=task_name(params["workflow"], params["task"]),
        etag=given.etag,
        request_id=given.request_id,
        reason=given.reason,
        replacement=action_of(form, given.typed),
    )
    method = site.calls.workflows.DecideCompensation
    await site.calls.unary(method, request, timeout_s=CHANGE_TIMEOUT_S)
    return workflow_url(params["workflow"])


def field_of(violation: Violation, _: Form) -> str:
    """Returns the field that a violation is about: "replacement.noop.x" is "noop:x"."""
    verb, _dot, path = violation.field.removeprefix("replacement.").partition(".")
    return f"{verb}:{path.partition('[')[0]}" if verb in VERBS else VERB


DEEDS: Final[Sequence[Deed]] = (
    Deed(
        path="/workflows/{workflow}/tasks/{task}/replacement",
        look=_look,
        act=_send,
        word="replaced",
        field_of=field_of,
    ),
)
