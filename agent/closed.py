"""A pool that this host serves and could not open so far: what stands in its driver's place.

It keeps nobody from the other pools. It is told of with the cause, does nothing, and whoever asks
anything of it hears why; `agent.pools` tries it again, and puts the driver there once it opens.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import NoReturn

from agent.drivers.driver import (
    Content,
    Driver,
    Format,
    ImageFound,
    PoolConfig,
    PoolFound,
    Steps,
    Work,
)
from countermand.rpc.errors import PoolFailing, PoolNotFound


class ClosedPool:
    """Stands in the place of a driver; every look is refused."""

    def __init__(self, config: PoolConfig, verbs: frozenset[str], why: str) -> None:
        """Knows what the driver could do at best, so that nobody takes it for unable."""
        self.config = config
        self.verbs = verbs
        self.why = why

    def error(self) -> PoolFailing:
        """Returns why nothing can be done in it."""
        return PoolFailing(pool=self.config.pool_id, why=self.why)

    def report(self) -> PoolFound:
        """Returns that it fails, and why."""
        return PoolFound(
            capacity_bytes=0, used_bytes=0, formats=(), verbs=self.verbs, problem=self.error()
        )

    def find(self, image_id: str) -> ImageFound:
        """Looks at nothing."""
        self._refuse(image_id)

    def list_images(self, *, after: str, count_max: int) -> list[ImageFound]:
        """Lists nothing."""
        self._refuse(after, count_max)

    def reading(self, image_id: str, layout: Format) -> AbstractContextManager[Content]:
        """Opens nothing."""
        self._refuse(image_id, layout)

    def staged(self) -> list[str]:
        """Knows of nothing."""
        self._refuse()

    def discard(self, attempt: str) -> None:
        """Removes nothing."""
        self._refuse(attempt)

    def make_up_for(self, work: Work, image_id: str, *, made_by: str) -> Steps[bool]:
        """Removes nothing."""
        self._refuse(work, image_id, made_by)

    def _refuse(self, *_arguments: object) -> NoReturn:
        raise self.error()


def driver_of(pools: Mapping[str, Driver], pool_id: str) -> Driver:
    """Returns the driver of a pool.

    Raises:
        PoolNotFound: This host does not reach it.
        PoolFailing: It could not be opened so far.
    """
    driver = pools.get(pool_id)
    if driver is None:
        raise PoolNotFound(pool=pool_id)
    if isinstance(driver, ClosedPool):
        raise driver.error()
    return driver
