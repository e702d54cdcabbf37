"""Words between coordinators: hints that somebody should look, of which any may be lost."""

from __future__ import annotations

import asyncio
import contextlib

from coordinator.runtime.ports import Letter, LetterAnswer
from coordinator.store import letters, sessions
from coordinator.store.database import postgres
from coordinator.store.dialects import CONNECTED
from coordinator.store.run import Threads
from coordinator.store.sql import SqlStore
from tests.postgres import Server
from tests.proxy import Proxy
from tests.store.test_postgres import through


async def test_who_listens_hears_of_letters_and_ends_also_after_its_connection_was_cut(
    postgres_server: Server, postgres_url: str
):
    async with Proxy(postgres_server.socket) as proxy:
        ears, one, two = (
            SqlStore(postgres(url), Threads(), new_id=lambda: "c")
            for url in (through(proxy, postgres_url), postgres_url, postgres_url)
        )
        await one.open()
        await two.open()
        heard: asyncio.Queue[str] = asyncio.Queue()
        listening = asyncio.create_task(ears.listen(heard.put_nowait))

        async def hears(word: str) -> None:
            """Returns once a word is heard; what is said before anybody listens is lost."""
            letter = Letter(id=word, session=1, method="s/M", request=b"")
            async with asyncio.timeout(30):
                while heard.empty():
                    await two.remove_letters([word])
                    await two.post([letter])
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(0.1):
                            assert await heard.get() == letters.LETTER
                            break
            while not heard.empty():
                heard.get_nowait()

        assert await heard.get() == CONNECTED
        await hears("first")
        proxy.cut()
        assert await heard.get() == CONNECTED  # perhaps to a standby that has taken over
        await hears("again")
        await one.answer([LetterAnswer(letter="again", answer=b"a")])
        assert await heard.get() == letters.LETTER
        await two.end_session()
        assert await heard.get() == sessions.ENDED
        listening.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await listening
        for store in (ears, one, two):
            await store.close()
