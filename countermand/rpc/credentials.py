"""Who a service is, and whom it believes: certificate, key, and the authority over both sides.

Both sides of a connection show a certificate of that authority, or there is no connection. With
none of it a service speaks in the clear, and only on this machine's own addresses.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from countermand.rpc.errors import HostRefused, HostUnreachable

# What gRPC says of a connection that did not come about, why that is, and what to do next. Of one
# that was closed at once only one side knows the reason; what is known is what we have shown.
_NOT_CONNECTED = "failed to connect to all addresses"
_MISTAKES = (
    (
        "WRONG_VERSION_NUMBER",
        "it speaks no TLS",
        "give it --tls-cert, --tls-key and --tls-ca, or see whether the port is another service's",
    ),
    (
        "certificate has expired",
        "its certificate has expired",
        "give it a new one, and see whether the clocks of both sides are right",
    ),
    (
        "certificate is not yet valid",
        "its certificate is not valid yet",
        "see whether the clocks of both sides are right",
    ),
    (
        "Hostname Verification Check failed",
        "its certificate is for another address",
        "call it by one that its subjectAltName has, or have another made for this one",
    ),
    (
        "CERTIFICATE_VERIFY_FAILED",
        "its certificate is not of the authority in --tls-ca",
        "give both sides certificates of one authority",
    ),
)
_CLOSED = "Socket closed"
_REFUSED = {
    False: (
        "it hung up on a caller without a certificate",
        "if it speaks TLS, give this side --tls-cert, --tls-key and --tls-ca as well",
    ),
    True: (
        "it hung up on the certificate it was shown",
        "see whether that has expired, and is of the authority in its own --tls-ca",
    ),
}


class CredentialsInvalid(Exception):
    """The files of a certificate cannot be used."""


def not_connected(address: str, said: str, credentials: Credentials | None) -> HostUnreachable:
    """Returns why nobody answered, as far as gRPC has told."""
    for sign, why, advice in _MISTAKES:
        if sign in said:
            return HostRefused(address=address, why=why, advice=advice, said=said)
    if _NOT_CONNECTED in said and _CLOSED in said:
        why, advice = _REFUSED[credentials is not None]
        return HostRefused(address=address, why=why, advice=advice, said=said)
    return HostUnreachable(address=address, said=said)


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """What is shown to peers, and what peers must show; all of it PEM."""

    certificate: bytes
    key: bytes = field(repr=False)
    authority: bytes

    def for_server(self) -> grpc.ServerCredentials:
        """Returns what a server needs: whoever calls must show a certificate."""
        return grpc.ssl_server_credentials(
            [(self.key, self.certificate)], self.authority, require_client_auth=True
        )

    def for_channel(self) -> grpc.ChannelCredentials:
        """Returns what a client needs: the server's certificate must name the address called."""
        return grpc.ssl_channel_credentials(self.authority, self.key, self.certificate)


def read_credentials(cert: Path | None, key: Path | None, ca: Path | None) -> Credentials | None:
    """Returns the credentials of three files; None when none of them is named.

    Raises:
        CredentialsInvalid: Only some are named, or they cannot be used together.
    """
    if cert is None and key is None and ca is None:
        return None
    if cert is None or key is None or ca is None:
        raise CredentialsInvalid("--tls-cert, --tls-key and --tls-ca belong together: give all")
    credentials = Credentials(
        certificate=_read("--tls-cert", cert),
        key=_read("--tls-key", key),
        authority=_read("--tls-ca", ca),
    )
    _check_pair(cert, key)
    _check_certificates("--tls-ca", ca)
    return credentials


def _read(option: str, file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise CredentialsInvalid(f"{option} {file}: {error.strerror or error}") from error


def _check_certificates(option: str, file: Path) -> None:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(file)
    except OSError as error:  # ssl.SSLError is one, too
        why = "there is no certificate in it that can be read, as PEM"
        raise CredentialsInvalid(f"{option} {file}: {why}") from error


def _check_pair(cert: Path, key: Path) -> None:
    """Raises for what gRPC would only say at the first call, and not what it is."""
    _check_certificates("--tls-cert", cert)
    try:
        # No key of a service has a password.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key, password="")
    except ssl.SSLError as error:
        if not error.reason:  # what could be read of the one, and not of the other
            why = "there is no private key in it that can be read, as PEM without a password"
            raise CredentialsInvalid(f"--tls-key {key}: {why}") from error
        if error.reason == "KEY_VALUES_MISMATCH":
            raise CredentialsInvalid(f"--tls-key {key} is not of --tls-cert {cert}") from error
        raise CredentialsInvalid(f"--tls-cert {cert}, --tls-key {key}: {error.strerror}") from error
