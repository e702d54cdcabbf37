"""Looks at one host: asks its agent for everything that is compared, over a connection of its own.

Not by way of the host's line: a quarantined host is looked at just as well, and no order waits.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection
from typing import Any, Protocol

from google.protobuf.message import Message

from coordinator.api.doctor.comparing import (
    Odd,
    Seen,
    SeenAttempt,
    SeenImage,
    SeenOddity,
    SeenPool,
)
from coordinator.api.doctor.standing import AT, Place
from countermand.rpc.errors import CountermandError, HostUnreachable
from countermand.v1.agent_pb2 import (
    GetHostRequest,
    ListAttemptsRequest,
    ListImagesRequest,
    Oddity,
    SurveyPoolRequest,
)
from countermand.v1.attempt_pb2 import Attempt
from countermand.v1.image_pb2 import Image, OwnerTag, Pool

# A page of a pool whose disk is busy with copies may take that long.
LOOK_TIMEOUT_S = 60.0
PAGE_SIZE = 1000

_OPEN = frozenset({Attempt.STATE_ACCEPTED, Attempt.STATE_RUNNING, Attempt.STATE_CANCELLING})
_OUTCOMES = {
    Attempt.STATE_SUCCEEDED: "SUCCEEDED",
    Attempt.STATE_FAILED: "FAILED",
    Attempt.STATE_CANCELLED: "CANCELLED",
}


class Connection(Protocol):
    """Calls one agent. Every method raises CountermandError."""

    async def call(self, rpc: str, request: Message, *, timeout_s: float) -> Any:  # noqa: ANN401 - typed by the RPC
        """Returns the response of one unary call."""
        ...

    async def close(self) -> None:
        """Ends the connection."""
        ...


# Opens a connection to the agent at an address.
Connect = Callable[[str], Connection]


async def look(
    connection: Connection,
    host: str,
    *,
    elsewhere: Collection[str],
) -> Seen:
    """Returns what is seen of a host, without the pools whose identities were seen elsewhere.

    Disks first, journal last: what is done meanwhile is in the journal by then.
    """
    answer = await connection.call("GetHost", GetHostRequest(), timeout_s=LOOK_TIMEOUT_S)
    report = answer.host
    images: list[SeenImage] = []
    oddities: list[SeenOddity] = []
    pools: list[SeenPool] = []
    for pool in report.pools:
        if pool.identity and pool.identity in elsewhere:
            pools.append(_pool(pool, looked_at=False))
            continue
        try:
            there, odd = await _look_into(connection, pool.pool_id)
        except HostUnreachable:
            raise
        except (
            CountermandError
        ) as error:  # one pool's disk hides neither the others nor the journal
            pools.append(_pool(pool, looked_at=False, problem=error.message))
            continue
        images += there
        oddities += odd
        pools.append(_pool(pool, looked_at=True))
    attempts: list[SeenAttempt] = []
    async for page in _pages(connection, "ListAttempts", ListAttemptsRequest()):
        attempts += map(_attempt, page.attempts)
    return Seen(
        host=host,
        incarnation=report.incarnation,
        pools=pools,
        attempts=attempts,
        images=images,
        oddities=oddities,
    )


async def _look_into(
    connection: Connection, pool_id: str
) -> tuple[list[SeenImage], list[SeenOddity]]:
    oddities: list[SeenOddity] = []
    async for page in _pages(connection, "SurveyPool", SurveyPoolRequest(pool_id=pool_id)):
        oddities += [_oddity(pool_id, oddity) for oddity in page.oddities]
    images: list[SeenImage] = []
    async for page in _pages(connection, "ListImages", ListImagesRequest(pool_id=pool_id)):
        for image in page.images:
            images += _images(pool_id, image)
    return images, oddities


async def _pages(connection: Connection, rpc: str, request: Any) -> AsyncIterator[Any]:  # noqa: ANN401 - typed by the RPC
    """Yields the pages of a list."""
    request.page_size = PAGE_SIZE
    while True:
        page = await connection.call(rpc, request, timeout_s=LOOK_TIMEOUT_S)
        yield page
        if not page.next_page_token:
            return
        request.page_token = page.next_page_token


def _attempt(attempt: Attempt) -> SeenAttempt:
    return SeenAttempt(
        name=attempt.name,
        open=attempt.state in _OPEN,
        outcome=_OUTCOMES.get(attempt.state, ""),
        is_action=attempt.kind == Attempt.KIND_ACTION,
        tombstoned=attempt.tombstoned,
    )


def _images(pool_id: str, image: Image) -> list[SeenImage]:
    def seen(name: str, owner: OwnerTag, allocated_bytes: int) -> SeenImage:
        return SeenImage(
            place=Place(pool_id, name),
            cluster_id=owner.cluster_id,
            attempt=owner.attempt,
            generation=0 if AT in name else image.generation,
            allocated_bytes=allocated_bytes,
        )

    image_id = image.address.image_id
    return [
        seen(image_id, image.owner, image.allocated_bytes),
        *(seen(f"{image_id}{AT}{one.snapshot_id}", one.owner, 0) for one in image.snapshots),
    ]


def _oddity(pool_id: str, oddity: Oddity) -> SeenOddity:
    return SeenOddity(
        kind=Odd(Oddity.Kind.Name(oddity.kind).removeprefix("KIND_")),
        pool_id=pool_id,
        name=oddity.name,
        attempt=oddity.attempt,
        why=oddity.why,
        in_use=oddity.in_use,
        allocated_bytes=oddity.allocated_bytes,
    )


def _pool(pool: Pool, *, looked_at: bool, problem: str = "") -> SeenPool:
    said = pool.problem.message if pool.HasField("problem") else ""
    return SeenPool(
        pool_id=pool.pool_id,
        identity=pool.identity,
        shared=pool.shared,
        problem=said or problem,
        looked_at=looked_at,
    )
