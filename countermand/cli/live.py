"""The live tree of `workflow watch` on a terminal. The only command that loads rich."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Iterable

from rich.console import Group
from rich.live import Live
from rich.text import Text

from countermand.cli.console import console
from countermand.cli.follow import LOOK_AGAIN_S
from countermand.client.run import PAGE_SIZE, Run
from countermand.drawing import phrases
from countermand.drawing.made_up import how_made_up
from countermand.drawing.tasks import (
    GROUPS,
    IN_FLIGHT,
    depths_of,
    last_said,
    task_id,
    verb_of,
    waits,
    why,
)
from countermand.drawing.values import amount, one_line, progress_words
from countermand.drawing.words import Look, task_look, workflow_look
from countermand.rpc import names
from countermand.rpc.errors import CountermandError
from countermand.v1.attempt_pb2 import Attempt
from countermand.v1.event_pb2 import GroupStateChanged, HistoryEvent, TaskAdded
from countermand.v1.task_pb2 import Task
from countermand.v1.workflow_pb2 import AttemptProgress, Workflow
from countermand.v1.workflow_state_pb2 import WorkflowState

BAR_WIDTH = 12  # with a rate and an end beside it, a line still fits into 80 columns
NAME_WIDTH_MAX = 32
NEEDS_MAX = 3  # above the tree; `get` tells all
NEED_CHARACTERS_MAX = 200  # of one line of it, which may take two or three of a terminal
NEEDS_LINES_MAX = 9  # a checklist is of use whole, but not instead of the tree
REFRESHES_PER_SECOND = 8  # smooth to the eye, and nothing to the processor

# Worth a line even when the tree is taller than the terminal.
_AT_WORK = frozenset(
    {
        Task.STATE_STARTING,
        Task.STATE_RUNNING,
        Task.STATE_UNKNOWN,
        Task.STATE_RETRY_WAIT,
        Task.STATE_CANCELLING,
        Task.STATE_FAILED,
        Task.STATE_COMPENSATING,
        Task.STATE_COMPENSATION_BLOCKED,
        Task.STATE_ABANDONED,
    }
)
_NEEDY = frozenset(
    {
        WorkflowState.WORKFLOW_STATE_PAUSED,
        WorkflowState.WORKFLOW_STATE_BLOCKED,
        WorkflowState.WORKFLOW_STATE_QUARANTINED,
    }
)
_MADE_UP = frozenset({Task.STATE_COMPENSATING, Task.STATE_COMPENSATED})


# A group is what the first of these is that a member is in. The history speaks of tasks only, so it
# is worked out here as the coordinator does: the order is the one of `coordinator/wire/groups.py`.
_LOUDEST = (
    Task.STATE_COMPENSATION_BLOCKED,
    Task.STATE_COMPENSATING,
    Task.STATE_CANCELLING,
    Task.STATE_UNKNOWN,
    Task.STATE_RUNNING,
    Task.STATE_STARTING,
    Task.STATE_RETRY_WAIT,
    Task.STATE_READY,
    Task.STATE_COMPENSATED,
    Task.STATE_FAILED,
    Task.STATE_CANCELLED,
    Task.STATE_ABANDONED,
)


# What became of a group, as it is shown; where it is just where its members are, there is none.
_GROUP_STATES = {
    GroupStateChanged.STATE_COMPENSATING: Task.STATE_COMPENSATING,
    GroupStateChanged.STATE_COMPENSATED: Task.STATE_COMPENSATED,
    GroupStateChanged.STATE_FAILED: Task.STATE_FAILED,
    GroupStateChanged.STATE_RECOVERING: Task.STATE_RUNNING,
    GroupStateChanged.STATE_RECOVERED: Task.STATE_SUCCEEDED,
    GroupStateChanged.STATE_SKIPPED: Task.STATE_SKIPPED,
}


def _counted(task: Task) -> Task.State.ValueType:
    """Returns the state in which a member counts: a failure that is allowed does not."""
    allowed = task.optional_by_policy and task.state == Task.STATE_FAILED
    return Task.STATE_SUCCEEDED if allowed else task.state


def rolled_up(members: Iterable[Task.State.ValueType]) -> Task.State.ValueType:
    """Returns the state of a group with members in these states."""
    states = set(members)
    for state in _LOUDEST:
        if state in states:
            return state
    if Task.STATE_PENDING in states:
        return Task.STATE_RUNNING if len(states) > 1 else Task.STATE_PENDING
    return Task.STATE_SKIPPED if states == {Task.STATE_SKIPPED} else Task.STATE_SUCCEEDED


class Picture:
    """What is known of a workflow while it is followed."""

    def __init__(self, workflow: Workflow, tasks: list[Task]) -> None:
        """Starts from what was read; updates are applied on top."""
        self.workflow = workflow
        self.tasks = {task.name: task for task in tasks}
        self._measure()
        # Group → how many members are in each state: a group of ten thousand moves in one step.
        self._members: dict[str, Counter[Task.State.ValueType]] = {}
        for task in tasks:
            self._members.setdefault(self._group_of(task), Counter())[_counted(task)] += 1
        # Groups of which something became beside their members' states.
        self._special: set[str] = set()

    def _measure(self) -> None:
        """Works out how the tree is laid out."""
        self.depths = depths_of(list(self.tasks.values()))
        widths = (2 * depth + len(task_id(name)) for name, depth in self.depths.items())
        self._width = min(max(widths, default=0), NAME_WIDTH_MAX)

    def _group_of(self, task: Task) -> str:
        """Returns the group that counts a task: what is a part of another is a member beside it."""
        parent = self.tasks.get(task.parent)
        while parent is not None and parent.kind == Task.KIND_EXTERNAL:
            task, parent = parent, self.tasks.get(parent.parent)
        return task.parent

    def apply(self, event: HistoryEvent) -> None:
        """Takes one fact in; facts that do not show are passed over."""
        task = self.tasks.get(event.task)
        match event.WhichOneof("event"):
            case "workflow_state_changed":
                self.workflow.state = event.workflow_state_changed.after
                if event.workflow_state_changed.HasField("cause"):
                    self.workflow.cause.CopyFrom(event.workflow_state_changed.cause)
            case "task_state_changed" if task is not None:
                moved = event.task_state_changed
                self._move(task, moved.after)
                task.waits_for = moved.waits_for or _asks_for(task)
                if moved.HasField("failure"):
                    task.failure.CopyFrom(moved.failure)
            case "group_state_changed" if task is not None:
                self._move_group(task, event.group_state_changed)
            case "task_added" if task is None:
                self._add(event.task, event.task_added)
            case "locks_taken":
                self.workflow.waits_for = ""
            case "attempt_started" if task is not None:
                task.host_id = event.attempt_started.host_id or task.host_id
                task.owner_id = event.attempt_started.owner_id or task.owner_id
                if event.attempt_started.kind == Attempt.KIND_ACTION:
                    task.progress.Clear()
            case "attempt_ended" if task is not None and event.attempt_ended.HasField("progress"):
                task.progress.CopyFrom(event.attempt_ended.progress)
            case _:
                pass

    def _add(self, name: str, added: TaskAdded) -> None:
        """Takes in a task that a vendor added: it comes last below its parent."""
        task = Task(
            name=name,
            parent=added.parent,
            kind=Task.KIND_EXTERNAL,
            state=Task.STATE_PENDING,
            owner_id=added.owner_id,
            verb=f"{added.owner_id}/{added.kind}",
        )
        order = list(self.tasks)
        depth, place = self.depths.get(added.parent, -1), len(order)
        if added.parent in self.tasks:
            place = order.index(added.parent) + 1
            while place < len(order) and self.depths[order[place]] > depth:
                place += 1
        tasks = list(self.tasks.values())
        tasks.insert(place, task)
        self.tasks = {each.name: each for each in tasks}
        self._measure()
        self._members.setdefault(self._group_of(task), Counter())[task.state] += 1

    def advance(self, update: AttemptProgress) -> None:
        """Takes in how far an attempt is; one that has ended has said itself how far it came."""
        attempt = names.parse_attempt(update.attempt)
        task = self.tasks.get(attempt.task) if attempt else None
        if task is not None and task.state in IN_FLIGHT:
            task.progress.CopyFrom(update.progress)

    def look_again(self, tasks: Iterable[Task]) -> None:
        """Takes in what no event tells: what keeps an attempt, and that it makes no progress."""
        for seen in tasks:
            task = self.tasks.get(seen.name)
            if task is not None and (task.state == seen.state or task.kind in GROUPS):
                task.waits_for = seen.waits_for
                task.needs_decision = seen.needs_decision
                task.round = seen.round
                task.progress.rate = seen.progress.rate
                if task.kind in GROUPS:  # rolled up from members, of which no event tells
                    task.progress.CopyFrom(seen.progress)

    def look_at(self, workflow: Workflow) -> None:
        """Takes in what the whole workflow waits for, and what it needs."""
        self.workflow.waits_for = workflow.waits_for
        del self.workflow.needs[:]
        self.workflow.needs.extend(workflow.needs)

    def _move(self, task: Task, state: Task.State.ValueType) -> None:
        """Moves a task, and the groups above it along."""
        above = self._group_of(task)
        members = self._members[above]
        members[_counted(task)] -= 1
        task.state = state
        task.needs_decision = False  # said again when it is looked at again
        members[_counted(task)] += 1
        group = self.tasks.get(above)
        if group is not None and group.name not in self._special:
            self._move(group, rolled_up(found for found, count in members.items() if count))

    def _move_group(self, task: Task, moved: GroupStateChanged) -> None:
        """Takes in what became of a group; from then on it is not just where its members are."""
        task.round = moved.round
        if moved.HasField("failure"):
            task.failure.CopyFrom(moved.failure)
        state = _GROUP_STATES.get(moved.after)
        if state is None:
            self._special.discard(task.name)
            counts = self._members.get(task.name, Counter()).items()
            state = rolled_up(found for found, count in counts if count)
        else:
            self._special.add(task.name)
        self._move(task, state)

    def draw(self, height: int) -> Group:
        """Returns the tree, or its busy part where the terminal is too low for all."""
        shown = list(self.tasks.values())
        lines = [_head(self.workflow), *_needs(self.workflow)]
        room = max(height - 2 - len(lines), 1)
        if len(shown) > room:
            busy = [task for task in shown if task.state in _AT_WORK and task.kind not in GROUPS]
            lines += [_line(task, 0, self._width) for task in busy[:room]]
            lines.append(Text(f"  and {len(shown) - len(busy[:room])} more tasks", style="dim"))
        else:
            lines += [_line(task, self.depths[task.name], self._width) for task in shown]
        return Group(*lines)


async def follow_live(run: Run) -> None:
    """Draws a workflow until it is settled."""
    workflow = await run.get()
    # Read after the workflow: what the watch repeats of it is applied once more, harmlessly.
    picture = Picture(workflow, await run.tasks())
    screen = console()
    # Drawn at its own pace and not at every event: a fan-out may send thousands in a second.
    with Live(
        get_renderable=lambda: picture.draw(screen.height),
        console=screen,
        refresh_per_second=REFRESHES_PER_SECOND,
    ):
        looking = asyncio.create_task(_look_again(run, picture))
        try:
            async for update in run.watch(workflow.last_sequence):
                match update.WhichOneof("update"):
                    case "event":
                        picture.apply(update.event)
                    case "progress":
                        picture.advance(update.progress)
                    case _:
                        pass
        finally:
            looking.cancel()
        # Once more as the coordinator itself sums it up.
        picture = Picture(await run.patiently(run.get), await run.patiently(run.tasks))


async def _look_again(run: Run, picture: Picture) -> None:
    """Asks now and then for what no event tells; a coordinator that is away is asked again."""
    while len(picture.tasks) <= PAGE_SIZE:  # one call; a larger tree shows but a part of itself
        await asyncio.sleep(LOOK_AGAIN_S)
        with contextlib.suppress(CountermandError):
            picture.look_again(await run.tasks())
            picture.look_at(await run.get())


def _head(workflow: Workflow) -> Text:
    text = Text(f"{workflow.name}  ")
    text.append_text(_look(workflow_look(workflow.state)))
    if workflow.cause.reason:
        text.append(f"  {workflow.cause.reason}: {one_line(workflow.cause.message)}", style="red")
    elif workflow.waits_for:
        text.append(f"  waits for {workflow.waits_for}", style="yellow")
    text.no_wrap = True
    text.overflow = "ellipsis"
    return text


def _needs(workflow: Workflow) -> list[Text]:
    """Returns what it needs from somebody, the first few."""
    if workflow.state not in _NEEDY:
        return []
    shown: list[Text] = []
    for need in workflow.needs[:NEEDS_MAX]:
        # A checklist is several lines, and of use only whole.
        for number, line in enumerate(need.message.splitlines()):
            lead = "    " if number else "  needs somebody: "
            clipped = phrases.clip(line, NEED_CHARACTERS_MAX)
            text = Text(f"{lead}{clipped}", style="yellow", overflow="ellipsis")
            text.no_wrap = "\n" not in need.message
            shown.append(text)
    if len(shown) > NEEDS_LINES_MAX:
        workflow_id = workflow.name.removeprefix("workflows/")
        more = f"    … countermand workflow get {workflow_id} has all of it"
        shown[NEEDS_LINES_MAX:] = [Text(more, style="yellow", no_wrap=True, overflow="ellipsis")]
    return shown


def _line(task: Task, depth: int, width: int) -> Text:
    """Returns a task: how it is, where, how far, what makes up for it or what is wrong."""
    look = task_look(task.state)
    text = Text("  " * (depth + 1) + look.glyph + " ", style=look.colour)
    text.append(task_id(task.name).ljust(width - 2 * depth) + "  ", style="default")
    text.append(f"{look.word:<12}  ")
    if task.round > 1:
        text.append(f"round {task.round}  ", style="default")
    if task.host_id:
        text.append(f"@{task.host_id}  ", style="default")
    elif task.owner_id:
        text.append(f"{verb_of(task)}  ", style="default")
    if task.state in _MADE_UP and (how := how_made_up(task)):
        text.append(one_line(how))
        if task.waits_for:
            text.append(f"  {waits(task)}", style="yellow")
    elif task.state == Task.STATE_RUNNING and task.progress.total:
        text.append_text(_bar(task.progress.done, task.progress.total))
        text.append(f"  {progress_words(task.progress)}", style="default")
        if task.waits_for:
            text.append(f"  {waits(task)}", style="yellow")
        elif message := last_said(task):
            text.append(f"  {one_line(message)}", style="default")
    else:
        wrong = one_line(why(task))
        told = one_line(last_said(task)) or _done(task)
        text.append(wrong or told, style=None if wrong else "default")
    text.no_wrap = True
    text.overflow = "ellipsis"
    return text


def _asks_for(task: Task) -> str:
    """Returns what an external task waits for from the moment on that its owner is asked."""
    asked = task.kind == Task.KIND_EXTERNAL and task.state == Task.STATE_STARTING
    return f"{task.owner_id}, which has not accepted it yet" if asked else ""


def _done(task: Task) -> str:
    return amount(task.progress.done, task.progress.unit) if task.progress.done else ""


def _bar(done: int, total: int) -> Text:
    filled = min(BAR_WIDTH, done * BAR_WIDTH // total)
    return Text("━" * filled, style="blue").append("━" * (BAR_WIDTH - filled), style="dim")


def _look(look: Look) -> Text:
    return Text(str(look), style=look.colour)
