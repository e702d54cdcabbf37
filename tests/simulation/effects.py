"""What is on the disks in the end, and what should be: I3, I4 and I11.

Worked out from the records of settled workflows: an attempt that succeeded and was not made up for
has left its image, unless a later removal took it away; what an operator abandoned may be there or
not. Nothing else may be there, and what a failed workflow left must be listed as a leftover.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from coordinator.saga.states import AttemptKind, AttemptState, TaskState, WorkflowState
from coordinator.saga.workflow import Attempt, Workflow
from coordinator.wire.actions import action_of
from countermand.rpc.names import attempt_name, parse_attempt
from tests.simulation.disk import Disk
from tests.simulation.promises import made_up_for, told
from tests.simulation.workload import Load, path_of

Leftovers = dict[str, set[str]]  # by workflow: the attempts whose effects are listed


@dataclass(frozen=True, slots=True, kw_only=True)
class _Image:
    """An image that an attempt has made, for certain or perhaps."""

    path: str
    attempt: str
    content: bytes | None  # None: not known
    time: datetime  # when its outcome was known


@dataclass(slots=True, kw_only=True)
class _Host:
    """What should be on one host."""

    made: list[_Image] = field(default_factory=list)
    perhaps: set[tuple[str, str]] = field(default_factory=set)  # (path, attempt)
    removed: list[tuple[str, datetime]] = field(default_factory=list)  # (path, begun)
    perhaps_removed: set[str] = field(default_factory=set)
    dark: dict[str, set[str]] = field(default_factory=dict)  # by path: attempts that may be there


def check_disks(
    disks: dict[str, Disk],
    load: Load,
    workflows: dict[str, Workflow],
    leftovers: Leftovers,
    *,
    lost: set[str],
    dark: Sequence[Workflow] = (),
    dark_until: datetime | None = None,
) -> None:
    """Asserts that exactly what should be there is there, whole; some was lost with its pool.

    What was done of workflows in the dark, whose records went back in time, nobody knows; but what
    was heard of as done since then is there.
    """
    hosts = {host: _Host() for host in disks}
    for workflow in workflows.values():
        _add(workflow, hosts, load)
    unknown = {workflow.id for workflow in dark}
    for workflow in (*dark, *(workflows[each] for each in sorted(unknown & workflows.keys()))):
        _add_dark(workflow, hosts)
    for host, disk in disks.items():
        for image in hosts[host].made:
            if dark_until is not None and image.time > dark_until:
                hosts[host].dark.pop(image.path, None)
        _check_host(host, disk, hosts[host], load, lost)
        for attempt in images(disk).values():
            if attempt and workflow_of(attempt) not in unknown:
                _is_wanted_or_listed(attempt, workflows, leftovers)
    for workflow in workflows.values():
        if workflow.state is WorkflowState.COMPENSATED:
            listed = filter(None, map(parse_attempt, leftovers[workflow.id]))
            indices = {workflow.plan.by_name[name.task_id] for name in listed}
            for_ever = {index for index in indices if not workflow.plan.is_end_action(index)}
            assert not for_ever, f"I4: {workflow.id} lists leftovers: {told(workflow)}"


def _check_host(host: str, disk: Disk, expected: _Host, load: Load, lost: set[str]) -> None:
    wanted = dict.fromkeys(load.furniture(host), "")
    contents: dict[str, bytes | None] = {}
    for path, _ in expected.removed:
        wanted.pop(path, None)
    for image in sorted(expected.made, key=lambda each: each.time):
        if not any(p == image.path and begun >= image.time for p, begun in expected.removed):
            wanted[image.path] = image.attempt
            contents[image.path] = image.content
    found = images(disk)
    for path in sorted(found.keys() | wanted.keys()):
        there, should = found.get(path), wanted.get(path)
        fine = (
            there == should
            or (path in expected.dark and there in (None, should, *expected.dark[path]))
            or (there is None and path in expected.perhaps_removed)
            or (there is None and should in lost)
            or (path, there) in expected.perhaps
        )
        assert fine, f"I3: {host} holds {there} as {path}, expected {should}"
        content = contents.get(path)
        if there and there == should and content is not None:
            file = disk.names[f"{path}/data.raw"]
            assert file is not None, path
            assert bytes(file.data) == content, f"I3: {path} is not what was copied"
    staged = [name for name in disk.names if "/staging/" in name]
    assert not staged, f"I11: left in staging: {staged}"


def _is_wanted_or_listed(
    attempt: str, workflows: dict[str, Workflow], leftovers: Leftovers
) -> None:
    """Asserts I3 of one image: its workflow wanted it, or lists it as a leftover."""
    name = parse_attempt(attempt)
    assert name is not None, attempt
    workflow = workflows[name.workflow_id]
    index = workflow.plan.by_name[name.task_id]
    wanted = workflow.state is WorkflowState.SUCCEEDED or workflow.plan.is_end_action(index)
    if wanted and workflow.task(index).state is TaskState.SUCCEEDED:
        return
    assert attempt in leftovers[workflow.id], f"I3: {attempt} is not listed: {told(workflow)}"


# -- what should be there -------------------------------------------------------------------------


def _add(workflow: Workflow, hosts: dict[str, _Host], load: Load) -> None:
    for index, task in workflow.tasks():
        undone = set(made_up_for(workflow, index))
        for attempt in task.attempts:
            done = attempt.kind is AttemptKind.ACTION and attempt.number not in undone
            if done and attempt.host in hosts:  # else an owner's: what it left is with its array
                _add_attempt(workflow, index, attempt, hosts[attempt.host], load)


def _add_attempt(workflow: Workflow, index: int, attempt: Attempt, host: _Host, load: Load) -> None:
    task = workflow.task(index)
    action = action_of(workflow, index, attempt)
    verb = str(action.WhichOneof("verb"))
    if verb not in ("create_image", "copy_image", "clone_image", "delete_image"):
        return
    target = getattr(action, verb).target
    path = path_of(target.pool_id, target.image_id)
    is_last = attempt is task.action
    gave_up = is_last and task.state is TaskState.ABANDONED
    stands = is_last and task.state is TaskState.SUCCEEDED
    if verb == "delete_image":
        if gave_up:
            host.perhaps_removed.add(path)
        elif attempt.state is AttemptState.SUCCEEDED:
            host.removed.append((path, attempt.create_time))
        return
    name = attempt_name(workflow.id, workflow.plan.nodes[index].name, attempt.number)
    if gave_up:
        host.perhaps.add((path, name))
    elif stands:
        assert attempt.end_time is not None, name
        content = None
        if verb == "copy_image" and action.copy_image.source.pool_id == "templates":
            content = _template(load, action.copy_image.source.image_id)
        elif verb == "clone_image":
            content = _template(load, action.clone_image.source.image_id)
        host.made.append(_Image(path=path, attempt=name, content=content, time=attempt.end_time))


def _add_dark(workflow: Workflow, hosts: dict[str, _Host]) -> None:
    """Adds what attempts may have made or removed, whatever is recorded of them.

    What an operator had made up for otherwise leaves no tombstone: it shows as done ever after.
    """
    for index, task in workflow.tasks():
        for attempt in task.attempts:
            if attempt.kind is not AttemptKind.ACTION and not attempt.overriding:
                continue
            action = action_of(workflow, index, attempt)
            verb = str(action.WhichOneof("verb"))
            arguments, host = getattr(action, verb), hosts[attempt.host]
            if not hasattr(arguments, "target"):
                continue
            path = path_of(arguments.target.pool_id, arguments.target.image_id)
            name = attempt_name(workflow.id, workflow.plan.nodes[index].name, attempt.number)
            host.dark.setdefault(path, set()).add(name)
            if verb == "delete_image":
                host.perhaps_removed.add(path)


def _template(load: Load, image: str) -> bytes | None:
    number = image.removeprefix("t-")
    return load.templates[int(number)] if number.isdecimal() else None


# -- what is there --------------------------------------------------------------------------------


def images(disk: Disk) -> dict[str, str]:
    """Returns the images on a disk with the attempts that made them; empty for other people's."""
    return {
        path: owner(disk, path)
        for path in sorted(disk.names)
        if path.rpartition("/")[0].endswith("/images")
    }


def workflow_of(attempt: str) -> str:
    """Returns the id of the workflow of an attempt."""
    name = parse_attempt(attempt)
    assert name is not None, attempt
    return name.workflow_id


def owner(disk: Disk, folder: str) -> str:
    """Returns the attempt that made an image; empty if it was none."""
    label = disk.names.get(f"{folder}/image.json")
    if label is None or not label.data:
        return ""
    attempt = json.loads(bytes(label.data)).get("attempt", "")
    return attempt if isinstance(attempt, str) and parse_attempt(attempt) else ""


def remove_by_hand(disk: Disk, path: str) -> None:
    """Removes an image as an administrator would, with everything in it, durably."""
    for name in [n for n in disk.names if n == path or n.startswith(f"{path}/")]:
        disk.change("remove", name)
    disk.flush_names()


@dataclass(slots=True)
class Ledger:
    """Which effects have shown and gone: I1 and I2 as they happen."""

    _states: dict[str, tuple[str, str]] = field(default_factory=dict)  # attempt → (host, state)

    def renamed(self, host: str, attempt: str, *, shows: bool, buried: bool) -> None:
        """Takes up that the image of an attempt has shown, or has gone."""
        state = self._states.get(attempt, (host, ""))[1]
        if shows:
            assert state != "undone", f"I2: {attempt} takes effect again"
            assert not buried, f"I1: {attempt} shows after its compensation"
        else:
            assert state == "published", f"I2: {attempt} is undone twice"
        self._states[attempt] = (host, "published" if shows else "undone")

    def recount(self, host: str, disk: Disk) -> None:
        """Takes up what a power cut has left of renames."""
        visible = {attempt for attempt in images(disk).values() if attempt}
        for attempt, (where, state) in tuple(self._states.items()):
            if where == host and state == "published" and attempt not in visible:
                del self._states[attempt]
        for attempt in visible:
            self._states[attempt] = (host, "published")

    def lost(self, attempts: list[str]) -> None:
        """Takes up that effects are gone with the pool they were in: they may be made again."""
        for attempt in attempts:
            self._states.pop(attempt, None)

    def anew(self, attempt: str) -> None:
        """Takes up that another attempt has the name of one that was undone."""
        if self._states.get(attempt, ("", ""))[1] == "undone":
            del self._states[attempt]

    def gone(self, host: str, attempt: str) -> None:
        """Takes up that somebody removed an image by hand."""
        self._states[attempt] = (host, "undone")
