"""Which paths an input has, or a spec asks it for: a value anywhere else is a slip. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from countermand.client.spec_json import Json

Path = tuple[str, ...]

EACH = "*"  # any item of a list
_FOR_EACH = ("for_each", "forEach")


def unknown(key: str, input_: Json, spec: Json) -> str:
    """Returns what to say of a key that neither the input has nor the spec asks for, or nothing."""
    from countermand.client.spec_fields import near

    here = _path(key)
    lists = set(_lists(spec))
    asked = set(_asked(spec, lists))
    items = {(*path, EACH) for path, _ in lists}
    # A list that is only gone through says nothing of its items' fields, so those are known alone
    # when anything of its items is.
    known = asked | set(_leaves(input_, ())) | {path for path in items if not _below(path, asked)}
    if any(_fits(here, path) for path in known):
        return ""
    words = {".".join("0" if step == EACH else step for step in path) for path in known}
    meant = near(key, sorted(words)) or _listed(words)
    return f"there is no such field{meant}"


def _path(key: str) -> Path:
    return tuple(EACH if step.isdecimal() else step for step in key.split("."))


def _fits(given: Path, known: Path) -> bool:
    """Returns whether one leads to the other: a whole object, or a part of what is one."""
    return all(ours == theirs for ours, theirs in zip(given, known, strict=False))


def _below(path: Path, paths: set[Path]) -> bool:
    return any(len(path) < len(one) and one[: len(path)] == path for one in paths)


def _listed(words: set[str]) -> str:
    return f": the workflow takes {', '.join(sorted(words)) or 'no input'}"


def _leaves(value: Json, path: Path) -> Iterator[Path]:
    match value:
        case dict() if value:
            for name, inner in value.items():
                yield from _leaves(inner, (*path, name))
        case list() if value:
            for inner in value:
                yield from _leaves(inner, (*path, EACH))
        case _ if path:
            yield path
        case _:
            pass


def _lists(spec: Json) -> Iterator[tuple[Path, str]]:
    """Yields the lists that groups go through, each with the word for its items."""
    for holder in _objects(spec):
        for_each = next((holder[name] for name in _FOR_EACH if name in holder), None)
        if not isinstance(for_each, dict):
            continue
        zipped = for_each.get("zip")
        words = [(for_each.get("item"), for_each.get("items"))]
        words += zipped.items() if isinstance(zipped, dict) else ()
        for word, source in words:
            if isinstance(source, str) and source.startswith("input."):
                yield _path(source.removeprefix("input.")), str(word)


def _asked(spec: Json, lists: set[tuple[Path, str]]) -> Iterator[Path]:
    """Yields the paths that bindings and conditions name, also by the words for items."""
    through = {path for path, _ in lists}
    for text in _texts(spec):
        if text.startswith("input."):
            path = _path(text.removeprefix("input."))
            if path not in through:
                yield path
        for path, word in lists:
            if text == word or text.startswith(f"{word}."):
                yield (*path, EACH, *_path(text)[1:])


def _objects(value: Json) -> Iterator[dict[str, Json]]:
    if isinstance(value, dict):
        yield value
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _objects(inner)


def _texts(value: Json) -> Iterator[str]:
    """Yields every text of a spec but the word that a group gives to its items."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)
    elif isinstance(value, dict):
        for name, inner in value.items():
            if name != "item":
                yield from _texts(inner)
