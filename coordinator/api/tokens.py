"""Capability tokens: what proves the right to report on a task. Nothing of them is stored.

A token is bound to the task and its owner, by a key that only the store holds. It stays the same
through every attempt and restart; what it may do ends with the attempt that a report is about.
"""

from __future__ import annotations

import base64
import hashlib
import hmac


class Tokens:
    """Makes tokens, and knows its own again."""

    def __init__(self, key: str) -> None:
        """Keeps the store's key."""
        self._key = key.encode()

    def of(self, owner: str, task: str) -> str:
        """Returns the token of a task, workflows/{workflow}/tasks/{task}."""
        text = f"external-task\0{owner}\0{task}".encode()
        digest = hmac.digest(self._key, text, hashlib.sha256)
        return base64.urlsafe_b64encode(digest).decode().rstrip("=")

    def is_of(self, token: str, owner: str, task: str) -> bool:
        """Returns whether a token is a task's, in a time that tells nothing."""
        return hmac.compare_digest(token.encode(), self.of(owner, task).encode())
