"""One coordinator among others: keeps its session alive, and takes over what others have left.

A lease serves liveness only: who cannot renew it in time sends nothing more by its own clock, and
others claim what it owned once it has lapsed by the store's clock. What keeps two apart are the
session, which each write compares, and the owner epoch, which agents compare. A session that has
ended never comes back: its coordinator stops, and begins again like after a crash.

Who could not reach the store itself judges nobody: after an outage of the store everybody's session
has lapsed, and each gets the time to say that it is there.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta

from coordinator.runtime.loop import Loop
from coordinator.runtime.ports import (
    SESSION_LASTS,
    Chance,
    Session,
    Store,
    StoreError,
    StoreFencedError,
)

log = logging.getLogger(__name__)

# Of a session that lasts as long as that; one that lasts longer or shorter is kept in proportion.
LASTS_S = SESSION_LASTS.total_seconds()
RENEW_S = 5.0
LATE_S = 7.5  # since the last renewal began: this one stood still, or the store did
SLOW_S = 5.0  # a renewal that takes longer was held up by the store
RENEW_AGAIN_S = 0.5  # while the store does not answer
# Floors are read as often as renewed, unless that takes long: of many, with many hosts each. What
# is heard late is forgotten late, and no more.
FLOORS_REST = 50  # so many times as long as it took to read them
FLOORS_S_MAX = 60.0  # the store may have been held up
TRUST_MARGIN_S = 3.0  # before its lease ends a coordinator sends nothing more: calls take a while
RENEWALS_BEFORE_CLAIMS = 2  # without a failure in between

CLAIM_S = 1.0  # between two looks for what nobody owns
CLAIM_MAX = 100  # workflows at a time: others get their share, and the loop goes on in between
CLAIM_REST_S = 0.02
DECIDING_MAX = 500  # claimed ones ask their hosts first: more are not taken on before
STANDSTILLS_S = 1.0  # between two looks for transactions that stand still
OTHERS_S = 0.5  # between two looks at who of others is in the way at some image


class Keeper:
    """Keeps the session of a coordinator whose store is shared."""

    def __init__(
        self,
        *,
        store: Store,
        loop: Loop,
        chance: Chance,
        session: int,
        lasts: timedelta = SESSION_LASTS,
    ) -> None:
        """Begins as its store has just been opened."""
        self._lasts = lasts
        self._share = lasts / SESSION_LASTS
        self._session = session
        self._store = store
        self._loop = loop
        self._chance = chance
        self._renewed = self._now()  # when the last renewal began
        self._trusted_until = self._renewed + self._trust_s()
        self._renewals = RENEWALS_BEFORE_CLAIMS  # one after another; opening is as good
        self._look = asyncio.Event()
        # A floor that is told must not be from before a claim that has lowered it.
        self._telling = asyncio.Lock()
        self.sessions: tuple[Session, ...] = ()  # all of them, as last heard
        self.housekeeper = 0  # the session that does what only one does for all; 0: not heard yet
        self.keeps_house = asyncio.Event()  # it is the own one, until this process ends
        # Since the beginning:
        self.claimed = 0  # workflows
        self.takeovers = 0  # how often some were claimed
        self.seen_ended = 0  # other sessions

    def trusted(self) -> bool:
        """Returns whether nobody else can have taken over yet, by this machine's clock."""
        return self._now() < self._trusted_until

    def expires_s(self) -> float:
        """Returns how long others still wait for this one, by this machine's clock."""
        return self._trusted_until + TRUST_MARGIN_S * self._share - self._now()

    def live(self) -> int:
        """Returns how many coordinators there are, this one among them."""
        return max(1, sum(not each.ended for each in self.sessions))

    @property
    def judges(self) -> bool:
        """Returns whether it may say of others that their sessions have lapsed.

        Not who stood still itself, and may have held up all others: it renews its own first.
        """
        is_late = self._now() > self._renewed + LATE_S * self._share
        return self._renewals >= RENEWALS_BEFORE_CLAIMS and not is_late

    def look(self) -> None:
        """Looks at once for what nobody owns: somebody has said that there is something."""
        self._look.set()

    async def run(self) -> None:
        """Goes on until cancelled.

        Raises:
            StoreFencedError: The session has ended; others go on with what it owned.
        """
        works = [
            asyncio.create_task(self._renew_for_ever()),
            asyncio.create_task(self._hear_floors_for_ever()),
            asyncio.create_task(self._claim_for_ever()),
            asyncio.create_task(self._look_at_others_for_ever()),
            asyncio.create_task(self._end_standstills_for_ever()),
        ]
        try:
            await asyncio.gather(*works)
        finally:
            for work in works:
                work.cancel()
            await asyncio.gather(*works, return_exceptions=True)  # several may have heard of it

    async def _renew_for_ever(self) -> None:
        while True:
            began = self._now()
            try:
                await self._renew()
            except StoreFencedError:
                raise
            except StoreError as error:
                self._renewals = 0
                log.warning("session.not_renewed", extra={"error": str(error)})
                await asyncio.sleep(RENEW_AGAIN_S * self._share)
            else:
                # Whoever was held up by the store, as all others may have been, judges nobody.
                is_slow = self._now() - began > SLOW_S * self._share
                self._renewals = 0 if is_slow else self._renewals + 1
                # From its beginning: how long the answer took nobody knows.
                self._renewed, self._trusted_until = began, began + self._trust_s()
                await asyncio.sleep(RENEW_S * self._share * (1 - self._chance.jitter() / 4))

    async def _renew(self) -> None:
        lived = {each.id for each in self.sessions if not each.ended}
        async with self._telling:
            self.sessions = await self._store.renew(self._lasts, self._loop.floor())
        self.seen_ended += len(lived - {each.id for each in self.sessions if not each.ended})

    async def _hear_floors_for_ever(self) -> None:
        while True:
            began = self._now()
            try:
                await self._hear_floors()
            except StoreFencedError:
                raise
            except StoreError as error:
                log.warning("floors.not_heard", extra={"error": str(error)})
            rest_s = RENEW_S * self._share * (1 - self._chance.jitter() / 4)
            took_s = self._now() - began
            await asyncio.sleep(min(max(rest_s, FLOORS_REST * took_s), FLOORS_S_MAX * self._share))

    async def _hear_floors(self) -> None:
        # The own one is among them as it was last told: nobody who comes later is given intents
        # below that, so that agents are told of nothing above what one may send who is not known.
        common = await self._store.floors()
        self._loop.hear_floor(common.lowest)
        # Agents may forget nothing above the floor of who has nothing to send: it is raised.
        if self._loop.floor().next_intent < common.newest:
            self._loop.go_on_from(*await self._store.take_intents())

    async def _claim_for_ever(self) -> None:
        while True:
            self._look.clear()
            rest_s = CLAIM_S * (0.5 + self._chance.jitter())
            if self.judges and self._loop.waiting < DECIDING_MAX:
                rest_s = CLAIM_REST_S if await self._claim() else rest_s
            elif self.judges:
                rest_s = CLAIM_REST_S
            try:
                async with asyncio.timeout(rest_s):
                    await self._look.wait()
            except TimeoutError:
                continue

    async def _claim(self) -> bool:
        """Claims some of what nobody owns; returns whether there may be more."""
        try:
            async with self._telling:
                claim = await self._store.claim(CLAIM_MAX)
                if claim is not None:
                    self._loop.adopt(claim)
            housekeeper = await self._store.keep_house()
        except StoreFencedError:
            raise
        except StoreError as error:
            log.warning("claim.failed", extra={"error": str(error)})
            return False
        self._hear_of_housekeeper(housekeeper)
        if claim is None:
            return False
        self.claimed += len(claim.workflows)
        self.takeovers += 1
        # If the process stops here, they belong to a session that lapses: others claim them.
        extra = {"workflows": len(claim.workflows), "owner_epoch": claim.owner_epoch}
        log.info("workflows.claimed", extra=extra)
        return True

    def _hear_of_housekeeper(self, session: int) -> None:
        if session == self._session and not self.keeps_house.is_set():
            log.info("house.kept", extra={"session": session})
            self.keeps_house.set()
        self.housekeeper = session

    async def _look_at_others_for_ever(self) -> None:
        while True:
            await asyncio.sleep(OTHERS_S)
            try:
                await self._loop.look_at_others()
            except StoreFencedError:
                raise
            except StoreError as error:
                log.warning("others.not_seen", extra={"error": str(error)})

    async def _end_standstills_for_ever(self) -> None:
        while True:
            await asyncio.sleep(STANDSTILLS_S * (0.5 + self._chance.jitter()))
            try:
                ended = await self._store.end_standstills()
            except StoreError as error:
                log.warning("standstills.not_seen", extra={"error": str(error)})
            else:
                if ended:
                    log.warning("standstills.ended", extra={"transactions": ended})

    def _trust_s(self) -> float:
        return (LASTS_S - TRUST_MARGIN_S) * self._share

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()
