"""Of several coordinators only who keeps the house says that no collector waits for traces."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

from coordinator.__main__ import _house, _traces
from coordinator.runtime.ports import StoreError
from coordinator.runtime.watch import Watches
from coordinator.store.memory import Kept, MemoryStore
from coordinator.traces import exporter
from coordinator.traces.exporter import READER
from countermand.rpc.crash import never


class Fragile(MemoryStore):
    """A store that fails at first."""

    fails = True
    gone: asyncio.Event

    async def forget_reader(self, reader: str) -> None:
        if self.fails:
            self.fails = False
            raise StoreError("as the test wants it")
        await super().forget_reader(reader)
        self.gone.set()


async def test_who_has_no_collector_forgets_what_another_reads_once_it_keeps_the_house(monkeypatch):
    monkeypatch.setattr(exporter, "AGAIN_S", 0.0)
    store = Fragile(Kept(), new_id=lambda: "cluster")
    store.gone = asyncio.Event()
    await store.open()
    await store.note_position(READER, 0)
    receivers = SimpleNamespace(run=store.gone.wait)
    assembly = cast(
        "Any",
        SimpleNamespace(store=store, watches=Watches(), loop=None, clock=None, retention=None),
    )
    house = _house(assembly, cast("Any", receivers), _traces(assembly, None, "cluster", never))
    for name in house.keys() - {"traces"}:
        house[name].close()
    assert await store.position_of(READER) == 0
    keeping = asyncio.create_task(house["traces"])
    await store.gone.wait()
    assert await store.position_of(READER) is None
    assert not keeping.done()
    keeping.cancel()
