"""What the live tree shows of a workflow that moves."""

from datetime import UTC, datetime

import pytest
from google.protobuf.struct_pb2 import Value
from rich.console import Console

from coordinator.wire import groups
from countermand.cli import live
from countermand.cli.lines import Pace, words
from countermand.cli.live import Picture, rolled_up
from countermand.drawing.tasks import why
from countermand.v1.attempt_pb2 import Attempt, Progress
from countermand.v1.event_pb2 import (
    AttemptEnded,
    AttemptStarted,
    GroupStateChanged,
    HistoryEvent,
    Intervention,
    LocksTaken,
    TaskAdded,
    TaskStateChanged,
    WorkflowStateChanged,
)
from countermand.v1.failure_pb2 import Failure
from countermand.v1.task_pb2 import InboundValue, Task
from countermand.v1.workflow_pb2 import AttemptProgress, Need, Workflow
from countermand.v1.workflow_state_pb2 import WorkflowState

GROUP = "workflows/w/tasks/copies"
ONE, TWO = "workflows/w/tasks/copy-1", "workflows/w/tasks/copy-2"


def a_picture() -> Picture:
    tasks = [
        Task(name=GROUP, kind=Task.KIND_PARALLEL, state=Task.STATE_RUNNING),
        Task(name=ONE, parent=GROUP, state=Task.STATE_READY, opposite="delete the copy"),
        Task(name=TWO, parent=GROUP, state=Task.STATE_READY, waits_for="a slot on host-b"),
    ]
    state = WorkflowState.WORKFLOW_STATE_RUNNING
    return Picture(Workflow(name="workflows/w", state=state), tasks)


def test_the_longest_state_keeps_off_what_stands_behind_it():
    blocked = Task(name=ONE, state=Task.STATE_COMPENSATION_BLOCKED, host_id="host-a")
    picture = Picture(Workflow(name="workflows/w"), [blocked])

    assert "! copy-1  compensation blocked  @host-a" in drawn(picture)[1]


def drawn(picture: Picture, height: int = 40) -> list[str]:
    console = Console(width=100, no_color=True)
    with console.capture() as capture:
        console.print(picture.draw(height))
    return [line.rstrip() for line in capture.get().splitlines()]


def moved(task: str, state: Task.State.ValueType, failure: Failure | None = None) -> HistoryEvent:
    return HistoryEvent(
        task=task, task_state_changed=TaskStateChanged(after=state, failure=failure)
    )


def test_a_running_copy_has_a_bar_a_rate_and_an_end():
    picture = a_picture()
    started = AttemptStarted(attempt=1, kind=Attempt.KIND_ACTION, host_id="host-a")
    picture.apply(HistoryEvent(task=ONE, attempt_started=started))
    picture.apply(moved(ONE, Task.STATE_RUNNING))
    progress = Progress(done=500 << 20, total=1000 << 20, rate=100 << 20, unit="bytes")
    picture.advance(AttemptProgress(attempt=f"{ONE}/attempts/1", progress=progress))

    assert drawn(picture) == [
        "workflows/w  ▸ running",
        "  ▸ copies    running",
        "    ▸ copy-1  running       @host-a  " + "━" * 12 + "  50%  100 MiB/s  ETA 5.0 s",
        "    ○ copy-2  ready         waits for a slot on host-b",
    ]


def test_an_older_progress_does_not_take_back_what_was_done():
    picture = a_picture()
    picture.apply(moved(ONE, Task.STATE_RUNNING))
    whole = Progress(done=200 << 20, total=200 << 20, unit="bytes")
    ended = AttemptEnded(attempt=1, state=Attempt.STATE_SUCCEEDED, progress=whole)
    picture.apply(HistoryEvent(task=ONE, attempt_ended=ended))
    picture.apply(moved(ONE, Task.STATE_SUCCEEDED))
    late = Progress(done=128 << 20, total=200 << 20, unit="bytes")
    picture.advance(AttemptProgress(attempt=f"{ONE}/attempts/1", progress=late))

    assert drawn(picture)[2] == "    ✓ copy-1  succeeded     200 MiB"


def test_what_is_made_up_for_says_how():
    picture = a_picture()
    failure = Failure(reason="NO_SPACE", message="Pool fast is full.")
    picture.apply(moved(TWO, Task.STATE_FAILED, failure))
    compensating = WorkflowStateChanged(
        after=WorkflowState.WORKFLOW_STATE_COMPENSATING, cause=failure
    )
    picture.apply(HistoryEvent(workflow_state_changed=compensating))
    picture.apply(moved(ONE, Task.STATE_COMPENSATING))

    lines = drawn(picture)

    assert lines[0] == "workflows/w  ↶ compensating  NO_SPACE: Pool fast is full."
    assert lines[2] == "    ↶ copy-1  compensating  delete the copy"
    assert lines[3] == "    ✗ copy-2  failed        NO_SPACE: Pool fast is full."


@pytest.mark.parametrize(
    ("members", "group"),
    [
        ("PENDING PENDING", "PENDING"),
        ("SUCCEEDED PENDING", "RUNNING"),
        ("SUCCEEDED RUNNING", "RUNNING"),
        ("SUCCEEDED SKIPPED", "SUCCEEDED"),
        ("SKIPPED SKIPPED", "SKIPPED"),
        ("FAILED PENDING", "FAILED"),
        ("FAILED CANCELLING RUNNING", "CANCELLING"),
        ("FAILED COMPENSATING SUCCEEDED", "COMPENSATING"),
        ("FAILED COMPENSATED CANCELLED", "COMPENSATED"),
        ("COMPENSATION_BLOCKED COMPENSATED", "COMPENSATION_BLOCKED"),
        ("FAILED CANCELLED", "FAILED"),
    ],
)
def test_a_group_is_what_its_loudest_member_is(members, group):
    states = [Task.State.Value(f"STATE_{word}") for word in members.split()]

    assert Task.State.Name(rolled_up(states)) == f"STATE_{group}"


def test_a_message_of_many_lines_is_one_line_of_the_tree():
    picture = a_picture()
    many = "Pool fast\nis full:\r\n" + "\n".join(f"line {number}" for number in range(30))
    failure = Failure(reason="NO_SPACE", message=many)
    picture.apply(moved(TWO, Task.STATE_FAILED, failure))
    failed = WorkflowState.WORKFLOW_STATE_COMPENSATING
    picture.apply(
        HistoryEvent(workflow_state_changed=WorkflowStateChanged(after=failed, cause=failure))
    )
    picture.tasks[ONE].state = Task.STATE_RUNNING
    picture.tasks[ONE].progress.CopyFrom(Progress(done=1, total=2, message="a\nb"))

    lines = drawn(picture)

    assert len(lines) == 4
    assert lines[0].startswith(
        "workflows/w  ↶ compensating  NO_SPACE: Pool fast is full: line 0 line"
    )
    assert lines[2].endswith("1/2  a b")
    assert lines[3].startswith(
        "    ✗ copy-2  failed        NO_SPACE: Pool fast is full: line 0 line"
    )


def test_what_is_needed_leaves_room_for_the_tree():
    picture = a_picture()
    picture.workflow.state = WorkflowState.WORKFLOW_STATE_BLOCKED
    many = "Do this:\n" + "\n".join(f"step {number}" for number in range(30))
    picture.workflow.needs.append(Need(reason="CHECKLIST", message=many))

    lines = drawn(picture, 24)

    assert len(lines) == 14
    assert lines[9:11] == [
        "    step 7",
        "    … countermand workflow get w has all of it",
    ]
    assert lines[11].startswith("  ▸ copies")


def test_the_order_is_the_coordinators():
    """What is shown while it moves is what `workflow get` says of it."""
    ours = [Task.State.Name(state) for state in live._LOUDEST]

    assert ours == [f"STATE_{state}" for state in groups.LOUDEST]


def test_a_group_moves_with_its_members():
    picture = a_picture()
    picture.apply(moved(ONE, Task.STATE_SUCCEEDED))
    picture.apply(moved(TWO, Task.STATE_SUCCEEDED))

    assert drawn(picture)[1] == "  ✓ copies    succeeded"


def test_a_tree_taller_than_the_terminal_shows_what_is_at_work():
    tasks = [
        Task(name=f"workflows/w/tasks/t{number}", state=Task.STATE_PENDING) for number in range(100)
    ]
    picture = Picture(Workflow(name="workflows/w"), tasks)
    picture.apply(moved("workflows/w/tasks/t42", Task.STATE_RUNNING))

    lines = drawn(picture, height=20)

    assert len(lines) == 3
    assert lines[1].startswith("  ▸ t42")
    assert lines[2] == "  and 99 more tasks"


def test_what_this_version_does_not_know_is_passed_over():
    picture = a_picture()
    before = drawn(picture)

    picture.apply(HistoryEvent(task=ONE))
    picture.apply(moved("workflows/w/tasks/unheard-of", Task.STATE_RUNNING))
    picture.advance(AttemptProgress(attempt="nonsense"))

    assert drawn(picture) == before


def test_a_silent_host_shows_and_has_no_pace():
    picture = a_picture()
    started = AttemptStarted(attempt=1, kind=Attempt.KIND_ACTION, host_id="host-a")
    picture.apply(HistoryEvent(task=ONE, attempt_started=started))
    picture.apply(moved(ONE, Task.STATE_RUNNING))
    progress = Progress(done=50, total=100, rate=10, unit="bytes")
    picture.advance(AttemptProgress(attempt=f"{ONE}/attempts/1", progress=progress))
    silent = Task(name=ONE, state=Task.STATE_RUNNING, waits_for="host-a has not answered for 12 s")
    silent.progress.CopyFrom(Progress(done=50, total=100, unit="bytes"))
    picture.look_again([silent])

    assert drawn(picture)[2] == (
        "    ▸ copy-1  running       @host-a  "
        + "━" * 12
        + "  50%  host-a has not answered for 12 s"
    )


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ("READY", "waits for host-a has not answered"),
        ("STARTING", "host-a has not answered"),
        ("RUNNING", "host-a has not answered"),
        ("UNKNOWN", "host-a has not answered"),
        ("CANCELLING", "host-a has not answered"),
        ("FAILED", "HOST_UNREACHABLE: gone"),
    ],
)
def test_of_an_attempt_in_flight_the_tables_say_what_keeps_it(state, said):
    task = Task(state=Task.State.Value(f"STATE_{state}"), waits_for="host-a has not answered")
    if state != "READY":
        task.failure.CopyFrom(Failure(reason="HOST_UNREACHABLE", message="gone"))

    assert why(task) == said


def test_a_compensation_between_two_tries_says_why_the_last_one_failed():
    failure = Failure(reason="STORAGE_FAILED", message="EIO")
    state = Task.STATE_COMPENSATING
    task = Task(state=state, waits_for="attempt 3, due soon", compensation_failure=failure)

    assert why(task) == "STORAGE_FAILED: EIO"


def test_words_of_grpc_are_said_in_ours():
    raw = Failure(reason="UNAVAILABLE", message="failed to connect to all addresses; last error:")

    assert why(Task(failure=raw)).startswith("UNAVAILABLE: The agent does not answer:")


def test_a_pipe_hears_of_progress_now_and_then_and_never_of_what_has_ended():
    now = [datetime(2026, 3, 2, 12, tzinfo=UTC)]
    pace = Pace(lambda: now[0])
    progress = Progress(done=50 << 20, total=100 << 20, rate=10 << 20, unit="bytes")
    update = AttemptProgress(attempt=f"{ONE}/attempts/1", progress=progress)
    pace.apply(HistoryEvent(task=ONE, attempt_started=AttemptStarted(attempt=1)))
    said = []
    for seconds in range(12):
        now[0] = datetime(2026, 3, 2, 12, 0, seconds, tzinfo=UTC)
        said.append(pace.line(update))
    ended = AttemptEnded(attempt=1, state=Attempt.STATE_FAILED)
    pace.apply(HistoryEvent(task=ONE, attempt_ended=ended))
    now[0] = datetime(2026, 3, 2, 12, 1, tzinfo=UTC)

    assert [line.split("  ", 1)[0] for line in said if line] == ["12:00:05.000Z", "12:00:10.000Z"]
    assert said[5].endswith("copy-1            attempt 1 is at 50%  10.0 MiB/s  ETA 5.0 s")
    assert pace.line(update) == ""


# -- pauses, groups, rounds ---------------------------------------------------------------------


def regrouped(state: str, number: int = 1, failure: Failure | None = None) -> HistoryEvent:
    after = GroupStateChanged.State.Value(f"STATE_{state}")
    changed = GroupStateChanged(after=after, round=number, failure=failure)
    return HistoryEvent(task=GROUP, group_state_changed=changed)


def test_what_became_of_a_group_counts_more_than_its_members():
    """And ends when the group goes forward again, in its next round."""
    picture = a_picture()
    picture.apply(regrouped("COMPENSATING"))
    picture.apply(moved(ONE, Task.STATE_RUNNING))
    assert drawn(picture)[1] == "  ↶ copies    compensating"

    picture.apply(regrouped("FORWARD", 2))
    assert drawn(picture)[1] == "  ▸ copies    running       round 2"


def test_a_failure_that_is_allowed_does_not_show_in_its_group():
    picture = a_picture()
    picture.tasks[ONE].optional_by_policy = True
    picture.apply(moved(ONE, Task.STATE_FAILED))
    picture.apply(moved(TWO, Task.STATE_SUCCEEDED))

    assert drawn(picture)[1] == "  ✓ copies    succeeded"


def test_a_pause_says_what_it_needs():
    picture = a_picture()
    paused = WorkflowStateChanged(after=WorkflowState.WORKFLOW_STATE_PAUSED)
    picture.apply(HistoryEvent(workflow_state_changed=paused))
    seen = Workflow(waits_for="a resume: paused by ann: maintenance")
    seen.needs.add(reason="PAUSED", message="Paused by ann: maintenance.")
    picture.look_at(seen)

    assert drawn(picture)[:2] == [
        "workflows/w  ‖ paused  waits for a resume: paused by ann: maintenance",
        "  needs somebody: Paused by ann: maintenance.",
    ]


def test_images_that_are_held_are_waited_for_no_more():
    picture = a_picture()
    picture.workflow.waits_for = "images held by others"
    picture.apply(HistoryEvent(locks_taken=LocksTaken()))

    assert drawn(picture)[0] == "workflows/w  ▸ running"


@pytest.mark.parametrize(
    ("event", "said"),
    [
        (regrouped("SKIPPED"), "group skipped"),
        (
            regrouped("FORWARD", 2, Failure(reason="NO_SPACE", message="Full.")),
            "group forward, round 2: Full. (NO_SPACE)",
        ),
        (HistoryEvent(locks_taken=LocksTaken()), "holds all its images"),
        (
            HistoryEvent(
                intervention=Intervention(
                    verb="rerun",
                    principal="ann",
                    reason="mended",
                    changes=[
                        InboundValue(field="source.image_id", value=Value(string_value="base")),
                        InboundValue(field="sparse", value=Value(bool_value=True)),
                    ],
                )
            ),
            "ann asked to rerun: mended (source.image_id = base, sparse = true)",
        ),
        (HistoryEvent(), "something this version has no words for"),
    ],
)
def test_every_fact_is_a_line(event, said):
    assert words(event) == said


def test_a_group_state_of_a_newer_version_is_still_a_line():
    later = GroupStateChanged()
    later.ParseFromString(b"\x10\x63")  # after: 99
    assert words(HistoryEvent(group_state_changed=later)) == "group other"
    picture = a_picture()
    picture.apply(HistoryEvent(task=GROUP, group_state_changed=later))
    assert drawn(picture)


# -- external tasks ------------------------------------------------------------------------------

CLONE = "workflows/w/tasks/clone"


def a_hybrid() -> Picture:
    clone = Task(name=CLONE, parent=GROUP, verb="acme/clone-volume", owner_id="acme")
    clone.MergeFrom(Task(kind=Task.KIND_EXTERNAL, state=Task.STATE_PENDING))
    tasks = [
        Task(name=GROUP, kind=Task.KIND_PARALLEL, state=Task.STATE_PENDING, open=True),
        clone,
    ]
    state = WorkflowState.WORKFLOW_STATE_RUNNING
    return Picture(Workflow(name="workflows/w", state=state), tasks)


def added(name: str, parent: str) -> HistoryEvent:
    said = TaskAdded(parent=parent, owner_id="acme", kind="copy-shelf")
    return HistoryEvent(task=name, task_added=said)


def test_an_owner_stands_in_the_place_of_a_host_and_counts_what_it_likes():
    picture = a_hybrid()
    started = AttemptStarted(attempt=1, kind=Attempt.KIND_ACTION, owner_id="acme")
    picture.apply(HistoryEvent(task=CLONE, attempt_started=started))
    picture.apply(moved(CLONE, Task.STATE_STARTING))
    waits = "waits for acme, which has not accepted it yet"
    assert drawn(picture)[2] == f"    ◌ clone  starting      acme: clone-volume  {waits}"

    picture.apply(moved(CLONE, Task.STATE_RUNNING))
    progress = Progress(done=12, total=40, unit="volumes", message="second shelf")
    picture.advance(AttemptProgress(attempt=f"{CLONE}/attempts/1", progress=progress))
    bar = "━" * 12
    said = f"{bar}  12/40 volumes  second shelf"
    assert drawn(picture)[2] == f"    ▸ clone  running       acme: clone-volume  {said}"


def test_what_is_added_stands_below_its_parent_and_counts_in_its_group():
    """A part's state is not that of what it is a part of, but its group's."""
    picture = a_hybrid()
    picture.apply(moved(CLONE, Task.STATE_RUNNING))
    part, beside = f"{CLONE}-1", "workflows/w/tasks/beside"
    picture.apply(added(beside, GROUP))
    picture.apply(added(part, CLONE))
    picture.apply(added(part, CLONE))  # as a watch may repeat it
    picture.apply(moved(part, Task.STATE_CANCELLING))

    rows = [(line.split()[:2], line.index(line.split()[0])) for line in drawn(picture)[1:]]
    assert rows == [
        (["◐", "copies"], 2),
        (["▸", "clone"], 4),
        (["◐", "clone-1"], 6),
        (["·", "beside"], 4),
    ]


def test_a_checklist_is_shown_whole():
    picture = a_hybrid()
    picture.workflow.state = WorkflowState.WORKFLOW_STATE_BLOCKED
    picture.workflow.needs.add(message="By people: Remove the label.\nLook into the log.")

    assert drawn(picture)[1:3] == [
        "  needs somebody: By people: Remove the label.",
        "    Look into the log.",
    ]


def test_what_vendors_do_has_words_in_a_pipe():
    started = AttemptStarted(attempt=1, kind=Attempt.KIND_ACTION, owner_id="acme")
    assert words(HistoryEvent(attempt_started=started)) == "attempt 1 goes out, asked of acme"
    assert words(added(CLONE, GROUP)) == "added under copies: acme: copy-shelf"
    accepted = HistoryEvent()
    accepted.attempt_accepted.attempt = 2
    assert words(accepted) == "attempt 2 accepted by its owner"
