"""Where coordinators listen, as people write it: "host:port", or several with commas between them.

Imports nothing heavy: it is part of every start of the command line.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

EXAMPLE: Final = "10.0.0.1:7700"
SEVERAL: Final = f"{EXAMPLE},10.0.0.2:7700"
PORT_MAX: Final = 65535
# gRPC's own forms are taken as they are.
_SCHEMES: Final = ("unix:", "unix-abstract:", "dns:", "ipv4:", "ipv6:", "vsock:")
_PORT = re.compile("[0-9]{1,5}")
_NAME = re.compile("[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_.])?")
_NUMBERS = re.compile("[0-9.]+")
_FOUR = re.compile(r"[0-9]{1,3}(\.[0-9]{1,3}){3}")


class AddressInvalid(ValueError):
    """Something that is no address; says what to write."""


def addresses(given: str | Iterable[str]) -> tuple[str, ...]:
    """Returns each address once, in the order given, which is by commas or as a sequence.

    Raises:
        AddressInvalid: One of them is none, or there is none.
    """
    texts = [given] if isinstance(given, str) else given
    parts = [part.strip() for text in texts for part in _text(text).split(",")]
    if not parts:
        raise AddressInvalid(f"there is none: write host:port, as in {EXAMPLE}")
    return tuple(dict.fromkeys(address(part, among=len(parts)) for part in parts))


def _text(given: object) -> str:
    if not isinstance(given, str):
        raise AddressInvalid(f"{given!r} is not an address: write host:port, as in '{EXAMPLE}'")
    return given


def address(text: str, *, among: int = 1) -> str:
    """Returns one address.

    Raises:
        AddressInvalid: It is none.
    """
    if text.startswith(_SCHEMES):
        return text
    example = EXAMPLE if among == 1 else SEVERAL
    if not text and among > 1:
        raise AddressInvalid(f"one is empty: write them as in {example}")
    host, _, port = text.rpartition(":")
    if not (host and _PORT.fullmatch(port) and 0 < int(port) <= PORT_MAX):
        raise AddressInvalid(f"{text!r} is not an address: write host:port, as in {example}")
    if ":" in host and not _is_ipv6(host):
        raise AddressInvalid(
            f"{text!r} is not an address: an IPv6 address stands in brackets, as in [fd00::1]:7700"
        )
    if ":" not in host and not _is_host(host):
        raise AddressInvalid(
            f"{text!r} is not an address: {host!r} is neither a name nor a number of a host; "
            f"write host:port, as in {example}"
        )
    return text


def is_name(address: str) -> bool:
    """Returns whether an address may stand for several: the resolver says for which."""
    if address.startswith("dns:"):
        return True
    host = address.rpartition(":")[0]
    return not (address.startswith(_SCHEMES) or host.startswith("[") or _NUMBERS.fullmatch(host))


def together(addresses: Sequence[str]) -> str:
    """Returns several as one text, which can be given as it is."""
    return ",".join(addresses)


def _is_host(host: str) -> bool:
    if _NUMBERS.fullmatch(host):
        return bool(_FOUR.fullmatch(host)) and all(int(part) < 256 for part in host.split("."))  # noqa: PLR2004
    return bool(_NAME.fullmatch(host))


def _is_ipv6(host: str) -> bool:
    import ipaddress  # noqa: PLC0415 - few write one

    if not (host.startswith("[") and host.endswith("]")):
        return False
    try:
        ipaddress.IPv6Address(host[1:-1])
    except ValueError:
        return False
    return True
