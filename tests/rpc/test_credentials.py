"""Mutual TLS by files: what may be listened on with it, and what is wrong said at the start."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from coordinator.agents.connection import GrpcConnection
from countermand.rpc.channel import open_channel
from countermand.rpc.credentials import CredentialsInvalid, read_credentials
from countermand.rpc.errors import HostRefused, HostUnreachable
from countermand.rpc.server import BoundServer, ListenRefused, serve
from countermand.v1.agent_pb2 import GetHostRequest
from tests.tls import Authority, needs_openssl

pytestmark = needs_openssl


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("tls"))


async def asks(address: str, credentials) -> bool:
    """Returns whether whoever shows this is answered."""
    async with open_channel(address, credentials=credentials) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        try:
            await stub.Check(health_pb2.HealthCheckRequest(), timeout=30)
        except grpc.aio.AioRpcError:
            return False
        return True


async def test_with_a_certificate_any_address_may_be_listened_on(authority, tmp_path):
    server, client = authority.certificate("server"), authority.certificate("client")
    with pytest.raises(ListenRefused, match="without TLS"):
        BoundServer(listen="0.0.0.0:0")
    running = await serve(listen="0.0.0.0:0", services=[], credentials=server.read())
    port = running.address.rpartition(":")[2]
    assert await asks(f"127.0.0.1:{port}", client.read())
    assert not await asks(f"127.0.0.2:{port}", client.read())  # which the certificate does not name
    assert not await asks(f"127.0.0.1:{port}", None)
    stranger = Authority(tmp_path / "other").certificate("stranger")
    assert not await asks(f"127.0.0.1:{port}", stranger.read())
    mixed = read_credentials(stranger.cert, stranger.key, authority.ca)
    assert not await asks(f"127.0.0.1:{port}", mixed)  # it believes us, we do not believe it
    await running.stop(0)


def test_what_is_wrong_with_the_files_is_said_at_the_start(authority, tmp_path):
    one, other = authority.certificate("one"), authority.certificate("other")
    assert read_credentials(None, None, None) is None
    with pytest.raises(CredentialsInvalid, match="belong together"):
        read_credentials(one.cert, one.key, None)
    with pytest.raises(CredentialsInvalid, match=r"--tls-key \S+other-key.pem is not of"):
        read_credentials(one.cert, other.key, one.ca)
    assert "PRIVATE" not in repr(one.read())


@pytest.mark.parametrize(
    ("option", "content", "said"),
    [
        ("cert", None, "No such file"),
        ("key", None, "No such file"),
        ("ca", None, "No such file"),
        ("cert", "no certificate", "no certificate"),
        ("key", "no key", "no private key"),
        ("ca", "", "no certificate"),
    ],
)
def test_which_file_is_wrong_is_said_and_no_other(authority, tmp_path, option, content, said):
    one = authority.certificate("one")
    files = {"cert": one.cert, "key": one.key, "ca": one.ca}
    files[option] = tmp_path / "wrong"
    if content is not None:
        files[option].write_text(content)

    with pytest.raises(CredentialsInvalid) as refused:
        read_credentials(**files)

    told = str(refused.value)
    assert told.startswith(f"--tls-{option} {files[option]}: ")
    assert said in told
    assert not any(f"--tls-{other} " in told for other in files if other != option)


class Shown:
    """What a side may show."""

    def __init__(self, folder) -> None:
        ours = Authority(folder / "ours")
        self.nothing = None
        self.good = ours.certificate("good").read()
        self.foreign = Authority(folder / "theirs").certificate("foreign").read()
        self.misnamed = ours.certificate("misnamed", names_what="DNS:elsewhere").read()
        self.expired = ours.certificate("expired", days=-1).read()


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    return Shown(tmp_path_factory.mktemp("shown"))


@pytest.mark.parametrize(
    ("server_shows", "we_show", "why"),
    [
        ("good", "nothing", "it hung up on a caller without a certificate"),
        ("nothing", "good", "it speaks no TLS"),
        ("foreign", "good", "its certificate is not of the authority in --tls-ca"),
        ("good", "expired", "it hung up on the certificate it was shown"),
        ("misnamed", "good", "its certificate is for another address"),
        ("expired", "good", "its certificate has expired"),
    ],
)
async def test_a_mistake_is_told_apart_from_a_host_that_is_away(shown, server_shows, we_show, why):
    server = await serve(
        listen="127.0.0.1:0", services=[], credentials=getattr(shown, server_shows)
    )
    connection = GrpcConnection(server.address, credentials=getattr(shown, we_show))
    with pytest.raises(HostRefused) as raised:
        await connection.call("GetHost", GetHostRequest(), timeout_s=5)
    await connection.close()
    await server.stop(0)
    assert raised.value.metadata["why"] == why
    assert raised.value.message.startswith(f"No connection to the agent at {server.address}: {why}")
    assert raised.value.reason == "HOST_UNREACHABLE"


async def test_a_host_that_is_away_is_no_mistake(shown):
    server = await serve(listen="127.0.0.1:0", services=[], credentials=shown.good)
    await server.stop(0)
    connection = GrpcConnection(server.address, credentials=shown.good)
    with pytest.raises(HostUnreachable) as raised:
        await connection.call("GetHost", GetHostRequest(), timeout_s=5)
    await connection.close()
    assert not isinstance(raised.value, HostRefused)
