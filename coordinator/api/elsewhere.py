"""What waits for the owners of external tasks at all coordinators, told at any of them.

Which attempts wait, the store says; what is asked about one, the session that owns its workflow.
What waits in own workflows a watch hears at once from `Owners`, what waits in others' once it is
told which workflows have moved. Where the store is not shared, nobody needs it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from coordinator.runtime.loop import Loop
from coordinator.runtime.owners import SILENT, Owners, Standing
from coordinator.runtime.ports import Asked, Store, StoreError
from countermand.rpc.errors import OwnerUnavailable
from countermand.v1 import external_task_pb2 as pb

log = logging.getLogger(__name__)

ROWS = 1000  # read at a time
NAMES_MAX = 200  # asked about at once
MOVED_MAX = 10_000  # ids in one query, which databases bound: beyond it everything is read
ANSWER_S = 10.0  # for what a watch asks; a page asks for as long as its caller waits
AGAIN_S = 0.5  # while the store, or an owner, does not answer
OWNERS_MAX = 100_000  # known at a coordinator: vendors are few

# Returns what is asked about some attempts, by their names, from whoever owns their workflows;
# until a time of the event loop's clock. Those about which nothing is asked are left out.
Ask = Callable[[Sequence[str], float], Awaitable[dict[str, pb.ExternalRequest]]]
Known = dict[str, dict[str, Asked]]  # attempts by their workflows


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What has become of attempts in other sessions' workflows."""

    requests: Sequence[pb.ExternalRequest]
    closed: Sequence[str]  # names of those that wait no more
    waiting: int  # how many do


class _Watcher:
    """Somebody who watches, and the workflows that have moved since the last look."""

    def __init__(self) -> None:
        self.moved: set[str] = set()
        self.woken = asyncio.Event()

    def hear(self, workflow_ids: Iterable[str]) -> None:
        self.moved.update(workflow_ids)
        self.woken.set()

    async def take(self) -> set[str]:
        """Returns what has moved, once something has."""
        await self.woken.wait()
        self.woken.clear()
        moved, self.moved = self.moved, set()
        return moved


async def standings(store: Store, owners: Owners, *, after: str, limit: int) -> Sequence[Standing]:
    """Returns how owners stand, in order of their ids; who watches is known of this coordinator."""
    by_owner: dict[str, list[Asked]] = {}
    for row in await _rows(store, "", None):
        by_owner.setdefault(row.owner, []).append(row)
    local = owners.standings(after=after, limit=OWNERS_MAX)
    watching = {each.owner for each in local if each.watching}
    known = sorted(owner for owner in {*by_owner, *watching} if owner > after)
    return [
        _standing(owner, by_owner.get(owner, ()), watching=owner in watching)
        for owner in known[:limit]
    ]


async def _rows(store: Store, owner: str, workflow_ids: Collection[str] | None) -> list[Asked]:
    """Returns everything that waits, in order."""
    rows: list[Asked] = []
    after = 0
    while True:
        page = await store.asked(owner=owner, after=after, limit=ROWS, workflow_ids=workflow_ids)
        rows += page
        if len(page) < ROWS:
            return rows
        after = page[-1].intent


class Elsewhere:
    """What waits for owners, whosesoever the workflows are."""

    def __init__(self, *, loop: Loop, store: Store, owners: Owners, ask: Ask) -> None:
        """Keeps whom it asks."""
        self._loop = loop
        self._store = store
        self._owners = owners
        self._ask = ask
        self._watchers: set[_Watcher] = set()

    def moved(self, workflow_ids: Collection[str]) -> None:
        """Hears which workflows have changed, whosesoever, durably."""
        for watcher in self._watchers:
            watcher.hear(workflow_ids)

    async def page(self, owner: str, *, after: int, limit: int) -> list[Asked]:
        """Returns what waits for an owner, the oldest first, from after an intent on."""
        return await self._store.asked(owner=owner, after=after, limit=limit)

    async def requests(self, names: Sequence[str], until: float) -> dict[str, pb.ExternalRequest]:
        """Returns what is asked about attempts, by their names.

        Raises:
            OwnerUnavailable: One of their workflows is nobody's yet, or its owner does not answer.
        """
        found: dict[str, pb.ExternalRequest] = {}
        for first in range(0, len(names), NAMES_MAX):
            found |= await self._ask(names[first : first + NAMES_MAX], until)
        return found

    # -- watching -------------------------------------------------------------------------------

    async def watch(self, owner: str) -> AsyncGenerator[Told]:
        """Yields what waits for an owner in other sessions' workflows, then every change of it.

        What is an own workflow's from now on is no more told here, unless it is over.
        """
        watcher, known = _Watcher(), Known()
        self._watchers.add(watcher)
        try:
            moved: set[str] | None = None  # at first everything
            while True:
                try:
                    yield await self._look(owner, known, moved, watcher)
                except StoreError as error:
                    log.warning("asked.not_read", extra={"error": str(error)})
                    await asyncio.sleep(AGAIN_S)
                    continue
                moved = await watcher.take()
        finally:
            self._watchers.discard(watcher)

    async def _look(
        self, owner: str, known: Known, moved: set[str] | None, watcher: _Watcher
    ) -> Told:
        """Returns what differs from what is known of the workflows that have moved."""
        if moved is not None and len(moved) > MOVED_MAX:
            moved = None
        now: Known = {}
        for row in await _rows(self._store, owner, moved):
            now.setdefault(row.workflow_id, {})[row.name] = row
        changed: list[Asked] = []
        closed: list[str] = []
        for workflow_id in {*now, *known} if moved is None else moved:
            before, after = known.pop(workflow_id, {}), now.get(workflow_id, {})
            closed += before.keys() - after.keys()
            if after and self._loop.workflow(workflow_id) is None:
                changed += [row for name, row in after.items() if before.get(name) != row]
                known[workflow_id] = after
        requests = await self._asked(changed, known, watcher)
        told = {each.attempt for each in requests}
        # Nothing is asked about it: as of an own one, its owner has nothing to do with it.
        closed += [row.name for row in changed if row.name not in told and _is_in(known, row)]
        waiting = sum(map(len, known.values()))
        return Told(requests=requests, closed=closed, waiting=waiting)

    async def _asked(
        self, rows: Sequence[Asked], known: Known, watcher: _Watcher
    ) -> list[pb.ExternalRequest]:
        """Returns what is asked about attempts; what nobody says now is looked for again."""
        names = [row.name for row in sorted(rows, key=lambda row: row.intent)]
        try:
            until = asyncio.get_running_loop().time() + ANSWER_S
            found = await self.requests(names, until)
        except OwnerUnavailable:
            for row in rows:
                known.get(row.workflow_id, {}).pop(row.name, None)
            again = {row.workflow_id for row in rows}
            asyncio.get_running_loop().call_later(AGAIN_S, watcher.hear, again)
            return []
        return [found[name] for name in names if name in found]

    async def watch_all(self, owner: str) -> AsyncGenerator[Told | Sequence[str]]:
        """Yields what is told of others' workflows, and names that have changed in own ones.

        First everything of others', then everything of own ones.
        """
        async with (
            aclosing(self.watch(owner)) as others,
            aclosing(self._owners.watch(owner)) as own,
        ):
            yield await anext(others)
            yield await anext(own)
            coming: dict[asyncio.Task[Told | Sequence[str]], AsyncGenerator[Told | Sequence[str]]]
            coming = {asyncio.create_task(_next(each)): each for each in (others, own)}
            try:
                while True:
                    done, _ = await asyncio.wait(coming, return_when=asyncio.FIRST_COMPLETED)
                    for task in done:
                        source = coming.pop(task)
                        coming[asyncio.create_task(_next(source))] = source
                        yield task.result()
            finally:
                for task in coming:
                    task.cancel()
                await asyncio.gather(*coming, return_exceptions=True)


async def _next(
    source: AsyncGenerator[Told | Sequence[str]],
) -> Told | Sequence[str]:
    return await anext(source)


def _is_in(known: Known, row: Asked) -> bool:
    return row.name in known.get(row.workflow_id, {})


def _standing(owner: str, rows: Sequence[Asked], *, watching: bool) -> Standing:
    return Standing(
        owner=owner,
        waiting=len(rows),
        unaccepted=sum(not row.accepted for row in rows),
        silent=sum(row.state in SILENT for row in rows),
        oldest_time=rows[0].create_time if rows else None,
        watching=watching,
    )
