"""Kills the agent and starts it again, by the user's own commands; makes sure that it has died.

A watch that was open before tells of a death: whoever ends the agent's process ends the watch. The
incarnation tells nothing of it, since that is the journal's, which survives.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

import click

from countermand.sanity.asking import Refused
from countermand.sanity.promises import Broken
from countermand.sanity.subject import Subject

# How long a death may take to be noticed: longer than a silent connection is kept for alive.
DEATH_S_MAX = 20.0
# How long a command may take: one that serves in the foreground would never return.
COMMAND_S_MAX = 60.0
# How long a start may take before its agent answers.
START_S_MAX = 60.0
_ASK_AGAIN_S = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A command of the user's, and the option that it came by."""

    option: str
    line: str

    def __str__(self) -> str:
        """Returns it as it was told."""
        return f"{self.option} {self.line!r}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Restart:
    """What kills the agent, and what starts it again; None if the first one does both."""

    kill: Command
    start: Command | None = None


def told(*, kill: str, start: str, restart: str) -> Restart | None:
    """Returns what kills the agent and starts it again, if the command was told.

    Raises:
        UsageError: It was told half of it, or too much.
    """
    if restart and (kill or start):
        raise click.UsageError("say --restart-command, or --kill-command and --start-command")
    if bool(kill) != bool(start):
        raise click.UsageError("--kill-command and --start-command go together")
    if restart:
        return Restart(kill=Command(option="--restart-command", line=restart))
    if not kill:
        return None
    return Restart(
        kill=Command(option="--kill-command", line=kill),
        start=Command(option="--start-command", line=start),
    )


async def restarted(subject: Subject, restart: Restart) -> None:
    """Returns once the agent has been killed, started, and answers.

    Raises:
        Broken: It has not died.
        ClickException: A command failed, or the agent does not come back.
    """
    async with _ended(subject, restart.kill):
        await _run(restart.kill)
    if restart.start is not None:
        await _run(restart.start)
    try:
        async with asyncio.timeout(START_S_MAX):
            await _answers(subject)
    except TimeoutError:
        why = f"it does not answer {START_S_MAX:g} s after it was started"
        raise click.ClickException(f"{subject.address}: {why}") from None


@contextlib.asynccontextmanager
async def _ended(subject: Subject, kill: Command) -> AsyncIterator[None]:
    """Watches the agent, and returns once it has died of what is done meanwhile.

    Raises:
        Broken: It lives on.
    """
    opened = asyncio.Event()
    watching = asyncio.ensure_future(_watch(subject, opened))
    try:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(subject.patience_s):
                await opened.wait()
        if not opened.is_set() or watching.done():
            raise Broken(expected="a watch that stays open", seen="it was mute, or ended by itself")
        yield
        done, _ = await asyncio.wait([watching], timeout=DEATH_S_MAX)
        if not done:
            advice = f"let it end the process that listens at {subject.address}, as kill -9 does"
            raise Broken(
                expected="the agent dies when it is killed, and an open watch ends with it",
                seen=f"{kill} has killed nothing: {advice}",
            )
    finally:
        watching.cancel()


async def _watch(subject: Subject, opened: asyncio.Event) -> None:
    """Returns when a watch ends, as it does with the agent's process."""
    try:
        async with subject.calls.watch(None) as messages:
            async for _ in messages:
                opened.set()
    except Refused:
        pass
    finally:
        opened.set()


async def _run(command: Command) -> None:
    """Runs a command of the user's, in the user's words.

    Raises:
        ClickException: It failed, or does not return.
    """
    process = await asyncio.create_subprocess_exec(
        *("sh", "-c", command.line),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(COMMAND_S_MAX):
            code = await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
        advice = "let it put the agent into the background"
        why = f"{command} has not returned within {COMMAND_S_MAX:g} s: {advice}"
        raise click.ClickException(why) from None
    if code:
        raise click.ClickException(f"{command} ended with exit code {code}")


async def _answers(subject: Subject) -> None:
    """Returns once the agent answers."""
    while True:
        try:
            # Not by the channel: each call that fails has it wait longer before the next.
            await _connect(subject.address)
            await subject.look()
        except (Refused, OSError):
            await asyncio.sleep(_ASK_AGAIN_S)
        else:
            return


async def _connect(address: str) -> None:
    """Returns if anybody listens at an address; an OSError says that nobody does."""
    host, separator, port = address.rpartition(":")
    if separator and port.isdecimal():  # else a scheme of gRPC's own
        _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
        writer.close()
