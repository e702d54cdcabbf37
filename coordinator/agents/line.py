"""The line to one host: sees to every order until its outcome is known, and to nothing else.

While it is connected it watches the agent's journal and carries orders out; each time it connects
it asks about whatever may have gone out before. It is level-triggered: what is heard removes an
order, whatever is left is asked about again. No verdict is taken from silence: a host that is
silent for long makes its attempts UNKNOWN, never failed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

from coordinator.agents.connection import CALL_TIMEOUT_S, Connect, Connection
from coordinator.agents.orders import QUARANTINING, Ears, Orders
from coordinator.agents.slots import WINDOW, Slots
from coordinator.runtime.ports import Chance, Clock, HostRecord, HostState, HostView
from coordinator.wire.failure import failure_from_proto
from countermand.rpc.crash import Crash
from countermand.rpc.errors import (
    Bug,
    CountermandError,
    HostUnreachable,
    IncarnationChanged,
    WrongCluster,
)
from countermand.v1.agent_pb2 import (
    GetHostRequest,
    HostReport,
    WatchAttemptsRequest,
    WatchAttemptsResponse,
)

__all__ = ["Ears", "Line"]

log = logging.getLogger(__name__)


SUSPECT_S = 15.0  # silence after which attempts are shown as UNKNOWN
UNREACHABLE_S = 60.0  # silence after which people should look
RESYNC_S = 30.0  # everything that is still open is asked about this often, come what may
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
        when_up: Callable[[], None] = lambda: None,
    ) -> None:
        """Keeps its ports; `run` connects."""
        self.record = record
        self.report: HostReport | None = None  # the agent's description of itself, as last heard
        self.problem: CountermandError | None = None
        self.seen_time: datetime | None = None
        self._connect = connect
        self._cluster_id = cluster_id
        self._clock = clock
        self._chance = chance
        self._ears = ears
        self._when_up = when_up
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
        )
        self._is_up = False
        self._silent_since = asyncio.get_running_loop().time()
        self._up = asyncio.Event()

    # -- for the fleet --------------------------------------------------------------------------

    @property
    def state(self) -> HostState:
        """Returns where the host is."""
        if isinstance(self.problem, QUARANTINING):
            return HostState.QUARANTINED
        if self._is_up:
            return HostState.READY
        silent_s = asyncio.get_running_loop().time() - self._silent_since
        if silent_s >= UNREACHABLE_S:
            return HostState.UNREACHABLE
        if silent_s >= SUSPECT_S:
            return HostState.SUSPECT
        return HostState.CONNECTING if self.seen_time is None else HostState.SUSPECT

    def view(self) -> HostView:
        """Returns the host as it stands now."""
        problem = self.problem.failure(host_id=self.record.id) if self.problem else None
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

    async def ready(self, timeout_s: float) -> None:
        """Returns once the line is up, or the time is over."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._up.wait()
        except TimeoutError:
            pass

    async def keep(self, change: Callable[[HostRecord], HostRecord]) -> None:
        """Changes the record of its host, durably first."""
        async with self._keeping:
            record = change(self.record)
            if record != self.record:
                await self._ears.record(record)
                self.record = record

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
                        log.warning("host.lost", extra={"host": self.record.id})
                    self._is_up = False
                    self._up.clear()
                    self.orders.disconnected()
                    await connection.close()
                self._report_silence()
                await asyncio.sleep(wait_s * (1 - self._chance.jitter() / 2))
                wait_s = min(wait_s * 2, RECONNECT_S_MAX)
        finally:
            self.orders.close()

    # -- connected ------------------------------------------------------------------------------

    async def _session(self, connection: Connection) -> None:
        """Greets the agent, then watches its journal until the stream breaks."""
        answer = await connection.call("GetHost", GetHostRequest(), timeout_s=CALL_TIMEOUT_S)
        await self._greet(answer.host)
        resync: asyncio.Task[None] | None = None
        time = asyncio.get_running_loop().time
        try:
            # A quiet agent sends bookmarks: one that is mute for so long is not well.
            async with asyncio.timeout(SUSPECT_S) as limit:
                # Watch first, then ask: whatever changes in between is in the stream.
                async for message in connection.watch(WatchAttemptsRequest()):
                    limit.reschedule(time() + SUSPECT_S)
                    if not self._is_up:
                        self._connected(connection)
                        resync = asyncio.create_task(self._resync())
                    self._take(message)
        except TimeoutError:
            raise HostUnreachable(address=self.record.address) from None
        finally:
            if resync is not None:
                resync.cancel()

    async def _greet(self, report: HostReport) -> None:
        """Checks that the agent is the one that the open attempts were planned with."""
        if report.cluster_id not in ("", self._cluster_id):
            raise WrongCluster(expected=report.cluster_id, cluster_id=self._cluster_id)
        known = self.record.incarnation
        if known and known != report.incarnation and self._ears.in_flight(self.record.id):
            # A lost journal is never read as "nothing to make up for": somebody has to look.
            raise IncarnationChanged(incarnation=report.incarnation, expected=known)
        self.report = report
        # Kept before the first order goes out: what was sent is known to have been sent to it.
        await self.keep(lambda record: replace(record, incarnation=report.incarnation))

    def _connected(self, connection: Connection) -> None:
        self._is_up = True
        self._up.set()
        self.problem = None
        log.info("host.ready", extra={"host": self.record.id, "open": len(self.orders)})
        self.orders.connected(connection)
        self._when_up()

    async def _resync(self) -> None:
        """Asks about everything that is still open, now and then: nothing hangs on one message."""
        while True:
            await asyncio.sleep(RESYNC_S)
            self.orders.see_to_all()

    def _take(self, message: WatchAttemptsResponse) -> None:
        self.seen_time = self._clock.now()
        self._silent_since = asyncio.get_running_loop().time()
        for update in message.updates:
            if update.sequence:
                self.orders.heard(update.attempt)
            else:
                self.orders.heard_progress(update.attempt)

    def _quarantine(self, error: CountermandError) -> None:
        self.problem = error

    # -- silence --------------------------------------------------------------------------------

    def _report_silence(self) -> None:
        """Says of every open attempt that nobody knows, once the host has been silent for long."""
        quarantined = self.state is HostState.QUARANTINED
        silent_s = asyncio.get_running_loop().time() - self._silent_since
        if not quarantined and silent_s < SUSPECT_S:
            return
        self.orders.report_lost(self.problem or HostUnreachable(address=self.record.address))
