"""Draws into docs/reference who tests what: `python -m tests.draw_scenarios`.

The pages hold the promises, a row of a table for each, with its number in the first cell. Tests
cite the numbers: S-V12 for scenario V12, I5 for an invariant. The last cell of each row is drawn
from them. A test compares, and finds numbers that no row has.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]
TESTS = ROOT / "tests"
SCENARIOS = ROOT / "docs/reference/scenarios.md"
SEMANTICS = ROOT / "docs/reference/semantics.md"

# The number, what is promised, and the cell that is drawn.
ROW = re.compile(r"^\| ([A-Z]\d+) \| (.*) \| ([^|]*) \|$", re.MULTILINE)
# One, or "S-Z1 to S-Z7".
SCENARIO = re.compile(r"\bS-([A-Z])(\d+)(?:\s+to\s+S-\1(\d+))?")
INVARIANT = re.compile(r"\b(I)(\d{1,2})()\b")

# These speak of numbers and cite none.
OWN = ("draw_scenarios.py", "test_scenarios_drawn.py")

# Number → the files that cite it, as paths in the repository.
Citations = Mapping[str, Iterable[str]]


def cited(text: str, pattern: re.Pattern[str]) -> Iterator[str]:
    """Yields every number that a text cites; of a range, all that are in it."""
    for letter, first, last in pattern.findall(text):
        for number in range(int(first), int(last or first) + 1):
            yield f"{letter}{number}"


def citations(pattern: re.Pattern[str]) -> dict[str, list[str]]:
    """Returns the tests that cite each number, in the order of their paths."""
    found: dict[str, list[str]] = {}
    for path in sorted(TESTS.rglob("*.py")):
        if path.name in OWN:
            continue
        for number in sorted(set(cited(path.read_text(encoding="utf-8"), pattern))):
            found.setdefault(number, []).append(path.relative_to(ROOT).as_posix())
    return found


def numbers(page: str) -> list[str]:
    """Returns the numbers of a page's rows."""
    return [row[1] for row in ROW.finditer(page)]


def drawn(page: str, found: Citations) -> str:
    """Returns a page with its last cells drawn anew."""

    def row(match: re.Match[str]) -> str:
        paths = found.get(match[1], ())
        files = [f"[{path.removeprefix('tests/')}](../../{path})" for path in paths]
        return f"| {match[1]} | {match[2]} | {', '.join(files) or '-'} |"

    return ROW.sub(row, page)


# Page → what its rows are cited as.
PAGES = {SCENARIOS: SCENARIO, SEMANTICS: INVARIANT}


def main() -> None:
    """Writes both pages."""
    for path, pattern in PAGES.items():
        page = path.read_text(encoding="utf-8")
        path.write_text(drawn(page, citations(pattern)), encoding="utf-8")


if __name__ == "__main__":
    main()
