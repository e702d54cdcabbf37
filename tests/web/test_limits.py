"""Who is many, slow, silent or gone takes nothing from others; and an end ends all of it.

The page runs here, before a real coordinator, with limits that a test can reach.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio

from coordinator.web import connect, gateway, server
from coordinator.web.address import Limits, WebSettings, take_address
from countermand.client import Client
from tests.endtoend.cluster import HANG_S, Cluster, running, until
from tests.web import stories

SOON_S = 0.05
WAIT = "/countermand.v1.WorkflowService/WaitWorkflow"
WAITED = {"name": "workflows/asked", "waitTimeout": "60s"}
GET = "GET /owners HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(lives, tmp_path_factory) -> AsyncIterator[Cluster]:
    """Yields a coordinator without a page, and with one workflow that waits for a vendor."""
    folder = tmp_path_factory.mktemp("limits")
    async with running(lives, folder, {}, options={"coordinator": ("--web", "off")}) as cluster:
        async with Client(cluster.coordinator.address) as client:
            await client.submit(stories.asked(), workflow_id="asked")
        yield cluster


# -- what stands beside the pages, as the metrics do -----------------------------------------------


class Hangs:
    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await asyncio.Event().wait()


class Fails:
    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        raise ZeroDivisionError("a defect")


class FailsLate:
    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise ZeroDivisionError("a defect")


class GoesOn:
    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while True:
            await send({"type": "http.response.body", "body": b"." * 2**16, "more_body": True})


BESIDE: dict[str, Callable[..., Awaitable[None]]] = {
    "/hangs": Hangs(),
    "/fails": Fails(),
    "/fails-late": FailsLate(),
    "/goes-on": GoesOn(),
}


# -- what asks -------------------------------------------------------------------------------------


@dataclass
class Line:
    """One connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def say(self, text: str) -> Line:
        self.writer.write(text.encode())
        return self

    async def answer(self) -> tuple[int, dict[str, str], str]:
        """Returns status, headers and body of what comes next."""
        async with asyncio.timeout(HANG_S):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode().splitlines()
            headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
            body = await self.reader.readexactly(int(headers.get("content-length", 0)))
        return int(head[0].split()[1]), headers, body.decode()

    async def end(self) -> bytes:
        """Returns what else comes until the other side has closed."""
        rest = b""
        async with asyncio.timeout(HANG_S):
            with suppress(ConnectionError):
                while piece := await self.reader.read(2**20):
                    rest = piece
        return rest


@dataclass
class Pages:
    """A page that runs here."""

    port: int
    stop: asyncio.Event
    serving: asyncio.Task[None]
    lines: list[Line]

    async def line(self, said: str = "") -> Line:
        """Returns a new connection on which something has been said."""
        line = Line(*await asyncio.open_connection("127.0.0.1", self.port))
        self.lines.append(line)
        return line.say(said)

    async def get(self, path: str) -> tuple[int, dict[str, str], str]:
        asked = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        return await (await self.line(asked)).answer()

    async def wait(self, **headers: str) -> Line:
        """Returns a connection on which a call waits for long."""
        return await self.line(posted(WAIT, WAITED, None, **headers))

    async def ends(self) -> None:
        self.stop.set()
        async with asyncio.timeout(HANG_S):
            await self.serving


def posted(path: str, body: Any, length: int | None = None, /, **headers: str) -> str:
    content = json.dumps(body)
    told = {"Host": "localhost", "Content-Type": "application/json"}
    told["Content-Length"] = str(len(content) if length is None else length)
    told |= {name.replace("_", "-"): value for name, value in headers.items()}
    lines = "".join(f"{name}: {value}\r\n" for name, value in told.items())
    return f"POST {path} HTTP/1.1\r\n{lines}\r\n{content}"


Serving = Callable[..., Any]


@pytest.fixture
def serving(cluster: Cluster) -> Serving:
    """Returns what begins a page with limits."""

    @asynccontextmanager
    async def serving(listen: str = "127.0.0.1:0", **limits: Any) -> AsyncIterator[Pages]:
        settings = WebSettings(listen=listen, asked_for=True, limits=Limits(**limits))
        listening = take_address(settings)
        assert listening is not None
        stop = asyncio.Event()
        port = listening.getsockname()[1]
        address = cluster.coordinator.address
        work = server.serve(listening, address, settings, stop, tuple(BESIDE.items()))
        pages = Pages(port, stop, asyncio.create_task(work), [])
        try:
            yield pages
        finally:
            await pages.ends()
            listening.close()
            for line in pages.lines:
                line.writer.close()

    return serving


def said(caplog: pytest.LogCaptureFixture, level: int = logging.WARNING) -> list[str]:
    """Returns the events that somebody would have to look at."""
    return [record.getMessage() for record in caplog.records if record.levelno >= level]


# -- many, and gone --------------------------------------------------------------------------------


async def full(pages: Pages) -> None:
    """Returns once no further call is taken."""

    async def is_full() -> object:
        line = await pages.wait(Connect_Timeout_Ms="1")
        return (await line.answer())[0] == 429

    await until(is_full, "the gateway is full")


async def test_calls_that_wait_leave_room_for_pages(serving, caplog) -> None:
    async with serving(calls=2) as pages:
        for _ in range(2):
            await pages.wait()
        await full(pages)
        refused = await pages.wait()
        status, headers, body = await refused.answer()
        assert (status, headers["connection"]) == (429, "close")
        assert json.loads(body)["code"] == "resource_exhausted"
        assert json.loads(body)["details"][0]["debug"]["reason"] == "QUEUE_FULL"
        assert await refused.end() == b""
        assert (await pages.get("/owners"))[0] == 200
    assert said(caplog) == []


async def test_who_has_gone_waits_no_more(serving, cluster) -> None:
    async with serving(calls=2) as pages:
        waiting = [await pages.wait() for _ in range(2)]
        await full(pages)
        for line in waiting:
            line.writer.transport.abort()

        async def is_taken() -> object:
            line = await pages.wait(Connect_Timeout_Ms="1")
            return (await line.answer())[0] == 504

        await until(is_taken, "the places of those who have gone")


async def test_who_comes_takes_the_place_of_one_who_says_nothing(serving, caplog) -> None:
    async with serving(connections=3, silent_s=0.0) as pages:
        idle = [await pages.line(GET) for _ in range(2)]
        for line in idle:
            assert (await line.answer())[0] == 200
        for _ in range(4):
            assert (await (await pages.line(GET)).answer())[0] == 200
        for line in idle:
            assert await line.end() == b""  # the longest idle have made room
        silent = [await pages.line() for _ in range(3)]
        for _ in range(4):
            assert (await (await pages.line(GET)).answer())[0] == 200
        assert await silent[0].end() == b""
    assert said(caplog) == []


# -- slow, and silent ------------------------------------------------------------------------------


@pytest.mark.parametrize("beginning", ["", "GET /own", "GET /owners HTTP/1.1\r\nHost: local"])
async def test_half_a_request_is_not_waited_for(serving, beginning: str) -> None:
    async with serving(head_s=SOON_S) as pages:
        line = await pages.line(beginning)
        assert await line.end() == b""


async def test_half_a_second_request_is_not_waited_for(serving) -> None:
    async with serving(head_s=SOON_S) as pages:
        line = await pages.line(GET)
        assert (await line.answer())[0] == 200
        assert await line.say("GET /own").end() == b""


async def test_half_a_body_is_not_waited_for(serving, caplog) -> None:
    form = {"Content_Type": "application/x-www-form-urlencoded"}
    cancel = "/workflows/asked/cancel"
    async with serving(body_s=SOON_S, head_s=SOON_S) as pages:
        call = await pages.line(posted(WAIT, {}, 100))
        status, _, body = await call.answer()
        assert (status, json.loads(body)["code"]) == (499, "canceled")
        typed = await pages.line(posted(cancel, {}, 100, **form))
        assert (await typed.answer())[0] == 403
        for line in (call, typed):  # nor is the rest, after the answer
            assert await line.say("more").end() == b""
    assert said(caplog) == []


async def test_a_large_body_is_read_beside_the_loop() -> None:
    call = gateway.CALLS[WAIT]
    reading = gateway.Reading()
    body = b'{"name": "' + b"w" * 100_000 + b'"}'
    found = asyncio.ensure_future(reading.read(call, body, connect.JSON))
    await asyncio.sleep(0)
    assert not found.done()  # on the loop it would be, by now
    assert (await found).ByteSize() > 100_000


# -- defects ---------------------------------------------------------------------------------------


async def test_a_defect_is_a_page_and_a_line_in_the_log(serving, caplog) -> None:
    async with serving() as pages:
        status, headers, body = await pages.get("/fails")
        assert (status, headers["content-type"]) == (500, "text/html; charset=utf-8")
        assert "please report it, with the log" in body
        assert "ZeroDivisionError" in body
        assert "a defect" not in body  # it may hold anything
        line = await pages.line(GET.replace("/owners", "/fails-late"))
        assert b"half" in await line.end()
    assert said(caplog) == ["web.request_failed", "web.request_failed"]
    failed = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert all(record.exc_info for record in failed)
    assert [vars(record)["path"] for record in failed] == ["/fails", "/fails-late"]


async def test_what_the_server_says_has_names(serving, caplog) -> None:
    async with serving() as pages:
        line = await pages.line("nonsense\r\n\r\n")
        assert b"Invalid HTTP request" in await line.end()
        upgrade = GET.replace("\r\n\r\n", "\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
        assert (await (await pages.line(upgrade)).answer())[0] == 200
    named = [r.getMessage() for r in caplog.records if r.name.startswith("uvicorn")]
    assert named == ["web.request_invalid", "web.upgrade_ignored"]


# -- the end ---------------------------------------------------------------------------------------


async def test_an_end_ends_calls_pages_streams_and_slow_readers(serving, caplog) -> None:
    async with serving() as pages:
        call = await pages.wait()
        page = await pages.line(GET.replace("/owners", "/hangs"))
        slow = await pages.line(GET.replace("/owners", "/goes-on"))
        stream = await pages.line(GET.replace("/owners", "/live/owners"))
        half = await pages.line(posted(WAIT, {}, 100))
        silent = await pages.line()
        for line in (slow, stream):
            await line.reader.readuntil(b"\r\n\r\n")
        await pages.ends()
        status, _, body = await call.answer()
        assert (status, json.loads(body)["code"]) == (503, "unavailable")
        assert (await half.answer())[0] == 503
        status, headers, body = await page.answer()
        assert (status, headers["content-type"]) == (503, "text/html; charset=utf-8")
        assert "stops" in body
        for line in (stream, silent):
            await line.end()
    assert said(caplog) == []


# -- under which name ------------------------------------------------------------------------------


async def test_an_address_that_is_listened_at_is_answered(serving) -> None:
    async with serving("127.0.0.2:0") as pages:

        async def asked(host: str) -> int:
            line = Line(*await asyncio.open_connection("127.0.0.2", pages.port))
            pages.lines.append(line)
            return (await line.say(GET.replace("localhost", host)).answer())[0]

        assert await asked(f"127.0.0.2:{pages.port}") == 200
        assert await asked("localhost") == 200
        assert await asked("evil.example") == 421
        assert await asked("127.0.0.2.evil.example") == 421
        assert await asked("10.0.0.1") == 421


async def test_no_proxy_is_believed(serving) -> None:
    asked = {"Connect_Timeout_Ms": "1", "X_Forwarded_Proto": "https"}
    async with serving() as pages:
        line = await pages.wait(Origin="http://localhost", **asked)
        assert (await line.answer())[0] == 504
