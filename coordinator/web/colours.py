"""The colours of the page: those of the drawing, once for both, in light and dark."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from countermand.drawing.svg_parts import DARK, LIGHT, css

# Behind the cards, which have the drawing's ground.
PAGE_LIGHT: Final = "#f4f6f8"
PAGE_DARK: Final = "#0d1014"

# What only a drawing inside a page has.
_INSIDE: Final = """
.cm .now{fill:none;stroke:var(--busy);stroke-width:1.4}
.cm a{text-decoration:none}
.cm a:hover text{text-decoration:underline}
"""


def drawing_css() -> str:
    """Returns the style sheet of drawings, and the colours for all of the page."""
    light, dark = _names(LIGHT, PAGE_LIGHT), _names(DARK, PAGE_DARK)
    root = f":root{{{light};color-scheme:light dark}}\n"
    scheme = f"@media (prefers-color-scheme:dark){{:root{{{dark}}}}}\n"
    return root + scheme + css() + _INSIDE


def _names(theme: Mapping[str, str], page: str) -> str:
    return ";".join(f"--{name}:{value}" for name, value in {**theme, "page": page}.items())
