"""What goes on for ever belongs to nobody's call, also when a call has begun it."""

from __future__ import annotations

from dataclasses import dataclass, field

from coordinator.runtime.ports import HostRecord
from countermand.rpc import telemetry
from tests.runtime.rig import NOW, Agent, coordinator, until


@dataclass
class Notes(Agent):
    """An agent that notes in whose trace it is called."""

    traces: list[telemetry.TraceContext | None] = field(default_factory=list)

    async def call(self, rpc, request, *, timeout_s, traceparent=""):
        self.traces.append(telemetry.CURRENT.get())
        return await super().call(rpc, request, timeout_s=timeout_s, traceparent=traceparent)


async def test_a_line_is_not_of_the_trace_in_which_its_host_was_added(tmp_path):
    agents: dict[str, Agent] = {}
    async with coordinator(tmp_path, agents) as running:
        agents["late"] = notes = Notes(incarnation="of-late")
        token = telemetry.CURRENT.set(telemetry.new_trace())
        try:
            record = HostRecord(id="late", address="late", create_time=NOW)
            await running.fleet.begin(record, wait_s=20.0)
        finally:
            telemetry.CURRENT.reset(token)
        await until(lambda: notes.traces)
    assert set(notes.traces) == {None}
