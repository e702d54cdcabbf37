"""Signatures as Standard Webhooks say, so that receivers can check them with a ready library.

What is signed is `id.timestamp.body`, by HMAC-SHA256 under the secret's bytes.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections.abc import Iterable

from coordinator.runtime.webhooks import SECRET_PREFIX

SECRET_BYTES = 32


def new_secret() -> str:
    """Returns a fresh secret."""
    return SECRET_PREFIX + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


def signed_headers(
    signers: Iterable[str], message_id: str, time_s: int, body: bytes
) -> dict[str, str]:
    """Returns the headers that sign a body, once for each secret: one that fits is enough."""
    signed = f"{message_id}.{time_s}.".encode() + body
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(time_s),
        "webhook-signature": " ".join(f"v1,{_sign(secret, signed)}" for secret in signers),
    }


def _sign(secret: str, signed: bytes) -> str:
    key = base64.b64decode(secret.removeprefix(SECRET_PREFIX))
    return base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
