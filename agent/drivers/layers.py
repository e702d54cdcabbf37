"""The layers of a qcow2 image: data files that lie under the one that is written to.

A snapshot is a layer with a name: what the image held became its own, and the image went on in an
overlay on it. Going back to one begins another overlay, so layers form a tree. One without a name
belongs to a snapshot that is gone; it stays while two or more read through it, since taking it away
would make a copy of what it holds for each of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from countermand.rpc import names


class Layer(NamedTuple):
    """A data file that nobody writes to any more."""

    content: str  # token of the data file
    below: str | None  # token of the layer that it reads through, if any
    snapshot_id: str  # empty once the snapshot is gone
    cluster_id: str  # of the snapshot, as is the attempt
    attempt: str
    create_time: str  # ISO 8601
    generation: int  # of the content
    virtual_size_bytes: int
    digest: str = ""

    @classmethod
    def decode(cls, fields: Sequence[Any]) -> Layer:
        """Reads what a label says of a layer; its tokens are checked by the label.

        Raises:
            ValueError: It says of no layer.
        """
        layer = cls(*fields)
        datetime.fromisoformat(layer.create_time)
        if layer.snapshot_id and not names.is_id(layer.snapshot_id):
            raise ValueError(layer.snapshot_id)
        if not all(isinstance(n, int) for n in (layer.generation, layer.virtual_size_bytes)):
            raise ValueError(layer)
        return layer


def named(layers: Sequence[Layer], snapshot_id: str) -> Layer | None:
    """Returns the layer that a snapshot is kept as."""
    return next((layer for layer in layers if layer.snapshot_id == snapshot_id), None)


def with_content(layers: Sequence[Layer], content: str | None) -> Layer | None:
    """Returns the layer of a data file."""
    return next((layer for layer in layers if layer.content == content), None)


def readers(layers: Sequence[Layer], top: str | None, content: str) -> int:
    """Returns how many read through a layer, the image itself included; `top` lies below that."""
    return sum(below == content for below in (top, *(layer.below for layer in layers)))


def spare(layers: Sequence[Layer], top: str | None) -> Layer | None:
    """Returns a layer that is to go: of no snapshot, with one reader to merge it into, or none."""
    return next(_spare(layers, top), None)


def _spare(layers: Sequence[Layer], top: str | None) -> Iterator[Layer]:
    for readers_max in (0, 1):  # what goes without a merge makes others go without one
        for layer in layers:
            if not layer.snapshot_id and readers(layers, top, layer.content) <= readers_max:
                yield layer


def without(layers: Sequence[Layer], gone: Layer) -> tuple[Layer, ...]:
    """Returns the layers when one has been merged into its reader, which reads what it read."""
    return tuple(
        layer._replace(below=gone.below) if layer.below == gone.content else layer
        for layer in layers
        if layer is not gone
    )
