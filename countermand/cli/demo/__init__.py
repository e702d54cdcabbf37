"""The command `countermand demo`: half a minute, real images, a crash, a proof."""

from __future__ import annotations

import os
from pathlib import Path

import click

from countermand.cli.settings import LOCAL, checked_picture, examples


@click.command(
    epilog=examples(
        "countermand demo",
        "countermand demo --scenario compensation --svg vm-2.svg",
        "countermand demo --scenario external",
        "countermand demo --fast --keep",
        exits=LOCAL,
    )
)
@click.option(
    "--scenario",
    type=click.Choice(["all", "success", "compensation", "external"]),
    default="all",
    show_default=True,
    help="Which story: copies, of which one fails, in whole or in part; or a vendor's work.",
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

    With --scenario external it is another story: a vendor's process clones a disk in the middle of
    our workflow. Once it goes well, once it is made up for, and once the vendor is killed half-way.
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
