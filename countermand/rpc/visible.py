r"""Makes visible what a text hides from those who read it: the one place that knows how.

Owners, agents and operators write messages, reasons and labels, and other people's terminals show
them. A control character among them would move the cursor, name the window or write to the
clipboard, and one that turns the direction would show other words than there are. Each becomes its
escape, as in `\u001b[2J`; within JSON that is the same text. Line breaks and tabs stay.
"""

from __future__ import annotations

import re
from typing import Final

# C0 without tab and line break, DEL and C1; what ends a line elsewhere; what turns the direction.
_HIDDEN: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]"
)


def visible(text: str) -> str:
    """Returns a text with everything that it hides written out."""
    if text.isprintable():  # nearly all are
        return text
    return _HIDDEN.sub(_written_out, text.replace("\r\n", "\n"))


def visible_json(text: str) -> str:
    """Returns the same JSON, with everything written out that JSON itself leaves as it is."""
    if text.isascii() and "\x7f" not in text:
        return text
    return _HIDDEN.sub(_written_out, text)


def _written_out(found: re.Match[str]) -> str:
    return f"\\u{ord(found[0]):04x}"
