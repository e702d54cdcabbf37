"""A verb that a state forbids: what one reads says what to do instead, for every state."""

from __future__ import annotations

import pytest

from coordinator.api.deciding import ALLOWED
from coordinator.saga.states import WorkflowState
from countermand.rpc import status
from countermand.rpc.errors import INSTEAD, StateForbids, VerbForbidden

WHOLE = [
    ("resume", "COMPENSATED", "Run it anew: `countermand workflow fork vm-2 --id NEW`."),
    ("resume", "RUNNING", "It goes on already: follow it with `countermand workflow watch vm-2`."),
    ("resume", "SUCCEEDED", "It is settled, and nothing is changed any more."),
    ("pause", "PAUSED", "It is paused already: `countermand workflow resume vm-2` lets it go on."),
    ("cancel", "COMPENSATED", "It is made up for already, and nothing is changed any more."),
    ("cancel", "COMPENSATING", "It is being made up for: follow it with `countermand workflow "),
    ("fence", "PAUSED", "`countermand workflow resume vm-2` lets it go on."),
]


@pytest.mark.parametrize(("verb", "state", "instead"), WHOLE)
def test_what_is_forbidden_says_what_to_do_instead(verb, state, instead):
    error = StateForbids(name="workflows/vm-2", state=state, verb=verb, allowed="PAUSING, BLOCKED")

    assert error.message.startswith(
        f"workflows/vm-2 is {state.lower()}; {verb} needs one of: pausing, blocked. {instead}"
    )
    assert error.metadata["state"] == state  # as programs know it
    assert error.metadata["instead"].startswith(instead)
    back = status.error_from_status(status.status_from_error(error))
    assert (back.message, back.metadata) == (error.message, error.metadata)


def test_every_state_that_forbids_something_has_a_next_step():
    for verb, allowed in ALLOWED.items():
        for state in WorkflowState:
            if state not in allowed:
                assert (state.value, verb) in INSTEAD or (state.value, "") in INSTEAD, (verb, state)


def test_what_is_about_a_task_says_no_more_than_its_reason():
    error = VerbForbidden(
        name="workflows/w/tasks/t", state="COMPENSATION_BLOCKED", verb="done", because="it moves"
    )
    assert error.message == (
        "workflows/w/tasks/t is compensation blocked, and done is not possible: it moves."
    )
    other = StateForbids(name="workflows/w/tasks/t", state="READY", verb="retry", allowed="BLOCKED")
    assert other.message == "workflows/w/tasks/t is ready; retry needs one of: blocked."
