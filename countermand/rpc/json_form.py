"""Reads the contract's JSON from whoever wrote it: one error, whatever is wrong with it."""

from __future__ import annotations

from typing import TypeVar

from google.protobuf import json_format
from google.protobuf.message import Message

Read = TypeVar("Read", bound=Message)


class UnreadableError(Exception):
    """A text that is not the message that it should be, with why."""


def read(text: bytes, kind: type[Read], *, leave_out_unknown: bool = False) -> Read:
    """Returns the message that a text says.

    Raises:
        UnreadableError: It says none, or names a field that is none, unless those are left out.
    """
    # The library takes whatever can be walked through, as in `[]`, for a message without fields.
    if not text.lstrip(b" \t\r\n").startswith(b"{"):
        raise UnreadableError("it is no JSON object")
    try:
        return json_format.Parse(text, kind(), ignore_unknown_fields=leave_out_unknown)
    except (json_format.ParseError, UnicodeDecodeError, RecursionError) as error:
        raise UnreadableError(str(error)[:500]) from None
