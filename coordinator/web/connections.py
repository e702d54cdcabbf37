"""Connections of the page's port: who says nothing, or only half of it, keeps none for ever.

What uvicorn leaves open is closed here: a connection on which no whole request comes, or on which
somebody goes on sending after the answer. Where all places are taken, one that is idle or silent
gives way to one who comes.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from coordinator.web.address import Limits


class Connection(H11Protocol):
    """One connection."""

    limits = Limits()
    _owed: asyncio.TimerHandle | None = None  # until then something must have come

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begins; where all places are taken, one that is idle makes room."""
        super().connection_made(transport)
        if self.limit_concurrency is not None and len(self.connections) >= self.limit_concurrency:
            self._make_room()
        self._look(is_owed=True)

    def data_received(self, data: bytes) -> None:
        """Takes what has come."""
        super().data_received(data)
        self._look(is_owed=self._is_owed())

    def on_response_complete(self) -> None:
        """Goes on after an answer."""
        super().on_response_complete()
        self._look(is_owed=self._is_owed())

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends."""
        super().connection_lost(exc)
        self._look(is_owed=False)

    def _is_owed(self) -> bool:
        """Returns whether half a request stands out, and nobody else waits for the rest."""
        if self.conn.their_state is h11.IDLE:
            return bool(self.conn.trailing_data[0])
        return self.conn.their_state is h11.SEND_BODY and self.cycle.response_complete

    def _look(self, *, is_owed: bool) -> None:
        if is_owed and self._owed is None:
            self._owed = self.loop.call_later(self.limits.head_s, self.transport.close)
        elif not is_owed and self._owed is not None:
            self._owed.cancel()
            self._owed = None

    @property
    def idle_until(self) -> float | None:
        """Returns when its time is up, if nothing is done for it; None for who has just come."""
        if self.timeout_keep_alive_task is not None:
            return self.timeout_keep_alive_task.when()
        if self._owed is None:
            return None
        since = self._owed.when() - self.limits.head_s
        return self._owed.when() if self.loop.time() - since >= self.limits.silent_s else None

    def _make_room(self) -> None:
        """Closes those whose time is up soonest, of those for whom nothing is done."""
        assert self.limit_concurrency is not None
        others = (each for each in self.connections if isinstance(each, Connection))
        idle = {until: each for each in others if (until := each.idle_until) is not None}
        too_many = len(self.connections) - self.limit_concurrency + 1
        for until in sorted(idle)[:too_many]:
            idle[until].transport.close()


def connection_of(limits: Limits) -> type[Connection]:
    """Returns what keeps to limits."""
    return type("Connection", (Connection,), {"limits": limits})


# What uvicorn says → the event, and how urgent it is. None of it needs anybody but a lack of room;
# what a defect is, `answering.py` has said by then.
EVENTS: Final = {
    "Invalid HTTP request received.": ("web.request_invalid", logging.INFO),
    "Unsupported upgrade request.": ("web.upgrade_ignored", logging.INFO),
    "Exceeded concurrency limit.": ("web.full", logging.WARNING),
    "Exception in ASGI application\n": ("web.request_failed", logging.ERROR),
    "ASGI callable returned without completing response.": ("web.cut_off", logging.INFO),
    "Cancel %s running task(s), timeout graceful shutdown exceeded": ("web.cut_off", logging.INFO),
}
SAID_TWICE: Final = "No supported WebSocket library detected."


def named(record: logging.LogRecord) -> bool:
    """Gives a line of uvicorn's the name of an event; returns whether it is to be written."""
    if str(record.msg).startswith(SAID_TWICE):
        return False
    event, level = EVENTS.get(str(record.msg), ("", record.levelno))
    if event:
        record.msg, record.args = event, None
    else:
        record.said, record.msg, record.args = record.getMessage(), "web.server", None
    if record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError):
        record.msg, level, record.exc_info = "web.cut_off", logging.INFO, None
    record.levelno, record.levelname = level, logging.getLevelName(level)
    return True
