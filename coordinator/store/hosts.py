"""Hosts in their table: their rows, and what is read and written of them."""

from __future__ import annotations

import json
from collections.abc import Callable

from sqlalchemy import Connection, RowMapping, delete, insert, select, update

from coordinator.runtime.ports import AuditEvent, HostRecord
from coordinator.store import audit
from coordinator.store.tables import hosts
from coordinator.store.texts import Row, encode, micros, time_from


def all_hosts(connection: Connection) -> list[HostRecord]:
    """Returns every host, in order of their ids."""
    rows = connection.execute(select(hosts).order_by(hosts.c.id)).mappings()
    return [_host_from(row) for row in rows]


def put(host: HostRecord, event: AuditEvent | None, connection: Connection) -> None:
    """Adds or replaces a host."""
    row = _host_row(host)
    if not connection.execute(update(hosts).where(hosts.c.id == host.id).values(row)).rowcount:
        connection.execute(insert(hosts).values(row))
    audit.note((event,) if event else (), connection)


def change(
    host_id: str,
    function: Callable[[HostRecord], HostRecord],
    event: AuditEvent | None,
    connection: Connection,
) -> tuple[HostRecord, bool] | None:
    """Changes a host as it is stored; returns it as it is then, and whether it has changed."""
    found = select(hosts).where(hosts.c.id == host_id).with_for_update()
    row = connection.execute(found).mappings().one_or_none()
    if row is None:
        return None
    before = _host_from(row)
    after = function(before)
    if after == before:
        return before, False
    put(after, event, connection)
    return after, True


def remove(host_id: str, event: AuditEvent | None, connection: Connection) -> None:
    """Removes a host."""
    connection.execute(delete(hosts).where(hosts.c.id == host_id))
    audit.note((event,) if event else (), connection)


def _host_row(host: HostRecord) -> Row:
    return {
        "id": host.id,
        "address": host.address,
        "draining": host.draining,
        "incarnation": host.incarnation,
        "heard_sequence": host.heard_sequence,
        "pools": None if host.pools is None else encode(dict(host.pools)),
        "lost_intent": host.lost_intent,
        "accepted_intent": host.accepted_intent,
        "held": host.held,
        "create_time_us": micros(host.create_time),
    }


def _host_from(row: RowMapping) -> HostRecord:
    return HostRecord(
        id=row["id"],
        address=row["address"],
        draining=bool(row["draining"]),
        incarnation=row["incarnation"],
        heard_sequence=row["heard_sequence"],
        pools=None if row["pools"] is None else tuple(json.loads(row["pools"]).items()),
        lost_intent=row["lost_intent"],
        accepted_intent=row["accepted_intent"],
        held=row["held"],
        create_time=time_from(row["create_time_us"]),
    )
