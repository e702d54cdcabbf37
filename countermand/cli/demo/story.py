"""The story of the demo: a success, then a failure that is made up for across a crash.

Everything it claims it has checked: from the history, from the processes' ends, from the disks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Final

from countermand.cli.demo import proof
from countermand.cli.demo.board import LEAVES, Board
from countermand.cli.demo.screen import Screen
from countermand.cli.demo.site import IN_THE_MIDDLE, Site
from countermand.cli.demo.tempo import HOSTS, pool_of
from countermand.client import Client, Run
from countermand.drawing import phrases, svg
from countermand.drawing.timeline import timeline
from countermand.rpc import names
from countermand.v1.attempt_pb2 import Attempt
from countermand.v1.event_pb2 import HistoryEvent
from countermand.v1.task_pb2 import Task
from countermand.v1.workflow_pb2 import WatchWorkflowResponse, Workflow, WorkflowView
from countermand.v1.workflow_state_pb2 import WorkflowState

# The demo takes half a minute; beyond this something hangs, and that is a result too.
PATIENCE: Final = timedelta(minutes=3)
FINISHED: Final = 2  # tasks that have taken effect when the third pool is full


@dataclass(slots=True)
class Verdicts:
    """What was claimed, and whether it held."""

    screen: Screen
    broken: list[str] = field(default_factory=list)

    def check(self, holds: bool, words: str) -> None:
        """Shows one claim, and remembers it if it does not hold."""
        self.screen.check(holds, words)
        if not holds:
            self.broken.append(words)


@dataclass(frozen=True, slots=True)
class Told:
    """A workflow that has settled, with its whole history."""

    workflow: Workflow
    events: Sequence[HistoryEvent]

    def made_up_for(self) -> tuple[int, int]:
        """Returns how many effects were made up for before and after the coordinator's restart."""
        before = after = 0
        restarted = False
        compensations = set()
        for event in self.events:
            restarted |= event.owner_changed.owner_epoch > 1
            started, ended = event.attempt_started, event.attempt_ended
            if started.kind == Attempt.KIND_COMPENSATION:
                compensations.add((event.task, started.attempt))
            if ended.state != Attempt.STATE_SUCCEEDED:
                continue
            if (event.task, ended.attempt) in compensations:
                before, after = before + (not restarted), after + restarted
        return before, after

    def count(self, state: Task.State.ValueType) -> int:
        """Returns how many of its tasks are in a state."""
        return sum(t.state == state and t.kind == Task.KIND_VERB for t in self.workflow.tasks)


async def set_up(site: Site, screen: Screen, *, with_success: bool) -> None:
    """Makes the template and starts everything."""
    disks = site.tempo.disks
    with screen.busy("making images of random data"):
        await site.make_template()
    data = sum(disk.data_mib for disk in disks)
    virtual = sum(disk.virtual_mib for disk in disks)
    screen.fact(
        "template",
        f"{len(disks)} images, {site.image_format}, {virtual} MiB to a guest, "
        f"{data} MiB of random data in scattered extents",
    )
    with screen.busy("starting a coordinator and three agents"):
        crash_point = IN_THE_MIDDLE
        await asyncio.gather(
            site.start_agents(copies_before=1 if with_success else 0),
            site.start_coordinator(crash_point=crash_point),
        )
    assert site.coordinator is not None
    screen.fact("coordinator", f"{site.coordinator.address}, process {site.coordinator.pid}")
    screen.fact("web page", f"http://{site.coordinator.page}")
    for host, agent in zip(HOSTS, site.agents, strict=True):
        room = f" of {site.tempo.quota_mib(copies_before=int(with_success))} MiB, no more"
        own = f"{pool_of(host)}{room if host == HOSTS[-1] else ''}"
        screen.fact(host, f"{agent.address}, process {agent.pid}; pools: templates, {own}")


async def succeed(site: Site, client: Client, screen: Screen, verdicts: Verdicts) -> None:
    """Copies the template to all hosts, and compares every copy with its source."""
    screen.title("1  A virtual machine from the template: three copies, two at a time")
    run = await client.submit(site.spec("vm-1"), workflow_id="vm-1", labels={"demo": "success"})
    board = Board(await run.tasks())
    async for _ in screen.follow(board, run.watch()):
        site.check_alive()
    told = await read(run)
    screen.timeline(timeline(told.workflow, told.events))
    screen.console.print()
    state = told.workflow.state
    verdicts.check(state == WorkflowState.WORKFLOW_STATE_SUCCEEDED, "vm-1 succeeded")
    if state != WorkflowState.WORKFLOW_STATE_SUCCEEDED:
        return
    with screen.busy("reading copies and sources"):
        unequal = await asyncio.to_thread(proof.unequal, site.copies("vm-1"))
    words = ", ".join(unequal) or "SHA-256 of all three copies equals that of their sources"
    verdicts.check(not unequal, words)


async def compensate(
    site: Site, client: Client, screen: Screen, verdicts: Verdicts, *, after_success: bool
) -> Told:
    """Runs into a full pool, kills the coordinator while it makes up for it, and proves the end."""
    part = "2  Once more, but" if after_success else "1  A virtual machine from the template, but"
    disk = site.tempo.disks[-1]
    screen.title(
        f"{part} {pool_of(HOSTS[-1])} has {site.tempo.room_left_mib} MiB left "
        f"and {disk.image_id} needs {disk.data_mib} MiB"
    )
    with screen.busy("listing all pools"):
        before = await asyncio.to_thread(proof.take, site.pools)
    run = await client.submit(site.spec("vm-2"), workflow_id="vm-2", labels={"demo": "failure"})
    board = Board(await run.tasks())
    killed = asyncio.create_task(revive(site, screen))
    try:
        async for update in screen.follow(board, run.watch()):
            site.check_alive()
            if killed.done():
                killed.result()  # if it could not be started again, that is the news
            if _made_up_for_one(update, board) and not killed.done():
                assert site.coordinator is not None
                site.coordinator.kill()  # its crash point should have come first
        was_killed = killed.done() and killed.result()
    finally:
        killed.cancel()
    told = await read(run)
    with screen.busy("listing all pools again"):
        after = await asyncio.to_thread(proof.take, site.pools)
    _prove(told, screen, verdicts, was_killed=was_killed, listings=(before, after))
    return told


async def revive(site: Site, screen: Screen) -> bool:
    """Waits for the coordinator's end and starts it again; returns whether SIGKILL was its end."""
    assert site.coordinator is not None
    pid = site.coordinator.pid
    by_sigkill = await site.coordinator.wait_killed()
    how = "SIGKILL" if by_sigkill else "itself"
    words = f"coordinator, process {pid}, ended by {how} in the middle of the compensation"
    screen.say(f"✗ {words}", "bold yellow")
    child = await site.start_coordinator()
    screen.say(f"▸ coordinator started again, process {child.pid}, same data", "bold yellow")
    return by_sigkill


async def read(run: Run) -> Told:
    """Returns a workflow with its tasks, what they left, and its whole history."""
    workflow = await run.get(WorkflowView.WORKFLOW_VIEW_FULL)
    for task in workflow.tasks:
        task_id = names.parse_task(task.name)
        if task_id and task.kind in LEAVES:  # only the task itself tells its output
            task.CopyFrom(await run.task(task_id[1]))
    return Told(workflow, [event async for event in run.events()])


def draw(told: Told, path: Path) -> None:
    """Writes the timeline as an SVG."""
    path.write_text(svg.draw(timeline(told.workflow, told.events)), encoding="utf-8")


def _made_up_for_one(update: WatchWorkflowResponse, board: Board) -> bool:
    """Returns whether an update says that one effect is made up for while another is not."""
    if not update.event.HasField("attempt_ended"):
        return False
    if update.event.attempt_ended.state != Attempt.STATE_SUCCEEDED:
        return False
    return any(line.words == "done" for line in board.lane.values())


def _prove(
    told: Told,
    screen: Screen,
    verdicts: Verdicts,
    *,
    was_killed: bool,
    listings: tuple[proof.Listing, proof.Listing],
) -> None:
    before, after = listings
    screen.timeline(timeline(told.workflow, told.events))
    screen.title("Proof")
    screen.listings(before, after)
    screen.console.print()
    workflow = told.workflow
    state, reason = workflow.state, workflow.cause.reason
    compensated = state == WorkflowState.WORKFLOW_STATE_COMPENSATED
    verdicts.check(compensated and reason == "NO_SPACE", "vm-2 ran out of space and is compensated")
    early, late = told.made_up_for()
    verdicts.check(
        early + late == told.count(Task.STATE_COMPENSATED) == FINISHED
        and told.count(Task.STATE_CANCELLED) == 1,
        f"{phrases.count(early + late, 'finished task')} made up for, the running sibling stopped",
    )
    verdicts.check(
        was_killed and late > 0,
        f"the coordinator died by SIGKILL after {early} of {early + late}; the next one finished",
    )
    equal = before == after and not workflow.leftovers
    words = f"all pools before = after, byte for byte ({before.digest[: proof.DIGITS]})"
    verdicts.check(equal, words if equal else "; ".join(before.differences(after)) or "leftovers")
