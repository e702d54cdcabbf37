"""The page in a bundle: one file that any browser opens, without a network and without a script.

It says what the page of the workflow says, as it was: how it ended, the picture, every task, the
history. Drawn in pieces, since tasks may be many. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from html import escape as escaped
from typing import Final

from countermand.drawing import svg
from countermand.drawing.model import Timeline
from countermand.drawing.svg_parts import page_css
from countermand.drawing.tasks import how_far, marks, task_id, verb_of, why
from countermand.drawing.told import told
from countermand.drawing.values import clock, date, day, said, value_words
from countermand.drawing.words import Look, task_look, workflow_look
from countermand.rpc.visible import visible
from countermand.v1.event_pb2 import HistoryEvent
from countermand.v1.task_pb2 import Task
from countermand.v1.workflow_pb2 import Workflow

DEPTH_MAX: Final = 8
LAST_EVENTS: Final = 200

_CSS: Final = """
*{box-sizing:border-box}body{margin:0;padding:1.5rem;background:var(--page);color:var(--ink);\
font:14px/1.45 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif;\
font-variant-numeric:tabular-nums}
main{max-width:78rem;margin:0 auto;display:grid;gap:1rem;grid-template-columns:minmax(0,1fr)}
h1{margin:0;font-size:1.35rem}h2{margin:0 0 .5rem;font-size:1rem}p{margin:0}
section{background:var(--ground);border:1px solid var(--edge);border-radius:10px;\
padding:1rem 1.2rem}
.scroll{overflow-x:auto}.scroll svg{display:block;min-width:56rem;width:100%;height:auto}
table{width:100%;border-collapse:collapse}th,td{text-align:left;vertical-align:top;\
padding:.3rem .9rem .3rem 0;border-bottom:1px solid var(--line);font-weight:inherit;\
white-space:nowrap}th:last-child,td:last-child{white-space:normal;overflow-wrap:anywhere}
thead th{color:var(--muted);font-weight:600}.muted{color:var(--muted)}.state{font-weight:600;\
white-space:nowrap}.good{color:var(--good)}.bad{color:var(--bad)}.busy{color:var(--busy)}\
.made_up{color:var(--made_up)}.warn{color:var(--warn)}.quiet{color:var(--quiet)}
"""


def top(workflow: Workflow, timeline: Timeline, now: datetime) -> Iterator[str]:
    """Yields the page up to its tasks."""
    name = workflow.name.removeprefix("workflows/")
    look = workflow_look(workflow.state)
    yield '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
    # Whatever is in it, nothing of it runs, and nothing is fetched.
    yield '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
    yield "style-src 'unsafe-inline'; img-src data:\">\n"
    yield f"<title>{escape(str(look))} {escape(name)} · Countermand</title>\n"
    yield f"<style>{page_css()}{_CSS}</style>\n</head>\n<body>\n<main>\n"
    yield f"<h1>{_state(look)} {escape(name)}</h1>\n"
    yield f'<p class="muted">{escape(workflow.kind)}, submitted {date(workflow.create_time)}'
    if workflow.HasField("end_time"):
        yield f", settled {date(workflow.end_time)}"
    yield f". As it was on {now:%Y-%m-%d %H:%M:%S}Z, up to event {workflow.last_sequence}.</p>\n"
    yield "<section>\n<h2>How it stands</h2>\n"
    yield f"<p>{escape(timeline.verdict.sentence)}</p>\n"
    if workflow.needs:
        items = "".join(f"<li>{escape(need.message)}</li>" for need in workflow.needs)
        yield f"<p>It needs somebody:</p><ul>{items}</ul>\n"
    yield "</section>\n"
    if timeline.rows:
        yield '<div class="scroll" tabindex="0" role="region" aria-label="Timeline">\n'
        yield f"{svg.draw(timeline)}\n</div>\n"
    yield from _values(workflow)


def escape(text: str) -> str:
    """Returns a text of the page, with what it hides written out."""
    return escaped(visible(text))


def _state(look: Look) -> str:
    glyph = f'<span aria-hidden="true">{look.glyph}</span>'
    return f'<span class="state {look.tone}">{glyph} {look.word}</span>'


def _values(workflow: Workflow) -> Iterator[str]:
    """Yields what it was submitted with."""
    rows = [(f"label {key}", value) for key, value in sorted(workflow.labels.items())]
    rows += [(f"input {k}", value_words(v)) for k, v in sorted(workflow.input.fields.items())]
    if workflow.HasField("cause"):
        rows.insert(0, ("cause", f"{said(workflow.cause)} ({workflow.cause.reason})"))
    if workflow.trace_id:
        rows.append(("trace", workflow.trace_id))
    if rows:
        yield "<section>\n<h2>About it</h2>\n<table>\n<tbody>\n"
        yield from (
            f'<tr><th scope="row">{escape(name)}</th><td>{escape(value)}</td></tr>\n'
            for name, value in rows
        )
        yield "</tbody>\n</table>\n</section>\n"


def tasks_begin() -> str:
    """Returns what stands before the tasks."""
    heads = "".join(f'<th scope="col">{h}</th>' for h in ("Task", "State", "Where", "What"))
    more = '<th scope="col">How far</th><th scope="col">Why</th>'
    return (
        '<section>\n<h2>Tasks</h2>\n<div class="scroll" tabindex="0" role="region"'
        f' aria-label="Tasks">\n<table>\n<thead><tr>{heads}{more}</tr></thead>\n<tbody>\n'
    )


def task_rows(tasks: Iterable[Task], depths: dict[str, int]) -> Iterator[str]:
    """Yields a row per task; `depths` is carried on from page to page."""
    for task in tasks:
        depth = depths[task.parent] + 1 if task.parent in depths else 0
        depths[task.name] = depth
        lead = "· " * min(depth, DEPTH_MAX)
        where = f"with {task.owner_id}" if task.owner_id else task.host_id
        cells = (
            f'<th scope="row">{lead}{escape(task_id(task.name))}</th>',
            f"<td>{_state(task_look(task.state))}</td>",
            *(f"<td>{escape(text)}</td>" for text in (where, verb_of(task), how_far(task))),
            f"<td>{escape(marks(task) + why(task))}</td>",
        )
        yield f"<tr>{''.join(cells)}</tr>\n"


def events(history: Sequence[HistoryEvent], last: int) -> Iterator[str]:
    """Yields the end of the tasks, and the last of a history that goes up to a sequence."""
    found = history[-LAST_EVENTS:]
    yield "</tbody>\n</table>\n</div>\n</section>\n"
    title = (
        "History" if len(found) == last else f"The last {len(found)} events: events.jsonl has all"
    )
    yield f'<section>\n<h2>{title}</h2>\n<div class="scroll" tabindex="0" role="region"'
    yield ' aria-label="History">\n<table>\n<thead><tr>'
    yield from (f'<th scope="col">{h}</th>' for h in ("Number", "Time", "About", "What"))
    yield "</tr></thead>\n<tbody>\n"
    for event in found:
        about = task_id(event.task) if event.task else "workflow"
        cells = (str(event.sequence), f"{day(event.time)} {clock(event.time)}", about, told(event))
        yield f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>\n"
    yield "</tbody>\n</table>\n</div>\n</section>\n</main>\n</body>\n</html>\n"
