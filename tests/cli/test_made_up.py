"""What is said of an effect that somebody made up for by hand."""

import pytest

from countermand.cli.compensation import _tried
from countermand.cli.context import describe_task
from countermand.client.failed import WorkflowFailed
from countermand.v1.attempt_pb2 import Attempt
from countermand.v1.failure_pb2 import Failure
from countermand.v1.task_pb2 import Task, TaskDecision
from countermand.v1.verb_pb2 import Output
from countermand.v1.workflow_pb2 import Workflow
from countermand.v1.workflow_state_pb2 import WorkflowState


def said(decided: TaskDecision | None) -> str:
    task = Task(
        name="workflows/w/tasks/copy-1",
        state=Task.STATE_COMPENSATED,
        host_id="host-a",
        opposite="delete image, as its spec says",
        decided=decided,
    )
    workflow = Workflow(
        name="workflows/w",
        state=WorkflowState.WORKFLOW_STATE_COMPENSATED,
        cause=Failure(reason="NO_SPACE", message="Full."),
    )
    return str(WorkflowFailed(workflow, compensated=[task], leftovers=[]))


def test_what_was_marked_done_by_hand_says_who_and_why():
    decided = TaskDecision(verb="mark-compensated", principal="local", reason="removed by hand")

    assert said(decided) == (
        "workflows/w failed (NO_SPACE): Full. Made up for: copy-1 on host-a "
        "(marked done by local: removed by hand). Nothing is known to be left behind."
    )


@pytest.mark.parametrize(
    "decided", [None, TaskDecision(verb="retry-compensation", principal="local", reason="mended")]
)
def test_what_was_made_up_for_as_ever_says_how(decided):
    assert said(decided).endswith(
        "copy-1 on host-a (delete image, as its spec says). Nothing is left behind."
    )


@pytest.mark.parametrize(
    ("state", "began_s", "said"),
    [
        ("STARTING", 7, "attempt 3 of copy-1 is being tried now: delete image p/x, as ann decided"),
        ("FAILED", 7, "attempt 3 of copy-1 has failed again: READ_ONLY: The array is read-only."),
        ("SUCCEEDED", 7, "attempt 3 of copy-1 made up for it: delete image p/x, as ann decided"),
        ("RUNNING", 5, "copy-1 is tried so once attempt 3 of copy-1, which is out, has failed"),
    ],
)
def test_who_decides_is_told_what_comes_of_it_and_not_what_was(state, began_s, said):
    last = Attempt(
        name="workflows/w/tasks/copy-1/attempts/3", state=Attempt.State.Value(f"STATE_{state}")
    )
    last.create_time.seconds = began_s
    decided = TaskDecision(verb="replace-compensation", principal="ann")
    decided.time.seconds = 6
    task = Task(
        name="workflows/w/tasks/copy-1",
        state=Task.STATE_COMPENSATION_BLOCKED,
        opposite="delete image p/x, as ann decided",
        compensation_failure=Failure(reason="READ_ONLY", message="The array is read-only."),
        decided=decided,
        attempts=[last],
    )
    assert _tried(task) == said


def test_what_a_skipped_task_left_says_who_gave_it(capsys):
    output = Output()
    output.copy_image.image.image_id = "disk-1"
    task = Task(
        name="workflows/w/tasks/copy-1",
        kind=Task.KIND_VERB,
        state=Task.STATE_SKIPPED,
        decided=TaskDecision(verb="skip", principal="ann", reason="by hand"),
        output=output,
    )
    describe_task(task)
    said = [line.split("  ") for line in capsys.readouterr().out.splitlines()[-2:]]
    assert [[cell.strip() for cell in line if cell] for line in said] == [
        ["OUTPUT", "VALUE", "FROM"],
        ["image.image_id", "disk-1", "given by ann"],
    ]


def test_every_task_that_failed_is_named():
    """The cause first, with all that is known; the others by their reasons."""
    tasks = [
        Task(
            name=f"workflows/w/tasks/{name}",
            state=Task.STATE_FAILED,
            host_id=f"host-{name}",
            failure=Failure(reason=reason, message="It is so."),
        )
        for name, reason in (("b", "NO_SPACE"), ("c", "POOL_READ_ONLY"))
    ]
    cause = Failure(
        reason="NO_SPACE", message="Full.", attempt=f"{tasks[0].name}/attempts/1", host_id="host-b"
    )
    state = WorkflowState.WORKFLOW_STATE_COMPENSATED
    workflow = Workflow(name="workflows/w", state=state, cause=cause)
    assert str(WorkflowFailed(workflow, compensated=[], leftovers=[], failed=tasks)) == (
        "workflows/w failed in task b on host-b (NO_SPACE): Full. Failed, too: c on host-c "
        "(POOL_READ_ONLY). Nothing had to be made up for. Nothing is left behind."
    )
