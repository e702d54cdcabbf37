"""Reads what somebody has typed, numbers and JSON: what is none is a ValueError, however long."""

from __future__ import annotations

import json
import math
import re
from typing import Any, Final

EXACT: Final = 2**53  # the numbers of JSON are whole up to here
_WHOLE: Final = re.compile(r"-?[0-9]{1,19}")
_NUMBER: Final = re.compile(r"-?[0-9]{1,400}(\.[0-9]{1,400})?([eE][+-]?[0-9]{1,4})?")
_INT64: Final = range(-(2**63), 2**63)


def whole(text: str) -> int | str:
    """Returns a whole number; a large one as JSON writes them: as a text."""
    if not _WHOLE.fullmatch(text) or int(text) not in _INT64:
        raise ValueError(f"{text[:40]!r} is no whole number")
    return int(text) if abs(int(text)) < EXACT else text


def number(text: str) -> float:
    """Returns a number that JSON can say."""
    found = float(text) if _NUMBER.fullmatch(text) else math.nan
    if not math.isfinite(found):
        raise ValueError(f"{text[:40]!r} is no number")
    return found


def json_object(text: str) -> dict[str, Any]:
    """Returns a JSON object, with no number in it that no message can hold."""
    try:
        value = json.loads(text, parse_int=_held, parse_float=_held, parse_constant=_held)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ValueError("is not a JSON object")  # noqa: TRY004 - as of what is no JSON at all
    return value


def _held(text: str) -> float:
    return number(text)
