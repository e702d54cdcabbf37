"""The style sheet of drawings inside a page, and the colours for all of the page."""

from __future__ import annotations

from typing import Final

from countermand.drawing.svg_parts import css, page_css

# What only a drawing inside a page has.
_INSIDE: Final = """
.cm .now{fill:none;stroke:var(--busy);stroke-width:1.4}
.cm a{text-decoration:none}
.cm a:hover text{text-decoration:underline}
"""


def drawing_css() -> str:
    """Returns the style sheet."""
    return page_css() + css() + _INSIDE
