"""Has those who watch here hear how far owners are whose reports another coordinator takes.

What agents say every coordinator hears from them. What owners report goes to whoever owns the
workflow, and is kept in the store before it is answered: there it is looked for, while somebody
watches such a workflow. Where the store is not shared, nobody needs it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection

from coordinator.owners.owners import Show
from coordinator.owners.reported import key_of
from coordinator.runtime.owners import Key
from coordinator.runtime.ports import ProgressRecord, Store, StoreError, StoreFencedError
from countermand.rpc.names import attempt_name

log = logging.getLogger(__name__)

LOOK_S = 1.0  # people read it; each look reads all that is reported of open workflows


class ReportedElsewhere:
    """The progress that others keep of workflows that are watched here."""

    def __init__(
        self,
        *,
        store: Store,
        watched: Callable[[], Collection[str]],
        owned: Callable[[str], bool],
        show: Show,
    ) -> None:
        """Keeps what says which workflows are watched, and own ones; and whom it tells."""
        self._store = store
        self._watched = watched
        self._owned = owned
        self._show = show
        self._told: dict[Key, ProgressRecord] = {}
        self._names: dict[Key, str] = {}  # of their attempts

    async def run(self) -> None:
        """Goes on until cancelled.

        Raises:
            StoreFencedError: The own session has ended.
        """
        while True:
            watched = {each for each in self._watched() if not self._owned(each)}
            try:
                await self._look(watched)
            except StoreFencedError:
                raise
            except StoreError as error:
                log.warning("progress.not_read", extra={"error": str(error)})
            await asyncio.sleep(LOOK_S)

    async def _look(self, watched: Collection[str]) -> None:
        kept = await self._store.progress() if watched else []
        found = {key_of(record): record for record in kept if record.workflow_id in watched}
        await self._learn_names(found.keys())
        still = frozenset(self._watched())  # or it has settled, and nobody would drop it
        for key, name in self._names.items():
            record = found[key]
            if self._told.get(key) != record and record.workflow_id in still:
                self._show(record.workflow_id, name, record)
        self._told = found

    async def _learn_names(self, keys: Collection[Key]) -> None:
        """Knows the names of those attempts and of no others, unless their workflow is gone."""
        names = {key: self._names[key] for key in keys if key in self._names}
        for workflow_id in {key[0] for key in keys if key not in names}:
            stored = await self._store.load(workflow_id)
            for of, task, number in keys if stored else ():
                if stored and of == workflow_id and task < len(stored.workflow.plan.nodes):
                    name = stored.workflow.plan.nodes[task].name
                    names[of, task, number] = attempt_name(of, name, number)
        self._names = names
