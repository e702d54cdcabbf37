"""The images that a workflow holds from its start to its end: those its tasks name beforehand."""

from __future__ import annotations

from coordinator.saga.spec import Lock, Value
from coordinator.saga.states import Effect
from coordinator.wire.catalogue import VERBS, Bound
from countermand.v1.verb_pb2 import Action


class Locks:
    """Collects what actions name, each image once."""

    def __init__(self) -> None:
        self._exclusive: dict[tuple[str, str], bool] = {}

    def take(self, action: Action, effect: Effect, bound: Bound) -> None:
        """Adds what an action names; what is only known later cannot be held."""
        verb = VERBS[str(action.WhichOneof("verb"))]
        for name in verb.addresses:
            image = address_of(action, name, bound)
            if all(image):
                exclusive = name != "source" and effect is not Effect.READ_ONLY
                self._exclusive[image] = self._exclusive.get(image, False) or exclusive

    def all(self) -> tuple[Lock, ...]:
        """Returns the locks in the one order in which everybody takes them."""
        return tuple(
            Lock(pool=pool, image=image, exclusive=exclusive)
            for (pool, image), exclusive in sorted(self._exclusive.items())
        )


def address_of(action: Action, name: str, bound: Bound) -> tuple[str, str]:
    """Returns pool and image of an argument; empty is what is not known."""
    address = getattr(getattr(action, str(action.WhichOneof("verb"))), name)
    return (
        _text(bound.get(f"{name}.pool_id", address.pool_id)),
        _text(bound.get(f"{name}.image_id", address.image_id)),
    )


def source_host_of(action: Action, bound: Bound) -> str | None:
    """Returns the host that serves an action's source; empty if it is its own, None: not known."""
    value = bound.get("source_host_id", action.copy_image.source_host_id)
    return value if isinstance(value, str) else None


def _text(value: Value) -> str:
    return value if isinstance(value, str) else ""
