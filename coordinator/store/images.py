"""Who may hold an image, where several coordinators hand them out.

Asked within a commit, once it has been given its positions: from there on one commit comes after
the other, so that what is seen of images is all there is. Between workflows of the same session its
own coordinator has decided already; but of what it claimed a moment ago it may know nothing yet, so
that what these hold is asked for as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, bindparam, or_, select, tuple_

from coordinator.runtime.locks import Standing
from coordinator.runtime.ports import ImagesHeldError
from coordinator.saga.spec import Lock
from coordinator.saga.states import WorkflowState
from coordinator.saga.workflow import Workflow
from coordinator.store.tables import locks, workflows
from coordinator.store.texts import micros

_IMAGE = tuple_(locks.c.pool_id, locks.c.image_id)
_OTHERS = (
    select(locks, workflows.c.id, workflows.c.create_time_us)
    .join_from(locks, workflows)
    .where(
        _IMAGE.in_(bindparam("images", expanding=True)),
        or_(workflows.c.session != bindparam("session"), locks.c.held),
        # One that is held before it has begun keeps nobody waiting.
        or_(locks.c.held, workflows.c.state != WorkflowState.QUARANTINED.value),
    )
)
_LOCKS = (
    select(locks, workflows.c.id)
    .join_from(locks, workflows)
    .where(workflows.c.id.in_(bindparam("ids", expanding=True)))
    .order_by(workflows.c.id, locks.c.pool_id, locks.c.image_id)
)
_WAITING = (
    select(locks, workflows.c.id, workflows.c.create_time_us)
    .join_from(locks, workflows)
    .where(workflows.c.id.in_(bindparam("ids", expanding=True)), ~locks.c.held)
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Taker:
    """A workflow that is to hold its images."""

    workflow_id: str
    create_time_us: int
    locks: tuple[Lock, ...]


def taker(workflow: Workflow) -> Taker:
    """Returns a workflow as one that is to hold its images."""
    return Taker(
        workflow_id=workflow.id,
        create_time_us=micros(workflow.create_time),
        locks=workflow.locks,
    )


def check(session: int, takers: Sequence[Taker], connection: Connection) -> None:
    """Raises ImagesHeldError if another session's workflow is in the way of one.

    So is one of the own session that holds an image after what this commit gives away.
    """
    for workflow_id, standing in _in_the_way(session, takers, connection).items():
        raise ImagesHeldError(workflow_id, standing)


def standing(
    session: int, workflow_ids: Sequence[str], connection: Connection
) -> dict[str, tuple[Standing, ...]]:
    """Returns who is in the way of workflows that wait, by these; of the own session, who holds."""
    found: dict[str, Taker] = {}
    for row in connection.execute(_WAITING, {"ids": list(workflow_ids)}):
        known = found.get(row.id)
        found[row.id] = Taker(
            workflow_id=row.id,
            create_time_us=row.create_time_us,
            locks=(*(known.locks if known else ()), _lock(row)),
        )
    return _in_the_way(session, list(found.values()), connection)


def _in_the_way(
    session: int, takers: Sequence[Taker], connection: Connection
) -> dict[str, tuple[Standing, ...]]:
    images = sorted({(lock.pool, lock.image) for taker in takers for lock in taker.locks})
    if not images:
        return {}
    others = connection.execute(_OTHERS, {"images": images, "session": session}).all()
    ways = {taker.workflow_id: dict(_ways(taker, others)) for taker in takers}
    everybody = sorted({other for held in ways.values() for other in held})
    named: dict[str, tuple[Lock, ...]] = {}
    if everybody:
        for row in connection.execute(_LOCKS, {"ids": everybody}):
            named[row.id] = (*named.get(row.id, ()), _lock(row))
    return {
        workflow_id: tuple(
            Standing(workflow_id=other, locks=named[other], held=held)
            for other, held in sorted(others_held.items())
        )
        for workflow_id, others_held in ways.items()
        if others_held
    }


def _ways(taker: Taker, others: Iterable[Row[Any]]) -> Iterator[tuple[str, bool]]:
    """Yields who is in the way of a workflow, and whether it holds its images."""
    wanted = {(lock.pool, lock.image): lock.exclusive for lock in taker.locks}
    place = (taker.create_time_us, taker.workflow_id)
    for row in others:
        exclusive = wanted.get((row.pool_id, row.image_id))
        if row.id == taker.workflow_id:
            continue  # what it is given besides
        if exclusive is None or not (exclusive or row.exclusive):
            continue
        if row.held or (row.create_time_us, row.id) < place:
            yield row.id, row.held


def _lock(row: Row[Any]) -> Lock:
    return Lock(pool=row.pool_id, image=row.image_id, exclusive=row.exclusive)
