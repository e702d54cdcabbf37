"""Noop: passes through the whole protocol without touching storage."""

from __future__ import annotations

from agent.drivers.driver import Step, Steps
from agent.verbs.context import Context
from countermand.rpc.errors import Drill
from countermand.v1.verb_pb2 import Action, NoopOutput, Output


def noop(context: Context, action: Action) -> Steps[Output]:  # noqa: ARG001 - as every verb
    """Does nothing, or fails as asked."""
    yield Step()
    if action.noop.failure_message:
        raise Drill(text=action.noop.failure_message)
    return Output(noop=NoopOutput())


def unnoop(context: Context, action: Action, made_by: str) -> Steps[None]:  # noqa: ARG001 - likewise
    """Makes up for nothing."""
    yield Step()
