"""Differences between coordinator, journals and disks: found, and repaired where that is safe."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from itertools import islice

from grpc.aio import AioRpcError

from countermand.client.calls import Calls
from countermand.client.run import new_request_id
from countermand.rpc import names
from countermand.v1.doctor_pb2 import DiagnoseRequest, DiagnoseResponse, Repaired, RepairRequest

# Findings repaired in one call: each host among them is looked at again, which may take minutes.
BATCH_MAX = 100
REPAIR_TIMEOUT_S = 600.0
# Each host reads its journal and lists its pools, several at a time: a coordinator that takes
# longer than this for all of them has something the matter itself.
DIAGNOSE_TIMEOUT_S = 3600.0


class Doctor:
    """Compares the coordinator with its hosts."""

    def __init__(self, calls: Calls) -> None:
        """Keeps the channel."""
        self._calls = calls

    async def diagnose(self, hosts: Sequence[str] = ()) -> AsyncIterator[DiagnoseResponse]:
        """Yields how far it is, every difference as it is found, and last what was looked at."""
        request = DiagnoseRequest(
            hosts=[host if "/" in host else names.host_name(host) for host in hosts]
        )
        try:
            async for told in self._calls.doctor.Diagnose(request, timeout=DIAGNOSE_TIMEOUT_S):
                yield told
        except AioRpcError as raised:
            raise self._calls.error(raised, DIAGNOSE_TIMEOUT_S) from None

    async def repair(self, findings: Sequence[str], reason: str) -> AsyncIterator[Repaired]:
        """Applies the fixes of findings, by their names; yields what became of each."""
        left = iter(findings)
        while batch := list(islice(left, BATCH_MAX)):
            request = RepairRequest(names=batch, reason=reason, request_id=new_request_id())
            method = self._calls.doctor.Repair
            answer = await self._calls.once(method, request, timeout_s=REPAIR_TIMEOUT_S)
            for repaired in answer.repaired:
                yield repaired
