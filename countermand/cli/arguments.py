"""What people write on the command line, as values: names of workflows, JSON objects, labels."""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Protocol

import click

from countermand.cli.asking import at_terminal, confirm
from countermand.cli.completion import complete_workflows

if TYPE_CHECKING:
    from countermand.client import Client, Run
    from countermand.client.spec_json import Json
    from countermand.v1.workflow_pb2 import Workflow

LATEST = "@latest"
CANDIDATES_MAX = 5  # one sees by them what is missing

one_workflow = click.argument("name", metavar="WORKFLOW", shell_complete=complete_workflows)
NO_LATEST = click.UsageError("there is no workflow yet, so there is no @latest")


class Workflows(Protocol):
    """Where workflows are looked up."""

    def run(self, name: str) -> Run:
        """Returns a workflow by its id or its whole name; asks nothing."""
        ...

    def list(self, *, id_prefix: str = "", page_size: int = ...) -> AsyncIterator[Workflow]:
        """Yields workflows, newest first."""
        ...


async def named(client: Workflows, name: str, change: str = "") -> Run:
    """Returns the workflow that a person means.

    That is by its id, by its whole name, @latest, or by the first letters of its id if they are of
    one only. Tomorrow they may be of another: so what changes anything asks first, and a script
    writes ids whole. Which is the latest is told before it is changed.

    Args:
        client: Where it is looked up.
        name: What was written.
        change: What is about to be done to it, as a question begins; empty if it is only read.
    """
    from countermand.rpc.errors import WorkflowNotFound

    if name == LATEST:
        async for newest in client.list(page_size=1):
            if change:  # asked for by its own word, which is no slip: it is told, and not asked
                click.echo(f"{LATEST} is {newest.name}", err=True)
            return client.run(newest.name)
        raise NO_LATEST
    run = client.run(name)
    if "/" in name:
        return run
    try:
        await run.get()
    except WorkflowNotFound:
        begun = client.list(id_prefix=name, page_size=CANDIDATES_MAX + 1)
        found = await _first(begun)
        # A coordinator that does not know of prefixes lists everything.
        if not found or not all(one.startswith(f"workflows/{name}") for one in found):
            raise
        return client.run(_the_one(name, found, change))
    return run


async def host_named(client: Client, name: str, change: str = "") -> str:
    """Returns the host that a person means: as for workflows, but there is no @latest."""
    from countermand.rpc.errors import HostNotFound

    if "/" in name:
        return name
    try:
        await client.hosts.get(name)
    except HostNotFound:
        hosts = [host.name async for host in client.hosts.list()]
        found = [host for host in hosts if host.startswith(f"hosts/{name}")]
        if not found:
            raise
        return _the_one(name, found, change)
    return name


async def _first(found: AsyncIterator[Workflow]) -> list[str]:
    """Returns the names of the first of them, and one more."""
    names: list[str] = []
    async for one in found:
        names.append(one.name)
        if len(names) > CANDIDATES_MAX:
            break
    return names


def _the_one(name: str, found: Sequence[str], change: str) -> str:
    """Returns the only one there is, once a change of it is agreed to."""
    kind = found[0].partition("/")[0].removesuffix("s")
    ids = [one.partition("/")[2] for one in found]
    if len(ids) > 1:
        shown = ", ".join(ids[:CANDIDATES_MAX]) + (", …" if len(ids) > CANDIDATES_MAX else "")
        raise click.UsageError(f"{name!r} is no {kind}, and more than one begins so: {shown}")
    if not change:
        click.echo(f"{name} is {found[0]}", err=True)
    elif not at_terminal():
        raise click.UsageError(
            f"{name!r} is no {kind}. {ids[0]} begins so: a script writes ids whole where it "
            "changes something, since others may begin so tomorrow"
        )
    else:
        confirm(f"{name} is {found[0]}. {change}?")
    return found[0]


def json_object(text: str | None) -> dict[str, Json] | None:
    """Returns a JSON object that was given on the command line."""
    if text is None:
        return None
    try:
        value = json.loads(text)
    except ValueError as error:
        raise click.UsageError(f"{text!r} is not JSON ({error})") from None
    if not isinstance(value, dict):
        raise click.UsageError(f"{text!r} is not a JSON object: write {{...}}")
    return value


def label_pair(label: str) -> tuple[str, str]:
    """Returns key and value of a label."""
    key, equals, value = label.partition("=")
    if not equals or not key:
        raise click.UsageError(f"{label!r} is not a label: write KEY=VALUE")
    return key, value


def pair(text: str, option: str) -> tuple[str, str]:
    """Returns key and value of an option such as --set."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise click.UsageError(f"{option} {text!r}: write FIELD=VALUE")
    return key, value


EXACT_MAX = 2**53 - 1  # of whole numbers that JSON carries as they are


def plain(text: str) -> str | int | float | bool:
    """Returns a value as it is meant: a number, true or false, else the text itself.

    A text in double quotes is one, also where it looks like a number. So is a whole number that
    JSON cannot carry exactly: where a number is meant, it is read from that.
    """
    try:
        value = json.loads(text)
    except ValueError:
        return text
    if isinstance(value, int) and abs(value) > EXACT_MAX:
        return text
    if isinstance(value, float) and not math.isfinite(value):
        return text  # NaN and the like are no JSON, though Python reads them
    return value if isinstance(value, str | int | float) else text


def unquoted(text: str) -> str:
    """Returns what is known to be a text, with or without double quotes around it."""
    value = plain(text)
    return value if isinstance(value, str) else text
