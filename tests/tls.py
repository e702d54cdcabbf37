"""A throw-away authority for tests: makes certificates with the openssl command."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from countermand.rpc.credentials import Credentials, read_credentials

needs_openssl = pytest.mark.skipif(
    shutil.which("openssl") is None, reason="openssl is not installed: apt install openssl"
)

_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")


@dataclass(frozen=True, slots=True)
class Certificate:
    """Files of one service."""

    cert: Path
    key: Path
    ca: Path

    @property
    def options(self) -> tuple[str, ...]:
        """Returns what a service is told on its command line."""
        return (f"--tls-cert={self.cert}", f"--tls-key={self.key}", f"--tls-ca={self.ca}")

    def read(self) -> Credentials:
        """Returns what a client of the tests needs."""
        credentials = read_credentials(self.cert, self.key, self.ca)
        assert credentials is not None
        return credentials


class Authority:
    """Signs certificates that are good for loopback addresses."""

    def __init__(self, folder: Path) -> None:
        """Makes its own."""
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.ca = folder / "ca-cert.pem"
        _openssl(
            *("req", "-x509", *_NEW_KEY, "-days", "2", "-subj", "/CN=throw-away"),
            *("-keyout", folder / "ca-key.pem", "-out", self.ca),
        )

    def certificate(
        self, name: str, *, days: int = 2, names_what: str = "DNS:localhost,IP:127.0.0.1"
    ) -> Certificate:
        """Returns a new certificate."""
        cert, key = self._folder / f"{name}-cert.pem", self._folder / f"{name}-key.pem"
        request, names = self._folder / f"{name}.csr", self._folder / f"{name}.ext"
        names.write_text(f"subjectAltName={names_what}\n")
        _openssl(
            *("req", *_NEW_KEY, "-subj", f"/CN={name}", "-keyout", key, "-out", request),
        )
        _openssl(
            *("x509", "-req", "-in", request, "-CA", self.ca, "-days", days),
            *("-CAkey", self._folder / "ca-key.pem", "-CAcreateserial"),
            *("-extfile", names, "-out", cert),
        )
        return Certificate(cert, key, self.ca)


def _openssl(*arguments: object) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)
