"""`countermand webhook`: adds, lists, tests, resumes and removes receivers of events."""

from __future__ import annotations

from typing import TYPE_CHECKING, TextIO

import click

from countermand.cli.arguments import label_pair
from countermand.cli.completion import complete_webhooks
from countermand.cli.exits import FAILED, run
from countermand.cli.limits import limit_option, up_to
from countermand.cli.settings import OrderedGroup, Settings, Whole, examples, shared_options

if TYPE_CHECKING:
    from countermand.cli.output import Row
    from countermand.client import Client
    from countermand.v1.webhook_pb2 import Webhook, WebhookChange

HEADS = ("WEBHOOK", "STATE", "BEHIND", "EVENTS", "URL", "PROBLEM")
SHOWN_ONCE = "Give it to the receiver now: it is not shown again."


@click.group(
    cls=OrderedGroup,
    epilog=examples(
        "countermand webhook add tickets https://tickets.example/events",
        "countermand webhook ping tickets",
        "countermand webhook list",
        exits=(),
    ),
)
def webhook() -> None:
    """Tell other systems what happens, over HTTP.

    A receiver is sent each event it asks for as a signed CloudEvent, in order, and again until it
    answers with 2xx. Whatever dies, nothing is left out; what comes twice has the same id.
    """


@webhook.command(
    epilog=examples(
        "countermand webhook add tickets https://tickets.example/events",
        "countermand webhook add all https://log.example/in --event '*' --since 0",
        "countermand webhook add fast https://ops.example/in --event workflow.blocked "
        "--event 'task.*' --label pool=fast",
    )
)
@click.argument("webhook_id", metavar="WEBHOOK")
@click.argument("url")
@click.option(
    "--event",
    "event_types",
    metavar="TYPE",
    multiple=True,
    help="What it is told: workflow.failed, all of task.*, or *; repeat it for more."
    " [default: how workflows end]",
)
@click.option(
    "--label", "labels", metavar="KEY=VALUE", multiple=True, help="Only workflows with this label."
)
@click.option("--kind", default="", help="Only workflows of this kind.")
@click.option(
    "--since",
    metavar="POSITION",
    type=Whole(),
    help="Begin after this position of the history; 0: all that is kept. [default: from now on]",
)
@click.option(
    "--secret-file",
    type=click.File("r"),
    help="Where its secret is, as whsec_…; - is standard input. [default: one is made and shown]",
)
@shared_options()
@click.pass_obj
def add(
    settings: Settings,
    *,
    webhook_id: str,
    url: str,
    event_types: tuple[str, ...],
    labels: tuple[str, ...],
    kind: str,
    since: int | None,
    secret_file: TextIO | None,
) -> None:
    """Add a webhook, and show its secret this once.

    By an id of your choice and the URL that events are posted to. Repeating it with the same
    settings changes nothing. Then try it with `countermand webhook ping`.
    """
    wanted = dict(label_pair(label) for label in labels)
    given = secret_file.read().strip() if secret_file else ""

    async def work(client: Client) -> None:
        answer = await client.webhooks.add(
            webhook_id,
            url,
            event_types=event_types,
            labels=wanted,
            kind=kind,
            secret=given,
            since_position=since,
        )
        _show_with_secret(settings, answer.webhook, "" if given else answer.secret)

    run(settings, work)


@webhook.command(
    "list", epilog=examples("countermand webhook list", "countermand webhook list -o name")
)
@shared_options()
@click.pass_obj
def list_(settings: Settings) -> None:
    """List the webhooks, and what is wrong."""

    async def work(client: Client) -> None:
        _show(settings, [found async for found in client.webhooks.list()])

    run(settings, work)


@webhook.command(epilog=examples("countermand webhook get tickets"))
@click.argument("webhook_id", metavar="WEBHOOK", shell_complete=complete_webhooks)
@shared_options()
@click.pass_obj
def get(settings: Settings, webhook_id: str) -> None:
    """Show one webhook, and how telling it goes."""

    async def work(client: Client) -> None:
        from countermand.cli.output import show_one

        found = await client.webhooks.get(webhook_id)
        if settings.for_people:
            _describe(found)
        else:
            show_one(settings, found)

    run(settings, work)


@webhook.command(epilog=examples("countermand webhook ping tickets"))
@click.argument("webhook_id", metavar="WEBHOOK", shell_complete=complete_webhooks)
@shared_options()
@click.pass_obj
def ping(settings: Settings, webhook_id: str) -> None:
    """Send a test event, and say what came of it.

    It is signed like any other, of type io.countermand.webhook.ping, and sent once. Exit code 1 if
    it was not taken.
    """

    async def work(client: Client) -> int:
        from countermand.cli.output import show_message
        from countermand.cli.table import paint
        from countermand.drawing.values import said
        from countermand.drawing.words import Look

        answer = await client.webhooks.ping(webhook_id)
        if settings.for_programs:
            show_message(settings, answer)
        elif settings.for_people:
            took_ms = answer.call_duration.ToTimedelta().total_seconds() * 1000
            look = Look("not taken", "✗", "bad") if answer.HasField("failure") else None
            words = paint(look or Look("taken", "✓", "good"))
            status = f"HTTP {answer.http_status}" if answer.http_status else "no answer"
            click.echo(f"{webhook_id}  {words}  {status} after {took_ms:.0f} ms")
            if answer.HasField("failure"):
                click.echo(f"  {said(answer.failure)} ({answer.failure.reason})", err=True)
        return FAILED if answer.HasField("failure") else 0

    run(settings, work)


@webhook.command(
    epilog=examples(
        'countermand webhook resume tickets --reason "it is back"',
        'countermand webhook resume tickets --since 0 --reason "it has lost its database"',
    )
)
@click.argument("webhook_id", metavar="WEBHOOK", shell_complete=complete_webhooks)
@click.option("--reason", required=True, help="Why, for the audit.")
@click.option(
    "--since",
    metavar="POSITION",
    type=Whole(),
    help="Go on after this position: back, to tell it again, or forward, to leave something out."
    " [default: where it is]",
)
@shared_options()
@click.pass_obj
def resume(settings: Settings, webhook_id: str, reason: str, since: int | None) -> None:
    """Call a receiver at once that fails, or is disabled.

    One that fails is called again by itself, once a minute at the latest; one that has answered 410
    Gone is not.
    """

    async def work(client: Client) -> None:
        from countermand.cli.output import show_message

        found = await client.webhooks.resume(webhook_id, reason, since_position=since)
        if settings.for_programs:
            show_message(settings, found)
        else:
            _show(settings, [found])

    run(settings, work)


@webhook.command("rotate-secret", epilog=examples("countermand webhook rotate-secret tickets"))
@click.argument("webhook_id", metavar="WEBHOOK", shell_complete=complete_webhooks)
@click.option(
    "--secret-file",
    type=click.File("r"),
    help="Where the new one is, as whsec_…; - is standard input. [default: one is made and shown]",
)
@shared_options()
@click.pass_obj
def rotate_secret(settings: Settings, webhook_id: str, secret_file: TextIO | None) -> None:
    """Sign with another secret, and show it this once.

    For a day the old one signs as well, so that the receiver may change over when it likes. Also
    when the first one was lost.
    """
    given = secret_file.read().strip() if secret_file else ""

    async def work(client: Client) -> None:
        answer = await client.webhooks.rotate_secret(webhook_id, given)
        _show_with_secret(settings, answer.webhook, "" if given else answer.secret)

    run(settings, work)


@webhook.command(epilog=examples('countermand webhook remove tickets --reason "moved to another"'))
@click.argument("webhook_id", metavar="WEBHOOK", shell_complete=complete_webhooks)
@click.option("--reason", required=True, help="Why, for the audit.")
@shared_options()
@click.pass_obj
def remove(settings: Settings, webhook_id: str, reason: str) -> None:
    """Remove a webhook: nothing more is sent to it.

    One that is added later under the same id begins anew.
    """

    async def work(client: Client) -> None:
        from countermand.cli.output import show_done
        from countermand.v1.webhook_pb2 import RemoveWebhookResponse

        await client.webhooks.remove(webhook_id, reason)
        name = f"webhooks/{webhook_id.removeprefix('webhooks/')}"
        show_done(settings, RemoveWebhookResponse(), name, f"Removed {webhook_id}.")

    run(settings, work)


@webhook.command(
    epilog=examples("countermand webhook changes", "countermand webhook changes tickets")
)
@click.argument("webhook_id", metavar="[WEBHOOK]", default="", shell_complete=complete_webhooks)
@limit_option
@shared_options()
@click.pass_obj
def changes(settings: Settings, webhook_id: str, limit: int) -> None:
    """Show what was done to a webhook, or to all: by whom, when and why.

    The last first: added, resumed, given another secret, removed. Also of one that was removed.
    """

    async def work(client: Client) -> None:
        from countermand.cli.output import show_all

        show_all(
            settings,
            await up_to(limit, client.webhooks.changes(webhook_id)),
            heads=("TIME", "WEBHOOK", "WHAT", "BY", "WHY"),
            row=_change_row,
            name=lambda change: str(change.position),
            nothing="Nothing so far.",
        )

    run(settings, work)


def _change_row(change: WebhookChange) -> Row:
    from countermand.drawing.values import date, one_line
    from countermand.v1.webhook_pb2 import WebhookChange

    what = WebhookChange.Kind.Name(change.kind).removeprefix("KIND_").lower().replace("_", " ")
    since = f" from {change.since_position} on" if change.HasField("since_position") else ""
    return (
        date(change.time),
        change.webhook.removeprefix("webhooks/"),
        what + since,
        change.principal,
        one_line(change.reason) or "-",
    )


def _show(settings: Settings, webhooks: list[Webhook]) -> None:
    from countermand.cli.output import show_all

    show_all(
        settings,
        webhooks,
        heads=HEADS,
        row=_row,
        name=lambda found: found.name,
        nothing="No webhooks. Add one: countermand webhook add tickets https://tickets.example/in",
    )


def _show_with_secret(settings: Settings, found: Webhook, secret: str) -> None:
    """Prints a webhook, and a secret that was made for it."""
    from countermand.cli.forms import show_value
    from countermand.cli.output import as_json

    if settings.for_programs:
        shown = {"webhook": as_json(found)} | ({"secret": secret} if secret else {})
        show_value(settings, shown)
        return
    _show(settings, [found])
    if settings.for_people and secret:
        click.echo(f"secret: {secret}\n{SHOWN_ONCE}")


def _row(found: Webhook) -> Row:
    from countermand.drawing.values import one_line, said
    from countermand.drawing.words import webhook_look

    return (
        found.name.removeprefix("webhooks/"),
        webhook_look(found.state),
        f"{found.behind}",
        found.event_types[0] + (f" +{more}" if (more := len(found.event_types) - 1) else ""),
        found.url,
        one_line(said(found.failure)) if found.HasField("failure") else "",
    )


def _describe(found: Webhook) -> None:
    from countermand.cli.output import age, when
    from countermand.cli.table import paint
    from countermand.drawing import phrases
    from countermand.drawing.values import said
    from countermand.drawing.words import webhook_look
    from countermand.v1.webhook_pb2 import Webhook

    webhook_id = found.name.removeprefix("webhooks/")
    click.echo(f"{found.name}  {paint(webhook_look(found.state))}  {found.url}")
    click.echo(f"  told of {', '.join(found.event_types)}")
    limits = [f"label {key}={value}" for key, value in sorted(found.labels.items())]
    if found.kind:
        limits.append(f"kind {found.kind}")
    if limits:
        click.echo(f"  only of workflows with {', '.join(limits)}")
    click.echo(f"  at position {found.position}, {found.behind} behind")
    if found.missed_events:
        lost = phrases.count(found.missed_events, "event")
        click.echo(f"  missed: at most {lost}, removed after the retention time before it was told")
    if found.HasField("success_time"):
        click.echo(f"  last taken {age(found.success_time)} ago")
    if found.HasField("failure"):
        click.echo(f"  problem: {said(found.failure)} ({found.failure.reason})")
        click.echo(f"  failed {phrases.count(found.failures, 'time')} since it last took anything")
        if found.HasField("next_try_time"):
            click.echo(f"  next try at {when(found.next_try_time)}; at once with:")
        click.echo(f'  countermand webhook resume {webhook_id} --reason "…"')
    if found.HasField("old_secret_expire_time"):
        click.echo(f"  the old secret signs as well until {when(found.old_secret_expire_time)}")
    if found.state == Webhook.STATE_ACTIVE and not found.HasField("success_time"):
        click.echo(f"  nothing was sent yet; try it: countermand webhook ping {webhook_id}")
