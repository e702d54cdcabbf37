"""The terminal that drawings go to. Importing this imports rich: do so where something is drawn."""

from __future__ import annotations

import click
from rich.console import Console


def console() -> Console:
    """Returns the standard output, with colour where tables have it."""
    match click.get_current_context().color:
        case False:  # without a colour system there is no dim and no bold either
            return Console(color_system=None, highlight=False)
        case True:  # the sixteen that every terminal knows: there is nothing to ask
            return Console(color_system="standard", force_terminal=True, highlight=False)
        case _:
            return Console(color_system="auto", highlight=False)
