"""Makes a bundle: one workflow as one file, in pieces of bounded size however large it is.

What is in it is said in its README.txt. The history is read up to where it was when the bundle was
begun; a workflow that goes on meanwhile may have tasks that are newer than that.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from google.protobuf import json_format
from google.protobuf.message import Message

from countermand.bundle import page, picture
from countermand.bundle.archive import Archive
from countermand.bundle.source import Source
from countermand.drawing.model import Timeline
from countermand.drawing.tasks import task_id
from countermand.rpc.visible import visible_json
from countermand.v1.event_pb2 import HistoryEvent
from countermand.v1.task_pb2 import Task
from countermand.v1.workflow_pb2 import Workflow

README, WORKFLOW, EVENTS, PAGE = "README.txt", "workflow.json", "events.jsonl", "page.html"

WHOLE_TASKS: Final = 500  # with all their attempts; of a larger workflow those that tell something
ASKED_AT_ONCE: Final = 8

_README: Final = """\
{name}, as it was on {now:%Y-%m-%d %H:%M:%S} UTC

A workflow of Countermand, downloaded as one file.

page.html      opens in any browser, without a network: how it ended, the picture, its tasks
workflow.json  the workflow as the contract's JSON (countermand.v1.Workflow), with its tasks{which}
events.jsonl   its history up to event {last}, one countermand.v1.HistoryEvent a line

On the command line:  countermand open {id}.zip
"""
_SOME: Final = ";\n               with their attempts those that have something to tell"


def file_name(workflow_id: str) -> str:
    """Returns the name of a bundle's file."""
    return f"{workflow_id}.zip"


async def pieces(source: Source, now: datetime) -> AsyncGenerator[bytes]:
    """Yields the file."""
    writer = _Writer(source=source, now=now, workflow=await source.workflow())
    try:
        async for piece in writer.pieces():
            if piece:
                yield piece
    finally:
        writer.archive.drop()  # somebody may have stopped reading


@dataclass(slots=True, kw_only=True)
class _Writer:
    """One bundle being made."""

    source: Source
    now: datetime
    workflow: Workflow
    archive: Archive = field(init=False)
    # Kept for the picture: all of a small workflow, a little of a large one.
    events: list[HistoryEvent] = field(default_factory=list)
    drawn: list[Task] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Begins the file."""
        self.archive = Archive(self.id, self.now)

    @property
    def id(self) -> str:
        """Returns the workflow's id."""
        return self.workflow.name.removeprefix("workflows/")

    @property
    def size(self) -> int:
        """Returns how many tasks there are."""
        return sum(each.count for each in self.workflow.task_counts)

    @property
    def is_small(self) -> bool:
        """Returns whether all of it is drawn."""
        return picture.is_small(self.size, self.workflow.last_sequence)

    async def pieces(self) -> AsyncIterator[bytes]:
        """Yields the file. Nothing here holds a loop: what takes long is done in a thread."""
        which = "" if self.size <= WHOLE_TASKS else _SOME
        last = self.workflow.last_sequence
        text = _README.format(
            name=self.workflow.name, now=self.now, which=which, last=last, id=self.id
        )
        self.archive.begin(README)
        yield self.archive.put([text])
        yield self.archive.end()
        async for piece in self._history():
            yield piece
        async for piece in self._whole():
            yield piece
        async for piece in self._page():
            yield piece
        yield self.archive.close()

    async def _history(self) -> AsyncIterator[bytes]:
        self.archive.begin(EVENTS)
        after, last = 0, self.workflow.last_sequence
        while after < last:
            found = [each for each in await self.source.events(after) if each.sequence <= last]
            if not found:
                break
            after = found[-1].sequence
            self.events += found
            if not self.is_small:
                del self.events[: -page.LAST_EVENTS]
            yield await asyncio.to_thread(self._put_lines, found)
        yield self.archive.end()

    def _put_lines(self, messages: Sequence[Message]) -> bytes:
        return self.archive.put(f"{_json(each)}\n" for each in messages)

    async def _whole(self) -> AsyncIterator[bytes]:
        """Yields the workflow as one message, its tasks added to it page by page."""
        self.archive.begin(WORKFLOW)
        bare = Workflow()
        bare.CopyFrom(self.workflow)
        del bare.tasks[:]
        yield self.archive.put([_json(bare).removesuffix("}"), ',\n"tasks":['])
        told, token, lead = 0, "", "\n"
        while True:
            listed, token = await self.source.tasks(token)
            tasks, told = await self._told(listed, told)
            self._keep(tasks)
            yield await asyncio.to_thread(self._put_items, tasks, lead)
            lead = ",\n" if tasks else lead
            if not token:
                break
        yield self.archive.put(["\n]}\n"])
        yield self.archive.end()

    def _put_items(self, tasks: Sequence[Task], lead: str) -> bytes:
        leads = [lead, *[",\n"] * (len(tasks) - 1)]
        return self.archive.put(
            f"{before}{_json(task)}" for before, task in zip(leads, tasks, strict=False)
        )

    async def _told(self, listed: Sequence[Task], told: int) -> tuple[list[Task], int]:
        """Returns tasks, those that have something to tell with all their attempts."""
        is_all = self.size <= WHOLE_TASKS
        wanted = [
            task for task in listed if is_all or (task.verb and task.state not in picture.SILENT)
        ]
        wanted = wanted[: max(WHOLE_TASKS - told, 0)]
        gate = asyncio.Semaphore(ASKED_AT_ONCE)

        async def one(task: Task) -> Task:
            async with gate:
                return await self.source.task(task_id(task.name))

        whole = {task.name: task for task in await asyncio.gather(*map(one, wanted))}
        return [whole.get(task.name, task) for task in listed], told + len(wanted)

    def _keep(self, tasks: Sequence[Task]) -> None:
        if self.is_small:
            self.drawn += tasks
        else:
            self.drawn += picture.telling(tasks, picture.EXCERPT_TASKS - len(self.drawn))

    async def _page(self) -> AsyncIterator[bytes]:
        self.archive.begin(PAGE)
        drawn = await asyncio.to_thread(self._timeline)
        yield self.archive.put(page.top(self.workflow, drawn, self.now))
        yield self.archive.put([page.tasks_begin()])
        token, depths = "", dict[str, int]()
        while True:
            tasks, token = await self.source.tasks(token)
            yield await asyncio.to_thread(self._put_rows, tasks, depths)
            if not token:
                break
        yield self.archive.put(page.events(self.events, self.workflow.last_sequence))
        yield self.archive.end()

    def _put_rows(self, tasks: Sequence[Task], depths: dict[str, int]) -> bytes:
        return self.archive.put(page.task_rows(tasks, depths))

    def _timeline(self) -> Timeline:
        draw = picture.whole if self.is_small else picture.part
        return draw(self.workflow, self.drawn, self.events, self.now.replace(tzinfo=None))


def _json(message: Message) -> str:
    """Returns the contract's canonical JSON, on one line."""
    shown = json_format.MessageToDict(message)
    return visible_json(json.dumps(shown, ensure_ascii=False, separators=(",", ":")))
