"""Where an image ends: its label says so, and its data may say otherwise.

Data that is longer than its label says is a resize that was cut short, and reads as zeros there; or
somebody else has made the image larger, and what is there is a guest's. Whoever would pass on the
image up to the end that its label names must ask here first, or the rest would be lost unseen.

A qcow2 file ends where its tables say: of one that was cut off a reader would see zeros in the
place of what is missing, and never know.
"""

from __future__ import annotations

from contextlib import suppress

from agent.drivers import qemu
from agent.drivers.content import FileContent, holds_data
from agent.drivers.driver import Format
from agent.drivers.label import AT, Label
from agent.drivers.layers import spare
from agent.drivers.staging import Staging
from countermand.rpc.errors import ImageDamaged, ImageInUse, VerbUnsupported

_BEYOND = (
    "there is data beyond the size of its label, {label} of {size} bytes: somebody else has made it"
    " larger; import its file as a new image"
)
_MISSING = "it was cut off: of its tables {missing} bytes are missing"


class Ends:
    """The ends of one pool's images."""

    def __init__(self, staging: Staging) -> None:
        """Looks at the pool's images; changes nothing."""
        self._staging = staging
        self._layout = staging.layout

    def need(self, name: str, label: Label) -> None:
        """Makes sure that an image, or a snapshot by its name, is whole, and ends as it says.

        Raises:
            ImageUnsafe: It ends before, or there is something beyond.
            ImageDamaged: A part of its file is missing, or makes no sense.
            ImageInUse: Somebody has its file open to write.
        """
        self._layout.chain(name, label)  # what the tool would open beside it
        self.need_whole(name, label)
        self._need_end(name, label)

    def _need_end(self, name: str, label: Label) -> None:
        end = label.virtual_size_bytes
        if self.holds_data(name, label, end):
            why = _BEYOND.format(label=end, size=self._layout.size(name, label))
            raise self._layout.unsafe(name, why)

    def need_chain(self, name: str, label: Label) -> None:
        """Makes sure of an image and of all that it reads through: what grew there shows through.

        Raises:
            ImageUnsafe: One of them ends elsewhere than its label says, or is not safe otherwise.
            ImageDamaged: A part of one of them is missing, or makes no sense.
            ImageInUse: Somebody has one of them open to write.
        """
        # From the bottom: what is wrong there would be told of all that read through it.
        for below in (*reversed(self._layout.chain(name, label)), name):
            each = label if below == name else self._layout.label(below)
            self.need_whole(below, each)
            self._need_end(below, each)

    def need_unused(self, name: str, label: Label) -> None:
        """Makes sure that nobody has an image open to write; it need not be whole.

        Raises:
            ImageInUse: Somebody has.
        """
        with suppress(ImageDamaged):
            self.need_whole(name, label)

    def need_whole(self, name: str, label: Label) -> None:
        """Makes sure of one qcow2 file alone, without the tool of its tables' ends only.

        Raises:
            ImageDamaged: A part of it is missing, or makes no sense.
            ImageInUse: Somebody has it open to write.
        """
        if label.format is not Format.QCOW2:
            return
        path, _ = self._layout.data(name, label)
        pool_id = self._staging.config.pool_id
        if missing := self._layout.missing_bytes(name, label):
            raise ImageDamaged(image=name, pool=pool_id, why=_MISSING.format(missing=missing))
        if not qemu.is_installed():
            return
        try:
            qemu.to_end(qemu.check(path, image=name, pool=pool_id))
        except ImageInUse:
            if not self._is_merged(name.partition(AT)[0]):
                raise

    def _is_merged(self, image_id: str) -> bool:
        """Returns whether it may be us who write to an image's files: what is read stays."""
        label = self._layout.owner(image_id)
        return label is not None and spare(label.layers, label.below) is not None

    def holds_data(self, name: str, label: Label, begin: int) -> bool:
        """Returns whether anything but zeros is there: data is told of in whole blocks."""
        path, found = self._layout.data(name, label)
        if self._layout.size(name, label) <= begin:
            return False
        if label.format is Format.QCOW2:
            if not qemu.is_installed():
                raise VerbUnsupported(
                    pool=self._staging.config.pool_id,
                    verb="a look beyond the end of an image",
                    why=qemu.MISSING,
                )
            return qemu.holds_data(path, image=name, begin=begin)
        with self._staging.reading(path) as handle:
            content = FileContent(
                files=self._staging.files,
                handle=handle,
                size_bytes=found.size_bytes,
                identity=found.identity,
            )
            return holds_data(content, begin)
