"""Who a service is, and whom it believes: certificate, key, and the authority over both sides.

Both sides of a connection show a certificate of that authority, or there is no connection. With
none of it a service speaks in the clear, and only on this machine's own addresses.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from pathlib import Path

import grpc


class CredentialsInvalid(Exception):
    """The files of a certificate cannot be used."""


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
    checked = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # gRPC would only say at the first call that something is wrong, and not what.
        checked.load_cert_chain(cert, key, password="")  # no key of a service has one
        checked.load_verify_locations(ca)
        return Credentials(
            certificate=cert.read_bytes(), key=key.read_bytes(), authority=ca.read_bytes()
        )
    except OSError as error:  # ssl.SSLError is one, too
        why = error.strerror or str(error)
        raise CredentialsInvalid(
            f"--tls-cert {cert}, --tls-key {key}, --tls-ca {ca}: {why}"
        ) from error
