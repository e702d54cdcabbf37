"""`countermand workflow compensation`: decisions about what cannot be made up for by itself."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import click

from countermand.cli.arguments import json_object, named, one_workflow
from countermand.cli.completion import complete_tasks
from countermand.cli.exits import run
from countermand.cli.settings import OrderedGroup, Settings, examples, shared_options

if TYPE_CHECKING:
    from countermand.client import Client
    from countermand.client.run import CompensationVerb
    from countermand.v1.task_pb2 import Task

WITH = "--with"
_TRIED = frozenset({"retry", "replace"})  # decisions after which it is tried again
_EXAMPLES = (
    "countermand workflow compensation retry vm-42 copy-1 --reason 'storage is back'",
    "countermand workflow compensation done vm-42 copy-1 --reason 'deleted by hand'",
    "countermand workflow compensation abandon vm-42 copy-1 --reason 'the pool is lost'",
)


@click.group(cls=OrderedGroup, epilog=examples(*_EXAMPLES, exits=()))
def compensation() -> None:
    """Decide about a compensation that fails.

    It is tried again, slowly, until it succeeds or somebody decides; `workflow get` says why it
    fails.
    """


def _decide(
    settings: Settings,
    verb: CompensationVerb,
    name: str,
    task: str,
    reason: str,
    *,
    action_json: str | None = None,
) -> None:
    given = json_object(action_json)

    async def work(client: Client) -> None:
        from google.protobuf import json_format

        from countermand.cli.steer import say_state
        from countermand.client.spec_json import mistakes_of
        from countermand.rpc.errors import CountermandError
        from countermand.v1.verb_pb2 import Action

        action = None
        if given is not None:
            if found := [
                f"{v.field}: {v.description}" for v in mistakes_of(given, Action.DESCRIPTOR, WITH)
            ]:
                raise click.UsageError("; ".join(found))
            try:
                action = json_format.ParseDict(given, Action())
            except json_format.ParseError as error:
                raise click.UsageError(f"{WITH} is no action: {error}") from None
        one = await named(client, name, f"Decide about {task} in it")
        task_id = task.rpartition("/")[2]
        changed = await one.decide_compensation(task_id, verb, reason, replacement=action)
        if not (settings.for_people and verb in _TRIED):
            say_state(settings, changed)
            return
        # What it needed until now is decided: only what else it needs is news.
        others = [need for need in changed.needs if need.task.rpartition("/")[2] != task_id]
        del changed.needs[:]
        changed.needs.extend(others)
        say_state(settings, changed)
        with suppress(CountermandError):  # it is taken, whatever hinders the look
            click.echo(f"  taken: {_tried(await one.task(task_id))}")
            click.echo(f"  next: countermand workflow watch {one.id}")

    run(settings, work)


def _tried(task: Task) -> str:
    """Returns how the compensation of a task stands, once it is decided to be tried."""
    from countermand.drawing.tasks import task_id, why
    from countermand.drawing.values import indented
    from countermand.v1.attempt_pb2 import Attempt

    name, last = task_id(task.name), task.attempts[-1] if task.attempts else Attempt()
    about = f"attempt {last.name.rpartition('/')[2]} of {name}"
    if last.state == Attempt.STATE_SUCCEEDED:
        return f"{about} made up for it: {task.opposite}"
    if last.create_time.ToNanoseconds() < task.decided.time.ToNanoseconds():
        return f"{name} is tried so once {about}, which is out, has failed"
    if last.state == Attempt.STATE_FAILED:
        return f"{about} has failed again: {indented(why(task))}"
    return f"{about} is being tried now: {task.opposite}"


@compensation.command(epilog=examples(_EXAMPLES[0]))
@one_workflow
@click.argument("task", shell_complete=complete_tasks)
@click.option("--reason", required=True, help="Why, for the audit.")
@shared_options()
@click.pass_obj
def retry(settings: Settings, name: str, task: str, reason: str) -> None:
    """Try it again now."""
    _decide(settings, "retry", name, task, reason)


@compensation.command(
    epilog=examples(
        "countermand workflow compensation replace vm-42 copy-1 --reason 'it was moved' "
        """--with '{"delete_image": {"target": {"pool_id": "slow", "image_id": "disk-1"}}}'"""
    )
)
@one_workflow
@click.argument("task", shell_complete=complete_tasks)
@click.option(WITH, "action_json", required=True, metavar="JSON", help="The verb to send.")
@click.option("--reason", required=True, help="Why, for the audit.")
@shared_options()
@click.pass_obj
def replace(settings: Settings, name: str, task: str, action_json: str, reason: str) -> None:
    """Try it with another verb or other arguments.

    Only for a task that is known to have taken effect: nothing else can fence one that is not.
    """
    _decide(settings, "replace", name, task, reason, action_json=action_json)


@compensation.command(epilog=examples(_EXAMPLES[1]))
@one_workflow
@click.argument("task", shell_complete=complete_tasks)
@click.option("--reason", required=True, help="Why, for the audit.")
@shared_options()
@click.pass_obj
def done(settings: Settings, name: str, task: str, reason: str) -> None:
    """Say that it was made up for by hand."""
    _decide(settings, "done", name, task, reason)


@compensation.command(epilog=examples(_EXAMPLES[2]))
@one_workflow
@click.argument("task", shell_complete=complete_tasks)
@click.option("--reason", required=True, help="Why, for the audit.")
@shared_options()
@click.pass_obj
def abandon(settings: Settings, name: str, task: str, reason: str) -> None:
    """Give it up: the effect stays, and is listed as left behind."""
    _decide(settings, "abandon", name, task, reason)
