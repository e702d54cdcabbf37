"""The proof: what is in the pools, byte for byte, before and after.

Reads the files themselves and trusts no record of Countermand's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

BLOCK: Final = 512  # the unit of st_blocks, whatever the file system's own
DIGITS: Final = 12  # of a digest, for people; comparisons use all
THREADS: Final = 4
FOLDER: Final = "folder"


@dataclass(frozen=True, slots=True, order=True)
class Entry:
    """One file or folder in a pool."""

    path: str
    size_bytes: int
    allocated_bytes: int
    digest: str

    @property
    def short(self) -> str:
        """Returns the first digits of the digest."""
        return self.digest[:DIGITS]


@dataclass(frozen=True, slots=True)
class Listing:
    """Everything in all pools, in order of paths."""

    entries: tuple[Entry, ...]

    @property
    def digest(self) -> str:
        """Returns one digest over all of it: paths, sizes, allocation and content."""
        text = "\n".join(
            f"{e.path}\0{e.size_bytes}\0{e.allocated_bytes}\0{e.digest}" for e in self.entries
        )
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def files(self) -> tuple[Entry, ...]:
        """Returns the files, folders left out."""
        return tuple(entry for entry in self.entries if entry.digest != FOLDER)

    def differences(self, other: Listing) -> list[str]:
        """Returns what differs in another listing, one line each."""
        mine, theirs = ({e.path: e for e in listing.entries} for listing in (self, other))
        lines = [f"gone: {path}" for path in sorted(mine.keys() - theirs.keys())]
        lines += [f"new: {path}" for path in sorted(theirs.keys() - mine.keys())]
        changed = [path for path in mine.keys() & theirs.keys() if mine[path] != theirs[path]]
        return lines + [f"changed: {path}" for path in sorted(changed)]


def take(pools: Mapping[str, Path]) -> Listing:
    """Returns what is in pools now, each file read to its end."""
    found = [
        (f"{pool_id}/{path.relative_to(folder).as_posix()}", path)
        for pool_id, folder in pools.items()
        for path in folder.rglob("*")
    ]
    with ThreadPoolExecutor(THREADS) as pool:
        entries = list(pool.map(lambda named: _entry(*named), found))
    return Listing(tuple(sorted(entries)))


def digest_of(path: Path) -> str:
    """Returns the SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def unequal(pairs: Sequence[tuple[Path, Path]]) -> list[str]:
    """Returns the copies that are not equal to their sources, by content."""
    with ThreadPoolExecutor(THREADS) as pool:
        digests = list(pool.map(digest_of, [path for pair in pairs for path in pair]))
    return [
        copy.name
        for (_, copy), source, made in zip(pairs, digests[::2], digests[1::2], strict=True)
        if source != made
    ]


def _entry(name: str, path: Path) -> Entry:
    if path.is_dir():  # its own size is the file system's business
        return Entry(name, 0, 0, FOLDER)
    status = path.stat()
    return Entry(name, status.st_size, status.st_blocks * BLOCK, digest_of(path))
