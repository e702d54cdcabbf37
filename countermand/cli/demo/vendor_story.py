"""The story with a vendor: ours, theirs, ours again; a wrong bit made up for; a plug-in killed.

Everything it claims it has checked: from the history, from the processes' ends, from the disks.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Final

from countermand.cli.demo import proof, tree
from countermand.cli.demo.array import OWNER
from countermand.cli.demo.screen import Screen
from countermand.cli.demo.story import Told, Verdicts, read
from countermand.cli.demo.tempo import TEMPLATES
from countermand.cli.demo.vendor_site import (
    ARRAY,
    CLONES,
    HOST,
    IMAGE,
    VendorSite,
    disk_of,
    spec_of,
)
from countermand.client import Client
from countermand.drawing import phrases
from countermand.drawing.timeline import timeline
from countermand.v1.attempt_pb2 import Attempt
from countermand.v1.event_pb2 import HistoryEvent
from countermand.v1.task_pb2 import Task
from countermand.v1.workflow_pb2 import WatchWorkflowResponse
from countermand.v1.workflow_state_pb2 import WorkflowState

GOOD, FLIPPED, KILLED = "vm-1", "vm-2", "vm-3"
READ_S: Final = 1.0  # an UNKNOWN is to be seen, not only passed through
PARTS: Final = 3  # that the array adds: two halves, and presenting


async def play(site: VendorSite, screen: Screen, verdicts: Verdicts) -> Told:
    """Tells all of it; returns the workflow that was made up for."""
    await set_up(site, screen)
    assert site.coordinator is not None
    async with Client(site.coordinator.address) as client:
        await site.add_host(client)
        await succeed(site, client, screen, verdicts)
        told = await compensate(site, client, screen, verdicts)
        await survive(site, client, screen, verdicts)
    return told


async def set_up(site: VendorSite, screen: Screen) -> None:
    """Makes the template and starts everything."""
    disk = site.tempo.disk
    with screen.busy("making an image of random data"):
        await site.make_template()
    screen.fact(
        "template",
        f"{IMAGE}, {disk.virtual_mib} MiB to a guest, {disk.data_mib} MiB of random data",
    )
    with screen.busy("starting a coordinator, an agent and a vendor's plug-in"):
        await site.start()
        vendor = await site.start_vendor(
            "--flips-bit-of", disk_of(FLIPPED), "--dies-half-way-through", disk_of(KILLED)
        )
    assert site.coordinator is not None
    assert site.agent is not None
    screen.fact("coordinator", f"{site.coordinator.address}, process {site.coordinator.pid}")
    screen.fact("web page", f"http://{site.coordinator.page}")
    pools = f"{TEMPLATES}, {ARRAY}, {CLONES} (read only)"
    screen.fact(HOST, f"{site.agent.address}, process {site.agent.pid}; pools: {pools}")
    screen.fact(OWNER, f"process {vendor.pid}: the plug-in of a storage array, which only it knows")


# -- 1: it succeeds -------------------------------------------------------------------------------


async def succeed(site: VendorSite, client: Client, screen: Screen, verdicts: Verdicts) -> None:
    """Runs it once; compares what the vendor made with the template."""
    screen.title(f"1  A virtual machine: {HOST} copies, {OWNER} clones, {HOST} checks")
    told = await _run(site, client, screen, GOOD)
    screen.console.print()
    succeeded = told.workflow.state == WorkflowState.WORKFLOW_STATE_SUCCEEDED
    verdicts.check(succeeded, f"{GOOD} succeeded")
    added = [each for each in told.events if each.HasField("task_added")]
    ends = {each.state for each in told.workflow.tasks}
    verdicts.check(
        len(added) == PARTS and ends == {Task.STATE_SUCCEEDED},
        f"{len(added)} tasks that nobody had planned: {OWNER} added them, and did them",
    )
    check = _task(told, "check")
    given = {each.field: each.value.string_value for each in check.inbound}
    target = f"{given.get('target.pool_id')}/{given.get('target.image_id')}"
    left = _task(told, "clone").output.external
    bound = target == f"{left['pool']}/{left['image']}" if left.fields else False
    verdicts.check(bound, f"the check read {target}, as {OWNER} said that it was made")
    await _compare(site, screen, verdicts, GOOD)


# -- 2: a later task fails ------------------------------------------------------------------------


async def compensate(site: VendorSite, client: Client, screen: Screen, verdicts: Verdicts) -> Told:
    """Has the array flip a bit, our check find it, and everybody make up for what they did."""
    screen.title(f"2  Once more, but one bit comes out wrong in {OWNER}'s array")
    before = await _listing(site, screen)
    told = await _run(site, client, screen, FLIPPED)
    after = await _listing(site, screen)
    screen.title("Proof")
    screen.listings(before, after, where=f"in the pools, and with {OWNER}")
    screen.console.print()
    workflow = told.workflow
    verdicts.check(
        workflow.state == WorkflowState.WORKFLOW_STATE_COMPENSATED
        and workflow.cause.reason == "DIGEST_MISMATCH",
        f"{FLIPPED}: the check read {OWNER}'s clone, found the bit, and all is compensated",
    )
    verdicts.check(
        _made_up_for(told.events) == ["clone", "seed"]
        and len(site.said_by_vendor("array.removed", FLIPPED)) == 1,
        f"{OWNER} was asked to make up for its clone, and did; then {HOST} deleted its copy",
    )
    equal = before == after and not workflow.leftovers
    words = f"all pools and {OWNER}'s own disk before = after ({before.digest[: proof.DIGITS]})"
    verdicts.check(equal, words if equal else "; ".join(before.differences(after)) or "leftovers")
    return told


# -- 3: the vendor is killed ----------------------------------------------------------------------


async def survive(site: VendorSite, client: Client, screen: Screen, verdicts: Verdicts) -> None:
    """Lets SIGKILL strike the vendor half-way, and its next life go on."""
    screen.title(f"3  And once more, but {OWNER}'s process is killed half-way")
    unknown = asyncio.Event()
    reviving = asyncio.create_task(_revive(site, screen, unknown))
    try:
        async for update in _following(site, client, screen, KILLED):
            if reviving.done():
                reviving.result()  # if it could not be started again, that is the news
                site.check_alive()
            changed = update.event.task_state_changed
            if update.event.task.endswith("/clone") and changed.after == Task.STATE_UNKNOWN:
                unknown.set()
        died_at = await reviving if reviving.done() else None
    finally:
        reviving.cancel()
    told = await _told(client, screen, KILLED)
    screen.console.print()
    extents, ends = site.tempo.extents, site.said_by_vendor("array.cloned", KILLED)
    verdicts.check(
        died_at is not None and 0 < died_at < extents,
        f"{OWNER} died by SIGKILL with {died_at} of {extents} extents cloned",
    )
    silent_s, attempts = _unknown_s(told.events), len(_task(told, "clone").attempts)
    verdicts.check(
        silent_s > 0 and attempts == 1,
        f"nothing was concluded from its silence: UNKNOWN for {phrases.duration(silent_s)}, "
        "and no second attempt",
    )
    rest = [end["extents"] for end in ends]
    verdicts.check(
        died_at is not None and rest == [extents - died_at],
        f"its next life cloned the other {', '.join(map(str, rest))}, and no more",
    )
    succeeded = told.workflow.state == WorkflowState.WORKFLOW_STATE_SUCCEEDED
    verdicts.check(succeeded, f"{KILLED} succeeded")
    await _compare(site, screen, verdicts, KILLED)


async def _revive(site: VendorSite, screen: Screen, unknown: asyncio.Event) -> int | None:
    """Starts the vendor again once it was killed and missed; returns how far it had come."""
    assert site.vendor is not None
    pid = site.vendor.pid
    by_sigkill = await site.vendor.wait_killed()
    died_at = site.cloned(KILLED)
    how = "SIGKILL" if by_sigkill else "itself"
    screen.say(f"✗ {OWNER}, process {pid}, ended by {how} in the middle of its work", "bold yellow")
    await unknown.wait()
    if screen.console.is_terminal:
        await asyncio.sleep(READ_S)
    child = await site.start_vendor()
    screen.say(f"▸ {OWNER} started again, process {child.pid}, same disk", "bold yellow")
    return died_at if by_sigkill else None


# -- all of them ----------------------------------------------------------------------------------


async def _run(site: VendorSite, client: Client, screen: Screen, vm: str) -> Told:
    """Runs the workflow for one virtual machine, shown live, to its end."""
    async for _ in _following(site, client, screen, vm):
        site.check_alive()
    return await _told(client, screen, vm)


async def _following(
    site: VendorSite, client: Client, screen: Screen, vm: str
) -> AsyncIterator[WatchWorkflowResponse]:
    run = await client.submit(spec_of(vm, site.tempo), workflow_id=vm, labels={"demo": "external"})
    async for update in tree.follow(screen, run):
        yield update


async def _told(client: Client, screen: Screen, vm: str) -> Told:
    """Returns a workflow that has settled with its whole history, and draws it."""
    run = client.run(vm)
    told = await read(run)
    screen.timeline(timeline(told.workflow, told.events))
    return told


async def _compare(site: VendorSite, screen: Screen, verdicts: Verdicts, vm: str) -> None:
    """Compares what the vendor made with the template, from the files themselves."""
    source, clone = site.data_of(TEMPLATES, IMAGE), site.data_of(CLONES, disk_of(vm))
    if not clone.exists():
        verdicts.check(holds=False, words=f"{CLONES}/{disk_of(vm)} is there")
        return
    with screen.busy("reading clone and template"):
        unequal = await asyncio.to_thread(proof.unequal, [(source, clone)])
    verdicts.check(not unequal, f"SHA-256 of {CLONES}/{disk_of(vm)} equals that of the template")


async def _listing(site: VendorSite, screen: Screen) -> proof.Listing:
    with screen.busy("listing all pools, and the array's own disk"):
        return await asyncio.to_thread(proof.take, site.places)


def _task(told: Told, task_id: str) -> Task:
    """Returns one task, with its context; an empty one if there is none."""
    found = (each for each in told.workflow.tasks if each.name.endswith(f"/{task_id}"))
    return next(found, Task())


def _made_up_for(events: Sequence[HistoryEvent]) -> list[str]:
    """Returns whose effects were made up for, in that order."""
    compensations, ended = set(), []
    for event in events:
        started, end = event.attempt_started, event.attempt_ended
        if started.kind == Attempt.KIND_COMPENSATION:
            compensations.add((event.task, started.attempt))
        made_up = end.state == Attempt.STATE_SUCCEEDED
        if made_up and (event.task, end.attempt) in compensations:
            ended.append(event.task.rpartition("/")[2])
    return ended


def _unknown_s(events: Sequence[HistoryEvent]) -> float:
    """Returns for how long nobody knew about the clone; 0 if that was known all along."""
    since: float | None = None
    total_s = 0.0
    for event in events:
        changed, now = event.task_state_changed, event.time.ToNanoseconds() / 1e9
        if not event.task.endswith("/clone") or not event.HasField("task_state_changed"):
            continue
        if changed.after == Task.STATE_UNKNOWN:
            since = now
        elif since is not None:
            total_s += now - since
            since = None
    return total_s
