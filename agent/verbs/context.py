"""What a verb works with.

A verb is two plain generators, side by side: its action and what makes up for it.
Both are safe to repeat: an action that finds what it made in an earlier life returns that, and a
compensation that finds nothing has succeeded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from agent.drivers.driver import Driver, Format, Steps, Work
from countermand.rpc.errors import PoolNotFound, PoolReadOnly
from countermand.v1.image_pb2 import (
    IMAGE_FORMAT_QCOW2,
    IMAGE_FORMAT_RAW,
    IMAGE_FORMAT_UNSPECIFIED,
    ImageAddress,
    ImageFormat,
)
from countermand.v1.verb_pb2 import Action, Output


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """On whose behalf a verb works, and on which pools."""

    work: Work
    pools: Mapping[str, Driver]

    def pool(self, address: ImageAddress) -> Driver:
        """Returns the driver of an image's pool.

        Raises:
            PoolNotFound: This host does not reach it.
        """
        driver = self.pools.get(address.pool_id)
        if driver is None:
            raise PoolNotFound(pool=address.pool_id)
        return driver

    def target(self, address: ImageAddress) -> Driver:
        """Returns the driver of a pool that is to be written to.

        Raises:
            PoolNotFound: This host does not reach it.
            PoolReadOnly: It may only be read.
        """
        driver = self.pool(address)
        if driver.read_only:
            raise PoolReadOnly(pool=address.pool_id)
        return driver


# The action and its context → the output.
Act = Callable[[Context, Action], Steps[Output]]

# The same action, and the name of the attempt that tried it → nothing.
MakeUp = Callable[[Context, Action, str], Steps[None]]

FORMATS: Mapping[ImageFormat.ValueType, Format | None] = {
    IMAGE_FORMAT_UNSPECIFIED: None,
    IMAGE_FORMAT_RAW: Format.RAW,
    IMAGE_FORMAT_QCOW2: Format.QCOW2,
}


def make_up_for(context: Context, target: ImageAddress, made_by: str) -> Steps[None]:
    """Removes the image that an attempt made, if it made one."""
    yield from context.target(target).make_up_for(context.work, target.image_id, made_by=made_by)
