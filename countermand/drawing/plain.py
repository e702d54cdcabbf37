"""What stands for our glyphs where an output's encoding has none of them: one letter for each.

As wide as the glyph, so that tables and drawings stay as they are. "?" is nobody's: it means
unknown, and a letter of somebody's text that cannot be written. Pure.
"""

from __future__ import annotations

import codecs
import io
from collections.abc import Mapping
from typing import Final

PLAIN: Final[Mapping[str, str]] = {
    # states, as `countermand.drawing.words` has them
    "▸": ">",
    "‖": "|",
    "↶": "<",
    "↺": "@",
    "✓": "+",
    "✗": "x",
    "·": ".",
    "○": "o",
    "◌": ":",
    "↻": "&",
    "◐": "/",
    "⊘": "-",
    "»": "}",
    "∅": "#",
    # lines and moments, as `countermand.drawing.terminal` has them
    "━": "=",
    "╌": "~",
    "░": ",",
    "╍": "%",
    "╎": "|",
    "┊": ":",
    "─": "-",
    "├": "|",
    "┤": "|",
    "▴": "^",
    "…": "~",
}
ERRORS: Final = "countermand.plain"  # the name of the rule, for a stream's `errors`
ASCII: Final = "countermand_ascii"


def _stand_in(error: UnicodeError) -> tuple[str, int]:
    """Returns what is written for what an encoding does not have."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    missing = error.object[error.start : error.end]
    return "".join(PLAIN.get(letter, "?") for letter in missing), error.end


def _lookup(name: str) -> codecs.CodecInfo | None:
    """Returns ASCII by a name of ours: click writes UTF-8 to what calls itself ASCII."""
    if name != ASCII:
        return None
    ascii_ = codecs.lookup("ascii")
    return codecs.CodecInfo(
        name=ASCII,
        encode=ascii_.encode,
        decode=ascii_.decode,
        incrementalencoder=ascii_.incrementalencoder,
        incrementaldecoder=ascii_.incrementaldecoder,
    )


def make_do(stream: io.TextIOWrapper) -> None:
    """Has a stream write what stands for what it cannot write."""
    is_ascii = codecs.lookup(stream.encoding).name == "ascii"
    stream.reconfigure(encoding=ASCII if is_ascii else None, errors=ERRORS)


codecs.register_error(ERRORS, _stand_in)
codecs.register(_lookup)
