"""What the operating system says, as our errors: shared by all drivers that call it."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from agent.drivers.driver import OutcomeUnknown, Work
from countermand.rpc.errors import CountermandError, NoSpace, PoolFailing, StorageFailed

FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


class NotMounted(OSError):
    """What is at a pool's path is not the pool that is served: it says nothing of its images."""


def storage_error(error: OSError, *, pool_id: str, image_id: str) -> CountermandError:
    """Returns our error for one of the operating system's."""
    if error.errno in FULL:
        return NoSpace(pool=pool_id, needed=f"no room for the rest of image {image_id}")
    if isinstance(error, NotMounted):
        return PoolFailing(pool=pool_id, why=str(error))
    name = errno.errorcode.get(error.errno or 0, str(error))
    return StorageFailed(pool=pool_id, error=name, image=image_id)


def read_only(pool_id: str) -> CountermandError:
    """Returns what is told of a pool that nothing can be written to, though it should be.

    Its verbs stay: work waits for it to be mended, and is not refused for ever.
    """
    return StorageFailed(pool=pool_id, error="EROFS (it is mounted read-only)", image="its images")


@contextmanager
def translating(pool_id: str, image_id: str, work: Work | None = None) -> Iterator[None]:
    """Turns what the operating system says into our errors.

    What an earlier life may have come to its effect of is never called failed: the next one looks.
    """
    try:
        yield
    except OSError as error:
        found = storage_error(error, pool_id=pool_id, image_id=image_id)
        if work is not None and work.resumed:
            raise OutcomeUnknown(found) from error
        raise found from error


@contextmanager
def visible(pool_id: str, image_id: str) -> Iterator[None]:
    """After an effect is visible, and before it is durable: no failure there is certain."""
    try:
        yield
    except OSError as error:
        raise OutcomeUnknown(storage_error(error, pool_id=pool_id, image_id=image_id)) from error
