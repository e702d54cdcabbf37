"""Page tokens: the key of the last workflow on a page; opaque to those who hand them back."""

from __future__ import annotations

DIGITS_MAX = 18  # fits 64 bits


def key_from(token: str) -> int:
    """Returns the key that a token says."""
    if not (token.isascii() and token.isdigit() and len(token) <= DIGITS_MAX):
        raise ValueError(f"{token!r} is not the token of a page")
    return int(token)
