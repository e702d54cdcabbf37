"""Lists the images of a pool whose layout is a folder for each, whatever holds their data."""

from __future__ import annotations

import logging
from collections.abc import Callable

from agent.drivers.driver import ImageFound
from agent.drivers.layout import snapshots_among
from agent.drivers.staging import Staging
from countermand.rpc import names
from countermand.rpc.errors import ImageNotFound, ImageUnsafe

log = logging.getLogger(__name__)

# Looks at one image, whose snapshots have these names.
Look = Callable[[str, list[str]], ImageFound]


def list_images(staging: Staging, look: Look, *, after: str, count_max: int) -> list[ImageFound]:
    """Returns images in order of their ids; what is not a plain image is logged instead."""
    found: list[ImageFound] = []
    with staging.translating("its images"):
        staging.need_pool()
        listed = staging.files.list_folder(staging.layout.images)
    snapshots: dict[str, list[str]] = {}
    for image_id, name in snapshots_among(listed):
        snapshots.setdefault(image_id, []).append(name)
    for name in listed:
        if name <= after or not names.is_id(name):
            continue
        if len(found) == count_max:
            break
        try:
            with staging.translating(name):
                found.append(look(name, snapshots.get(name, [])))
        except ImageNotFound:
            continue  # it went while we looked
        except ImageUnsafe as error:
            log.warning("image.unsafe", extra=error.metadata)
    return found
