"""Numbers and names in words, as drawings show them. Pure."""

from __future__ import annotations

from typing import Final

# The family that pools are configured in, everywhere: no reader should have to convert.
_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_STEP: Final = 1024

PERCENT: Final = "percent"
PARTS: Final = "parts"  # what owners count by hand, unless they say what it is

# What an attempt did, by its verb: "copied 158 MiB". Others say the outcome's word.
_DONE: Final = {
    "create_image": "created",
    "copy_image": "copied",
    "clone_image": "cloned",
    "delete_image": "deleted",
    "resize_image": "resized",
    "create_snapshot": "snapshot taken",
    "delete_snapshot": "snapshot deleted",
    "revert_image": "reverted",
    "verify_image": "verified",
}


def size(amount: float) -> str:
    """Returns a size in three digits that matter: "158 MiB", "1.24 GiB"."""
    power = 0
    while amount >= _STEP - 0.5 and power < len(_UNITS) - 1:
        amount /= _STEP
        power += 1
    digits = 0 if power == 0 or amount >= 100 else 1 if amount >= 10 else 2  # noqa: PLR2004 - three digits
    return f"{amount:.{digits}f} {_UNITS[power]}"


def duration(seconds: float) -> str:
    """Returns a duration with two figures that matter: "40 ms", "4.8 s", "3 min 20 s"."""
    for limit, text in (
        (0.0995, f"{seconds * 1000:.0f} ms"),
        (9.95, f"{seconds:.1f} s"),
        (59.5, f"{seconds:.0f} s"),
    ):
        if seconds < limit:
            return text
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = ((days, "d"), (hours, "h"), (minutes, "min"), (seconds, "s"))
    return " ".join(f"{number} {unit}" for number, unit in parts if number)


def count(number: int, noun: str) -> str:
    """Returns a number with its noun: "1 task", "3 tasks"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def listing(words: list[str]) -> str:
    """Returns words as a sentence has them: "a, b and c"."""
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1]))) if words else ""


def some(words: list[str], most: int = 3) -> str:
    """Returns the first of some words, and how many more there are: "a, b, c and 2 others"."""
    more = len(words) - most
    return listing(words if more < 1 else [*words[:most], count(more, "other")])


def on(place: str, *, is_owner: bool = False) -> str:
    """Returns where something is, as the end of some words: " on host-a", " with acme"."""
    return f" {'with' if is_owner else 'on'} {place}" if place else ""


def places(hosts: int, owners: int) -> str:
    """Returns where a workflow ran: "2 hosts", "1 host, 2 owners", "1 owner"; empty: nowhere."""
    parts = [count(hosts, "host")] if hosts else []
    return ", ".join([*parts, *([count(owners, "owner")] if owners else [])])


def on_places(hosts: int, owners: int) -> str:
    """Returns the same as a sentence has it: "on 1 host and with 2 owners"."""
    parts = [f"on {count(hosts, 'host')}"] if hosts else []
    return " and ".join([*parts, *([f"with {count(owners, 'owner')}"] if owners else [])])


def amount(number: int, unit: str) -> str:
    """Returns an amount of work: "158 MiB", "60%", "12 volumes"."""
    if unit == "bytes":
        return size(number)
    if not unit:  # nobody has said what it is
        return str(number)
    if number == 1 and unit == PARTS:
        return "1 part"
    return f"{number}%" if unit == PERCENT else f"{number} {unit}"


_KEPT: Final = {
    "STOPPED": "kept, as its policy says",
    "NOT_REMOVED": "it was to be removed",
    "ABANDONED": "abandoned",
}


def kept(reason: str) -> str:
    """Returns why an effect was left: by the rules, or in the words of who decided so."""
    return _KEPT.get(reason, reason)


# What to do about an effect that was left, by why it was: nothing removes it by itself.
_TO_DO: Final = {
    "STOPPED": "Its policy keeps it: use it, or remove it by hand.",
    "NOT_REMOVED": "It was to be removed: do that by hand.",
}


def about_leftover(reason: str) -> str:
    """Returns what to do about an effect that was left."""
    return _TO_DO.get(reason, "It was given up: remove it by hand, once that is possible.")


def did(verb: str) -> str:
    """Returns the past of a verb, or nothing for one we do not know."""
    return _DONE.get(verb, "")


def why(message: str) -> str:
    """Returns the cause in a message: its first sentence, to be put behind a colon.

    Messages say what happened first, and what to do next in the sentences after it.
    """
    first = message.split(". ", 1)[0].rstrip(".")
    return first[:1].lower() + first[1:] if first[1:2].islower() else first


def clip(text: str, width: int) -> str:
    """Returns a text that fits, with an ellipsis where it was cut."""
    return text if len(text) <= width else text[: max(width - 1, 0)] + "…"
