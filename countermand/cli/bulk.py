"""One change of many workflows: chosen by filters, counted first, told one by one.

Nothing is changed before a person has seen how many it will be, or a script has said `--yes`. What
fails does not keep the others from being tried; the exit code is that of the worst.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

from countermand.cli.arguments import label_pair, named
from countermand.cli.completion import complete_hosts, complete_states
from countermand.cli.exits import FAILED, fail, run
from countermand.cli.settings import Settings, Span

if TYPE_CHECKING:
    from countermand.client import Client, Run
    from countermand.rpc.errors import CountermandError
    from countermand.v1.workflow_pb2 import Workflow

_Command = TypeVar("_Command", bound=Callable[..., Any])

PAGE = 500
SHOWN_MAX = 20  # above the question; a dry run shows them all


@dataclass(frozen=True, slots=True, kw_only=True)
class Filters:
    """Which workflows are meant."""

    states: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    kind: str = ""
    host_id: str = ""
    attention: bool = False
    min_age: timedelta | None = None

    def __bool__(self) -> bool:
        return self != Filters()

    def find(self, client: Client, *, page_size: int = PAGE) -> AsyncIterator[Workflow]:
        """Yields those that fit, newest first."""
        from countermand.cli.tables import workflow_states

        return client.list(
            states=workflow_states(self.states),
            labels=dict(label_pair(label) for label in self.labels),
            kind=self.kind,
            host_id=self.host_id,
            min_age=self.min_age,
            needs_attention=self.attention,
            page_size=page_size,
        )

    def __str__(self) -> str:
        """Returns what was asked for, as the end of "No workflow …"."""
        from countermand.drawing import phrases

        age = phrases.duration(self.min_age.total_seconds()) if self.min_age else ""
        parts = [
            "needs anybody" if self.attention else "",
            f"is {' or '.join(self.states)}" if self.states else "",
            f"is of kind {self.kind}" if self.kind else "",
            f"has a task on {self.host_id}" if self.host_id else "",
            f"has label {' and '.join(self.labels)}" if self.labels else "",
            f"is older than {age}" if age else "",
        ]
        return " and ".join(filter(None, parts))


def filter_options(*, host: bool = True) -> Callable[[_Command], _Command]:
    """Returns a decorator that adds what workflows are chosen by, as one argument `filters`."""
    options = [
        click.option(
            "--state",
            "states",
            multiple=True,
            shell_complete=complete_states,
            help="Such as running or blocked; repeatable.",
        ),
        click.option("--label", "labels", multiple=True, metavar="KEY=VALUE", help="All of these."),
        click.option("--kind", default="", help="Only of this kind."),
        click.option(
            "--host",
            "host_id",
            default="",
            shell_complete=complete_hosts,
            help="Only with a task on this host.",
        ),
        click.option(
            "--attention",
            "--needs-attention",
            "attention",
            is_flag=True,
            help="Only those that need somebody.",
        ),
        click.option(
            "--older-than", "min_age", type=Span(), help="Only submitted so long ago, as 2h."
        ),
    ]
    if not host:
        del options[3]

    def add(command: _Command) -> _Command:
        def gathered(*args: Any, **given: Any) -> Any:  # noqa: ANN401 - click's own
            words = {name: given.pop(name) for name in Filters.__slots__ if name in given}
            return command(*args, filters=Filters(**words), **given)

        gathered.__doc__ = command.__doc__
        gathered.__name__ = command.__name__
        gathered.__click_params__ = getattr(command, "__click_params__", [])  # type: ignore[attr-defined]
        shown: Any = gathered
        for option in reversed(options):
            shown = option(shown)
        return shown  # type: ignore[no-any-return]

    return add


yes_option = click.option("--yes", is_flag=True, help="Of many: do not ask.")
dry_run_option = click.option("--dry-run", is_flag=True, help="Only show which it would be.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What is done to each of them."""

    verb: str  # "cancel"
    done: str  # "cancelled"
    # Without any other filter of states: those in which it can be done at all.
    states: tuple[str, ...]
    # Whether it can also be done to what is being made up for already, as far as that is held.
    turned_round: bool
    make: Callable[[Run], Awaitable[Workflow]]
    imagine: Callable[[Run], Awaitable[Workflow]]  # raises what would stand against it
    # What a dry run of a single one says more of what would happen.
    foretell: Callable[[Run], Awaitable[str]] | None = None


def change_all(
    settings: Settings,
    change: Change,
    *,
    given: Sequence[str],
    filters: Filters,
    dry_run: bool,
    yes: bool,
) -> NoReturn:
    """Changes the workflows that are meant, and exits with the code of the worst."""
    if given and filters:
        raise click.UsageError(
            f"say which to {change.verb} either by WORKFLOW or by --label, --state and the like, "
            "not by both"
        )
    if not given and not filters:
        raise click.UsageError(
            f"say which to {change.verb}: WORKFLOW, or --label, --state and the like to choose them"
        )

    async def work(client: Client) -> int:
        return await _change_all(
            settings, client, change, given=given, filters=filters, dry_run=dry_run, yes=yes
        )

    run(settings, work)


async def _change_all(
    settings: Settings,
    client: Client,
    change: Change,
    *,
    given: Sequence[str],
    filters: Filters,
    dry_run: bool,
    yes: bool,
) -> int:
    found: list[Workflow] = []
    if given:
        question = "" if dry_run else f"{change.verb.capitalize()} it"
        runs = [await named(client, name, question) for name in given]
        runs = list({one.name: one for one in runs}.values())  # each once, however it was named
    else:
        found = await _chosen(settings, client, filters, change)
        runs = [client.run(one.name) for one in found]
    if not runs:
        if settings.for_programs:
            _show_told(settings, [])
        return 0
    if dry_run:
        return await _imagined(settings, change, runs, alone=len(given) == 1)
    if filters and not yes:
        _ask(settings, change, found)
    if len(given) == 1:
        from countermand.cli.steer import say_state

        say_state(settings, await change.make(runs[0]))
        return 0
    return await _each(settings, change, runs)


async def _chosen(
    settings: Settings, client: Client, filters: Filters, change: Change
) -> list[Workflow]:
    """Returns what fits, and tells what was left out of it, or that there is nothing."""
    from dataclasses import replace

    filters_whole = replace(filters, states=filters.states or change.states)
    fitting = [one async for one in filters_whole.find(client)]
    if filters.states or change.turned_round:
        chosen = fitting
    else:
        chosen = [one for one in fitting if not one.HasField("cause")]
    left_out = len(fitting) - len(chosen)
    if left_out and settings.for_people:
        from countermand.drawing import phrases

        is_ = "is" if left_out == 1 else "are"
        told = f"{phrases.count(left_out, 'workflow')} {is_} being made up for already"
        click.echo(f"{told}, and left out.", err=True)
    elif not fitting and settings.for_people:
        click.echo(f"No workflow {filters_whole}.", err=True)
    return chosen


async def _imagined(settings: Settings, change: Change, runs: Sequence[Run], *, alone: bool) -> int:
    """Tells what would become of each, in the form in which the change itself is told."""
    from countermand.cli.output import as_json, show_one
    from countermand.cli.tables import show_workflows
    from countermand.rpc.errors import CountermandError

    told: list[object] = []
    possible: list[Workflow] = []
    for one in runs:
        try:
            possible.append(await change.imagine(one))
        except CountermandError as error:
            if alone:
                raise
            told.append({"name": one.name, "error": _told(settings, one, error)})
        else:
            told.append({"name": one.name, "workflow": as_json(possible[-1])})
    if not settings.for_people and alone:
        show_one(settings, possible[0])
    elif settings.for_programs:
        _show_told(settings, told)
    elif possible:
        show_workflows(settings, possible)
    if settings.for_people and alone and change.foretell:
        click.echo(await change.foretell(runs[0]))
    if settings.for_people:
        of = "" if len(possible) == len(runs) else f"{len(possible)} of "
        click.echo(f"{of}{_count(runs)} would be {change.done}. Nothing has changed.", err=True)
    return 0 if len(possible) == len(runs) else FAILED


def _ask(settings: Settings, change: Change, found: Sequence[Workflow]) -> None:
    """Asks once, with the count; a script that has not said yes changes nothing."""
    from dataclasses import replace

    from countermand.cli.asking import at_terminal, confirm
    from countermand.cli.tables import show_workflows

    if not (at_terminal() and settings.for_people):
        raise click.UsageError(
            f"{_count(found)} would be {change.done}: look with --dry-run, and say --yes"
        )
    show_workflows(replace(settings, output="table"), found[:SHOWN_MAX])
    if len(found) > SHOWN_MAX:
        click.echo(f"… and {len(found) - SHOWN_MAX} more")
    confirm(f"{change.verb.capitalize()} {_count(found)}?")


async def _each(settings: Settings, change: Change, runs: Sequence[Run]) -> int:
    """Changes one after the other, and tells of each."""
    from countermand.cli.output import as_json
    from countermand.cli.steer import say_state
    from countermand.rpc.errors import CoordinatorUnavailable, CountermandError

    told: list[object] = []
    failed = untried = 0
    for number, one in enumerate(runs):
        try:
            changed = await change.make(one)
        except CountermandError as error:
            failed += 1
            told.append({"name": one.name, "error": _told(settings, one, error)})
            if isinstance(error, CoordinatorUnavailable):  # nor will it be there for the next
                untried = len(runs) - number - 1
                break
        else:
            told.append({"name": one.name, "workflow": as_json(changed)})
            if not settings.for_programs:
                say_state(settings, changed)
    if settings.for_programs:
        _show_told(settings, told)
    elif settings.for_people:
        not_tried = f", {untried} not tried" if untried else ""
        not_done = f", {failed} failed" if failed else ""
        done = len(runs) - failed - untried
        click.echo(f"{done} of {_count(runs)} {change.done}{not_done}{not_tried}.", err=True)
    return FAILED if failed else 0


def _show_told(settings: Settings, told: list[object]) -> None:
    from countermand.cli.forms import show_value

    show_value(settings, told)


def _told(settings: Settings, one: Run, error: CountermandError) -> object:
    from countermand.cli.exits import as_json

    if settings.for_people:
        click.echo(f"{one.name}:", err=True)
    if not settings.for_programs:
        fail(settings, error)
    return as_json(error)


def _count(found: Sequence[object]) -> str:
    from countermand.drawing import phrases

    return phrases.count(len(found), "workflow")
