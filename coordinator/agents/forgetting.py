"""Tells one host's agent which settled workflows it may forget, a few seconds after they settled.

What is to be told stands in the store, written with the change that settled each; it goes from
there once the agent has answered that it keeps nothing of it. If either side stops in between, it
is told again: no harm done. Only workflows all of whose intents there are below the low-watermark
are named: see `coordinator/runtime/watermark.py` for why nothing late of them can be taken for new
then.

An agent is also asked what it has, when its line comes up and now and then: evidence of settled
workflows, which nobody would ever tell it to forget, came with an older journal that was put back.
What this store does not know to have settled is left there, and told in the log: that it is not
open here proves nothing if the store was restored from a backup.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence

from coordinator.agents.connection import CALL_TIMEOUT_S, Connection
from coordinator.agents.ears import Ears
from countermand.rpc.errors import CountermandError
from countermand.rpc.names import parse_attempt, parse_workflow, workflow_name
from countermand.v1.agent_pb2 import ForgetRequest, ForgetResponse, ListAttemptsRequest
from countermand.v1.attempt_pb2 import Attempt

log = logging.getLogger(__name__)

FORGET_S = 5.0  # evidence that stays a little longer harms nobody
FORGET_MAX = 200  # workflows in one call: some kilobytes, and deleted within milliseconds
REST_S = 0.2  # between two calls when there is more: orders come first
LOOK_S = 600.0  # between two looks at all that an agent has: what it should not have is rare
LOOK_AGAIN_S = 30.0  # where something was found: the watermark may have been too low for it
PAGE_MAX = 200  # attempts with their arguments, some hundred bytes each


class Forgetting:
    """Has one agent forget what it may, over one connection."""

    def __init__(self, connection: Connection, *, host: str, cluster_id: str, ears: Ears) -> None:
        """Begins to look at what it has."""
        self._connection = connection
        self._host = host
        self._cluster_id = cluster_id
        self._ears = ears
        self._kept: frozenset[str] = frozenset()  # settled, and the agent still works on them
        self._held_back = False  # something that the store does not know: it was said
        self._page: str | None = ""  # of the agent's attempts; None: no look is due
        self._found = False  # something that it should not have, during this look
        self._look_time = 0.0

    async def run(self, forget_s: float) -> None:
        """Goes on until cancelled."""
        rest_s = forget_s
        while True:
            await asyncio.sleep(rest_s)
            rest_s = forget_s
            try:
                if await self.forget() or await self.look():
                    rest_s = REST_S
            except CountermandError as error:  # the store's errors, too: it is told the next time
                log.info("forget.failed", extra={"host": self._host, "error": str(error)})
            except Exception:
                # What cannot be forgotten must not be in the way of what can.
                log.exception("forget.defect", extra={"host": self._host})

    async def forget(self) -> bool:
        """Tells of a batch of settled workflows; returns whether there may be more."""
        # First the watermark, then the rows: what settles in between is told the next time.
        mark = self._ears.low_watermark(self._host)
        limit = FORGET_MAX + len(self._kept)  # the oldest come first: others must have their turn
        found = await self._ears.evidence(self._host, below=mark, limit=limit)
        if not found:
            return False
        self._kept = await self._tell(found, mark)
        # If the process stops here, the agent is told again, and has nothing left to forget.
        gone = [each for each in found if each not in self._kept]
        await self._ears.forgotten(self._host, gone)
        return len(found) == limit

    async def look(self) -> bool:
        """Looks at a page of what the agent has; returns whether there is another one."""
        now = asyncio.get_running_loop().time()
        if self._page is None and now < self._look_time:
            return False
        request = ListAttemptsRequest(page_size=PAGE_MAX, page_token=self._page or "")
        answer = await self._connection.call("ListAttempts", request, timeout_s=CALL_TIMEOUT_S)
        mark = self._ears.low_watermark(self._host)
        if over := await self._over(answer.attempts):
            await self._tell(over, mark)
            self._found = True
        self._page = answer.next_page_token or None
        if self._page is None:
            self._look_time = now + (LOOK_AGAIN_S if self._found else LOOK_S)
            self._found = False
        return self._page is not None

    async def _over(self, attempts: Iterable[Attempt]) -> list[str]:
        """Returns the workflows of some attempts that are known to have settled.

        Of one that is neither open nor known, or that a later coordinator has owned, a newer
        database than this one may say that it is open: its evidence stays.
        """
        last: dict[str, Attempt] = {}  # of the highest epoch
        for attempt in attempts:
            if name := parse_attempt(attempt.name):
                known = last.setdefault(name.workflow_id, attempt)
                if attempt.owner_epoch > known.owner_epoch:
                    last[name.workflow_id] = attempt
        # First which are open, then which have settled: what settles in between is not overlooked.
        not_open = sorted(each for each in last if self._ears.workflow(each) is None)
        if not not_open:
            return []
        elsewhere = await self._ears.open_anywhere(not_open)
        settled = await self._ears.settled(not_open)
        self._note_unknown(
            [last[each] for each in not_open if each not in elsewhere and each not in settled]
        )
        epoch = self._ears.owner_epoch()
        return [each for each in not_open if each in settled and last[each].owner_epoch <= epoch]

    def _note_unknown(self, attempts: Sequence[Attempt]) -> None:
        """Notes attempts of workflows that are neither open nor known to have settled.

        A store does not lose any: it is an older one, unless an operator knows that already.
        """
        guard = self._ears.guard
        for attempt in attempts:
            if not guard.is_from_before(attempt.owner_epoch):
                guard.notice(f"host {self._host} has {attempt.name}, of which nothing is stored")
        if attempts and not self._held_back:
            self._held_back = True
            extra = {"host": self._host, "attempt": attempts[0].name}
            log.warning("forget.held_back", extra=extra)

    async def _tell(self, workflow_ids: Iterable[str], low_watermark: int) -> frozenset[str]:
        """Tells of some workflows, and returns those of which the agent keeps something."""
        request = ForgetRequest(
            cluster_id=self._cluster_id,
            workflows=map(workflow_name, workflow_ids),
            low_watermark=low_watermark,
            # All hosts are looked at for it: only where there is something to tell.
            fence_low_watermark=self._ears.fence_low_watermark(),
        )
        answer: ForgetResponse = await self._connection.call(
            "Forget", request, timeout_s=CALL_TIMEOUT_S
        )
        kept = {parse_workflow(name) for name in answer.kept}
        if answer.forgotten or len(kept) < len(request.workflows):
            extra = {"host": self._host, "workflows": len(request.workflows), "kept": len(kept)}
            log.debug("host.forgot", extra={**extra, "attempts": answer.forgotten})
        return frozenset(each for each in kept if each is not None)
