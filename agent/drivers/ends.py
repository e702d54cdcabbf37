"""Where an image ends: its label says so, and its data may say otherwise.

Data that is longer than its label says is a resize that was cut short, and reads as zeros there; or
somebody else has made the image larger, and what is there is a guest's. Whoever would pass on the
image up to the end that its label names must ask here first, or the rest would be lost unseen.
"""

from __future__ import annotations

from agent.drivers import qemu
from agent.drivers.content import FileContent, holds_data
from agent.drivers.driver import Format
from agent.drivers.label import Label
from agent.drivers.staging import Staging
from countermand.rpc.errors import VerbUnsupported

_BEYOND = (
    "there is data beyond the size of its label, {label} of {size} bytes: somebody else has made it"
    " larger; import its file as a new image"
)


class Ends:
    """The ends of one pool's images."""

    def __init__(self, staging: Staging) -> None:
        """Looks at the pool's images; changes nothing."""
        self._staging = staging
        self._layout = staging.layout

    def need(self, name: str, label: Label) -> None:
        """Makes sure that an image, or a snapshot by its name, has nothing beyond its label's end.

        Raises:
            ImageUnsafe: It has, or it ends before.
        """
        end = label.virtual_size_bytes
        if self.holds_data(name, label, end):
            why = _BEYOND.format(label=end, size=self._layout.size(name, label))
            raise self._layout.unsafe(name, why)

    def need_chain(self, name: str, label: Label) -> None:
        """Makes sure of an image and of all that it reads through: what grew there shows through.

        Raises:
            ImageUnsafe: One of them ends elsewhere than its label says, or is not safe otherwise.
        """
        self.need(name, label)
        for below in self._layout.chain(name, label):
            self.need(below, self._layout.label(below))

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
