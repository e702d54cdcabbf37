"""`countermand host`: adds, lists, drains, accepts and removes hosts."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import click

from countermand.cli.arguments import host_named
from countermand.cli.completion import complete_hosts
from countermand.cli.exits import FAILED, PATIENCE, PATIENCE_WHEN_FOLLOWING, run, say
from countermand.cli.limits import limit_option, up_to
from countermand.cli.settings import Address, OrderedGroup, Settings, examples, shared_options

if TYPE_CHECKING:
    from countermand.cli.output import Row
    from countermand.client import Client
    from countermand.v1.host_pb2 import Host, HostEvent

# Why a host is quarantined until it is put right, or accepted as it is.
ACCEPTABLE = {
    "JOURNAL_LOST": "next: put back its pools or its journal; if they are gone for good:",
    "JOURNAL_REWOUND": "next: stop the agent, put back its newest journal if there is one; then:",
}
HEADS = ("HOST", "STATE", "ADDRESS", "POOLS", "OPEN", "PROBLEM")


@click.group(
    cls=OrderedGroup,
    epilog=examples(
        "countermand host add host-a 127.0.0.1:7711", "countermand host list", exits=()
    ),
)
def host() -> None:
    """Add, look at, drain, accept and remove hosts."""


@host.command(epilog=examples("countermand host add host-a 127.0.0.1:7711"))
@click.argument("host_id")
@click.argument("address", type=Address())
@click.option("--unreachable-allowed", is_flag=True, help="Add it even if it does not answer now.")
@shared_options()
@click.pass_obj
def add(settings: Settings, host_id: str, address: str, unreachable_allowed: bool) -> None:
    """Add a host.

    By an id of your choice and the address of its agent, as host:port. Repeating it with the same
    address changes nothing.
    """

    async def work(client: Client) -> None:
        added = await client.hosts.add(host_id, address, unreachable_allowed=unreachable_allowed)
        _show_one(settings, added)

    run(settings, work)


@host.command("list", epilog=examples("countermand host list", "countermand host list -o name"))
@shared_options()
@click.pass_obj
def list_(settings: Settings) -> None:
    """List the hosts with their states and pools."""

    async def work(client: Client) -> None:
        _show(settings, [found async for found in client.hosts.list()])

    run(settings, work)


@host.command(epilog=examples("countermand host get host-a"))
@click.argument("host_id", metavar="HOST", shell_complete=complete_hosts)
@shared_options()
@click.pass_obj
def get(settings: Settings, host_id: str) -> None:
    """Show one host: its pools and problems."""

    async def work(client: Client) -> None:
        from countermand.cli.output import show_one

        found = await client.hosts.get(await host_named(client, host_id))
        if settings.for_people:
            _describe(found)
        else:
            show_one(settings, found)

    run(settings, work)


@host.command(
    epilog=examples(
        'countermand host drain host-a --reason "new kernel"',
        'countermand host drain host-a --wait --timeout 2h --reason "new kernel"',
    )
)
@click.argument("host_id", metavar="HOST", shell_complete=complete_hosts)
@click.option("--reason", required=True, help="Why, for the audit.")
@click.option("--wait", is_flag=True, help="Wait until nothing runs there, and show what does.")
@shared_options()
@click.pass_obj
def drain(settings: Settings, host_id: str, reason: str, wait: bool) -> None:
    """Give a host no new tasks.

    Lists what still runs on it, and what will because it can run nowhere else. Repeating it changes
    nothing; `undrain` takes it back.
    """

    async def work(client: Client) -> int | None:
        named = await host_named(client, host_id, "Drain it")
        answer = await client.hosts.drain(named, reason)
        if wait:
            return await _follow_drain(settings, client, named)
        _show_one(settings, answer.host)
        for task in () if settings.for_programs else answer.blocking_tasks:
            click.echo(f"still runs: {task}", err=True)
        return None

    run(settings, work, patience=PATIENCE_WHEN_FOLLOWING if wait else PATIENCE)


async def _follow_drain(settings: Settings, client: Client, host_id: str) -> int:
    """Shows tasks as they come and go, and the host once nothing is left."""
    from countermand.v1.host_pb2 import Host

    known: list[str] = []
    found = Host()
    async for found in client.hosts.follow_drain(host_id):
        new = [f"still runs: {task}" for task in found.blocking_tasks if task not in known]
        gone = [f"gone: {task}" for task in known if task not in found.blocking_tasks]
        for told in () if settings.for_programs else (*new, *gone):
            click.echo(told, err=True)
        known = list(found.blocking_tasks)
    _show_one(settings, found)
    # A quarantined host shows that first, and may be drained all the same.
    if found.state in (Host.STATE_DRAINED, Host.STATE_QUARANTINED):
        return 0
    say(settings, "The drain was taken back meanwhile.", "ABORTED", "TAKEN_BACK")
    return FAILED


@host.command(epilog=examples('countermand host undrain host-a --reason "kernel is in"'))
@click.argument("host_id", metavar="HOST", shell_complete=complete_hosts)
@click.option("--reason", required=True, help="Why, for the audit.")
@shared_options()
@click.pass_obj
def undrain(settings: Settings, host_id: str, reason: str) -> None:
    """Take a drain back: the host gets tasks again."""

    async def work(client: Client) -> None:
        named = await host_named(client, host_id, "Give it tasks again")
        answer = await client.hosts.undrain(named, reason)
        _show_one(settings, answer.host)

    run(settings, work)


@host.command(
    epilog=examples(
        "countermand host get host-a",
        'countermand host accept host-a --reason "pool fast was replaced, its images are gone"',
    )
)
@click.argument("host_id", metavar="HOST", shell_complete=complete_hosts)
@click.option("--reason", required=True, help="Why, for the audit.")
@shared_options()
@click.pass_obj
def accept(settings: Settings, host_id: str, reason: str) -> None:
    """Accept a quarantined host as it is now.

    For a host whose agent has lost its journal together with a pool, or came back with an older
    journal: nothing is sent to it, and nothing concluded, until somebody has looked. First try to
    put back what is missing. With its pool mounted again, the host goes on by itself; one that
    came back with an older journal must be accepted even if the newest has been put back.

    What accepting does: what the agent has lost counts as gone. Attempts whose outcome is open are
    asked for again, and made again if nothing of them is there; compensations that find nothing
    succeed.

    The risk: if a missing pool comes back later, images in it that were made up for meanwhile are
    still there, and belong to nothing. And an agent that came back with an older journal may have
    done once more what was already made up for: look through its pools afterwards. Repeating it
    changes nothing.
    """

    async def work(client: Client) -> None:
        named = await host_named(client, host_id, "Accept it as it is")
        _show_one(settings, await client.hosts.accept(named, reason))

    run(settings, work)


@host.command(epilog=examples('countermand host remove host-a --reason "sold"'))
@click.argument("host_id", metavar="HOST", shell_complete=complete_hosts)
@click.option("--reason", required=True, help="Why, for the audit.")
@shared_options()
@click.pass_obj
def remove(settings: Settings, host_id: str, reason: str) -> None:
    """Remove a host that no open workflow names.

    It is refused while there is one: wait until it is settled, or cancel it.
    """

    async def work(client: Client) -> None:
        from countermand.cli.output import show_done
        from countermand.v1.host_pb2 import RemoveHostResponse

        removed = (await host_named(client, host_id, "Remove it")).removeprefix("hosts/")
        await client.hosts.remove(removed, reason)
        show_done(settings, RemoveHostResponse(), f"hosts/{removed}", f"Removed {removed}.")

    run(settings, work)


@host.command(
    epilog=examples("countermand host events host-a", "countermand host events --limit 10 -o json")
)
@click.argument("host_id", metavar="[HOST]", default="", shell_complete=complete_hosts)
@limit_option
@shared_options()
@click.pass_obj
def events(settings: Settings, host_id: str, limit: int) -> None:
    """Show what was done to a host, or to all: by whom, when and why.

    The last first: added, drained, accepted, removed, taken with a new journal, and every repair
    by `countermand doctor`. Also of a host that was removed.

    What befell it is not among them. `countermand host get` says what is wrong now; the log of the
    coordinator says when that came and went: host.lost and host.ready, pool.failing and
    pool.healed. What an agent is started with, such as --accept-pool, is not told to a coordinator.
    """

    async def work(client: Client) -> None:
        from countermand.cli.output import show_all

        show_all(
            settings,
            await up_to(limit, client.hosts.events(host_id)),
            heads=("TIME", "HOST", "WHAT", "BY", "WHY"),
            row=_event_row,
            name=lambda event: str(event.position),
            nothing="Nothing so far.",
        )

    run(settings, work)


def _event_row(event: HostEvent) -> Row:
    from countermand.drawing.values import date, one_line, said
    from countermand.v1.host_pb2 import HostEvent

    what = HostEvent.Kind.Name(event.kind).removeprefix("KIND_").lower().replace("_", " ")
    finding = event.finding.partition("/findings/")[2]
    kept = f" ({said(event.failure)})" if event.HasField("failure") else ""
    return (
        date(event.time),
        event.host.removeprefix("hosts/"),
        one_line(f"{what} {finding}{kept}".rstrip()),
        event.principal,
        one_line(event.reason) or "-",
    )


def _show_one(settings: Settings, found: Host) -> None:
    """Prints a host that was changed: as a line of the table, or as its message."""
    from countermand.cli.output import show_message

    if settings.for_programs:
        show_message(settings, found)
    else:
        _show(settings, [found])


def _show(settings: Settings, hosts: list[Host]) -> None:
    from countermand.cli.output import age, show_all

    show_all(
        settings,
        hosts,
        heads=HEADS,
        row=_row,
        name=lambda found: found.name,
        nothing="No hosts. Add one: countermand host add host-a 127.0.0.1:7711",
        wide=(
            ("VERSION", lambda found: found.version or "-"),
            ("HEARD", lambda found: age(found.seen_time) or "-"),
            ("INCARNATION", lambda found: found.incarnation or "-"),
        ),
    )


def _row(found: Host) -> Row:
    from countermand.drawing.values import one_line
    from countermand.drawing.words import host_look

    pools = ",".join(pool.pool_id for pool in found.pools)
    window = f"{found.open_attempts}/{found.window}" if found.window else f"{found.open_attempts}"
    return (
        found.name.removeprefix("hosts/"),
        host_look(found.state),
        found.address,
        pools or "-",
        window,
        one_line(_problem(found)),
    )


def _problem(found: Host) -> str:
    """Returns what is wrong with a host, or else with one of its pools."""
    from countermand.drawing.values import said

    if found.HasField("problem"):
        return said(found.problem)
    told = next((said(pool.problem) for pool in found.pools if pool.HasField("problem")), "")
    return re.split(r"(?<=[.?]) ", told, maxsplit=1)[0]  # what to do is said by `host get`


def _next(found: Host) -> tuple[str, ...]:
    """Returns what to do about a host that is held."""
    if found.problem.reason not in ACCEPTABLE:
        return ()
    host_id = found.name.removeprefix("hosts/")
    return (
        ACCEPTABLE[found.problem.reason],
        f'  countermand host accept {host_id} --reason "…"',
        "its help tells what that does, and the risk",
    )


def _describe(found: Host) -> None:
    from countermand.cli.output import age
    from countermand.cli.table import paint, table
    from countermand.drawing import phrases
    from countermand.drawing.values import said
    from countermand.drawing.words import host_look

    click.echo(f"{found.name}  {paint(host_look(found.state))}  {found.address}")
    if found.HasField("problem"):
        click.echo(f"  problem: {said(found.problem)} ({found.problem.reason})")
        for line in _next(found):
            click.echo(f"  {line}")
    heard = f", last heard of {age(found.seen_time)} ago" if found.HasField("seen_time") else ""
    click.echo(f"  agent {found.version or '(not known yet)'}{heard}")
    click.echo(f"  {phrases.count(found.open_attempts, 'attempt')} open, window {found.window}")
    if found.custom_verbs:
        click.echo(f"  verbs of plug-ins: {', '.join(found.custom_verbs)}")
    if found.pools:
        rows = [
            (
                f"  {pool.pool_id}",
                pool.driver,
                f"{phrases.size(pool.used_bytes)} of {phrases.size(pool.capacity_bytes)}",
                phrases.size(pool.free_bytes),  # others may have filled what we do not use
                "read-only" if pool.read_only else ",".join(pool.verbs),
            )
            for pool in found.pools
        ]
        table(("  POOL", "DRIVER", "USED", "FREE", "VERBS"), rows)
        for pool in found.pools:
            if pool.HasField("problem"):
                click.echo(f"  problem of {pool.pool_id}: {said(pool.problem)}")
