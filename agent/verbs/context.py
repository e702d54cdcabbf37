"""What a verb works with.

A verb is two plain generators, side by side: its action and what makes up for it.
Both are safe to repeat: an action that finds what it made in an earlier life returns that, and a
compensation that finds nothing has succeeded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from agent.closed import driver_of
from agent.drivers.driver import Driver, Format, LocalSource, Source, Steps, Work
from countermand.rpc.errors import PoolReadOnly, VerbUnsupported
from countermand.v1.image_pb2 import (
    IMAGE_FORMAT_QCOW2,
    IMAGE_FORMAT_RAW,
    IMAGE_FORMAT_UNSPECIFIED,
    ImageAddress,
    ImageFormat,
)
from countermand.v1.verb_pb2 import Action, Output

D = TypeVar("D", bound=Driver)


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """On whose behalf a verb works, and on which pools."""

    work: Work
    pools: Mapping[str, Driver]
    pull: Callable[[ImageAddress], Source]  # an image that another host serves

    def pool(self, address: ImageAddress) -> Driver:
        """Returns the driver of an image's pool.

        Raises:
            PoolNotFound: This host does not reach it.
            PoolFailing: It could not be opened so far.
        """
        return driver_of(self.pools, address.pool_id)

    def pool_for(self, address: ImageAddress, kind: type[D]) -> D:
        """Returns the driver of an image's pool, which must be able to do something.

        Raises:
            PoolNotFound: This host does not reach it.
            VerbUnsupported: It cannot.
        """
        driver = self.pool(address)
        if not isinstance(driver, kind):
            why = f"its driver is none that {kind.__name__.lower()}"
            raise VerbUnsupported(pool=address.pool_id, verb="this", why=why)
        return driver

    def target(self, address: ImageAddress, kind: type[D]) -> D:
        """Returns the driver of a pool that is to be written to.

        Raises:
            PoolNotFound: This host does not reach it.
            PoolReadOnly: It may only be read.
            VerbUnsupported: It cannot do that.
        """
        driver = self.pool_for(address, kind)
        if driver.config.read_only:
            raise PoolReadOnly(pool=address.pool_id)
        return driver

    def source(self, address: ImageAddress, *, host_id: str = "") -> Source:
        """Returns an image to copy from: in a pool of this host, unless another one serves it.

        Raises:
            PoolNotFound: This host does not reach it.
        """
        if host_id:
            return self.pull(address)
        return LocalSource(self.pool(address), address.image_id)


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
    yield from context.target(target, Driver).make_up_for(
        context.work, target.image_id, made_by=made_by
    )
