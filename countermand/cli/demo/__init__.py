"""The command `countermand demo`: half a minute, three real copies, one crash, one proof."""

from __future__ import annotations

import os
from pathlib import Path

import click

from countermand.cli.settings import checked_picture, examples


@click.command(
    epilog=examples(
        "countermand demo",
        "countermand demo --scenario compensation --svg vm-2.svg",
        "countermand demo --fast --keep",
    )
)
@click.option(
    "--scenario",
    type=click.Choice(["all", "success", "compensation"]),
    default="all",
    show_default=True,
    help="Which part of the story.",
)
@click.option("--fast", is_flag=True, help="With smaller images: for a hurry, and for tests.")
@click.option("--keep", is_flag=True, help="Keeps the folder: pools, journals, store and logs.")
@click.option(
    "--svg",
    "picture",
    type=click.Path(dir_okay=False, path_type=Path),
    callback=checked_picture,
    help="Where to write the picture; by default among the temporary files.",
)
@click.option("--no-color", is_flag=True, help="Without colours; NO_COLOR does the same.")
@click.pass_context
def demo(
    ctx: click.Context,
    *,
    scenario: str,
    fast: bool,
    keep: bool,
    picture: Path | None,
    no_color: bool,
) -> None:
    """Shows it: one copy fails, its siblings are made up for, and nothing is left.

    Starts a coordinator and three agents as processes of your own on free ports of this machine,
    copies real images, fills a pool, kills the coordinator, and compares all bytes at the end. No
    root, no container; about half a minute.
    """
    from countermand.cli.demo.stage import Options, play

    options = Options(
        scenario=scenario,
        fast=fast,
        keep=keep,
        picture=picture,
        colourless=no_color or ctx.color is False or bool(os.environ.get("NO_COLOR")),
    )
    ctx.exit(play(options))
