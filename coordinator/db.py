"""`countermand-coordinator db`: looks after the database of a store, beside whoever serves it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import click
from sqlalchemy import Connection

from coordinator.runtime.ports import SessionState, StoreError
from coordinator.store import migrate, moving, recovering, schema
from coordinator.store.database import FILE, Database, DatabaseInvalid, postgres, sqlite
from coordinator.store.schema import Found, Outlook
from coordinator.store.transactions import Transactions
from countermand.rpc.crash import never

PRINCIPAL = "operator"
RESTORED = "put back from a backup"  # why what is open is paused

EXAMPLE = """\b
Examples:
  countermand-coordinator db current --database postgresql://countermand@db.example/countermand
  countermand-coordinator db check --data ./data
  countermand-coordinator db move --data ./data --database postgresql://countermand@db.example/new
"""

Command = TypeVar("Command", bound=Callable[..., Any])


def _options(command: Command) -> Command:
    """Adds where the store is, and how to answer."""
    for option in (
        click.option(
            "-o",
            "--output",
            type=click.Choice(["text", "json"]),
            default="text",
            show_default=True,
            help="For people, or for programs.",
        ),
        click.option(
            "--database",
            metavar="URL",
            envvar="COUNTERMAND_DATABASE",
            help="The database on PostgreSQL, as for serve.",
        ),
        click.option(
            "--data",
            type=click.Path(file_okay=False, path_type=Path),
            envvar="COUNTERMAND_DATA",
            help="The folder of a database on SQLite.",
        ),
    ):
        command = option(command)
    return command


@click.group("db", epilog=EXAMPLE)
def db() -> None:
    """Look after the database: its schema, who has it open, moves and restores."""


@db.command("current")
@_options
def current_command(*, data: Path | None, database: str | None, output: str) -> None:
    """Say which schema is stored, and which coordinators have it open."""
    with _opened(data, database) as opened:
        found = Transactions(opened, never).look(schema.found)
    _say(output, _found_told(found), _found_lines(found))


@db.command("check")
@_options
def check_command(*, data: Path | None, database: str | None, output: str) -> None:
    """Say whether this version can serve it, and what it would change.

    Exits with 1 if it cannot.
    """
    with _opened(data, database) as opened:
        look = Transactions(opened, never).look
        outlook = look(schema.outlook)
    _say(output, _outlook_told(outlook), _outlook_lines(outlook))
    if outlook.refusal:
        raise click.exceptions.Exit(1)


@db.command("upgrade")
@_options
def upgrade_command(*, data: Path | None, database: str | None, output: str) -> None:
    """Bring it to the schema of this version, as serve does by itself.

    Coordinators on PostgreSQL go on meanwhile, of the version before as well; where they could not,
    nothing is done. One on SQLite must be stopped.
    """
    with _opened(data, database) as opened:
        opened.take()
        transactions = Transactions(opened, never)
        before = transactions.look(migrate.stored_revision)
        transactions.write(lambda connection: _upgrade(opened, connection))
        now = transactions.look(migrate.stored_revision)
    lines = [f"upgraded from {before or 'nothing'} to {now}" if before != now else f"is at {now}"]
    _say(output, {"schema_before": before, "schema": now}, lines)


@db.command("restored")
@_options
@click.option("--yes", is_flag=True, help="Also where coordinators have it open.")
def restored_command(*, data: Path | None, database: str | None, output: str, yes: bool) -> None:
    """Say that it was put back from a backup, before any coordinator serves it.

    Agents have acted on what is not in it. What is open in the backup will be paused, with its
    compensations, until you decide about each; read the how-to on restoring. Without this command
    coordinators notice it by themselves, and wait for `countermand coordinator recover`.
    """
    with _opened(data, database) as opened:
        opened.take()
        living = [] if yes else Transactions(opened, never).look(_living)
        if living:
            raise StoreError(
                f"coordinators have it open, or had a moment ago: {', '.join(living)}. Stop them"
                " first; or say --yes, and they begin anew"
            )
        work = partial(recovering.go_on_above, PRINCIPAL, RESTORED, recovering.NOBODY)
        recovered = Transactions(opened, never).write(work)
    epoch, intent = recovered.owner_epoch, recovered.next_intent
    lines = [
        f"goes on above what agents may have heard of: epoch {epoch}, intent {intent}",
        "what is open in it is paused, with its compensations, when a coordinator takes it over",
    ]
    _say(output, {"owner_epoch": epoch, "next_intent": intent}, lines)


def _living(connection: Connection) -> list[str]:
    """Returns the coordinators that serve a database now, by where they are."""
    found = schema.found(connection)
    alive = [each for each in found.sessions if each.state is SessionState.ALIVE]
    return [each.name or f"session {each.id}" for each in alive]


@db.command("move")
@_options
def move_command(*, data: Path | None, database: str | None, output: str) -> None:
    """Move the store of a stopped coordinator from SQLite to an empty database on PostgreSQL.

    Everything goes over, or nothing; the old one is kept, and served no more. The first coordinator
    that serves the new one goes on with what is open. Cut off, it is given again.
    """
    if data is None or database is None:
        raise click.UsageError("say from where and to where: --data FOLDER --database URL")
    with _opened(data, None) as old, _opened(None, database) as new, _bar(output) as tell:
        moved = moving.Move(old, new, tell=tell).run()
    told = {
        "place": moved.place,
        "moved_before": moved.before,
        "open_workflows": moved.open_workflows,
        "rows": dict(moved.rows),
    }
    lines = [f"moved to {moved.place} before: nothing was left to do"]
    if not moved.before:
        rows = ", ".join(f"{count} {name}" for name, count in moved.rows.items() if count)
        lines = [f"moved to {moved.place}: {rows}", f"{moved.open_workflows} workflows are open"]
    _say(output, told, [*lines, f"{data / FILE} is kept, and will not be served again"])


def _upgrade(database: Database, connection: Any) -> None:  # noqa: ANN401 - SQLAlchemy's
    database.check(connection)
    migrate.migrate(connection)


@contextmanager
def _opened(data: Path | None, url: str | None) -> Iterator[Database]:
    """Yields a database that is there; what is wrong with it is told in one line."""
    if (data is None) == (url is None):
        raise click.UsageError("say once where the store is: --data FOLDER or --database URL")
    if data is not None and not (data / FILE).exists():
        raise click.ClickException(f"there is no store in {data}: it has no {FILE}")
    try:
        database = postgres(url) if url is not None else sqlite(data / FILE)  # type: ignore[operator]  # one of them is there
    except DatabaseInvalid as error:
        raise click.UsageError(str(error)) from error
    with closing(database):
        try:
            yield database
        except StoreError as error:
            raise click.ClickException(error.metadata["why"]) from error


@contextmanager
def _bar(output: str) -> Iterator[moving.Tell]:
    """Yields what shows on a terminal how far a move has come; all is written, then read again."""
    if output == "json" or not sys.stderr.isatty():
        yield lambda _rows, _total: None
        return
    with click.progressbar(length=1, label="moving", file=sys.stderr) as bar:

        def tell(rows: int, total: int) -> None:
            bar.length = total
            bar.update(rows)

        yield tell


# -- what is said ---------------------------------------------------------------------------------


def _say(output: str, told: dict[str, Any], lines: list[str]) -> None:
    click.echo(json.dumps(told, indent=2) if output == "json" else "\n".join(lines))


def _found_told(found: Found) -> dict[str, Any]:
    return {
        "schema": found.stored,
        "schema_of_this_version": migrate.HEAD,
        "serves_from": found.serves_from,
        "sessions": [
            {
                "id": each.id,
                "name": each.name,
                "schema": each.schema,
                "version": each.version,
                "state": each.state,
                "keeps_house": each.keeps_house,
                "start_time": f"{each.start_time:%Y-%m-%dT%H:%M:%SZ}",
                "open_workflows": each.workflows,
            }
            for each in found.sessions
        ],
    }


def _found_lines(found: Found) -> list[str]:
    lines = [f"schema   {found.stored or 'none: nothing is stored'}", f"own      {migrate.HEAD}"]
    if found.serves_from:
        lines.append(f"served   by coordinators of schema {found.serves_from} and newer")
    for each in found.sessions:
        since = f"{each.start_time:%Y-%m-%d %H:%M:%SZ}"
        name = f"{each.name or '-'}  {each.version}  schema {each.schema}  since {since}"
        lines.append(f"session  {each.id}  {each.state.lower()}  {name}  {each.workflows} open")
    return lines


def _outlook_told(outlook: Outlook) -> dict[str, Any]:
    return {
        "serves": not outlook.refusal,
        "refusal": outlook.refusal,
        "upgrade": [{"revision": step.revision, "title": step.title} for step in outlook.steps],
        "serves_from": outlook.serves_from,
    }


def _outlook_lines(outlook: Outlook) -> list[str]:
    if outlook.refusal:
        return [f"no: {outlook.refusal}"]
    lines = [f"would make {step.revision}  {step.title}" for step in outlook.steps]
    older = f"beside it, coordinators of schema {outlook.serves_from} and newer can serve it"
    return ["yes: this version can serve it", *lines, older]
