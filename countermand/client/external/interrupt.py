"""A stop of the work in one block, and how it reaches who works there."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress


class Interrupt:
    """Cancels the asyncio task that is in a block, and knows its own cancellation from others'.

    Blocks nest: while an inner one is taken on or ended, the outer ones are not interrupted, since
    what is being said must be answered. That is soon over.
    """

    def __init__(self, outer: Interrupt | None) -> None:
        """Nobody is to stop yet."""
        self.asked = asyncio.Event()
        self._outer = outer
        self._worker: asyncio.Task[object] | None = None
        self._baseline = 0  # cancellations of the worker that are not ours
        self._sent = False
        self._busy = 0  # inner blocks that are being taken on or ended

    def reach(self) -> None:
        """Lets a stop reach the asyncio task that calls this."""
        self._worker = asyncio.current_task()
        assert self._worker is not None
        self._baseline = self._worker.cancelling()

    def ask(self) -> None:
        """Asks for a stop."""
        self.asked.set()
        self._send()

    def _send(self) -> None:
        if self._worker is not None and not self._busy and not self._sent:
            self._sent = True
            self._worker.cancel()

    @contextmanager
    def put_off(self) -> Iterator[None]:
        """Keeps the blocks around this one from being interrupted."""
        outer = self._outer
        if outer is None:
            yield
            return
        with outer.put_off():
            outer._busy += 1  # noqa: SLF001 - its own class
            try:
                yield
            finally:
                outer._busy -= 1  # noqa: SLF001
                if outer.asked.is_set():
                    outer._send()  # noqa: SLF001

    async def has_caused(self, error: BaseException | None) -> bool:
        """Returns whether it was a stop, of this block or of one around it, that has left it."""
        worker, others = self._worker, 0
        if self._sent:
            assert worker is not None
            others = worker.uncancel() - self._baseline
            if not isinstance(error, asyncio.CancelledError):
                with suppress(asyncio.CancelledError):  # on its way, if the body did not await
                    await asyncio.sleep(0)
                if worker.cancelling() > self._baseline:
                    raise asyncio.CancelledError  # that was somebody else's
        self._worker = None
        return isinstance(error, asyncio.CancelledError) and others <= 0 and self._is_sent

    @property
    def _is_sent(self) -> bool:
        return self._sent or (self._outer is not None and self._outer._is_sent)  # noqa: SLF001
