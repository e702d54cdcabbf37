"""What a guest reads of any image: chains, compressed clusters, holes; by our own NBD client."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from agent.drivers import copying, guest, qemu
from agent.drivers.driver import Format
from agent.drivers.guest import GuestContent, serving
from agent.drivers.nbd import Nbd, NbdError
from countermand.rpc.errors import ToolFailed
from countermand.v1.attempt_pb2 import Attempt
from countermand.v1.image_pb2 import IMAGE_FORMAT_RAW
from countermand.v1.verb_pb2 import Action, CloneImage, VerifyImage
from tests.agent.requests import address, attempt_name, copy_action

MIB = 2**20
CONTENT = os.urandom(MIB) + bytes(3 * MIB) + os.urandom(MIB) + bytes(3 * MIB)

pytestmark = pytest.mark.skipif(
    not (guest.is_installed() and qemu.is_installed()),
    reason="qemu-nbd or qemu-img is not installed: apt install qemu-utils",
)


def run(*arguments: object) -> None:
    subprocess.run(list(map(str, arguments)), check=True, capture_output=True)


def qcow2(folder: Path, content: bytes, name: str = "image", *options: str) -> Path:
    """Returns a qcow2 file with this content."""
    raw, path = folder / f"{name}.raw", folder / f"{name}.qcow2"
    raw.write_bytes(content)
    run("qemu-img", "convert", *options, "-f", "raw", "-O", "qcow2", raw, path)
    return path


def content_of(nbd: Nbd) -> GuestContent:
    return GuestContent(nbd=nbd, size_bytes=nbd.size_bytes, identity="")


def read(content: GuestContent) -> bytes:
    buffer = bytearray(content.size_bytes)
    assert content.pread(memoryview(buffer), 0) == len(buffer)
    return bytes(buffer)


def digest_of(content: bytes) -> str:
    """Returns a digest as copies take it."""

    class Bytes:
        size_bytes = len(content)
        identity = ""

        def next_data(self, offset):
            return (offset, len(content)) if offset < len(content) else None

        def pread(self, buffer, offset):
            buffer[:] = content[offset : offset + len(buffer)]
            return len(buffer)

    steps = copying.digest_content(Bytes())
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return str(end.value)


# -- the client ---------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [(), ("-c",)], ids=["plain", "compressed"])
def test_reads_what_a_guest_reads_and_knows_the_holes(tmp_path, options):
    path = qcow2(tmp_path, CONTENT, "image", *options)
    with serving([(path, Format.QCOW2)], image="image") as nbd:
        content = content_of(nbd)
        assert read(content) == CONTENT
        assert content.next_data(0) == (0, MIB)
        assert content.next_data(MIB // 2) == (MIB // 2, MIB)
        assert content.next_data(2 * MIB) == (4 * MIB, 5 * MIB)
        assert content.next_data(5 * MIB) is None
        assert content.next_data(0) == (0, MIB)
        part = bytearray(MIB)
        assert content.pread(memoryview(part), 7 * MIB + 512) == MIB - 512


def test_reads_a_chain_by_what_it_is_told_and_not_by_what_its_header_says(tmp_path):
    base, other = qcow2(tmp_path, CONTENT, "base"), qcow2(tmp_path, bytes(8 * MIB), "other")
    top = tmp_path / "top.qcow2"
    run("qemu-img", "create", "-f", "qcow2", "-F", "qcow2", "-b", other, top)
    run("qemu-io", "-f", "qcow2", "-c", "write -P 7 4M 64k", top)
    with serving([(top, Format.QCOW2), (base, Format.QCOW2)], image="top") as nbd:
        expected = CONTENT[: 4 * MIB] + b"\7" * 65536 + CONTENT[4 * MIB + 65536 :]
        assert read(content_of(nbd)) == expected
    with serving([(top, Format.QCOW2)], image="top") as nbd:  # it stands alone if we say so
        assert read(content_of(nbd))[: 4 * MIB] == bytes(4 * MIB)


def test_goes_on_after_what_was_refused(tmp_path):
    with serving([(qcow2(tmp_path, CONTENT), Format.QCOW2)], image="image") as nbd:
        with pytest.raises(NbdError):
            nbd.read(memoryview(bytearray(512)), nbd.size_bytes)
        assert read(content_of(nbd)) == CONTENT


def test_what_cannot_be_opened_says_why(tmp_path):
    (tmp_path / "image").write_bytes(b"no qcow2" * 512)
    with (
        pytest.raises(ToolFailed, match="not in qcow2 format"),
        serving([(tmp_path / "image", Format.QCOW2)], image="image"),
    ):
        pass


def test_nothing_of_it_is_left(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    path = qcow2(tmp_path, CONTENT)
    before = sorted(tmp_path.iterdir())
    with serving([(path, Format.QCOW2)], image="image"):
        pass
    assert sorted(tmp_path.iterdir()) == before
    # Nobody holds the file any more: who wants to write it gets its lock.
    run("qemu-io", "-f", "qcow2", "-c", "write -P 7 0 64k", path)


def test_it_dies_with_the_process_that_started_it(tmp_path):
    path = qcow2(tmp_path, CONTENT)
    program = (
        "import sys, time; from pathlib import Path\n"
        "from agent.drivers.guest import serving; from agent.drivers.driver import Format\n"
        "with serving([(Path(sys.argv[1]), Format.QCOW2)], image='x'):\n"
        "    print('open', flush=True); time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program, path], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"open\n"
    locked = ["qemu-io", "-f", "qcow2", "-c", "write 0 64k", str(path)]
    assert subprocess.run(locked, check=False, capture_output=True).returncode != 0
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    give_up = time.monotonic() + 30
    while subprocess.run(locked, check=False, capture_output=True).returncode != 0:
        assert time.monotonic() < give_up, "it still holds the image"


REFUSED = struct.pack(">8sQH", b"NBDMAGIC", 0x49484156454F5054, 1) + struct.pack(
    ">QIII", 0x3E889045565A9, 8, (1 << 31) | 1, 0
)


@pytest.mark.parametrize(
    "said",
    [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"NBDMAGIC" + bytes(10), REFUSED, REFUSED[:30]],
    ids=["nothing", "http", "oldstyle", "no-structured-replies", "half"],
)
def test_a_server_that_speaks_otherwise_is_an_error(said):
    ours, theirs = socket.socketpair()

    def speak() -> None:
        with theirs, contextlib.suppress(OSError):  # it hangs up on what makes no sense
            theirs.sendall(said)
            theirs.shutdown(socket.SHUT_WR)
            while theirs.recv(4096):
                pass

    speaking = threading.Thread(target=speak)
    speaking.start()
    with pytest.raises(NbdError):
        Nbd(ours)
    ours.close()
    speaking.join()


# -- the driver ---------------------------------------------------------------------------------


def verify(target: str, digest: str = "") -> Action:
    return Action(verify_image=VerifyImage(target=address(target), digest=digest))


async def test_one_digest_whatever_the_format(rig, tmp_path):
    """A copy as it is, a flattened chain and a verified one: what a guest reads is the same."""
    rig.put("base", qcow2(tmp_path, CONTENT).read_bytes(), image_format=Format.QCOW2)
    clone = Action(clone_image=CloneImage(source=address("fast/base"), target=address("fast/top")))
    await rig.run(attempt_name("clone"), clone)
    for name, source, fields in (
        ("as-it-is", "fast/base", {}),
        ("flat", "fast/top", {"flatten": True}),
        ("flat-raw", "fast/top", {"flatten": True, "format": IMAGE_FORMAT_RAW}),
    ):
        action = copy_action(source, f"fast/{name}", take_digest=True, **fields)
        copied = await rig.run(attempt_name(name), action)
        assert copied.output.copy_image.digest == digest_of(CONTENT), (name, copied)
    for name in ("base", "top", "flat"):
        verified = await rig.run(attempt_name(f"verify-{name}"), verify(f"fast/{name}"))
        assert verified.output.verify_image.digest == digest_of(CONTENT), verified
    wrong = await rig.run(attempt_name("wrong"), verify("fast/top", digest_of(b"")))
    assert (wrong.state, wrong.failure.reason) == (Attempt.STATE_FAILED, "DIGEST_MISMATCH")


async def test_a_guest_reads_as_much_as_the_label_says(rig, tmp_path):
    """The file of an image that is being grown is longer for a moment."""
    brought = qcow2(tmp_path, CONTENT).read_bytes()
    path = rig.put("base", brought, image_format=Format.QCOW2)
    run("qemu-img", "resize", "-f", "qcow2", path, "+1M")
    verified = await rig.run(attempt_name("verify"), verify("fast/base"))
    assert verified.output.verify_image.digest == digest_of(CONTENT), verified


async def test_a_backing_file_outside_the_pool_is_refused_before_qemu_is_let_near(rig, tmp_path):
    outside = tmp_path / "outside.raw"
    outside.write_bytes(CONTENT)
    rig.put("base", qcow2(tmp_path, CONTENT).read_bytes(), image_format=Format.QCOW2)
    run("qemu-img", "rebase", "-u", "-F", "raw", "-b", outside, rig.data("base"))
    failed = await rig.run(attempt_name("verify"), verify("fast/base"))
    assert (failed.state, failed.failure.reason) == (Attempt.STATE_FAILED, "IMAGE_UNSAFE")
