"""The label of an image: whose it is, what it is, and which of the files beside it hold its data.

It lies in the image's folder as `image.json`, and is replaced by one rename: whatever changes an
image is seen in one moment, by its new label. The names of snapshots and data files are here too,
since labels are where they are kept.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import NamedTuple

from agent.drivers.driver import Format
from agent.drivers.layers import Layer
from countermand.rpc import names

AT = "@"  # between an image's id and its snapshot's; no id contains one

_CONTENT = re.compile(r"([0-9a-f]{16})?")
# Of a label: left out while they say nothing, so that an agent that knows no changes can read it.
_OF_CHANGES = ("content", "replaced", "below", "layers", "changes", "made_up_for")

# Beyond this the oldest are forgotten, and can no longer be made up for.
CHANGES_MAX = 64


class Change(NamedTuple):
    """An effect on an image that stands since it was made."""

    cluster_id: str
    attempt: str
    generation: int  # the image's after it
    size_bytes: int = 0  # before a resize; 0 of a revert
    digest: str = ""  # before a resize


def snapshot_name(image_id: str, snapshot_id: str) -> str:
    """Returns the name under which a snapshot is kept beside its image."""
    return f"{image_id}{AT}{snapshot_id}"


def layer_name(image_id: str, layer: Layer) -> str:
    """Returns the name of a layer: its snapshot's, or one that no snapshot can have."""
    if layer.snapshot_id:
        return snapshot_name(image_id, layer.snapshot_id)
    return f"{image_id}{AT}{AT}{layer.content}"


def content_of(attempt: str) -> str:
    """Returns the token of the data file that an attempt puts in the place of another."""
    return hashlib.blake2b(attempt.encode(), digest_size=8).hexdigest()


def data_names(content: str) -> tuple[str, ...]:
    """Returns the names that a data file with this token may have."""
    return tuple(f"data.{content}.{form}" if content else f"data.{form}" for form in Format)


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """What is kept beside an image's data."""

    cluster_id: str
    attempt: str  # that made it; empty of an import
    create_time: str  # ISO 8601
    format: Format
    virtual_size_bytes: int
    written_bytes: int
    generation: int = 1
    digest: str = ""
    backing: str = ""  # the image that a qcow2 overlay reads through
    shared: bool = False
    content: str = ""  # token of the data file that is meant; empty for the image's first
    replaced: str = ""  # token of the one before, which may not have been removed yet
    below: str | None = None  # token of the layer that it reads through, if any
    layers: tuple[Layer, ...] = ()  # the other data files of the same image, each kept for a reason
    changes: tuple[Change, ...] = ()  # the reverts and resizes that stand, oldest first
    made_up_for: Change | None = None  # the last one that does not any more

    @property
    def moved_by(self) -> str:
        """Returns the attempt that moved the generation to where it is; empty of an import.

        What made up for one is told by the name of that one: its number is not kept.
        """
        for change in reversed(self.changes):
            if change.generation == self.generation:
                return change.attempt
        return self.made_up_for.attempt if self.made_up_for else self.attempt

    @property
    def data_name(self) -> str:
        """Returns the name of the data file that is meant."""
        return f"data.{self.content}.{self.format}" if self.content else f"data.{self.format}"

    @property
    def contents(self) -> frozenset[str]:
        """Returns the tokens of all data files that are meant."""
        return frozenset({self.content, *(layer.content for layer in self.layers)})

    @property
    def data_names(self) -> frozenset[str]:
        """Returns the names of all data files that are meant."""
        return frozenset(replace(self, content=content).data_name for content in self.contents)

    def of_layer(self, layer: Layer) -> Label:
        """Returns what would be the label of a layer, if it had one of its own."""
        return replace(
            self,
            cluster_id=layer.cluster_id,
            attempt=layer.attempt,
            create_time=layer.create_time,
            virtual_size_bytes=layer.virtual_size_bytes,
            written_bytes=0,
            generation=layer.generation,
            digest=layer.digest,
            content=layer.content,
            below=layer.below,
            replaced="",
            changes=(),
            made_up_for=None,
        )

    def encode(self) -> bytes:
        """Returns the file's content."""
        fields = asdict(self)
        # Of a revert only what an agent that knows no resizes can read.
        fields["changes"] = [_plain(change) for change in self.changes]
        fields["made_up_for"] = self.made_up_for and _plain(self.made_up_for)
        for name in _OF_CHANGES:
            if fields[name] in ("", None, (), []) and not (name == "below" and fields[name] == ""):
                del fields[name]
        return json.dumps(fields, indent=1).encode()

    @classmethod
    def decode(cls, data: bytes) -> Label:
        """Reads the file's content.

        Raises:
            ValueError: It is not a label.
        """
        try:
            fields = json.loads(data)
            changes = [Change(*change) for change in fields.pop("changes", ())]
            undone = fields.pop("made_up_for", None)
            layers = [Layer.decode(layer) for layer in fields.pop("layers", ())]
            label = cls(
                **{**fields, "format": Format(fields["format"])},
                layers=tuple(layers),
                changes=tuple(changes),
                made_up_for=Change(*undone) if undone else None,
            )
            datetime.fromisoformat(label.create_time)
            if label.backing and not names.is_id(label.backing):
                raise ValueError(label.backing)
            sizes = (label.virtual_size_bytes, label.written_bytes, label.generation)
            if not all(isinstance(size, int) for size in sizes):
                raise ValueError(sizes)
            found = (label.below, *(layer.below for layer in layers))
            below = [content for content in found if content is not None]
            tokens = [label.content, label.replaced, *below, *(layer.content for layer in layers)]
            if not all(map(_CONTENT.fullmatch, tokens)):
                raise ValueError(tokens)
            if not {*below} <= {layer.content for layer in layers} - {label.content}:
                raise ValueError(below)
        except (KeyError, TypeError) as error:
            raise ValueError(str(error)) from error
        return label


def with_change(label: Label, change: Change) -> Label:
    """Returns an image's label after one more change, which moves its generation on."""
    changes = (*label.changes, change)[-CHANGES_MAX:]
    return replace(label, generation=change.generation, changes=changes)


def change_of(label: Label, cluster_id: str, attempt: str) -> Change | None:
    """Returns the effect of exactly that attempt of the same cluster, if it stands."""
    for change in label.changes:
        if (change.cluster_id, change.attempt) == (cluster_id, attempt):
            return change
    return None


def _plain(change: Change) -> Change | tuple[str, str, int]:
    return change if change.size_bytes else change[:3]
