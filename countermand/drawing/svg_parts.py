"""What the SVG is made of: elements, text that fits, the theme, and glyphs drawn as strokes.

Glyphs on bars are paths, not letters: no font can lack them or turn them into emoji. Pure.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping
from typing import Final
from xml.sax import saxutils

from countermand.drawing.words import Tone
from countermand.rpc.visible import visible

# Widths are estimated: an SVG cannot measure text without a script. This is the average letter of
# the usual system fonts, in shares of the font's size, on the wide side.
LETTER: Final = 0.56

# Contrast of every text on its ground is at least 4.5 to 1 in both schemes.
LIGHT: Final[Mapping[str, str]] = {
    "ground": "#ffffff",
    "edge": "#d8dee6",
    "line": "#e6eaef",
    "ink": "#1a2029",
    "muted": "#5a6572",
    "good": "#1a7f4b",
    "bad": "#c4283a",
    "busy": "#1f6ed4",
    "made_up": "#6a45cc",
    "warn": "#946200",
    "quiet": "#6b7683",
    "lane": "#f5f2fd",
    "on_tone": "#ffffff",
}
DARK: Final[Mapping[str, str]] = {
    "ground": "#13171d",
    "edge": "#2b333d",
    "line": "#252c35",
    "ink": "#e9edf2",
    "muted": "#a0abb8",
    "good": "#43bd7f",
    "bad": "#ff6f7b",
    "busy": "#5ea9ff",
    "made_up": "#b197fc",
    "warn": "#e0ac3f",
    "quiet": "#8d99a7",
    "lane": "#1c1a2b",
    "on_tone": "#13171d",
}
TONES: Final[tuple[Tone, ...]] = ("good", "bad", "busy", "made_up", "warn", "quiet")

_RULES: Final = """
.cm text{font-family:system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif;\
font-size:13px;fill:var(--ink);font-variant-numeric:tabular-nums}
.cm .muted{fill:var(--muted)}
.cm .small{font-size:11.5px}
.cm .label{font-size:11px;font-weight:600;letter-spacing:.07em;fill:var(--muted)}
.cm .title{font-size:18px;font-weight:650}
.cm .strong{font-weight:600}
.cm .card{fill:var(--ground);stroke:var(--edge)}
.cm .halo{paint-order:stroke;stroke:var(--lane);stroke-width:5px}
.cm .lane{fill:var(--lane)}
.cm .rule{stroke:var(--line);fill:none}
.cm .glyph{fill:none;stroke:var(--on_tone);stroke-width:1.8;stroke-linecap:round;\
stroke-linejoin:round}
.cm .cap{stroke:var(--ground);stroke-width:1.5}
.cm .faded{fill-opacity:.22;stroke-width:1.4}
.cm .tint{fill-opacity:.14}
.cm .dashed{fill-opacity:.16;stroke-width:1.6;stroke-dasharray:5 3}
.cm .link{fill:none;stroke:var(--made_up);stroke-width:1.3;stroke-dasharray:1.5 3.5;\
stroke-linecap:round}
.cm .moment{fill:none;stroke-width:1.3;stroke-dasharray:4 4;stroke-opacity:.8}
.cm .hatch{stroke:var(--quiet);stroke-width:1.3;stroke-opacity:.75}
.cm .stripe{stroke:var(--quiet);stroke-width:3.2;stroke-opacity:.5}
"""


def page_css() -> str:
    """Returns the drawing's colours for all of a page, which stands a little back from them."""
    light, dark = _names({**LIGHT, "page": "#f4f6f8"}), _names({**DARK, "page": "#0d1014"})
    root = f":root{{{light};color-scheme:light dark}}\n"
    return f"{root}@media (prefers-color-scheme:dark){{:root{{{dark}}}}}\n"


def css() -> str:
    """Returns the style sheet; a page that holds the drawing is not touched by it."""
    light, dark = _names(LIGHT), _names(DARK)
    tones = "".join(
        f".cm .{tone}{{fill:var(--{tone});stroke:none}}"
        f".cm .on-{tone}{{stroke:var(--{tone})}}"
        f".cm text.{tone}{{fill:var(--{tone})}}\n"
        for tone in TONES
    )
    scheme = f"@media (prefers-color-scheme:dark){{.cm{{{dark}}}}}"
    return f".cm{{{light};color-scheme:light dark}}\n{scheme}{_RULES}{tones}"


def _names(theme: Mapping[str, str]) -> str:
    return ";".join(f"--{name}:{value}" for name, value in theme.items())


def tag(name: str, *children: str, **attributes: str | float) -> str:
    """Returns an element; attributes spell "-" as "_", and a trailing "_" falls away."""
    parts = [name]
    for key, value in attributes.items():
        text = value if isinstance(value, str) else number(value)
        parts.append(f"{key.rstrip('_').replace('_', '-')}={saxutils.quoteattr(visible(text))}")
    opening = " ".join(parts)
    return f"<{opening}>{''.join(children)}</{name}>" if children else f"<{opening}/>"


def escape(words: str) -> str:
    """Returns words as a text of the drawing: XML may not hold what a terminal would obey."""
    return saxutils.escape(visible(words))


def number(value: float) -> str:
    """Returns a number in as few characters as a tenth of a pixel needs."""
    return f"{value:.1f}".rstrip("0").rstrip(".")


def title(words: str) -> str:
    """Returns the text that a pointer shows and a screen reader says."""
    return tag("title", escape(words))


def text(words: str, x: float, y: float, class_: str = "", anchor: str = "start") -> str:
    """Returns one line of text."""
    more = {"class_": class_} if class_ else {}
    if anchor != "start":
        more["text_anchor"] = anchor
    return tag("text", escape(words), x=x, y=y, **more)


def width_of(words: str, size: float = 13) -> float:
    """Returns about how wide a text is."""
    return len(words) * size * LETTER


def fit(words: str, width: float, size: float = 13) -> str:
    """Returns a text cut to a width."""
    letters = max(int(width / (size * LETTER)), 1)
    return words if len(words) <= letters else words[: letters - 1] + "…"


def wrap(words: str, width: float, lines: int, size: float = 13) -> list[str]:
    """Returns a text in at most so many lines."""
    letters = max(int(width / (size * LETTER)), 8)
    return textwrap.wrap(words, letters, max_lines=lines, placeholder=" …") or [""]


def hatching(prefix: str) -> str:
    """Returns the patterns of waits and of attempts being stopped."""
    return tag(
        "defs",
        *(
            tag(
                "pattern",
                tag("path", d=f"M0 0V{size}", class_=class_),
                id=f"{prefix}-{class_}",
                width=size,
                height=size,
                patternUnits="userSpaceOnUse",
                patternTransform="rotate(45)",
            )
            for class_, size in (("hatch", 5.0), ("stripe", 7.0))
        ),
    )


# Strokes around the middle of a cap.
_STROKES: Final[Mapping[str, str]] = {
    "✓": "m-3.6 .2 2.6 2.8 4.6-5.6",
    "✗": "m-3 -3 6 6m0-6-6 6",
    "⊘": "m-3 3 6-6",
    "?": "m-2.2-2.2c0-3.2 4.6-3 4.4 0c-.1 1.6-2.2 1.6-2.2 3.2m0 2.6v.1",
    "↺": "m-3.7-4.2.5 2.7 2.7-.4m-2.9-.4a3.7 3.7 0 1 1-.2 4",
}


def cap(glyph: str, tone: Tone, x: float, y: float) -> str:
    """Returns the disc at the end of a bar, with the glyph of its outcome."""
    disc = tag("circle", cx=x, cy=y, r=8, class_=f"{tone} cap")
    strokes = _STROKES.get(glyph)
    return disc + (
        tag("path", d=f"M{number(x)} {number(y)}{strokes}", class_="glyph") if strokes else ""
    )


def lines(parts: Iterable[str]) -> str:
    """Returns elements one to a line, so that two drawings can be compared by eye."""
    return "\n".join(part for part in parts if part)
