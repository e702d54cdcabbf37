"""A long sequence that never changes, and a draft of what follows it: a change copies a piece.

A workflow may have ten thousand nodes, and a decision changes two or three of them. Were all of
them copied each time, that would be most of what a decision costs, and a batch of decisions would
hold as many copies. A short sequence is a plain tuple: copying that is cheaper than being clever.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import TypeVar, overload

T = TypeVar("T")

SHORT_MAX = 512  # up to here a whole copy takes about as long as a few steps of a decision
PIECE = 128  # about the square root of the longest: as many in a piece as there are pieces


class Pieces(Sequence[T]):
    """A sequence that shares with others what is the same in them."""

    __slots__ = ("_length", "pieces")

    def __init__(self, pieces: tuple[tuple[T, ...], ...]) -> None:
        """Keeps its pieces: each but the last is full."""
        self.pieces = pieces
        self._length = PIECE * (len(pieces) - 1) + len(pieces[-1])

    @overload
    def __getitem__(self, at: int) -> T: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[T]: ...
    def __getitem__(self, at: int | slice) -> T | Sequence[T]:
        """Returns one or some."""
        return _get(self.pieces, self._length, at)

    def __len__(self) -> int:
        """Returns how many there are."""
        return self._length

    def __iter__(self) -> Iterator[T]:
        """Yields them in order."""
        return chain.from_iterable(self.pieces)

    def __eq__(self, other: object) -> bool:
        """Returns whether another sequence holds the same; those that share much are quick."""
        if isinstance(other, Pieces):
            return self.pieces == other.pieces
        return tuple(self) == other if isinstance(other, tuple) else NotImplemented

    def __hash__(self) -> int:
        """Returns what is the same for equal ones."""
        return hash(tuple(self))

    def __repr__(self) -> str:
        """Returns what a tuple of the same would show."""
        return repr(tuple(self))


class PiecesDraft(Sequence[T]):
    """What is to follow pieces; each is copied when something in it is first replaced."""

    __slots__ = ("_length", "_lists", "_pieces")

    def __init__(self, before: Sequence[T]) -> None:
        """Begins with everything as it was."""
        if isinstance(before, Pieces):
            self._pieces: list[Sequence[T]] = list(before.pieces)
        else:
            firsts = range(0, len(before), PIECE)
            self._pieces = [tuple(before[first : first + PIECE]) for first in firsts]
        self._length = len(before)
        self._lists: dict[int, list[T]] = {}  # the pieces that are copies, by their place

    @overload
    def __getitem__(self, at: int) -> T: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[T]: ...
    def __getitem__(self, at: int | slice) -> T | Sequence[T]:
        """Returns one or some, as they now are."""
        return _get(self._pieces, self._length, at)

    def __setitem__(self, at: int, value: T) -> None:
        """Replaces one."""
        place, within = divmod(at if at >= 0 else at + self._length, PIECE)
        if place not in self._lists:
            self._pieces[place] = self._lists[place] = list(self._pieces[place])
        self._lists[place][within] = value

    def append(self, value: T) -> None:
        """Adds one."""
        place = self._length // PIECE
        if place == len(self._pieces):
            self._pieces.append(())
        if place not in self._lists:
            self._pieces[place] = self._lists[place] = list(self._pieces[place])
        self._lists[place].append(value)
        self._length += 1

    def __len__(self) -> int:
        """Returns how many there are."""
        return self._length

    def __iter__(self) -> Iterator[T]:
        """Yields them in order, as they now are."""
        return chain.from_iterable(self._pieces)

    def sealed(self) -> Pieces[T]:
        """Returns what it has become."""
        pieces = list(self._pieces)
        for place, changed in self._lists.items():
            pieces[place] = tuple(changed)
        return Pieces(tuple(map(tuple, pieces)))  # a tuple stays the same one


def _get(pieces: Sequence[Sequence[T]], length: int, at: int | slice) -> T | Sequence[T]:
    if isinstance(at, int):
        place, within = divmod(at if at >= 0 else at + length, PIECE)
        return pieces[place][within]
    first, end, step = at.indices(length)
    if step != 1:
        return [pieces[i // PIECE][i % PIECE] for i in range(first, end, step)]
    begin = first // PIECE
    some = tuple(chain.from_iterable(pieces[begin : end // PIECE + 1]))
    return some[first - begin * PIECE : max(first, end) - begin * PIECE]


Draft = list[T] | PiecesDraft[T]


def draft(before: Sequence[T]) -> Draft[T]:
    """Returns what may be changed, and begins as something is."""
    return list(before) if len(before) <= SHORT_MAX else PiecesDraft(before)


def sealed(changed: Draft[T]) -> Sequence[T]:
    """Returns what a draft has become; it changes no more."""
    return tuple(changed) if isinstance(changed, list) else changed.sealed()
