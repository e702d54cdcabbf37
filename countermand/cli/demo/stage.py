"""Around the story: the folder, the processes' lives, and what is said at the end.

Whatever happens in between, the children are ended and the folder is removed, unless it is to be
kept; a failure says in one line what to look at.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rich.console import Console

from countermand.cli.demo import array, story, vendor_story
from countermand.cli.demo.images import best_format
from countermand.cli.demo.processes import Processes, ProcessFailed
from countermand.cli.demo.screen import Screen
from countermand.cli.demo.site import Site
from countermand.cli.demo.story import Told, Verdicts
from countermand.cli.demo.tempo import FAST, NORMAL
from countermand.cli.demo.vendor_site import VENDOR_FAST, VENDOR_NORMAL, VendorSite
from countermand.client import Client
from countermand.rpc.errors import CountermandError

PREFIX: Final = "countermand-demo-"
FAILED: Final = 1
EXTERNAL: Final = "external"  # the scenario with a vendor
INTERRUPTED: Final = 130  # as shells have it: 128 + SIGINT


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What was asked for on the command line."""

    scenario: str = "all"
    fast: bool = False
    keep: bool = False
    picture: Path | None = None
    colourless: bool = False


def play(options: Options, console: Console | None = None) -> int:
    """Plays the demo; returns the exit code: 0 only if everything it claims was seen to hold."""
    console = console or Console(color_system=None if options.colourless else "auto")
    screen = Screen(console)
    folder = Path(tempfile.mkdtemp(prefix=PREFIX))
    try:
        return asyncio.run(_play(options, screen, folder))
    except (KeyboardInterrupt, asyncio.CancelledError):
        screen.say("interrupted; everything that was started has been ended")
        return INTERRUPTED
    except (ProcessFailed, CountermandError, OSError, subprocess.SubprocessError) as error:
        words = str(error) or f"it was not through within {story.PATIENCE}"  # a TimeoutError
        screen.check(holds=False, words=f"the demo could not go on: {words}")
        return FAILED
    finally:
        if options.keep:
            screen.fact("kept", str(folder))
        else:
            shutil.rmtree(folder, ignore_errors=True)


async def _play(options: Options, screen: Screen, folder: Path) -> int:
    loop, playing = asyncio.get_running_loop(), asyncio.current_task()
    assert playing is not None
    # Like Ctrl-C: a demo that is asked to end does not leave its children behind.
    loop.add_signal_handler(signal.SIGTERM, playing.cancel)
    begin = time.monotonic()
    verdicts = Verdicts(screen)
    tell = _with_a_vendor if options.scenario == EXTERNAL else _copies
    async with Processes(folder / "logs") as processes, asyncio.timeout(_patience_s()):
        site, told = await tell(options, screen, verdicts, folder, processes)
    _close(options, screen, site, told)
    return _verdict(screen, verdicts, time.monotonic() - begin)


async def _copies(
    options: Options, screen: Screen, verdicts: Verdicts, folder: Path, processes: Processes
) -> tuple[Site, Told | None]:
    """Tells of copies that succeed, and of one that fails while the coordinator is killed."""
    screen.title("Countermand: storage workflows that make up for what they did when they fail")
    screen.fact("folder", str(folder))
    told: Told | None = None
    with_success = options.scenario != "compensation"
    site = Site(folder, FAST if options.fast else NORMAL, best_format(), processes)
    await story.set_up(site, screen, with_success=with_success)
    assert site.coordinator is not None
    async with Client(site.coordinator.address) as client:
        await site.add_hosts(client)
        if with_success:
            await story.succeed(site, client, screen, verdicts)
        if options.scenario != "success":
            told = await story.compensate(
                site, client, screen, verdicts, after_success=with_success
            )
    return site, told


async def _with_a_vendor(
    options: Options, screen: Screen, verdicts: Verdicts, folder: Path, processes: Processes
) -> tuple[VendorSite, Told | None]:
    """Tells of a vendor's work in the middle of a workflow."""
    screen.title("Countermand: a vendor's own work in the middle of a workflow, as safe as ours")
    screen.fact("folder", str(folder))
    tempo = VENDOR_FAST if options.fast else VENDOR_NORMAL
    site = VendorSite(folder, tempo, processes)
    return site, await vendor_story.play(site, screen, verdicts)


def _patience_s() -> float:
    return story.PATIENCE.total_seconds()


def _close(options: Options, screen: Screen, site: Site | VendorSite, told: Told | None) -> None:
    """Writes the picture, and says what to do next."""
    if told is not None:
        path = options.picture or _picture_path(options, site.folder)
        story.draw(told, path)
        screen.console.print()
        screen.fact("picture", str(path))
    assert site.coordinator is not None
    screen.title("Next")
    if not options.keep:
        commands = _commands(options)
        width = max(map(len, commands))
        for command, what in commands.items():
            screen.command(f"{command:<{width}}   # {what}")
        return
    address, data = site.coordinator.address, shlex.quote(str(site.coordinator_data))
    screen.say("The processes have ended, their data is kept. Start the coordinator again and ask:")
    serve = typed("serve", "--data", data, "--listen", address, name="countermand-coordinator")
    screen.command(f"{serve} 2>/dev/null &")
    screen.command(f"export COUNTERMAND_COORDINATOR={address}")
    screen.command(typed("workflow", "list"))
    screen.command(typed("workflow", "get", "vm-2" if told is not None else "vm-1"))
    if isinstance(site, VendorSite):
        screen.command(typed("workflow", "timeline", "vm-3"))
    where = [site.folder / "pools"]
    if isinstance(site, VendorSite):
        where.append(site.own)
    listing = " ".join(shlex.quote(str(path)) for path in where)
    screen.command(f"ls -R {listing}; cat {shlex.quote(str(site.folder / 'logs'))}/*.log")


def _commands(options: Options) -> dict[str, str]:
    """Returns what to try next, each with what it is for."""
    if options.scenario == EXTERNAL:
        return {
            typed("demo", "--scenario", EXTERNAL, "--keep"): "keeps the folder to look into",
            typed("external", "--help"): "a vendor's part by hand",
            f"less {_from_here(Path(array.__file__))}": "the vendor's whole program",
        }
    return {
        typed("demo", "--keep"): "keeps the folder to look into",
        typed("demo", "--scenario", "compensation"): "only the failure",
        typed("demo", "--scenario", EXTERNAL): "a vendor's work in the middle of ours",
        typed("--help"): "everything else",
    }


def typed(*arguments: str, name: str = "countermand") -> str:
    """Returns a command that works as it is typed, in the shell that the demo was started from.

    A command that the shell would not find is named by its path; from where it was started if it
    lies below, as .venv does.
    """
    if shutil.which(name) is None:
        name = _from_here(Path(sys.executable).with_name(name))
    return " ".join((name, *arguments))


def _from_here(path: Path) -> str:
    """Returns a path from where the demo was started, if it lies below."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def _picture_path(options: Options, folder: Path) -> Path:
    """Returns where the picture goes: it outlives the folder, unless that is kept."""
    if options.keep:
        return folder / "vm-2.svg"
    handle, path = tempfile.mkstemp(prefix=PREFIX, suffix=".svg")
    os.close(handle)
    return Path(path)


def _verdict(screen: Screen, verdicts: Verdicts, seconds: float) -> int:
    screen.console.print()
    if verdicts.broken:
        screen.check(holds=False, words=f"does not hold: {'; '.join(verdicts.broken)}")
        return FAILED
    screen.check(holds=True, words=f"everything held, in {seconds:.0f} s")
    return 0
