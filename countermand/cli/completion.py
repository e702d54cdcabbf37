"""What a shell offers when Tab is pressed: ids from the coordinator.

Where that is away nothing is offered, and nothing is said: somebody is in the middle of a line.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click

from countermand.cli.settings import LOCAL, Settings, examples

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from countermand.cli.external_calls import Vendor
    from countermand.client import Client

Door = TypeVar("Door")

SHELLS = ("bash", "zsh", "fish")
VARIABLE = "_COUNTERMAND_COMPLETE"  # click's: it begins with the name of the command
OFFERED_MAX = 100  # more than a screen of them helps nobody
# Who presses Tab waits no longer than for a key that was missed.
PATIENCE = timedelta(seconds=0)
LOOK_S_MAX = 2.0


class Asked(NamedTuple):
    """What is being completed."""

    begun: str
    given: Mapping[str, Any]  # by parameter: what is on the line already
    left: Sequence[str]  # what click has not come to, as behind an option without its value

    def workflow(self) -> str:
        """Returns the workflow on the line."""
        given = self.given.get("name") or self.given.get("given") or self.left
        return given if isinstance(given, str) else "".join(given[:1])


Completes = Callable[[click.Context, click.Parameter, str], list[str]]


@click.command(
    epilog=examples(
        'eval "$(countermand completion bash)"      # in ~/.bashrc',
        'eval "$(countermand completion zsh)"       # in ~/.zshrc',
        "countermand completion fish > ~/.config/fish/completions/countermand.fish",
        exits=LOCAL,
    )
)
@click.argument("shell", type=click.Choice(SHELLS))
def completion(shell: str) -> None:
    """Print what makes a shell complete commands.

    Options, states, templates, and the ids of workflows, tasks, hosts, owners and webhooks, as the
    coordinator knows them at that moment. With none running nothing is offered, and nothing said.
    """
    from click.shell_completion import get_completion_class

    from countermand.cli.main import main

    made = get_completion_class(shell)
    assert made is not None, shell
    click.echo(made(main, {}, "countermand", VARIABLE).source())


def _asking(find: Callable[[Client, Asked], AsyncIterator[str]]) -> Completes:
    """Returns a function that offers what a coordinator answers in time, without its collection."""

    def complete(ctx: click.Context, _param: click.Parameter, begun: str) -> list[str]:
        async def gather(client: Client) -> list[str]:
            found: list[str] = []
            async for name in find(client, Asked(begun, ctx.params, ctx.args)):
                one = name.rpartition("/")[2]
                if one.startswith(begun):
                    found.append(one)
                if len(found) == OFFERED_MAX:
                    break
            return found

        return _ask(ctx, _client_at, gather)

    return complete


def _client_at(address: str) -> AbstractAsyncContextManager[Client]:
    from countermand.client import Client

    return Client(address, patience=PATIENCE)


def _vendor_at(address: str) -> AbstractAsyncContextManager[Vendor]:
    from countermand.cli.external_calls import vendor_at

    return vendor_at(address, patience=PATIENCE, for_people=True)


def _ask(
    ctx: click.Context,
    door: Callable[[str], AbstractAsyncContextManager[Door]],
    work: Callable[[Door], Awaitable[list[str]]],
) -> list[str]:
    """Returns what the work finds; nothing of what may go wrong belongs on a half-written line."""
    import asyncio
    import logging

    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    logging.disable()
    from countermand.cli.settings import settle
    from countermand.rpc.errors import CountermandError

    settings = ctx.ensure_object(Settings)

    async def asked() -> list[str]:
        async with asyncio.timeout(LOOK_S_MAX), door(settings.coordinator) as opened:
            return await work(opened)

    try:
        settle(ctx, settings)
        return asyncio.run(asked())
    except (CountermandError, click.ClickException, TimeoutError, OSError):
        return []


async def _workflows(client: Client, asked: Asked) -> AsyncIterator[str]:
    if asked.begun and "@latest".startswith(asked.begun):
        yield "@latest"
        return
    async for workflow in client.list(id_prefix=asked.begun, page_size=OFFERED_MAX):
        yield workflow.name


async def _tasks(client: Client, asked: Asked) -> AsyncIterator[str]:
    from countermand.cli.arguments import LATEST

    name = asked.workflow()
    if name == LATEST:
        async for newest in client.list(page_size=1):
            name = newest.name
    for task in await client.run(name).tasks() if name else ():
        yield task.name


async def _tasks_for_hosts(client: Client, asked: Asked) -> AsyncIterator[str]:
    """Yields what begins TASK=HOST, and then what ends it."""
    task, equals, _ = asked.begun.partition("=")
    if equals:
        async for host in client.hosts.list():
            yield f"{task}={host.name.rpartition('/')[2]}"
        return
    async for name in _tasks(client, asked):
        yield f"{name.rpartition('/')[2]}="


async def _hosts(client: Client, _: Asked) -> AsyncIterator[str]:
    async for host in client.hosts.list():
        yield host.name


async def _webhooks(client: Client, _: Asked) -> AsyncIterator[str]:
    async for webhook in client.webhooks.list():
        yield webhook.name


complete_workflows = _asking(_workflows)
complete_tasks = _asking(_tasks)
complete_hosts = _asking(_hosts)
complete_webhooks = _asking(_webhooks)
complete_tasks_for_hosts = _asking(_tasks_for_hosts)


def complete_owners(ctx: click.Context, _param: click.Parameter, begun: str) -> list[str]:
    """Offers the owners for whom anything waits."""

    async def gather(vendor: Vendor) -> list[str]:
        return [one.owner_id for one in await vendor.owners() if one.owner_id.startswith(begun)]

    return _ask(ctx, _vendor_at, gather)


def complete_external(ctx: click.Context, _param: click.Parameter, begun: str) -> list[str]:
    """Offers what waits for an owner: the one on the line, or any."""

    async def gather(vendor: Vendor) -> list[str]:
        from countermand.cli.external_words import short

        given = ctx.params.get("owner")
        owners = [given] if given else [one.owner_id for one in await vendor.owners()]
        waiting = [short(one.attempt) for owner in owners for one in await vendor.waiting(owner)]
        # Without its attempt it is the newest, which is what waits.
        tasks = ["/".join(name.split("/")[:2]) for name in waiting]
        return sorted({name for name in tasks if name.startswith(begun)})[:OFFERED_MAX]

    return _ask(ctx, _vendor_at, gather)


def complete_templates(_ctx: click.Context, _param: click.Parameter, begun: str) -> list[str]:
    """Offers the templates that come with it."""
    from countermand.client.templates import names

    return [name for name in names() if name.startswith(begun)]


def complete_states(_ctx: click.Context, _param: click.Parameter, begun: str) -> list[str]:
    """Offers the states of workflows, by their words."""
    from countermand.drawing.words import WORKFLOW

    words = [look.word for look in WORKFLOW.values()]
    return [word for word in words if word.startswith(begun.lower())]
