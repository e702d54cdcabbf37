"""Finds what is in a pool of the `file` driver and is no image; looks only, and touches nothing.

Whatever an attempt leaves half-made is swept by its own agent. What is told of here is for people,
and for whoever compares coordinator, journals and disks.
"""

from __future__ import annotations

from collections.abc import Iterator

from agent.drivers.driver import Oddity, OddityKind
from agent.drivers.files import FileKind
from agent.drivers.label import AT
from agent.drivers.layout import LABEL, MARK, Layout, attempt_of
from countermand.rpc import names
from countermand.rpc.errors import CountermandError, ImageNotFound, SnapshotNotFound

# Made by file systems at their root, and nobody's.
_IGNORED = frozenset({"lost+found"})

_FIRST = {kind: place for place, kind in enumerate(OddityKind)}


def survey(layout: Layout) -> list[Oddity]:
    """Returns what is in a pool and is no image, in order of kind and name."""
    found = [*_staged(layout), *_among_images(layout), *_beside(layout)]
    return sorted(found, key=lambda oddity: (_FIRST[oddity.kind], oddity.name))


def _staged(layout: Layout) -> Iterator[Oddity]:
    for entry in layout.files.list_folder(layout.staging):
        path = layout.staging / entry
        stat = layout.files.stat(path)
        if stat is None:
            continue  # it went while we looked
        name, attempt = f"staging/{entry}", attempt_of(entry)
        if names.parse_attempt(attempt) is None:
            attempt = ""
        if stat.kind is FileKind.FOLDER:
            yield Oddity(
                kind=OddityKind.STAGED,
                name=name,
                attempt=attempt,
                allocated_bytes=layout.allocated_bytes(path),
                why="half-made, or taken away to be purged",
            )
        elif stat.kind is FileKind.FILE and attempt:
            yield Oddity(
                kind=OddityKind.FENCE,
                name=name,
                attempt=attempt,
                allocated_bytes=stat.allocated_bytes,
                why="keeps a late start of this attempt out",
            )
        else:
            yield _foreign(name, stat.allocated_bytes, f"a {stat.kind.lower()} of nobody's")


def _among_images(layout: Layout) -> Iterator[Oddity]:
    for entry in layout.files.list_folder(layout.images):
        path, name = layout.images / entry, f"images/{entry}"
        stat = layout.files.stat(path)
        if stat is None:
            continue
        if not all(map(names.is_id, entry.split(AT, maxsplit=1))):
            yield _foreign(name, stat.allocated_bytes, "no image can have such a name")
            continue
        if stat.kind is FileKind.FOLDER and not layout.files.list_folder(path):
            yield _foreign(name, 0, "an empty folder")
            continue
        try:
            label = layout.label(entry)
            layout.data(entry, label)
            layout.chain(entry, label)
        except (ImageNotFound, SnapshotNotFound):
            continue
        except CountermandError as error:
            why = error.metadata.get("why", error.message)
            yield Oddity(
                kind=OddityKind.UNSAFE,
                name=name,
                allocated_bytes=stat.allocated_bytes,
                why=why,
            )
            continue
        for extra in layout.files.list_folder(path):
            if extra not in {LABEL, *label.data_names}:
                extra_stat = layout.files.stat(path / extra)
                size = extra_stat.allocated_bytes if extra_stat else 0
                yield _foreign(f"{name}/{extra}", size, "the image's label does not name it")


def _beside(layout: Layout) -> Iterator[Oddity]:
    ours = {MARK, layout.images.name, layout.staging.name}
    for entry in layout.files.list_folder(layout.path):
        if entry not in ours | _IGNORED:
            stat = layout.files.stat(layout.path / entry)
            size = stat.allocated_bytes if stat else 0
            yield _foreign(entry, size, "nothing of ours lies here")


def _foreign(name: str, allocated_bytes: int, why: str) -> Oddity:
    return Oddity(kind=OddityKind.FOREIGN, name=name, allocated_bytes=allocated_bytes, why=why)
