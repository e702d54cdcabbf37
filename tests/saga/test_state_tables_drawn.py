"""What the documentation says of the state machines is what the tables say."""

from coordinator.saga.states import (
    GROUP_TABLE,
    TASK_TABLE,
    WORKFLOW_TABLE,
    GroupState,
    TaskState,
    WorkflowState,
)
from tests.draw_states import PAGE, drawn, machines


def test_the_tables_in_the_documentation_are_up_to_date():
    """`make docs` draws them anew."""
    page = PAGE.read_text(encoding="utf-8")

    assert drawn(page) == page


def test_every_row_and_every_state_is_drawn():
    text = machines()

    rows = [line for line in text.splitlines() if line.startswith("| `") and line.count("|") == 4]
    assert len(rows) == len(TASK_TABLE) + len(WORKFLOW_TABLE) + len(GROUP_TABLE)
    for state in (*TaskState, *WorkflowState, *GroupState):
        assert f"| `{state}` | " in text
    assert "not served yet" not in text
