"""How each state looks: one word, one glyph, one tone. For tables, drawings and messages alike.

The word and the glyph carry the meaning; the tone only helps. Glyphs are one column wide and have
no emoji form, so that a terminal, a pipe and an SVG show the same thing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from countermand.v1.attempt_pb2 import Attempt
from countermand.v1.coordinator_pb2 import Coordinator
from countermand.v1.host_pb2 import Host
from countermand.v1.task_pb2 import Task
from countermand.v1.webhook_pb2 import Webhook
from countermand.v1.workflow_state_pb2 import WorkflowState

Tone = Literal["good", "bad", "busy", "made_up", "warn", "quiet"]

# Of the sixteen colours that every terminal lets its owner choose: readable on light and dark.
STYLES: Final[Mapping[Tone, str]] = {
    "good": "green",
    "bad": "red",
    "busy": "blue",
    "made_up": "magenta",
    "warn": "yellow",
    "quiet": "dim",
}


@dataclass(frozen=True, slots=True)
class Look:
    """One state, as people see it."""

    word: str
    glyph: str
    tone: Tone

    @property
    def colour(self) -> str:
        """Returns the style of its tone in a terminal."""
        return STYLES[self.tone]

    def __str__(self) -> str:
        """Returns glyph and word."""
        return f"{self.glyph} {self.word}"


# A state that a newer coordinator knows and we do not.
UNHEARD_OF: Final = Look("other", "?", "warn")

WORKFLOW: Final[Mapping[int, Look]] = {
    WorkflowState.WORKFLOW_STATE_RUNNING: Look("running", "▸", "busy"),
    WorkflowState.WORKFLOW_STATE_PAUSING: Look("pausing", "‖", "warn"),
    WorkflowState.WORKFLOW_STATE_PAUSED: Look("paused", "‖", "warn"),
    WorkflowState.WORKFLOW_STATE_COMPENSATING: Look("compensating", "↶", "made_up"),
    WorkflowState.WORKFLOW_STATE_BLOCKED: Look("blocked", "!", "bad"),
    WorkflowState.WORKFLOW_STATE_ENDING: Look("ending", "▸", "busy"),
    WorkflowState.WORKFLOW_STATE_SUCCEEDED: Look("succeeded", "✓", "good"),
    WorkflowState.WORKFLOW_STATE_COMPENSATED: Look("compensated", "↺", "made_up"),
    WorkflowState.WORKFLOW_STATE_FAILED: Look("failed", "✗", "bad"),
    WorkflowState.WORKFLOW_STATE_QUARANTINED: Look("quarantined", "!", "bad"),
}

TASK: Final[Mapping[int, Look]] = {
    Task.STATE_PENDING: Look("pending", "·", "quiet"),
    Task.STATE_READY: Look("ready", "○", "quiet"),
    Task.STATE_STARTING: Look("starting", "◌", "busy"),
    Task.STATE_RUNNING: Look("running", "▸", "busy"),
    Task.STATE_UNKNOWN: Look("unknown", "?", "warn"),
    Task.STATE_RETRY_WAIT: Look("retry wait", "↻", "warn"),
    Task.STATE_CANCELLING: Look("cancelling", "◐", "warn"),
    Task.STATE_SUCCEEDED: Look("succeeded", "✓", "good"),
    Task.STATE_FAILED: Look("failed", "✗", "bad"),
    Task.STATE_CANCELLED: Look("cancelled", "⊘", "quiet"),
    Task.STATE_SKIPPED: Look("skipped", "»", "quiet"),
    Task.STATE_COMPENSATING: Look("compensating", "↶", "made_up"),
    Task.STATE_COMPENSATED: Look("compensated", "↺", "made_up"),
    Task.STATE_COMPENSATION_BLOCKED: Look("compensation blocked", "!", "bad"),
    Task.STATE_ABANDONED: Look("abandoned", "∅", "bad"),
}

ATTEMPT: Final[Mapping[int, Look]] = {
    Attempt.STATE_STARTING: Look("starting", "◌", "busy"),
    Attempt.STATE_ACCEPTED: Look("accepted", "○", "busy"),
    Attempt.STATE_RUNNING: Look("running", "▸", "busy"),
    Attempt.STATE_CANCELLING: Look("cancelling", "◐", "warn"),
    Attempt.STATE_SUCCEEDED: Look("succeeded", "✓", "good"),
    Attempt.STATE_FAILED: Look("failed", "✗", "bad"),
    Attempt.STATE_CANCELLED: Look("cancelled", "⊘", "quiet"),
    Attempt.STATE_UNKNOWN: Look("unknown", "?", "warn"),
}

WEBHOOK: Final[Mapping[int, Look]] = {
    Webhook.STATE_ACTIVE: Look("active", "✓", "good"),
    Webhook.STATE_FAILING: Look("failing", "↻", "warn"),
    Webhook.STATE_DISABLED: Look("disabled", "⊘", "bad"),
}

HOST: Final[Mapping[int, Look]] = {
    Host.STATE_CONNECTING: Look("connecting", "◌", "busy"),
    Host.STATE_READY: Look("ready", "✓", "good"),
    Host.STATE_SUSPECT: Look("suspect", "?", "warn"),
    Host.STATE_UNREACHABLE: Look("unreachable", "✗", "bad"),
    Host.STATE_DRAINING: Look("draining", "◐", "warn"),
    Host.STATE_DRAINED: Look("drained", "⊘", "quiet"),
    Host.STATE_QUARANTINED: Look("quarantined", "!", "bad"),
}

COORDINATOR: Final[Mapping[int, Look]] = {
    Coordinator.STATE_ALIVE: Look("alive", "✓", "good"),
    Coordinator.STATE_LAPSED: Look("lapsed", "?", "warn"),
    Coordinator.STATE_ENDED: Look("ended", "✗", "bad"),
}


def workflow_look(state: int) -> Look:
    """Returns how a workflow's state looks."""
    return WORKFLOW.get(state, UNHEARD_OF)


def task_look(state: int) -> Look:
    """Returns how a task's state looks."""
    return TASK.get(state, UNHEARD_OF)


def attempt_look(state: int) -> Look:
    """Returns how an attempt's state looks."""
    return ATTEMPT.get(state, UNHEARD_OF)


def host_look(state: int) -> Look:
    """Returns how a host's state looks."""
    return HOST.get(state, UNHEARD_OF)


def coordinator_look(state: int) -> Look:
    """Returns how a coordinator's state looks."""
    return COORDINATOR.get(state, UNHEARD_OF)


def coordinator_part(found: Coordinator) -> str:
    """Returns what sets one of several coordinators apart; empty if nothing does."""
    parts = {"keeps the house": found.keeps_house, "answers here": found.answers}
    return ", ".join(part for part, is_so in parts.items() if is_so)


def webhook_look(state: int) -> Look:
    """Returns how a webhook's state looks."""
    return WEBHOOK.get(state, UNHEARD_OF)
