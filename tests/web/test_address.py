"""Where the page is: taken early, on loopback only, and no reason not to start."""

from __future__ import annotations

import json
import socket
import subprocess
import sys

import pytest

from coordinator.web.address import OFF, WebSettings, take_address, url_of
from countermand.rpc.server import ListenRefused


@pytest.fixture
def taken():
    """Returns an address that somebody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        yield f"127.0.0.1:{other.getsockname()[1]}"


def test_off_is_no_page() -> None:
    assert take_address(WebSettings(listen=OFF)) is None


def test_a_free_port_is_taken_and_told() -> None:
    listening = take_address(WebSettings(listen="127.0.0.1:0", asked_for=True))
    assert listening is not None
    with listening:
        assert url_of(listening) == f"http://127.0.0.1:{listening.getsockname()[1]}"


def test_what_is_answered_leaves_at_once() -> None:
    """An answer in two pieces must not wait until a reader has acknowledged the first."""
    listening = take_address(WebSettings(listen="127.0.0.1:0", asked_for=True))
    assert listening is not None
    with listening, socket.create_connection(listening.getsockname()):
        accepted, _ = listening.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_busy_port_is_a_warning_unless_it_was_asked_for(taken: str, caplog) -> None:
    assert take_address(WebSettings(listen=taken)) is None
    assert [record.msg for record in caplog.records] == ["web.unavailable"]
    with pytest.raises(ListenRefused, match="Choose another address, or none: --web off"):
        take_address(WebSettings(listen=taken, asked_for=True))


def test_only_loopback_is_listened_at() -> None:
    with pytest.raises(ListenRefused, match="not loopback"):
        take_address(WebSettings(listen="0.0.0.0:7780"))


def test_a_busy_address_ends_the_command_before_anything_is_taken_over(taken, tmp_path) -> None:
    command = [sys.executable, "-m", "coordinator", "serve", "--data", str(tmp_path)]
    ended = subprocess.run(
        [*command, "--listen", "127.0.0.1:0", "--web", taken],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 2
    assert f"cannot serve the web page on {taken}" in ended.stderr
    assert list(tmp_path.iterdir()) == []


def test_nothing_that_draws_is_imported_without_a_page() -> None:
    code = "import json, sys; import coordinator.__main__; print(json.dumps(sorted(sys.modules)))"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in json.loads(told.stdout)}
    assert not loaded & {"starlette", "jinja2", "uvicorn"}
