"""Draws tables: aligned columns under their heads, and states in their colours.

Tables are spaces only: they survive a narrow terminal, a pipe into awk and a paste into a ticket.
Knows no messages, and so loads none.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import click

from countermand.drawing.plain import PLAIN

if TYPE_CHECKING:
    from countermand.drawing.words import Look

    Cell = str | Look
    Row = Sequence[Cell]

GAP: Final = 2
COLUMNS: Final = 80  # of a terminal that does not say how wide it is
COLUMN_MIN: Final = 4  # "vm-…": narrower than this, lines wrap
_OURS: Final = str.maketrans(dict(PLAIN))  # glyphs, each of which takes one cell
_BREAK: Final = re.compile(r"\s*[\n\t]\s*")


def table(heads: Sequence[str], rows: Sequence[Row], *, cut: bool = False) -> None:
    """Prints aligned columns; where they may be cut, the widest make room at a terminal's edge."""
    texts = [[_BREAK.sub(" ", str(cell)) for cell in cells] for cells in rows]
    widths = [max(map(width_of, column)) for column in zip(heads, *texts, strict=True)]
    if cut and sys.stdout.isatty():
        widths = fitted(widths, terminal_columns() - GAP * (len(widths) - 1))
    click.echo(_line(heads, heads, widths))
    for cells, text in zip(rows, texts, strict=True):
        click.echo(_line(cells, text, widths))


def terminal_columns() -> int:
    """Returns how wide the terminal is: what COLUMNS says, or what it says itself."""
    said = os.environ.get("COLUMNS", "")
    if said.isdecimal() and int(said):
        return int(said)
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns or COLUMNS
    except OSError:
        return COLUMNS


def fitted(widths: Sequence[int], room: int) -> list[int]:
    """Returns the widths with the widest as narrow as they must be; what is over is the last's.

    The first gives way when no other can: it is a name, which people copy.
    """
    name, *others = widths
    widest = max(others, default=0)
    while name + sum(min(width, widest) for width in others) > room and widest > COLUMN_MIN:
        widest -= 1
    narrowed = [min(width, widest) for width in others]
    name = min(name, max(room - sum(narrowed), COLUMN_MIN))
    if narrowed:
        over = room - name - sum(narrowed)
        narrowed[-1] = min(widths[-1], narrowed[-1] + max(over, 0))
    return [name, *narrowed]


def width_of(text: str) -> int:
    """Returns how many cells of a terminal a text takes: of some letters each takes two."""
    if max(text.translate(_OURS), default="") < "\u0300":
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def clipped(text: str, width: int) -> str:
    """Returns a text that takes so many cells, padded or cut with an ellipsis."""
    taken = width_of(text)
    if taken <= width:
        return text + " " * (width - taken)
    if taken == len(text):
        return f"{text[: width - 1]}…"
    from rich.cells import set_cell_size

    cut = f"{set_cell_size(text, width - 1).rstrip()}…"  # half a letter would be a space
    return cut + " " * (width - width_of(cut))


def _line(cells: Row, texts: Sequence[str], widths: Sequence[int]) -> str:
    """Returns a row; padded before it is painted, since colours have no width."""
    shown = [clipped(text, width) for text, width in zip(texts, widths, strict=True)]
    painted = [
        text if isinstance(cell, str) else paint(cell, text)
        for cell, text in zip(cells, shown, strict=True)
    ]
    return (" " * GAP).join(painted).rstrip()


def paint(look: Look, text: str | None = None) -> str:
    """Returns a state in its colour; click takes the colour away where none is wanted."""
    text = str(look) if text is None else text
    return click.style(text, dim=True) if look.colour == "dim" else click.style(text, look.colour)
