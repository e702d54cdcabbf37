"""The proxy of the tests does to connections what it says."""

import asyncio

import pytest

from tests.proxy import Moment, Proxy


class Echo:
    """Answers each line with itself, and remembers it."""

    def __init__(self):
        self.heard = []
        self.writers = []
        self.address = ""

    async def __call__(self, reader, writer):
        self.writers.append(writer)
        while line := await reader.readline():
            self.heard.append(line)
            writer.write(line)
        writer.close()


@pytest.fixture
async def echo():
    echo = Echo()
    async with await asyncio.start_server(echo, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        echo.address = f"{host}:{port}"
        yield echo
        await closed(echo.writers)


@pytest.fixture
async def proxy(echo):
    async with Proxy(echo.address) as proxy:
        yield proxy


@pytest.fixture
async def connect(proxy):
    """Returns what connects to a proxy, for the time of a test."""
    writers = []

    async def connect(through=proxy):
        host, _, port = through.address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writers.append(writer)
        return reader, writer

    yield connect
    await closed(writers)


async def closed(writers):
    for writer in writers:
        writer.close()
    await asyncio.gather(*(writer.wait_closed() for writer in writers), return_exceptions=True)


async def say(connection, line):
    reader, writer = connection
    writer.write(line)
    return await reader.readline()


async def test_it_passes_on_and_cuts(proxy, connect):
    first = await connect()
    assert await say(first, b"one\n") == b"one\n"

    proxy.cut()

    assert await first[0].read() == b""
    assert await say(await connect(), b"two\n") == b"two\n"


async def test_it_holds_until_it_passes_on(proxy, connect, echo):
    open_already = await connect()
    await say(open_already, b"one\n")
    proxy.hold()
    answers = [asyncio.create_task(say(c, b"two\n")) for c in (open_already, await connect())]
    await asyncio.wait(answers, timeout=0)
    assert echo.heard == [b"one\n"]

    await proxy.pass_on()

    assert await asyncio.gather(*answers) == [b"two\n", b"two\n"]


async def test_it_refuses_at_the_same_port(proxy, connect):
    connection = await connect()
    await proxy.refuse()

    assert await connection[0].read() == b""
    with pytest.raises(ConnectionRefusedError):
        await connect()
    await proxy.pass_on()
    assert await say(await connect(), b"one\n") == b"one\n"


@pytest.mark.parametrize("moment", Moment)
async def test_it_cuts_where_certain_bytes_come_by(proxy, connect, echo, moment):
    proxy.cut_at(b"COMMIT", moment)
    connection, other = await connect(), await connect()
    assert await say(connection, b"BEGIN\n") == b"BEGIN\n"

    assert await say(connection, b"COMMIT\n") == b""

    assert proxy.sprung.is_set()
    assert (b"COMMIT\n" in echo.heard) == (moment is Moment.AFTER)
    assert await say(other, b"COMMIT\n") == b"COMMIT\n"


async def test_nobody_behind_it_ends_the_connection(connect):
    async with Proxy("127.0.0.1:1") as before_nobody:
        assert await (await connect(before_nobody))[0].read() == b""
