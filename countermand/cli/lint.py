"""`countermand workflow lint` and `plan`: what is wrong with a spec, and what it would do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TextIO

import click

from countermand.cli.exits import FAILED, fail, run
from countermand.cli.files import read, spec_source, workflow_file
from countermand.cli.forms import show_value
from countermand.cli.settings import Settings, examples, shared_options

if TYPE_CHECKING:
    from countermand.client import Client
    from countermand.client.spec_lint import Finding
    from countermand.client.workflow_file import WorkflowFile
    from countermand.rpc.errors import Violation


@click.command(
    epilog=examples(
        "countermand workflow lint move.yaml",
        "countermand workflow lint move.yaml --server",
        "countermand template render clone-vm | countermand workflow lint -",
    )
)
@click.argument("file", type=click.File("r", encoding="utf-8"))
@click.option("--server", "asks", is_flag=True, help="Ask the coordinator as well.")
@shared_options()
@click.pass_obj
def lint(settings: Settings, *, file: TextIO, asks: bool) -> None:
    """Say what is wrong with a workflow file, each with its line.

    Checks what the contract alone can tell; --server asks the coordinator as well, which knows
    hosts and pools. The exit code is 1 if anything is wrong; warnings do not count.
    """
    from countermand.client.spec_lint import Finding, findings
    from countermand.rpc.errors import FieldInvalid

    try:
        parsed = workflow_file(file)
    except FieldInvalid as error:  # neither YAML nor JSON: each place has its line already
        _tell(settings, [_told(v) for v in error.violations], "")
        raise click.exceptions.Exit(FAILED) from None
    found = [Finding(path=v.field, said=v.description) for v in parsed.mistakes()]
    if not found:
        found = findings(parsed.message(), parsed.input)
    if not asks or _wrong(found):
        _finish(settings, parsed, found)
    elif parsed.input is None and parsed.header is None:
        click.echo("No input in the file: what is bound to it cannot be checked.", err=True)

    async def work(client: Client) -> int:
        try:
            await client.plan(parsed.message(), input=parsed.input)
        except FieldInvalid as error:
            found.extend(Finding(path=v.field, said=v.description) for v in error.violations)
        return _tell(settings, _places(parsed, found), parsed.origin)

    run(settings, work)


def _finish(settings: Settings, parsed: WorkflowFile, found: Sequence[Finding]) -> None:
    raise click.exceptions.Exit(_tell(settings, _places(parsed, found), parsed.origin))


def _wrong(found: Sequence[Finding]) -> bool:
    return any(not one.warning for one in found)


def _told(violation: Violation) -> dict[str, object]:
    return {"place": violation.field, "message": violation.description, "severity": "error"}


def _places(parsed: WorkflowFile, found: Sequence[Finding]) -> list[dict[str, object]]:
    return [
        {
            "place": parsed.place(one.path),
            "file": parsed.origin,
            "line": parsed.line(one.path),
            "path": one.path,
            "message": one.said,
            "severity": "warning" if one.warning else "error",
        }
        for one in found
    ]


def _tell(settings: Settings, found: Sequence[dict[str, object]], origin: str) -> int:
    """Prints what was found, and returns the exit code for it."""
    wrong = sum(one["severity"] == "error" for one in found)
    if settings.for_programs:
        show_value(settings, found)
    else:
        for one in found:
            word = "warning: " if one["severity"] == "warning" else ""
            click.echo(f"{one['place']}: {word}{one['message']}")
        if not found and settings.for_people:
            click.echo(f"{origin}: nothing is wrong.")
    return FAILED if wrong else 0


@click.command(
    epilog=examples(
        "countermand workflow plan add-vm.json",
        "countermand workflow plan --template create-snapshot --input disks.0.image=fast/vm-42 "
        "--input snapshot_id=monday",
    )
)
@spec_source
@shared_options()
@click.pass_obj
def plan(
    settings: Settings,
    *,
    file: TextIO | None,
    template_name: str | None,
    inputs: tuple[str, ...],
) -> None:
    """Show what a spec would run and make up for.

    Checks the spec as submit does, and starts nothing. What cannot be made up for is named, and so
    are the images that it would hold.
    """

    async def work(client: Client) -> int | None:
        from countermand.cli.planned import show_plan
        from countermand.rpc.errors import FieldInvalid, Violation

        parsed = read(file, template_name, inputs)
        try:
            planned = await client.plan_with_locks(parsed.message(), input=parsed.input)
        except FieldInvalid as error:
            placed = [Violation(_placed(parsed, v.field), v.description) for v in error.violations]
            return fail(settings, FieldInvalid(*placed))
        show_plan(settings, planned)
        return None

    run(settings, work)


def _placed(parsed: WorkflowFile, path: str) -> str:
    """Returns a path with its line, if it is one of the file: an error of `message` has its own."""
    return parsed.place(path) if path.startswith(("spec", "input")) else path
