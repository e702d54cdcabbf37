"""`countermand doctor`: compares coordinator, journals and disks, and repairs what is safe."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import click

from countermand.cli.arguments import host_named
from countermand.cli.completion import complete_hosts
from countermand.cli.exits import ATTENTION, PATIENCE_WHEN_FOLLOWING, run
from countermand.cli.settings import SEEN_TO, Settings, examples, shared_options

if TYPE_CHECKING:
    from countermand.client import Client
    from countermand.v1.doctor_pb2 import Diagnosis, Finding, Repaired


@click.command(
    epilog=examples(
        "countermand doctor",
        "countermand doctor host-a -o json",
        'countermand doctor --fix --reason "after the power cut"',
        exits=SEEN_TO,
    )
)
@click.argument("hosts", metavar="[HOST]...", nargs=-1, shell_complete=complete_hosts)
@click.option("--fix", is_flag=True, help="Apply the safe fixes, after asking; needs --reason.")
@click.option("--yes", is_flag=True, help="With --fix: do not ask.")
@click.option("--reason", help="With --fix: why, for the audit.")
@shared_options()
@click.pass_obj
def doctor(
    settings: Settings, hosts: tuple[str, ...], fix: bool, yes: bool, reason: str | None
) -> None:
    """Say how everything is, and compare coordinator, journals and disks.

    First the versions, whether the coordinator and its database answer, the hosts with their
    agents, and whether the clocks agree. Then every difference with what it means and what to do.
    That changes nothing. With --fix the ones that have a safe fix are repaired: orphans and
    half-made things are removed, each only if it is still what it was; attempts that nobody waits
    for are cancelled.

    Exits with 0 when nothing is left to do, and with 4 when somebody has to look.
    """
    if fix and not reason:
        raise click.UsageError('--fix needs --reason, as in --reason "after the power cut"')
    if (yes or reason) and not fix:
        raise click.UsageError("--yes and --reason go with --fix")
    if fix and not (yes or settings.for_people):
        raise click.UsageError("nobody is asked with this -o: look without --fix, and say --yes")

    async def work(client: Client) -> int | None:
        from datetime import UTC, datetime

        from countermand.cli import health
        from countermand.cli.version import versions

        ours = versions()
        if settings.for_people:
            health.show_versions(ours)  # before anything is asked: it may not answer
        seen = await health.look(client)
        if settings.for_people:
            health.show(seen)
        named = [await host_named(client, host) for host in hosts]
        findings, looked = await _diagnose(settings, client, named)
        now = datetime.now(UTC)
        fixable = [finding for finding in findings if finding.fix]
        if settings.for_people:
            for difference in health.differences(ours, seen, looked, now):
                click.echo(f"{click.style('Mind:', fg='yellow')} {difference}")
            _show(findings, looked)
        left = len(findings)
        repaired: list[Repaired] = []
        if fix and fixable and (yes or _agreed(len(fixable))):
            names = [finding.name for finding in fixable]
            repaired = [one async for one in client.doctor.repair(names, reason or "")]
            left -= sum(not one.HasField("kept") for one in repaired)
        if settings.for_programs:
            _tell_programs(settings, findings, repaired, health.in_json(ours, seen, looked, now))
        else:
            _tell(settings, findings, repaired)
        if fixable and not fix and settings.for_people:
            told = "this" if len(fixable) == 1 else f"{len(fixable)} of these"
            click.echo(f'To repair {told}: countermand doctor --fix --reason "…"', err=True)
        return ATTENTION if left or seen.recovery is not None else None

    run(settings, work, patience=PATIENCE_WHEN_FOLLOWING)


async def _diagnose(
    settings: Settings, client: Client, hosts: Sequence[str]
) -> tuple[list[Finding], Diagnosis]:
    """Returns what is found, telling on a terminal which host is being looked at."""
    import sys

    from countermand.v1.doctor_pb2 import Diagnosis

    findings: list[Finding] = []
    looked = Diagnosis()
    live = settings.for_people and sys.stderr.isatty()
    async for told in client.doctor.diagnose(hosts):
        if told.HasField("looking") and live:
            host = told.looking.host.removeprefix("hosts/")
            place = f"{told.looking.done + 1} of {told.looking.total}"
            click.echo(f"\r\x1b[KLooking at {host}, {place} …", nl=False, err=True)
        elif told.HasField("finding"):
            findings.append(told.finding)
        elif told.HasField("diagnosis"):
            looked = told.diagnosis
    if live:
        click.echo("\r\x1b[K", nl=False, err=True)
    return findings, looked


def _show(findings: Sequence[Finding], looked: Diagnosis) -> None:
    """Prints the findings host by host, each with its advice."""
    from countermand.drawing import phrases

    for host in dict.fromkeys(finding.host for finding in findings):
        click.secho(host.removeprefix("hosts/"), bold=True)
        for finding in (found for found in findings if found.host == host):
            click.echo("\n".join(_lines(finding)))
    what = ", ".join(
        (
            phrases.count(looked.hosts, "host"),
            phrases.count(looked.attempts, "attempt"),
            phrases.count(looked.images, "image"),
        )
    )
    if findings:
        click.echo(f"Looked at {what}: {phrases.count(len(findings), 'difference')}.")
    else:
        click.echo(f"Looked at {what}: they agree.")


def _lines(finding: Finding) -> Iterable[str]:
    from countermand.drawing import phrases
    from countermand.v1.doctor_pb2 import Finding as Message

    kind = Message.Kind.Name(finding.kind).removeprefix("KIND_").lower().replace("_", " ")
    where = "/".join(part for part in (finding.pool_id, finding.subject) if part)
    size = f" ({phrases.size(finding.allocated_bytes)})" if finding.allocated_bytes else ""
    yield f"  {click.style(kind, 'yellow')}  {where}{size}".rstrip()
    yield f"    {finding.message}"
    if finding.attempt and finding.attempt != finding.subject:
        yield f"    attempt: {finding.attempt}"
    done = "--fix does that" if finding.fix else "nothing is done from here"
    yield f"    to do: {finding.advice} ({done})"


def _agreed(count: int) -> bool:
    from countermand.cli.asking import agrees
    from countermand.drawing import phrases

    return agrees(f"Repair {phrases.count(count, 'difference')}?")


def _tell_programs(
    settings: Settings,
    findings: Sequence[Finding],
    repaired: Sequence[Repaired],
    health: dict[str, object],
) -> None:
    """Prints everything: how it is, findings and fixes."""
    from countermand.cli.forms import show_value
    from countermand.cli.output import as_json

    told = {
        "findings": [as_json(finding) for finding in findings],
        "repaired": [as_json(one) for one in repaired],
    }
    show_value(settings, health | told)


def _tell(settings: Settings, findings: Sequence[Finding], repaired: Sequence[Repaired]) -> None:
    """Prints what became of the fixes; as names, the findings."""
    from countermand.drawing.values import said

    if settings.output == "name":
        for finding in findings:
            click.echo(finding.name)
        return
    for one in repaired:
        kept = f"kept: {said(one.kept)}" if one.HasField("kept") else "repaired"
        click.echo(f"{one.name.partition('/findings/')[2]}  {kept}")
