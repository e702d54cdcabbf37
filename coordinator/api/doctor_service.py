"""DoctorService: compares coordinator, journals and disks, and applies safe fixes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from importlib.metadata import version

from coordinator.api import requests
from coordinator.api.doctor import doctor
from coordinator.api.doctor.comparing import Finding, Fix, Kind
from coordinator.api.doctor.doctor import Diagnosis, Doctor, Looking
from coordinator.api.requests import Context
from coordinator.runtime.ports import Clock, Hosts, HostView
from countermand.rpc.errors import FieldInvalid, HostNotFound, Violation
from countermand.rpc.names import host_name, parse_host
from countermand.v1 import doctor_pb2 as pb
from countermand.v1.doctor_pb2_grpc import DoctorServiceServicer
from countermand.v1.failure_pb2 import Failure

NAMES_MAX = 1000
_KINDS = {kind: pb.Finding.Kind.Value(f"KIND_{kind}") for kind in Kind}
_FIXES = {fix: pb.Finding.Fix.Value(f"FIX_{fix}") for fix in Fix}


class DoctorService(DoctorServiceServicer):
    """Serves diagnoses and repairs."""

    def __init__(self, *, doctor: Doctor, hosts: Hosts, clock: Clock) -> None:
        """Keeps what it asks."""
        self._doctor = doctor
        self._hosts = hosts
        self._clock = clock
        self._version = version("countermand")

    async def Diagnose(
        self, request: pb.DiagnoseRequest, context: Context
    ) -> AsyncIterator[pb.DiagnoseResponse]:
        """Tells of every difference, host by host."""
        hosts = request.hosts or [host_name(host_id) for host_id in sorted(self._hosts.all())]
        async for told in self._doctor.diagnose([self._host(name) for name in hosts]):
            answer = _told(told)
            if isinstance(told, Diagnosis):
                answer.diagnosis.version = self._version
                answer.diagnosis.time.FromDatetime(self._clock.now())
            yield answer

    async def Repair(self, request: pb.RepairRequest, context: Context) -> pb.RepairResponse:
        """Applies the fixes of findings."""
        requests.demand(request, "request_id", "reason")
        by_host = _by_host(request.names)
        done: dict[str, Failure | None] = {}
        for host, wanted in by_host.items():
            done |= await self._doctor.repair(self._host(host), wanted, request.reason)
        return pb.RepairResponse(
            repaired=[pb.Repaired(name=name, kept=done[name]) for name in request.names]
        )

    def _host(self, name: str) -> HostView:
        host = self._hosts.all().get(requests.host_id(name))
        if host is None:
            raise HostNotFound(name=name)
        return host


def _by_host(found: Sequence[str]) -> dict[str, set[str]]:
    """Returns the findings' names by the names of their hosts.

    Raises:
        FieldInvalid: There is none, there are too many, or one is no finding's name.
    """
    if not 0 < len(found) <= NAMES_MAX:
        raise FieldInvalid(Violation("names", f"must be 1 to {NAMES_MAX}"))
    by_host: dict[str, set[str]] = {}
    violations = []
    for index, name in enumerate(found):
        host, separator, _ = name.partition("/findings/")
        if not separator or parse_host(host) is None:
            rule = "must be a finding's name, as a diagnosis told it"
            violations.append(Violation(f"names[{index}]", rule))
        by_host.setdefault(host, set()).add(name)
    if violations:
        raise FieldInvalid(*violations)
    return by_host


def _told(told: doctor.Told) -> pb.DiagnoseResponse:
    match told:
        case Looking(host=host, done=done, total=total):
            looking = pb.Looking(host=host_name(host), done=done, total=total)
            return pb.DiagnoseResponse(looking=looking)
        case Finding():
            return pb.DiagnoseResponse(finding=_finding(told))
        case Diagnosis():
            diagnosis = pb.Diagnosis(
                hosts=told.hosts,
                attempts=told.attempts,
                images=told.images,
                findings=told.findings,
            )
            return pb.DiagnoseResponse(diagnosis=diagnosis)


def _finding(finding: Finding) -> pb.Finding:
    return pb.Finding(
        name=finding.name,
        kind=_KINDS[finding.kind],
        host=host_name(finding.host),
        pool_id=finding.pool_id,
        subject=finding.subject,
        attempt=finding.attempt,
        message=finding.message,
        advice=finding.advice,
        fix=_FIXES[finding.fix],
        allocated_bytes=finding.allocated_bytes,
    )
