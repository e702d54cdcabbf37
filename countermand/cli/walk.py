"""Walks somebody through what a resume needs: a question per task, and one last look.

What is answered becomes the options of `workflow resume`, so that there is one way to decide, and
the command that would have done the same is shown. Nothing is sent before the end.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Final, NoReturn

import click

from countermand.cli.arguments import pair
from countermand.cli.asking import confirm, prompt
from countermand.cli.decided import decisions_of, in_options
from countermand.cli.exits import fail
from countermand.cli.resumed import made_up_for, show_changes
from countermand.cli.settings import Settings
from countermand.cli.table import paint, table
from countermand.cli.typed import SET, texts_of
from countermand.client import Run
from countermand.drawing import phrases
from countermand.drawing.phrases import on
from countermand.drawing.tasks import CHOSEN_ANEW, GROUPS, task_id, verb_of, why
from countermand.drawing.values import indented, value_words
from countermand.drawing.words import task_look, workflow_look
from countermand.rpc.errors import FieldInvalid, RequirementsUnmet
from countermand.v1.task_pb2 import Task
from countermand.v1.workflow_pb2 import (
    ResumeDecision,
    ResumeRequirement,
    ResumeWorkflowResponse,
    Workflow,
)
from countermand.v1.workflow_state_pb2 import WorkflowState

RERUN, SKIP, COMPENSATE, QUIT = "r", "s", "c", "q"
_TYPES: Final[dict[str, click.ParamType]] = {  # type: ignore[type-arg]  # generic for type checkers only
    "string": click.STRING,
    "int64": click.INT,
    "double": click.FLOAT,
    "bool": click.BOOL,
}


def _key(text: str) -> str:
    return text.partition("=")[0]


@dataclass(slots=True)
class Answers:
    """What was answered so far, as options."""

    reruns: list[str] = field(default_factory=list)
    sets: list[str] = field(default_factory=list)
    skips: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    compensates: list[str] = field(default_factory=list)
    hosts: list[str] = field(default_factory=list)

    def drop(self, wrong: Sequence[str]) -> bool:
        """Forgets what was wrong, by the options that said it; returns whether it was in here.

        A host is asked for anew, whatever was wrong.
        """
        before = len(self.sets) + len(self.outputs) + len(self.hosts)
        self.sets = [each for each in self.sets if f"{SET} {_key(each)}" not in wrong]
        self.outputs = [each for each in self.outputs if f"--output {_key(each)}" not in wrong]
        self.hosts = []
        return len(self.sets) + len(self.outputs) < before

    def take(self, more: Answers) -> None:
        """Adds what was answered about another task."""
        for each in fields(self):
            getattr(self, each.name).extend(getattr(more, each.name))

    def command(self, workflow_id: str, reason: str) -> str:
        """Returns the command that decides the same."""
        given = (
            ("--rerun", self.reruns),
            ("--set", self.sets),
            ("--host", self.hosts),
            ("--skip", self.skips),
            ("--output", self.outputs),
            ("--compensate", self.compensates),
        )
        words = ["countermand", "workflow", "resume", workflow_id]
        words += [word for option, values in given for value in values for word in (option, value)]
        return shlex.join([*words, "--reason", reason])

    async def decisions(self, run: Run) -> list[ResumeDecision]:
        """Returns them as they are sent."""
        return decisions_of(
            reruns=self.reruns,
            sets=self.sets,
            skips=self.skips,
            outputs=self.outputs,
            compensates=self.compensates,
            items=(),
            reset=False,
            hosts=self.hosts,
            is_text=await texts_of(run, (*self.sets, *self.outputs)),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreed:
    """What somebody has seen whole and agreed to."""

    decisions: list[ResumeDecision]
    reason: str
    etag: str  # of the workflow as they saw it


async def walk(settings: Settings, run: Run, reason: str) -> Agreed | None:
    """Returns what was decided; nothing where there is nothing to decide.

    What would be refused is told, and asked again.

    Raises:
        click.Abort: They have not agreed.
    """
    workflow = await run.get()
    found = await run.requirements()
    decide = [each for each in found if each.kind == ResumeRequirement.KIND_DECISION]
    others = {each.kind for each in found} - {
        ResumeRequirement.KIND_DECISION,
        ResumeRequirement.KIND_OUTPUT,
    }
    if not decide or others:
        return None
    _say_head(workflow, len(decide))
    held = workflow.state == WorkflowState.WORKFLOW_STATE_PAUSED
    # Of one that is still pausing every attempt that ends is a change, and none matters here.
    etag = workflow.etag if held else ""
    while True:
        answers = await _answered(settings, run, decide, found)
        reason = reason or prompt("\nWhy, for the audit")
        made = await answers.decisions(run)
        try:
            planned = await run.resume(reason, decisions=made, validate_only=True)
        except (FieldInvalid, RequirementsUnmet) as error:
            fail(settings, in_options(error, made) if isinstance(error, FieldInvalid) else error)
            confirm("Nothing was sent. Answer once more?")
            continue
        _last_look(run, answers, reason, planned)
        return Agreed(decisions=made, reason=reason, etag=etag)


async def _answered(
    settings: Settings,
    run: Run,
    decide: Sequence[ResumeRequirement],
    found: Sequence[ResumeRequirement],
) -> Answers:
    """Asks about each task that needs a decision."""
    tasks = await run.tasks()
    answers = Answers()
    for number, each in enumerate(decide, 1):
        task = await run.task(task_id(each.task))
        click.echo(f"\n{number} of {len(decide)}  {_about(task)}")
        click.echo(f"  {indented(why(task) or each.message)}")
        outputs = [
            one
            for one in found
            if one.kind == ResumeRequirement.KIND_OUTPUT and one.task == each.task
        ]
        answer = Answers()
        _ask_about(task, each, outputs, tasks, answer)
        while (wrong := await _wrong(settings, run, answer)) and answer.drop(wrong):
            _ask_again(task, outputs, answer)
        answers.take(answer)
        if answers.compensates:
            break  # of the whole workflow: no other decision counts any more
    return answers


async def _wrong(settings: Settings, run: Run, answer: Answers) -> list[str]:
    """Tells what is wrong with the answers about one task, and returns the options that said it."""
    made = await answer.decisions(run)
    try:
        await run.resume("", decisions=made, validate_only=True)
    except FieldInvalid as error:
        told = in_options(error, made)
        fail(settings, told)
        return [violation.field for violation in told.violations]
    except RequirementsUnmet:
        pass  # the other tasks
    return []


def _ask_again(task: Task, outputs: Sequence[ResumeRequirement], answer: Answers) -> None:
    """Asks once more for what was wrong; the rest is kept."""
    name = task_id(task.name)
    for kept in (*answer.sets, *answer.outputs):
        click.echo(f"  kept: {kept}")
    if answer.reruns:
        _ask_arguments(task, name, answer)
        return
    given = {_key(text) for text in answer.outputs}
    for each in outputs:
        if f"{name}.{each.key}" not in given:
            answer.outputs.append(f"{name}.{each.key}={_ask_output(task, each)}")


def _say_head(workflow: Workflow, count: int) -> None:
    needs = "needs" if count == 1 else "need"
    click.echo(
        f"{workflow.name} is {paint(workflow_look(workflow.state))}: "
        f"{phrases.count(count, 'task')} {needs} a decision. Nothing is sent before you have seen "
        "it all."
    )


def _about(task: Task) -> str:
    return (
        f"{task_id(task.name)}  {paint(task_look(task.state))}  {verb_of(task)}{on(task.host_id)}"
    )


def _ask_about(
    task: Task,
    needed: ResumeRequirement,
    outputs: Sequence[ResumeRequirement],
    tasks: Sequence[Task],
    answers: Answers,
) -> None:
    """Asks what is to be done about one task, and what that needs."""
    name = task_id(task.name)
    choices = dict(_choices(task, needed, outputs, tasks))
    for letter, words in choices.items():
        click.echo(f"  {letter}  {words}")
    match prompt("What", type=_Choice(choices), default=next(iter(choices))):
        case "r":
            answers.reruns.append(name)
            _ask_arguments(task, name, answers)
        case "s":
            answers.skips.append(name)
            for each in outputs:
                answers.outputs.append(f"{name}.{each.key}={_ask_output(task, each)}")
        case "c":
            answers.compensates.append(name)
        case _:
            _quit()


class _Choice(click.Choice[str]):
    """A letter, or the word that stands beside it."""

    def __init__(self, choices: Mapping[str, str]) -> None:
        """Keeps the word of each letter, which is the first of what it says."""
        super().__init__(list(choices))
        self._letters = {words.partition(":")[0]: letter for letter, words in choices.items()}

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Returns the letter."""
        word = value.strip().lower()
        return super().convert(self._letters.get(word, word), param, ctx)


def _quit() -> NoReturn:
    raise click.Abort


def _choices(
    task: Task,
    needed: ResumeRequirement,
    outputs: Sequence[ResumeRequirement],
    tasks: Sequence[Task],
) -> Iterator[tuple[str, str]]:
    """Yields the choices, each with what it makes."""
    again = f"attempt {len(task.attempts) + 1} of it, with other arguments if you like"
    if task.kind in GROUPS:
        again = "what failed in it runs again"
    if "rerun" in needed.choices:
        yield RERUN, f"rerun: {again}"
    gives = ", ".join(f"{each.key} ({each.type})" for each in outputs)
    yield SKIP, "skip: go on with what comes after it" + (f"; you give {gives}" if gives else "")
    if "give_up" in needed.choices:
        yield COMPENSATE, f"compensate: give the workflow up; {made_up_for(tasks)}"
    yield QUIT, "quit: nothing is sent"


def _ask_arguments(task: Task, name: str, answers: Answers) -> None:
    """Asks which arguments change, until none does."""
    if task.kind in GROUPS:
        return
    if task.inbound:
        heads = ("    ARGUMENT", "VALUE", "FROM")
        table(heads, [(f"    {i.field}", value_words(i.value), i.origin) for i in task.inbound])
    asked = "  Change one, as FIELD=VALUE (Enter: no more)"
    while text := prompt(asked, default="", show_default=False):
        try:
            pair(text, "--set")
        except click.UsageError:
            click.echo(f"  {text!r} is not FIELD=VALUE.", err=True)
            continue
        answers.sets.append(f"{name}.{text}")
    if task.owner_id:
        return  # an owner does it wherever it likes
    if bound := task.bound_host_id:
        host = prompt("  Host", default=bound)
    else:
        last = f"; it was {task.host_id}" if task.host_id else ""
        host = prompt(f"  Host (Enter: {CHOSEN_ANEW}{last})", default="", show_default=False)
    if host != bound:
        answers.hosts.append(f"{name}={host}")


def _ask_output(task: Task, each: ResumeRequirement) -> str:
    """Asks for an output that later tasks read; what the task was to make is a good guess."""
    inbound = {i.field: value_words(i.value) for i in task.inbound}
    guess = inbound.get(each.key) or inbound.get(f"target.{each.key.partition('.')[2]}")
    readers = ", ".join(task_id(reader) for reader in each.consumers)
    asked = f"  {each.key} ({each.type}, for {readers})"
    value = prompt(asked, type=_TYPES.get(each.type, click.STRING), default=guess)
    return value if isinstance(value, str) else json.dumps(value)


def _last_look(run: Run, answers: Answers, reason: str, planned: ResumeWorkflowResponse) -> None:
    """Shows all that is about to be sent, and asks."""
    click.echo(f"\nThe same as a command:\n  {answers.command(run.id, reason)}")
    if planned.changes:
        click.echo("What changes:")
        show_changes(planned.changes, lead="  ")
    confirm("Send it?")
