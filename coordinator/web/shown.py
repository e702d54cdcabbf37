"""What templates say: states, times, amounts and addresses, in the words of the command line."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import cache
from typing import Any, Final
from urllib.parse import quote

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from markupsafe import Markup, escape

from countermand.drawing import phrases, tasks, told, values, words
from countermand.rpc import names
from countermand.rpc.visible import visible
from countermand.v1.attempt_pb2 import Attempt, Progress
from countermand.v1.external_task_pb2 import ExternalOwner, ExternalRequest
from countermand.v1.host_pb2 import HostEvent
from countermand.v1.image_pb2 import Pool
from countermand.v1.task_pb2 import Task
from countermand.v1.workflow_pb2 import Workflow

# What was done to a host, as the command line says it.
HOST_EVENTS: Final[Mapping[int, str]] = {
    HostEvent.KIND_ADDED: "added",
    HostEvent.KIND_REMOVED: "removed",
    HostEvent.KIND_DRAINED: "drained",
    HostEvent.KIND_UNDRAINED: "undrained",
    HostEvent.KIND_ACCEPTED: "accepted as it was",
    HostEvent.KIND_RECONCILED: "reconciled",
    HostEvent.KIND_REPAIR_BEGUN: "repair begun",
    HostEvent.KIND_REPAIRED: "repaired",
    HostEvent.KIND_REPAIR_REFUSED: "repair refused",
}


BOTH_UNITS_BELOW: Final = 10  # "3 h 20 min", but "14 h"

ASKED: Final[Mapping[int, words.Look]] = {
    ExternalRequest.KIND_START: words.Look("start", "▸", "busy"),
    ExternalRequest.KIND_CANCEL: words.Look("cancel", "◐", "warn"),
    ExternalRequest.KIND_COMPENSATE: words.Look("compensate", "↶", "made_up"),
}


@cache
def state(look: words.Look) -> Markup:
    """Returns a state as a glyph and a word; the tone only helps."""
    glyph = Markup('<span class="glyph" aria-hidden="true">{}</span>').format(look.glyph)
    return Markup('<span class="state {}">{} {}</span>').format(look.tone, glyph, look.word)


def moment(time: Timestamp, now: datetime) -> Markup:
    """Returns how long ago something was, with the exact time behind it."""
    if not time.seconds:
        return Markup("")
    seconds = now.timestamp() - time.ToNanoseconds() / 1e9
    exact = values.date(time)
    machine = time.ToDatetime(UTC).isoformat(timespec="milliseconds")
    said = f"in {coarse(-seconds)}" if seconds < -1 else f"{coarse(seconds)} ago"
    if -1 <= seconds < 1:
        said = "just now"
    return Markup('<time datetime="{}" title="{}">{}</time>').format(machine, exact, said)


def coarse(seconds: float) -> str:
    """Returns how long ago, as people say it: the page's script goes on with the same words."""
    whole = int(seconds)
    for unit, name, rest, smaller in (
        (86_400, "d", 3600, "h"),
        (3600, "h", 60, "min"),
        (60, "min", 0, ""),
    ):
        if whole >= unit:
            number, left = divmod(whole, unit)
            more = left // rest if rest and number < BOTH_UNITS_BELOW else 0
            return f"{number} {name}" + (f" {more} {smaller}" if more else "")
    return f"{whole} s"


def span(start: Timestamp, end: Timestamp) -> str:
    """Returns how long something took."""
    return phrases.duration(max((end.ToNanoseconds() - start.ToNanoseconds()) / 1e9, 0.0))


def bar(progress: Progress, about: str) -> Markup:
    """Returns progress as a bar and in words; nothing where there is nothing to say."""
    said = visible(values.progress_words(progress))
    if not said:
        return Markup("")
    if not progress.total:
        return Markup('<span class="amount">{}</span>').format(said)
    done = min(progress.done, progress.total)
    return Markup(
        '<progress max="{}" value="{}" aria-label="{}"></progress> <span class="amount">{}</span>'
    ).format(progress.total, done, f"progress of {about}: {said}", said)


def prose(text: str) -> Markup:
    """Returns words with what stands in backquotes as code: commands to be copied."""
    parts = visible(text).split("`")
    drawn = [
        Markup("<code>{}</code>").format(part) if index % 2 else escape(part)
        for index, part in enumerate(parts)
    ]
    return Markup("").join(drawn)


# Commands that have a form: by their words, and where it is.
_FORMS: Final = (
    (re.compile(r"countermand workflow (fork|resume|cancel) (\S+).*"), "/workflows/{1}/{0}"),
    (
        re.compile(r"countermand workflow compensation \S+ (\S+) (\S+).*"),
        "/workflows/{0}/tasks/{1}/compensation",
    ),
)


def doable(text: str) -> Markup:
    """Returns words with their commands as links, where what they do can be done here as well."""
    parts = visible(text).split("`")
    drawn = [_command(part) if n % 2 else escape(part) for n, part in enumerate(parts)]
    return Markup("").join(drawn)


def _command(text: str) -> Markup:
    code = Markup("<code>{}</code>").format(text)
    for known, form in _FORMS:
        if found := known.fullmatch(text):
            url = form.format(*(quote(part, safe="") for part in found.groups()))
            return Markup('<a href="{}" title="Opens the form for it">{}</a>').format(url, code)
    return code


def workflow_id(name: str) -> str:
    """Returns the id in a workflow's name."""
    return name.removeprefix("workflows/")


def workflow_url(name: str) -> str:
    """Returns the page of a workflow, given its name or id."""
    return f"/workflows/{quote(workflow_id(name), safe='')}"


def task_url(name: str) -> str:
    """Returns the page of a task, given its name."""
    parsed = names.parse_task(name)
    return f"/workflows/{quote(parsed[0])}/tasks/{quote(parsed[1])}" if parsed else "/"


def host_url(host_id: str) -> str:
    """Returns the page of a host."""
    return f"/hosts/{quote(host_id.removeprefix('hosts/'), safe='')}"


def owner_url(owner_id: str) -> str:
    """Returns the page of an owner."""
    return f"/owners/{quote(owner_id, safe='')}"


def counted(workflow: Workflow) -> dict[str, int]:
    """Returns how many tasks are where, as lists say it."""
    by = {count.state: count.count for count in workflow.task_counts}
    return {
        "all": sum(by.values()),
        "done": by.get(Task.STATE_SUCCEEDED, 0) + by.get(Task.STATE_SKIPPED, 0),
        "made_up": by.get(Task.STATE_COMPENSATED, 0),
        "to_make_up": by.get(Task.STATE_COMPENSATING, 0),
        "blocked": by.get(Task.STATE_COMPENSATION_BLOCKED, 0),
        "failed": by.get(Task.STATE_FAILED, 0),
        "left": max(len(workflow.leftovers), by.get(Task.STATE_ABANDONED, 0)),
    }


def presence(owner: ExternalOwner) -> words.Look:
    """Returns whether somebody is there for an owner."""
    if owner.silent:
        return words.Look("silent", "?", "bad")
    if owner.watching:
        return words.Look("watches", "✓", "good")
    # One that asks now and then is as well: only that nothing is accepted is news.
    return words.Look("does not watch", "·", "warn" if owner.unaccepted else "quiet")


def taken(pool: Pool) -> int:
    """Returns how many bytes of a pool nobody can take: of its own, of others, and reserved."""
    return max(pool.capacity_bytes - pool.free_bytes, 0)


def attempt_kind(attempt: Attempt) -> str:
    """Returns what an attempt tries."""
    return "compensation" if attempt.kind == Attempt.KIND_COMPENSATION else "action"


def has(message: Message, field: str) -> bool:
    """Returns whether a field is set."""
    return message.HasField(field)


FILTERS: Final[Mapping[str, Callable[..., Any]]] = {
    "moment": moment,
    "id": workflow_id,
    "task_id": tasks.task_id,
    "amount": values.amount,
    "size": phrases.size,
    "duration": phrases.duration,
    "said": values.said,
    "prose": prose,
    "doable": doable,
    "value": values.value_words,
}
GLOBALS: Final[Mapping[str, Any]] = {
    "state": state,
    "workflow_look": words.workflow_look,
    "task_look": words.task_look,
    "attempt_look": words.attempt_look,
    "host_look": words.host_look,
    "webhook_look": words.webhook_look,
    "coordinator_look": words.coordinator_look,
    "coordinator_part": words.coordinator_part,
    "span": span,
    "bar": bar,
    "counted": counted,
    "has": has,
    "told": told.told,
    "why": tasks.why,
    "workflow_why": tasks.workflow_why,
    "verb_of": tasks.verb_of,
    "last_said": tasks.last_said,
    "marks": tasks.marks,
    "how_far": tasks.how_far,
    "IN_FLIGHT": tasks.IN_FLIGHT,
    "count": phrases.count,
    "attempt_kind": attempt_kind,
    "taken": taken,
    "host_event": lambda kind: HOST_EVENTS.get(kind, "changed"),
    "workflow_url": workflow_url,
    "task_url": task_url,
    "host_url": host_url,
    "owner_url": owner_url,
    "presence": presence,
    "asked": lambda request: ASKED.get(request.kind, words.UNHEARD_OF),
}
