"""The command `agent-sanity`: checks an agent over the wire, whoever wrote it.

It talks AgentService and nothing else, learns from GetHost what is offered, and leaves nothing
behind. Nothing here knows an implementation.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from functools import partial
from importlib.metadata import version

import click

from countermand.rpc import names
from countermand.sanity import killing, report
from countermand.sanity.asking import Refused, connected
from countermand.sanity.promises import Check
from countermand.sanity.run import Ending, Result, checks, run
from countermand.sanity.subject import Subject
from countermand.v1.agent_pb2 import HostReport
from countermand.v1.image_pb2 import ImageAddress

CLUSTER = "agent-sanity"

EPILOG = """\b
Examples:
  agent-sanity 127.0.0.1:7710 --pool fast
  agent-sanity 127.0.0.1:7710 --pool fast --source fast/debian --only cancel
  agent-sanity 127.0.0.1:7710 --pool fast --restart-command 'systemctl kill -s KILL agent' -o junit
  agent-sanity --list
\b
Exit codes:
  0    every promise that could be looked into is kept
  1    a promise is broken, or the agent does not answer
  2    used wrongly
"""


@click.command(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=EPILOG,
)
@click.argument("address", required=False, default="")
@click.option("--pool", "pools", multiple=True, metavar="ID", help="A pool to work in; repeatable.")
@click.option(
    "--source",
    default="",
    metavar="POOL/IMAGE",
    help="An image that holds data, best of some hundred MiB: it is only read. Without it nothing"
    " that takes time can be looked into.",
)
@click.option(
    "--shared",
    default="",
    metavar="ADDRESS",
    help="The agent of another host that reaches the same pools.",
)
@click.option("--verb", "verbs", multiple=True, metavar="VERB", help="Only these verbs.")
@click.option("--only", multiple=True, metavar="PATTERN", help="Only checks of such names.")
@click.option("--skip", multiple=True, metavar="PATTERN", help="No checks of such names.")
@click.option("--kill-command", default="", metavar="CMD", help="Kills the agent, as kill -9 does.")
@click.option("--start-command", default="", metavar="CMD", help="Starts it again, and returns.")
@click.option("--restart-command", default="", metavar="CMD", help="Both in one.")
@click.option(
    "--cluster",
    default=CLUSTER,
    show_default=True,
    metavar="ID",
    help="The cluster in whose name it asks; an agent serves one.",
)
@click.option(
    "--patience", default=60.0, show_default=True, metavar="SECONDS", help="For one attempt."
)
@click.option("-o", "--output", type=click.Choice(["table", "json", "junit"]), default="table")
@click.option("--list", "listing", is_flag=True, help="Lists the checks and their promises.")
@click.version_option(version("countermand"), message="%(version)s")
def main(
    *,
    address: str,
    pools: tuple[str, ...],
    source: str,
    shared: str,
    verbs: tuple[str, ...],
    only: tuple[str, ...],
    skip: tuple[str, ...],
    kill_command: str,
    start_command: str,
    restart_command: str,
    cluster: str,
    patience: float,
    output: str,
    listing: bool,
) -> None:
    """Checks that the agent at ADDRESS keeps the promises of the attempt protocol.

    It works in the pools that it is given, under names of its own, and makes up for all it has
    done. It moves the agent's low-watermark on: use an agent that serves no coordinator.
    """
    wanted = checks(only, skip)
    if not wanted:
        raise click.UsageError("no check has such a name: agent-sanity --list tells them all")
    if listing:
        click.echo("\n".join(report.listing(wanted)))
        return
    if not address or not pools:
        raise click.UsageError("say which agent and which pool: agent-sanity ADDRESS --pool ID")
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    results = asyncio.run(
        _check(
            address=address,
            shared=shared,
            wanted=wanted,
            output=output,
            restart=killing.told(kill=kill_command, start=start_command, restart=restart_command),
            given={
                "cluster_id": cluster,
                "pools": pools,
                "verbs": verbs,
                "patience_s": patience,
                "source": _source(source),
            },
        )
    )
    broken = any(result.ending is Ending.BROKEN for result in results)
    raise click.exceptions.Exit(1 if broken else 0)


async def _check(
    *,
    address: str,
    shared: str,
    wanted: Sequence[Check],
    output: str,
    restart: killing.Restart | None,
    given: dict[str, object],
) -> list[Result]:
    """Runs the checks and tells of them; returns how each ended."""
    async with AsyncExitStack() as stack:

        async def subject_at(where: str) -> Subject:
            subject = Subject(
                calls=await stack.enter_async_context(connected(where)),
                address=where,
                host=HostReport(),
                run=secrets.token_hex(4),
                intent=time.time_ns() // 1000,  # above what an earlier run has used
                **given,  # type: ignore[arg-type]  # just as its fields are
            )
            await _meet(subject)
            return subject

        subject = await subject_at(address)
        subject.other = await subject_at(shared) if shared else None
        if restart is not None:
            subject.restart = partial(killing.restarted, subject, restart)
        results = await _told(subject, wanted, output)
        try:
            await subject.forget()
        except Refused as error:
            click.echo(f"Its journal still has our attempts: {error}", err=True)
        return results


async def _told(subject: Subject, wanted: Sequence[Check], output: str) -> list[Result]:
    """Runs the checks, and prints what was asked for."""
    results: list[Result] = []
    if output == "table":
        click.echo(report.head(subject))
    width = report.width_of(wanted)
    area = ""
    for check in wanted:
        own = [result async for result in run(subject, check)]
        results += own
        if output == "table" and own:
            if check.area != area:
                click.echo(f"\n{click.style(check.area, bold=True)}")
            area = check.area
            click.echo(report.line(check, own, width))
    match output:
        case "json":
            click.echo(report.as_json(subject, results))
        case "junit":
            click.echo(report.as_junit(subject, results))
        case _:
            for line in report.details(results):
                click.echo(line)
            click.echo(f"\n{report.summary(results)}")
    return results


async def _meet(subject: Subject) -> None:
    """Hears what the agent says of itself, and whether it is one that may be worked on.

    Raises:
        ClickException: It does not answer.
        UsageError: It serves another cluster, or has no such pool.
    """
    try:
        host = await subject.look()
    except Refused as error:
        raise click.ClickException(f"{subject.address}: {error}") from None
    if host.cluster_id not in {"", subject.cluster_id}:
        raise click.UsageError(
            f"{subject.address} serves cluster {host.cluster_id!r}. This command moves an agent's"
            " low-watermark on, which its coordinator would not survive: use another agent, or say"
            f" --cluster {host.cluster_id} if there is no coordinator any more"
        )
    reported = {pool.pool_id for pool in host.pools}
    if missing := [pool_id for pool_id in subject.pools if pool_id not in reported]:
        known = ", ".join(sorted(reported)) or "none"
        raise click.UsageError(
            f"{subject.address} reports no pool {', '.join(missing)}; there are: {known}"
        )


def _source(text: str) -> ImageAddress | None:
    if not text:
        return None
    pool_id, _, image_id = text.partition("/")
    if not names.is_id(pool_id) or not names.is_id(image_id):
        raise click.UsageError(f"--source {text!r}: write POOL/IMAGE")
    return ImageAddress(pool_id=pool_id, image_id=image_id)


if __name__ == "__main__":
    main()
