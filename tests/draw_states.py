"""Draws the state machines into coordinator/README.md: `python -m tests.draw_states`.

Everything is read from `coordinator/saga/states.py`: states with the words beside them, what moves
them, the rows of the tables, and what comes too late to matter. A test compares.
"""

from __future__ import annotations

import ast
import inspect
import itertools
from collections.abc import Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any

from coordinator.saga import states

PAGE = Path(__file__).parents[1] / "coordinator/README.md"
BEGIN = "<!-- drawn from coordinator/saga/states.py by `make docs`: edit there -->"
END = "<!-- end of what is drawn -->"

# By (state, change), each machine with its own types.
Table = Mapping[Any, StrEnum]


def drawn(page: str) -> str:
    """Returns the page with its middle part drawn anew."""
    head, found, rest = page.partition(BEGIN)
    _, closed, tail = rest.partition(END)
    assert found, f"{PAGE} has lost its marks"
    assert closed, f"{PAGE} has lost its marks"
    return f"{head}{BEGIN}\n\n{machines()}\n{END}{tail}"


def machines() -> str:
    """Returns the three machines as Markdown."""
    resting: set[StrEnum] = {
        *states.SETTLED,
        *states.AT_REST,
        *states.GROUP_PASSED,
        states.GroupState.FAILED,
        states.GroupState.FORWARD,  # most groups never leave it
    }
    workflow = _machine(
        "Workflow", states.WorkflowState, states.WorkflowChange, states.WORKFLOW_TABLE, resting
    )
    task = _machine("Task", states.TaskState, states.TaskChange, states.TASK_TABLE, resting)
    group = _machine("Group", states.GroupState, states.GroupChange, states.GROUP_TABLE, resting)
    return "\n".join([*workflow, *task, *_late(), *group])


def _machine(
    title: str,
    states_: type[StrEnum],
    changes: type[StrEnum],
    table: Table,
    resting: set[StrEnum],
) -> Iterator[str]:
    words = _words(states_)
    reached = {state for (state, _), _ in table.items()} | set(table.values())
    yield f"### {title}\n"
    yield "| state | means |"
    yield "|---|---|"
    for state in states_:
        served = "" if state in reached else " *(not served yet: nothing leads here)*"
        yield f"| `{state}` | {words[state.name]}{served} |"
    yield "\n```mermaid"
    yield from _diagram(states_, table, resting)
    yield "```\n"
    yield "| in state | when | becomes |"
    yield "|---|---|---|"
    for (state, change), target in table.items():
        yield f"| `{state}` | {change.name}: {change.value} | `{target}` |"
    unused = [change.name for change in changes if all(change is not c for _, c in table)]
    assert not unused, f"in no row: {unused}"
    yield ""


def _diagram(states_: type[StrEnum], table: Table, resting: set[StrEnum]) -> Iterator[str]:
    yield "stateDiagram-v2"
    first = next(iter(states_))
    yield f"    [*] --> {first}"
    arrows: dict[tuple[StrEnum, StrEnum], list[str]] = {}
    for (state, change), target in table.items():
        arrows.setdefault((state, target), []).append(change.name)
    for (state, target), names in arrows.items():
        yield f"    {state} --> {target}: {', '.join(names)}"
    for state in states_:
        if state in resting and any(state is target for target in table.values()):
            yield f"    {state} --> [*]"


def _late() -> Iterator[str]:
    yield "Facts that may come too late to matter; the task stays. Any other pair is a bug:\n"
    every = itertools.product(states.TaskState, states.TaskChange)
    for state, change in (pair for pair in every if pair in states.LATE):
        yield f"- `{state}`, {change.name}: {change.value}"
    yield ""


def _words(states_: type[StrEnum]) -> dict[str, str]:
    """Returns what stands beside each state in the source."""
    lines, _ = inspect.getsourcelines(states_)
    (tree,) = ast.parse("".join(lines)).body
    assert isinstance(tree, ast.ClassDef)
    found = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            _, _, comment = lines[node.lineno - 1].partition("  # ")
            found[node.targets[0].id] = comment.strip()
    return found


def main() -> None:
    """Writes the page."""
    PAGE.write_text(drawn(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
