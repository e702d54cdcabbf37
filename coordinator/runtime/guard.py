"""Notices that the store went back in time: agents have heard of what it never gave.

What is committed is given first and sent afterwards. So an agent that has heard of a higher epoch
or intent than the store has given, that was told to forget what is still open, or that has an
attempt of which nothing is stored, has heard it from a store that knew more. That is noted in the
store, and this life ends with every other session; the next ones decide nothing until an operator
has looked. What was lost then is told by its intents: they are below those from which it went on.
"""

from __future__ import annotations

import asyncio
import logging

from coordinator.runtime.ports import (
    Given,
    Opening,
    Store,
    StoreError,
    StoreFencedError,
    StoreRewoundError,
)
from countermand.rpc.errors import RecoveryRequired

log = logging.getLogger(__name__)

LOOK_S = 1.0  # while an operator is awaited
AGAIN_S = 0.5  # while the store does not answer
_WHY = "an operator lets coordinators go on"


class Guard:
    """Watches over the store for one life of a coordinator."""

    def __init__(self, store: Store, opening: Opening) -> None:
        """Begins as the store has just been opened."""
        self._store = store
        self._epoch = opening.owner_epoch
        self._recovery = opening.recovery
        self._first_intent = opening.recovered.next_intent if opening.recovered else 0
        self._first_epoch = opening.recovered.owner_epoch if opening.recovered else 0
        self._noticed: asyncio.Queue[tuple[str, str]] = asyncio.Queue()  # (why, own workflow)
        self._given: Given | None = None  # as last read

    def may_be_lost(self, intent: int) -> bool:
        """Returns whether an intent is from before the store went back in time."""
        return intent < self._first_intent

    def is_from_before(self, owner_epoch: int) -> bool:
        """Returns the same of an epoch."""
        return owner_epoch < self._first_epoch

    def notice(self, why: str, *, own: str = "") -> None:
        """Hears of something that cannot be unless the store went back in time.

        Or unless the own workflow that it is about has become another's.
        """
        self._noticed.put_nowait((why, own))

    def anew(self) -> None:
        """Hears that the store may be served by another server from now on."""
        self._given = None

    async def compare(self, host_id: str, *, owner_epoch: int, intent: int) -> None:
        """Compares what a host has heard of with what was given.

        Raises:
            RecoveryRequired: It has heard of more; nothing may be concluded from what it says.
            StoreError: Nobody can tell now.
        """
        if self._recovery is not None:
            return
        # What was given only rises: it is read anew, after it was heard, where that may matter.
        given = self._given
        if given is None or owner_epoch > given.owner_epoch or intent >= given.next_intent:
            given = self._given = await self._store.given()
        left_out = given.left_out
        if owner_epoch > given.owner_epoch:
            why = f"host {host_id} has heard of epoch {owner_epoch}, and at most"
            why += f" {given.owner_epoch} was given"
        elif intent >= given.next_intent:
            why = f"host {host_id} has heard of intent {intent}, and all that were given are"
            why += f" below {given.next_intent}"
        elif intent in left_out:
            # Since this life began others may have sent higher ones; none of them this.
            why = f"host {host_id} has heard of intent {intent}, and none from {left_out.start} on"
            why += f" was given below {left_out.stop}"
        else:
            return
        self.notice(why)
        raise RecoveryRequired(why=why)

    async def run(self) -> None:
        """Goes on until cancelled.

        Raises:
            StoreRewoundError: The store went back in time; or an operator lets coordinators go on.
        """
        if self._recovery is not None:
            await self._until_recovered()
        why = await self._proof()
        log.error("store.rewound", extra={"why": why})
        while True:
            try:
                await self._store.require_recovery(why)
            except StoreError as error:
                log.warning("store.not_noted", extra={"error": str(error)})
                await asyncio.sleep(AGAIN_S)
            else:
                raise StoreRewoundError(why)

    async def why_ended(self, error: StoreFencedError) -> StoreFencedError:
        """Returns why the own session has ended: perhaps others have noticed it, or recovered."""
        if isinstance(error, StoreRewoundError):
            return error
        try:
            given = await self._store.given()
            if given.owner_epoch < self._epoch:  # it knows nothing of this life
                why = f"its epoch is {given.owner_epoch}, and {self._epoch} was given"
                await self._store.require_recovery(why)
                return StoreRewoundError(why)
            recovery = await self._store.recovery()
        except StoreRewoundError as noticed:
            return noticed
        except StoreError:
            return error
        has_turned = (recovery is None) is not (self._recovery is None)
        return (
            StoreRewoundError(_WHY if recovery is None else recovery.why) if has_turned else error
        )

    async def _proof(self) -> str:
        """Returns the first of what was noticed that proves it."""
        while True:
            why, own = await self._noticed.get()
            if not own or not self._store.shared or await self._is_own(own):
                return why

    async def _is_own(self, workflow_id: str) -> bool:
        """Returns whether nobody else has had a workflow: who stood still may not know that yet."""
        while True:
            try:
                owners = await self._store.owners_of([workflow_id])
            except StoreError as error:
                log.warning("owner.not_seen", extra={"error": str(error)})
                await asyncio.sleep(AGAIN_S)
            else:
                return workflow_id in owners and owners[workflow_id].own

    async def _until_recovered(self) -> None:
        recovery = self._recovery
        while recovery is not None:
            await asyncio.sleep(LOOK_S)
            try:
                recovery = await self._store.recovery()
            except StoreError as error:
                log.warning("recovery.not_seen", extra={"error": str(error)})
        raise StoreRewoundError(_WHY)
