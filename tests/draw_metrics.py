"""Draws the tables of docs/reference/metrics.md: `python -m tests.draw_metrics`.

Metrics are read from the tables of both services, alerts from deploy/. A test compares.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import yaml

from agent import metrics as agent
from coordinator.metrics import table as coordinator
from countermand.rpc.metrics import EVERYWHERE, Row

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/reference/metrics.md"
ALERTS = ROOT / "deploy/prometheus/alerts.yaml"
BEGIN = "<!-- drawn from the code by `make docs`: edit there -->"
END = "<!-- end of what is drawn -->"


def drawn(page: str) -> str:
    """Returns the page with its middle part drawn anew."""
    head, found, rest = page.partition(BEGIN)
    _, closed, tail = rest.partition(END)
    assert found, f"{PAGE} has lost its marks"
    assert closed, f"{PAGE} has lost its marks"
    middle = "\n".join(_middle())
    return f"{head}{BEGIN}\n\n{middle}\n{END}{tail}"


def _middle() -> Iterator[str]:
    yield from ("## Of the coordinator", "")
    yield from _metrics(row for row in coordinator.TABLE if row not in EVERYWHERE)
    yield from ("## Of an agent", "")
    yield from _metrics(row for row in agent.TABLE if row not in EVERYWHERE)
    yield from ("## Of both", "")
    yield from _metrics(EVERYWHERE)
    yield from (
        "## Alerts",
        "",
        "| alert | look at it | it fires when | what to do |",
        "|---|---|---|---|",
    )
    for group in yaml.safe_load(ALERTS.read_text())["groups"]:
        for rule in group["rules"]:
            look = "at once" if rule["labels"]["severity"] == "page" else "by day"
            when = f"`{_cell(rule['expr'])}`"
            when += f" for {rule['for']}" if "for" in rule else ""
            to_do = rule["annotations"]["how_to"].removeprefix("docs/")
            name = rule["alert"].removeprefix("Countermand")
            title = to_do.rpartition("/")[2].partition(".")[0].replace("-", " ")
            yield f"| {name} | {look} | {when} | [{title}](../{to_do}) |"
    yield ""


def _metrics(rows: Iterable[Row]) -> Iterator[str]:
    yield from ("| metric | labels | what it says |", "|---|---|---|")
    for row in rows:
        labels = ", ".join(f"`{label}`" for label in row.labels)
        yield f"| `{row.name}`, {row.kind} | {labels} | {row.help} |"
    yield ""


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def main() -> None:
    """Draws the page."""
    PAGE.write_text(drawn(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
