"""`countermand workflow watch|wait`: until it is as somebody wants it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from countermand.cli.arguments import named, one_workflow
from countermand.cli.completion import complete_states
from countermand.cli.exits import PATIENCE_WHEN_FOLLOWING, run
from countermand.cli.settings import FOLLOWED, Settings, examples, shared_options

if TYPE_CHECKING:
    from countermand.client import Client, Run


@click.command(
    epilog=examples(
        "countermand workflow watch @latest",
        "countermand workflow watch vm-42 | tee log",
        exits=FOLLOWED,
    )
)
@one_workflow
@shared_options()
@click.pass_obj
def watch(settings: Settings, name: str) -> None:
    """Follow a workflow to its end.

    A live tree on a terminal, a line per event in a pipe. Survives restarts of the coordinator.
    Ctrl-C stops the watching and nothing else.
    """

    async def work(client: Client) -> int:
        from countermand.cli.follow import follow

        return await follow(settings, await named(client, name))

    run(settings, work, patience=PATIENCE_WHEN_FOLLOWING)


def _complete_for(ctx: click.Context, param: click.Parameter, begun: str) -> list[str]:
    others = [word for word in ("settled", "attention") if word.startswith(begun)]
    return [*others, *complete_states(ctx, param, begun)]


@click.command(
    epilog=examples(
        "countermand workflow wait vm-42 --timeout 10m",
        "countermand workflow wait vm-42 --for paused && countermand workflow requirements vm-42",
        "countermand workflow wait @latest || countermand workflow get @latest",
        exits=FOLLOWED,
    )
)
@one_workflow
@click.option(
    "--for",
    "wanted",
    metavar="STATE|settled|attention",
    shell_complete=_complete_for,
    help="Until it is in this state, is settled, or needs somebody. [default: one of the last two]",
)
@click.option("--settled", is_flag=True, help="Keep waiting when it only needs somebody.")
@shared_options()
@click.pass_obj
def wait(settings: Settings, name: str, wanted: str | None, settled: bool) -> None:
    """Wait for a workflow's end.

    Returns once it is settled or needs somebody; the exit code says which. With --for a state or
    for attention, it is 0 once that is so from now on, however briefly; what was before does not
    count. When it settles without, it is what that means, and 1 for a success.
    """
    if settled and wanted not in (None, "settled"):
        raise click.UsageError("--settled and --for exclude each other")
    found: list[Run] = []

    async def work(client: Client) -> int:
        from countermand.cli.follow import wait_for, wait_quietly
        from countermand.cli.tables import workflow_states

        states = workflow_states([wanted]) if wanted not in (None, "settled", "attention") else ()
        one = await named(client, name)
        found.append(one)
        if wanted == "attention" or states:
            return await wait_for(settings, one, *states)
        return await wait_quietly(settings, one, settled=settled or wanted == "settled")

    async def late(_client: Client) -> str:
        from countermand.cli.follow import late_words

        return await late_words(settings, found[0]) if found else ""

    run(settings, work, patience=PATIENCE_WHEN_FOLLOWING, late=late)
