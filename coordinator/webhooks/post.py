"""Posts to receivers: TLS is verified, redirects are not followed, answers are bounded.

aiohttp is imported for the first webhook only: most coordinators have none, and it takes a quarter
of a second.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Protocol

from coordinator.runtime.ports import Clock
from coordinator.runtime.webhooks import Answer
from coordinator.webhooks.answers import answered, unanswered

if TYPE_CHECKING:
    import aiohttp

CALL_TIMEOUT_S = 10.0  # for all of it: a receiver takes an event and works on it afterwards
ANSWER_BYTES_MAX = 4096  # of which a few words are shown
USER_AGENT = "countermand-webhooks/1"


class Post(Protocol):
    """Sends one event to one receiver."""

    async def __call__(self, url: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        """Returns what came of it; never raises for what a receiver does."""


class HttpPost:
    """Sends over HTTP, on connections that are kept open."""

    def __init__(self, clock: Clock, *, timeout_s: float = CALL_TIMEOUT_S) -> None:
        """Connects to nobody yet."""
        self._clock = clock
        self._timeout_s = timeout_s
        self._opening = asyncio.Lock()
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Closes every connection."""
        if self._session is not None:
            await self._session.close()

    async def __call__(self, url: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        """Returns what came of it."""
        session = await self._opened()
        import aiohttp  # noqa: PLC0415 - it is there by now

        begin = asyncio.get_running_loop().time()

        def took() -> timedelta:
            return timedelta(seconds=asyncio.get_running_loop().time() - begin)

        try:
            async with session.post(
                url, data=body, headers=headers, allow_redirects=False
            ) as response:
                said = await _bounded(response)
                return answered(
                    response.status,
                    said=said.decode(errors="replace"),
                    location=response.headers.get("Location", ""),
                    retry_after=response.headers.get("Retry-After", ""),
                    took=took(),
                    now=self._clock.now(),
                )
        except TimeoutError:
            return unanswered(f"not within {self._timeout_s:g} s", took())
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return unanswered(_why(error), took())

    async def _opened(self) -> aiohttp.ClientSession:
        async with self._opening:
            if self._session is None:
                # On a thread, so that nobody who commits waits for it.
                await asyncio.to_thread(importlib.import_module, "aiohttp")
                import aiohttp  # noqa: PLC0415 - it is there by now

                self._session = aiohttp.ClientSession(
                    connector=aiohttp.TCPConnector(limit=0),  # one call at a time and webhook
                    cookie_jar=aiohttp.DummyCookieJar(),
                    timeout=aiohttp.ClientTimeout(total=self._timeout_s),
                    auto_decompress=False,  # a few bytes that become many are not read
                    trust_env=False,
                    headers={"User-Agent": USER_AGENT},
                )
            return self._session


async def _bounded(response: aiohttp.ClientResponse) -> bytes:
    """Returns the beginning of an answer; one that ends there leaves its connection usable."""
    said = b""
    while len(said) <= ANSWER_BYTES_MAX and not response.content.at_eof():
        said += await response.content.read(ANSWER_BYTES_MAX)
    return said[:ANSWER_BYTES_MAX]


def _why(error: Exception) -> str:
    """Returns what went wrong on the way, without the library's own words around it."""
    for name in ("certificate_error", "os_error"):
        cause = getattr(error, name, None)
        if isinstance(cause, Exception):
            return getattr(cause, "strerror", None) or str(cause)
    return str(error) or type(error).__name__
