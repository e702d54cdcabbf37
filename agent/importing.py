"""Under which names an administrator's imports work, and what becomes of what they leave."""

from __future__ import annotations

import logging

from agent.drivers.driver import Driver
from countermand.rpc.errors import CountermandError

log = logging.getLogger(__name__)

_IMPORT = "import"


def name_of_import(image_id: str, *, unique: str) -> str:
    """Returns the name under which an import works: no two may, of whatever process and host.

    It is no attempt's, so no sweep takes it: an agent cannot tell whether it is still at work.
    """
    return f"{_IMPORT}/{image_id}/{unique}"


def forget_imports(driver: Driver, image_id: str) -> None:
    """Removes what other imports of an image have left half-made, once it is there.

    One that is still at work could not show its own any more; an earlier one may have been killed.
    What cannot be removed only takes room: the image is there.
    """
    try:
        for name in driver.staged():
            if name.split("/")[:2] == [_IMPORT, image_id]:
                driver.discard(name)
    except (OSError, CountermandError):
        log.exception("staging.kept", extra={"image": image_id})
