"""History as lines: one event, one line, the words of the glossary."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

import click

from countermand.cli.forms import show_object
from countermand.cli.output import as_json, when
from countermand.cli.settings import Settings
from countermand.cli.table import paint
from countermand.drawing.tasks import task_id
from countermand.drawing.told import told
from countermand.drawing.values import progress_words
from countermand.rpc import names
from countermand.v1.attempt_pb2 import Attempt
from countermand.v1.event_pb2 import (
    HistoryEvent,
)
from countermand.v1.workflow_pb2 import AttemptProgress

PROGRESS_EVERY: Final = timedelta(seconds=5)  # a log is read later: a sign of life is enough


def show_event(settings: Settings, event: HistoryEvent) -> None:
    """Prints one event in the form that was asked for."""
    match settings.output:
        case "json" | "yaml":
            show_object(settings, as_json(event))
        case "name":
            pass  # an event has none; whoever follows says the workflow's at its end
        case _:
            click.echo(line(event))


def show_in_all(settings: Settings, event: HistoryEvent) -> None:
    """Prints one event among those of all workflows."""
    if settings.for_programs:
        show_object(settings, as_json(event))
        return
    workflow = event.workflow.removeprefix("workflows/")
    about = f"{workflow}/{task_id(event.task)}" if event.task else workflow
    click.echo(f"{when(event.time)}  {event.position:>6}  {about:<24}  {words(event)}")


def words(event: HistoryEvent) -> str:
    """Returns what happened, in words, states in their colours."""
    return told(event, paint).replace("\n", " ")  # one event, one line


def line(event: HistoryEvent) -> str:
    """Returns an event as a line: when, about what, what."""
    about = task_id(event.task) if event.task else event.workflow.removeprefix("workflows/")
    return f"{when(event.time)}  {event.sequence:>4}  {about:<16}  {words(event)}"


class Pace:
    """Says now and then how far each attempt is, until it has ended."""

    def __init__(self, now: Callable[[], datetime]) -> None:
        """Starts with no attempt known."""
        self._now = now
        self._due: dict[str, datetime] = {}  # by the attempt's name

    def apply(self, event: HistoryEvent) -> None:
        """Takes in which attempts are under way."""
        match event.WhichOneof("event"):
            case "attempt_started":
                attempt = f"{event.task}/attempts/{event.attempt_started.attempt}"
                self._due[attempt] = self._now() + PROGRESS_EVERY
            case "attempt_ended" if event.attempt_ended.state != Attempt.STATE_UNKNOWN:
                self._due.pop(f"{event.task}/attempts/{event.attempt_ended.attempt}", None)
            case _:
                pass

    def line(self, update: AttemptProgress) -> str:
        """Returns a line about an attempt; none before it is due, or for one that has ended."""
        due, attempt = self._due.get(update.attempt), names.parse_attempt(update.attempt)
        now = self._now()
        done = progress_words(update.progress)
        if due is None or attempt is None or now < due or not done:
            return ""
        self._due[update.attempt] = now + PROGRESS_EVERY
        when = f"{now:%H:%M:%S}.{now.microsecond // 1000:03d}Z"
        return f"{when}        {attempt.task_id:<16}  attempt {attempt.number} is at {done}"
