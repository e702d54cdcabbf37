"""How large and how fast the demo is. Every number is chosen so that the story tells itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from countermand.cli.demo.images import Disk

HOSTS: Final = ("host-a", "host-b", "host-c")
TEMPLATES: Final = "templates"
DATA_DISK_MIB: Final = 256
COPIES_MAX: Final = 2  # at the same time


@dataclass(frozen=True, slots=True, kw_only=True)
class Tempo:
    """Sizes and speeds.

    All pools have the same bandwidth, so sizes decide the order: when the third copy begins, and
    finds no room, the first is finished and the second is far from it, on any machine.
    """

    disks: tuple[Disk, Disk, Disk]
    bandwidth_mib_per_s: int
    # What is left in the last host's pool when the copy that is to fail begins.
    room_left_mib: int

    def quota_mib(self, *, copies_before: int) -> int:
        """Returns the quota of the last host's pool: room for some copies, not for one more."""
        return copies_before * (self.disks[-1].data_mib + 1) + self.room_left_mib


NORMAL: Final = Tempo(
    disks=(Disk("disk-1", 256, 80), Disk("disk-2", 384, 200), Disk("disk-3", 320, 152)),
    bandwidth_mib_per_s=40,
    room_left_mib=132,
)
# Still as large to a guest, but with less in it.
FAST: Final = Tempo(
    disks=(Disk("disk-1", 256, 16), Disk("disk-2", 384, 208), Disk("disk-3", 320, 80)),
    bandwidth_mib_per_s=96,
    room_left_mib=64,
)


def pool_of(host_id: str) -> str:
    """Returns the id of a host's own pool."""
    return f"fast-{host_id.removeprefix('host-')}"
