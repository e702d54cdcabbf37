"""The line to one host: sees to every order until its outcome is known, and to nothing else.

While it is connected it watches the agent's journal and carries orders out; each time it connects
it asks about whatever may have gone out before. It is level-triggered: what is heard removes an
order, whatever is left is asked about again. No verdict is taken from silence: a host that is
silent for long makes its attempts UNKNOWN, never failed.

It knows the agent's journal again: by its incarnation, and by the highest sequence it has heard of,
from which it watches. A journal that was lost is reconciled with the storage where that can settle
everything (`reconciling`); one that went back in time, or lost something for good, holds the host:
nothing is sent to it, and nothing is concluded, until it is put right or an operator accepts it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import replace
from datetime import datetime
from typing import Any

from coordinator.agents.connection import CALL_TIMEOUT_S, Connect, Connection
from coordinator.agents.ears import Ears
from coordinator.agents.forgetting import FORGET_S, Forgetting
from coordinator.agents.orders import QUARANTINING, Orders
from coordinator.agents.reconciling import pools_of, why_not
from coordinator.agents.slots import WINDOW, Slots
from coordinator.agents.tickets import FindServer, Server, no_servers
from coordinator.runtime.loop import in_flight
from coordinator.runtime.ports import (
    AuditEvent,
    Chance,
    Clock,
    HostChange,
    HostRecord,
    HostState,
    HostView,
    StoreError,
)
from coordinator.saga.workflow import BY_POLICY
from coordinator.wire.failure import failure_from_proto
from countermand.rpc.crash import Crash
from countermand.rpc.errors import (
    AgentTaken,
    Bug,
    CountermandError,
    HostUnreachable,
    IncarnationChanged,
    JournalLost,
    JournalRewound,
    PoolFailing,
    SequenceAhead,
    StorageFailed,
    VerbForbidden,
    WrongCluster,
)
from countermand.rpc.names import host_name
from countermand.v1.agent_pb2 import (
    GetHostRequest,
    HostReport,
    WatchAttemptsRequest,
    WatchAttemptsResponse,
)

log = logging.getLogger(__name__)

SUSPECT_S = 15.0  # silence after which attempts are shown as UNKNOWN
UNREACHABLE_S = 60.0  # silence after which people should look
RESYNC_S = 30.0  # everything that is still open is asked about this often, come what may
# Of an attempt that its storage has failed: the host is asked how its pools are, so often at most.
FAILS_A_POOL = frozenset({PoolFailing.reason, StorageFailed.reason})
DOUBT_S = 1.0
# One commit for all that was heard meanwhile; what a crash loses of it is only watched once more.
KEEP_S = 10.0
RECONNECT_S_MIN = 0.1
RECONNECT_S_MAX = 3.0


class Line:
    """Delivers orders to one host."""

    def __init__(
        self,
        record: HostRecord,
        *,
        connect: Connect,
        cluster_id: str,
        clock: Clock,
        chance: Chance,
        crash: Crash,
        ears: Ears,
        window: int = WINDOW,
        forget_s: float = FORGET_S,
        when_up: Callable[[], None] = lambda: None,
        servers: FindServer = no_servers,
        owner_of: Callable[[str], str] = lambda _: "",
        trusted: Callable[[], bool] = lambda: True,
    ) -> None:
        """Keeps its ports; `run` connects."""
        self.record = record
        self.report: HostReport | None = None  # the agent's description of itself, as last heard
        self._seen: HostReport | None = None  # the same, also of one that nothing is sent to
        self._heard = record.heard_sequence  # the highest of its journal
        self._held = record.held  # why an operator has to accept it
        self.problem: CountermandError | None = None
        self.seen_time: datetime | None = None
        self._connect = connect
        self._cluster_id = cluster_id
        self._clock = clock
        self._chance = chance
        self._ears = ears
        self._when_up = when_up
        self._owner_of = owner_of  # (incarnation) → the host whose journal it is, or nothing
        self._forget_s = forget_s  # 0: its agent is never told to forget
        self._keeping = asyncio.Lock()  # of the record: what draws on it is written one by one
        self._slots = Slots(window)
        self.orders = Orders(
            record=lambda: self.record,
            cluster_id=cluster_id,
            slots=self._slots,
            chance=chance,
            crash=crash,
            ears=ears,
            quarantine=self._quarantine,
            servers=servers,
            trusted=trusted,
        )
        self._is_up = False
        self._silent_since = asyncio.get_running_loop().time()
        self._up = asyncio.Event()
        self._hurry = asyncio.Event()  # somebody waits for the next connection
        self._doubt = asyncio.Event()  # a pool may have begun to fail
        self._patience: asyncio.Timeout | None = None  # with the stream that is being read

    # -- for the fleet --------------------------------------------------------------------------

    @property
    def state(self) -> HostState:
        """Returns where the host is."""
        if self._held or isinstance(self.problem, QUARANTINING):
            return HostState.QUARANTINED
        if self._is_up:
            return HostState.READY
        silent_s = asyncio.get_running_loop().time() - self._silent_since
        if silent_s >= UNREACHABLE_S:
            return HostState.UNREACHABLE
        if silent_s >= SUSPECT_S:
            return HostState.SUSPECT
        return HostState.CONNECTING if self.seen_time is None else HostState.SUSPECT

    def server(self) -> Server:
        """Returns the host as a place to read from."""
        return Server(
            address=self.record.address,
            incarnation=self.record.incarnation,
            connection=self.orders.connection,
        )

    def view(self) -> HostView:
        """Returns the host as it stands now."""
        error = JournalRewound(why=self._held) if self._held else self.problem
        problem = error.failure(host_id=self.record.id) if error else None
        return HostView(
            record=self.record,
            state=self.state,
            problem=failure_from_proto(problem) if problem else None,
            report=self.report,
            open_attempts=len(self.orders) - self._slots.waiting,
            waiting=self._slots.waiting,
            window=self._slots.window,
            seen_time=self.seen_time,
            silent_s=asyncio.get_running_loop().time() - self._silent_since,
        )

    def resize_window(self, window: int) -> None:
        """Lets so many actions be out at the same time from now on."""
        if window != self._slots.window:
            self._slots.window = window
            self.orders.wake_next()

    async def ready(self, timeout_s: float) -> None:
        """Returns once the line is up, or the time is over."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._up.wait()
        except TimeoutError:
            pass

    async def keep(
        self, change: Callable[[HostRecord], HostRecord], event: AuditEvent | None = None
    ) -> bool:
        """Changes the record of its host, durably first; what changes nothing is no event.

        Returns:
            Whether it has changed.
        """
        async with self._keeping:
            if event is None and change(self.record) == self.record:
                return False
            kept = await self._ears.record(self.record.id, change, event)
            if kept is None:
                return False  # another coordinator has removed it: this line ends soon
            record, has_changed = kept
            self._learn(record)
        return has_changed

    def learn(self, record: HostRecord) -> None:
        """Hears how its host is stored now; another coordinator may have changed that."""
        if not self._keeping.locked():  # else it is about to be read anew
            self._learn(record)

    def _learn(self, record: HostRecord) -> None:
        before, self.record = self.record, record
        if _journal(before) != _journal(record):
            self._heard, self._held = record.heard_sequence, record.held
            self.greet_anew()
        elif record.held and not self._held:
            self._quarantine(JournalRewound(why=record.held))

    async def accept(self, event: AuditEvent | None = None) -> bool:
        """Takes its agent as it is now: what that has lost counts as gone.

        Returns:
            Whether it was quarantined.

        Raises:
            VerbForbidden: Its journal and its pools are not why nothing is sent to it.
        """
        if self.state is not HostState.QUARANTINED:
            return False
        seen = self._seen
        if seen is None or not (self._held or isinstance(self.problem, JournalLost)):
            because = f"{self.problem}" if seen else "its agent has not answered so far: start it"
            raise VerbForbidden(
                name=host_name(self.record.id),
                state="QUARANTINED",
                verb="AcceptHost",
                because=because,
                allowed="QUARANTINED",
            )
        intent = await self._ears.unsent_intent()
        held, self._held = self._held, ""
        self._heard = seen.journal_sequence
        try:
            await self.keep(
                lambda record: replace(
                    record,
                    incarnation=seen.incarnation,
                    heard_sequence=seen.journal_sequence,
                    pools=pools_of(seen),
                    lost_intent=intent,
                    accepted_intent=intent,
                    held="",
                ),
                event,
            )
        except BaseException:
            self._held = held
            raise
        self._hurry.set()
        return True

    async def run(self) -> None:
        """Keeps the line up until cancelled."""
        wait_s = RECONNECT_S_MIN
        try:
            while True:
                connection = self._connect(self.record.address)
                try:
                    await self._session(connection)
                    self.problem = HostUnreachable(address=self.record.address)
                except CountermandError as error:
                    self.problem = error
                except Exception as error:
                    # A message that cannot be processed must not end the line to its host.
                    log.exception("line.failed", extra={"host": self.record.id})
                    self.problem = Bug(what=repr(error))
                finally:
                    if self._is_up:
                        wait_s = RECONNECT_S_MIN
                        self._silent_since = asyncio.get_running_loop().time()
                        log.warning("host.lost", extra=_why_lost(self.record.id, self.problem))
                    self._is_up = False
                    self._up.clear()
                    self.orders.disconnected()
                    await connection.close()
                await self._keep_what_was_heard()
                self._report_silence()
                await self._rest(wait_s * (1 - self._chance.jitter() / 2))
                wait_s = min(wait_s * 2, RECONNECT_S_MAX)
        finally:
            self.orders.close()

    # -- connected ------------------------------------------------------------------------------

    async def _session(self, connection: Connection) -> None:
        """Greets the agent, then watches its journal until the stream breaks."""
        answer = await connection.call("GetHost", GetHostRequest(), timeout_s=CALL_TIMEOUT_S)
        await self._greet(answer.host)
        beside: list[asyncio.Task[None]] = []
        time = asyncio.get_running_loop().time
        request = WatchAttemptsRequest(after_sequence=self._heard or None)
        try:
            # A quiet agent sends bookmarks: one that is mute for so long is not well.
            async with asyncio.timeout(SUSPECT_S) as self._patience:
                # Watch first, then ask: whatever changes in between is in the stream.
                async for message in connection.watch(request):
                    self._patience.reschedule(time() + SUSPECT_S)
                    if not self._is_up:
                        self._connected(connection)
                        beside = [asyncio.create_task(work) for work in self._beside(connection)]
                    self._take(message)
        except SequenceAhead as error:
            self._held = f"it ends at {error.metadata.get('journal_sequence')}, and was at"
            self._held += f" {self._heard} before"
            raise JournalRewound(why=self._held) from error
        except TimeoutError:
            raise self._why_it_ended() from None
        finally:
            self._patience = None
            for task in beside:
                task.cancel()

    def _why_it_ended(self) -> CountermandError:
        """Returns why a stream is read no more: it was mute, or something is wrong with it."""
        if isinstance(self.problem, (IncarnationChanged, JournalRewound)):
            return self.problem
        return HostUnreachable(address=self.record.address)

    def _beside(self, connection: Connection) -> Iterator[Coroutine[Any, Any, None]]:
        """Yields what goes on while the stream is read."""
        yield self._resync(connection)
        yield self._ask_in_doubt(connection)
        yield self._keep_now_and_then()
        if self._forget_s:
            yield Forgetting(
                connection, host=self.record.id, cluster_id=self._cluster_id, ears=self._ears
            ).run(self._forget_s)

    async def _greet(self, report: HostReport) -> None:
        """Checks that the agent is the one that the open attempts were planned with."""
        if report.cluster_id not in ("", self._cluster_id):
            raise WrongCluster(expected=report.cluster_id, cluster_id=self._cluster_id)
        known = self.record.incarnation
        if known != report.incarnation and (other := self._owner_of(report.incarnation)):
            # Also where an address has passed on to another machine: what it lacks is not lost.
            raise AgentTaken(address=self.record.address, name=host_name(other))
        self._seen = report
        if report.HasField("heard"):
            heard = report.heard
            await self._ears.guard.compare(
                self.record.id, owner_epoch=heard.owner_epoch, intent=heard.intent_sequence
            )
        if self._held:
            raise JournalRewound(why=self._held)
        if known and known != report.incarnation:
            await self._keep_what_was_heard()  # as it is stored now: others greet it, too
            if self.record.incarnation != report.incarnation:
                await self._reconcile(report)
        self._describe(report)
        # Kept before the first order goes out: what was sent is known to have been sent to it.
        await self.keep(
            lambda record: replace(
                record, incarnation=report.incarnation, pools=pools_of(report, record.pools)
            )
        )

    async def _reconcile(self, report: HostReport) -> None:
        """Goes on with a new journal, if the storage can settle what was in the old one.

        A lost journal is never read as "nothing to make up for".
        """
        host_id, expected = self.record.id, self.record.incarnation
        workflows = await self._ears.open_on(host_id)
        why = why_not(
            self.record,
            report,
            in_flight=in_flight(workflows, host_id),
            has_been_there=bool(workflows),
        )
        if why:
            raise JournalLost(why=why, incarnation=report.incarnation, expected=expected)
        log.warning("host.reconciled", extra={"host": host_id, "was": self.record.incarnation})
        self._heard = 0
        intent = await self._ears.unsent_intent()
        event = AuditEvent(
            subject=host_name(host_id),
            change=HostChange.RECONCILED,
            time=self._clock.now(),
            principal=BY_POLICY,
            reason=f"journal {self.record.incarnation} is lost, "
            + ("its pools are there" if workflows else "no open workflow was there"),
        )
        # In one write: from here on "not received" proves nothing about what was sent before.
        await self.keep(
            lambda record: (
                replace(
                    record,
                    incarnation=report.incarnation,
                    heard_sequence=0,
                    pools=pools_of(report),
                    lost_intent=intent,
                )
                if record.incarnation == expected
                else record  # another coordinator was quicker
            ),
            event,
        )

    def _connected(self, connection: Connection) -> None:
        self._is_up = True
        self._up.set()
        self.problem = None
        log.info("host.ready", extra={"host": self.record.id, "open": len(self.orders)})
        self.orders.connected(connection)
        self._when_up()

    async def _resync(self, connection: Connection) -> None:
        """Asks about everything that is still open, now and then: nothing hangs on one message."""
        while True:
            await asyncio.sleep(RESYNC_S)
            self.orders.see_to_all()
            await self._ask_how_it_is(connection)

    async def _ask_in_doubt(self, connection: Connection) -> None:
        """Hears at once of a pool that has begun to fail: what comes next waits for it."""
        while True:
            await self._doubt.wait()
            self._doubt.clear()
            await self._ask_how_it_is(connection)
            await asyncio.sleep(DOUBT_S)

    async def _ask_how_it_is(self, connection: Connection) -> None:
        """Hears anew of the host's pools, for what looks for a host and for people."""
        try:
            answer = await connection.call("GetHost", GetHostRequest(), timeout_s=CALL_TIMEOUT_S)
        except CountermandError as error:  # whether it is well is the stream's to say
            extra = {"host": self.record.id, "reason": error.reason}
            log.warning("host.not_described", extra=extra)
            return
        if answer.host.incarnation == self.record.incarnation:
            self._describe(answer.host)
            self._when_up()

    def _describe(self, report: HostReport) -> None:
        """Takes a host as it now says that it is; the log tells when a pool failed, and healed."""
        was, self.report = _failing(self.report), report
        now = _failing(report)
        for pool_id in sorted(now.keys() - was.keys()):
            extra = {"host": self.record.id, "pool": pool_id, "error": now[pool_id]}
            log.warning("pool.failing", extra=extra)
        for pool_id in sorted(was.keys() - now.keys()):
            log.info("pool.healed", extra={"host": self.record.id, "pool": pool_id})

    async def _keep_now_and_then(self) -> None:
        while True:
            await asyncio.sleep(KEEP_S)
            await self._keep_what_was_heard()

    async def _keep_what_was_heard(self) -> None:
        """Makes durable how far the journal was heard of, and whether the host is held."""
        try:
            await self.keep(self._as_heard)
        except StoreError as error:  # it is tried again after the next connection
            log.warning("host.not_kept", extra={"host": self.record.id, "error": str(error)})

    def _as_heard(self, record: HostRecord) -> HostRecord:
        """Returns a record with what this line knows, if it is still of the same journal."""
        if _journal(record) != _journal(self.record):
            return record
        heard = max(record.heard_sequence, self._heard)
        return replace(record, heard_sequence=heard, held=self._held or record.held)

    async def _rest(self, seconds: float) -> None:
        """Waits before the next connection, unless somebody waits for that."""
        self._hurry.clear()
        try:
            async with asyncio.timeout(seconds):
                await self._hurry.wait()
        except TimeoutError:
            return

    def _take(self, message: WatchAttemptsResponse) -> None:
        self.seen_time = self._clock.now()
        self._silent_since = asyncio.get_running_loop().time()
        self._heard = max(self._heard, message.bookmark)
        for update in message.updates:
            if update.sequence:
                self._heard = max(self._heard, update.sequence)
                if update.attempt.failure.reason in FAILS_A_POOL:
                    self._doubt.set()
                self.orders.heard(update.attempt)
            else:
                self.orders.heard_progress(update.attempt)

    def _quarantine(self, error: CountermandError) -> None:
        self.problem = error
        if isinstance(error, JournalRewound):
            self._held = error.metadata["why"]
        if isinstance(error, (IncarnationChanged, JournalRewound)):
            self.greet_anew()

    def greet_anew(self) -> None:
        """Ends what is being read, if anything is, and connects without a rest."""
        if self._patience is not None:
            self._patience.reschedule(asyncio.get_running_loop().time())
        self._hurry.set()

    # -- silence --------------------------------------------------------------------------------

    def _report_silence(self) -> None:
        """Says of every open attempt that nobody knows, once the host has been silent for long."""
        quarantined = self.state is HostState.QUARANTINED
        silent_s = asyncio.get_running_loop().time() - self._silent_since
        if not quarantined and silent_s < SUSPECT_S:
            return
        self.orders.report_lost(self.problem or HostUnreachable(address=self.record.address))


def _why_lost(host_id: str, problem: CountermandError | None) -> dict[str, str]:
    """Returns what a line of the log says of a host that does not answer any more."""
    if problem is None:
        return {"host": host_id}
    return {"host": host_id, "reason": problem.reason, "error": problem.message}


def _journal(record: HostRecord) -> tuple[str, int, int]:
    """Returns what tells the journal that was planned with from any other."""
    return record.incarnation, record.lost_intent, record.accepted_intent


def _failing(report: HostReport | None) -> dict[str, str]:
    """Returns what is wrong, by the pools that do not serve."""
    pools = report.pools if report else ()
    return {pool.pool_id: pool.problem.message for pool in pools if pool.HasField("problem")}
