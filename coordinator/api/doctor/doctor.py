"""Diagnoses hosts, and repairs what is found: two looks before anything is told or touched."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import Final

from coordinator.api.deciding import PRINCIPAL
from coordinator.api.doctor.comparing import (
    Finding,
    Fix,
    Kind,
    Knowledge,
    Odd,
    Seen,
    compare,
    compare_pools,
)
from coordinator.api.doctor.looking import LOOK_TIMEOUT_S, Connect, Connection, look
from coordinator.api.doctor.standing import (
    AT,
    NOT_OURS,
    Known,
    Place,
    expected,
    known,
    open_attempts,
)
from coordinator.runtime.loop import Loop
from coordinator.runtime.ports import AuditEvent, Clock, HostChange, HostState, HostView, Store
from coordinator.saga.workflow import Workflow
from coordinator.wire.failure import failure_from_proto
from countermand.rpc import names
from countermand.rpc.errors import CountermandError, VerbForbidden
from countermand.v1.agent_pb2 import CancelAttemptRequest, Orphan, RemoveOrphansRequest
from countermand.v1.attempt_pb2 import AttemptHeader
from countermand.v1.failure_pb2 import Failure

log = logging.getLogger(__name__)

# A host that keeps evidence of more settled workflows than this has been away for long.
EVIDENCE_MAX = 10_000
EVER = 2**62  # beyond any intent
ALL: Final = frozenset({"(all)"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Looking:
    """Which host is being looked at."""

    host: str
    done: int
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """How much was looked at."""

    hosts: int = 0
    attempts: int = 0
    images: int = 0
    findings: int = 0


Told = Looking | Finding | Diagnosis


class Doctor:
    """Compares the coordinator, the journals and the disks."""

    def __init__(
        self, *, loop: Loop, store: Store, connect: Connect, cluster_id: str, clock: Clock
    ) -> None:
        """Keeps whom it asks."""
        self._loop = loop
        self._clock = clock
        self._store = store
        self._connect = connect
        self._cluster_id = cluster_id

    async def diagnose(self, hosts: Sequence[HostView]) -> AsyncIterator[Told]:
        """Yields what is found, host by host, and last how much was looked at."""
        looked: list[Seen] = []
        elsewhere: set[str] = set()
        total = Diagnosis()
        for index, host in enumerate(hosts):
            yield Looking(host=host.record.id, done=index, total=len(hosts))
            found = [*_away(host)]
            try:
                seen, differences = await self._examine(host, elsewhere)
            except CountermandError as error:
                found = found or [_unreachable(host, error)]
            else:
                found += differences
                looked.append(seen)
                elsewhere.update(pool.identity for pool in seen.pools if pool.looked_at)
                total = replace(
                    total,
                    hosts=total.hosts + 1,
                    attempts=total.attempts + len(seen.attempts),
                    images=total.images + len(seen.images),
                )
            for finding in found:
                yield finding
            total = replace(total, findings=total.findings + len(found))
        differences = compare_pools(looked)
        for finding in differences:
            yield finding
        yield replace(total, findings=total.findings + len(differences))

    async def repair(
        self, host: HostView, wanted: Collection[str], reason: str
    ) -> dict[str, Failure | None]:
        """Applies the fixes of findings on one host; returns why some were left alone.

        What is not found any more is done: somebody else has seen to it. If the process stops in
        the middle, the audit says what was begun, and a diagnosis what is left of it.
        """
        done: dict[str, Failure | None] = dict.fromkeys(wanted)
        try:
            seen, findings = await self._examine(host, ())
        except CountermandError as error:
            return dict.fromkeys(wanted, error.failure(host_id=host.record.id))
        ours = [finding for finding in findings if finding.name in done]
        fixable = [finding for finding in ours if finding.fix is not Fix.NONE]
        note = partial(_event, time=self._clock.now(), reason=reason)
        await self._store.note_audit([note(each, HostChange.REPAIR_BEGUN) for each in fixable])
        ended: list[AuditEvent] = []
        connection = self._connect(host.record.address)
        try:
            for finding in ours:
                kept = done[finding.name] = await self._apply(connection, seen, finding)
                if finding.fix is not Fix.NONE:
                    change = HostChange.REPAIR_REFUSED if kept else HostChange.REPAIRED
                    ended.append(note(finding, change, time=self._clock.now(), kept=kept))
        finally:
            try:
                await self._store.note_audit(ended)
            finally:
                await connection.close()
        return done

    # -- looking --------------------------------------------------------------------------------

    async def _examine(
        self, host: HostView, elsewhere: Collection[str]
    ) -> tuple[Seen, list[Finding]]:
        """Returns what is seen of a host, and the differences that a second look finds as well.

        Raises:
            CountermandError: Its agent does not answer, or cannot look.
        """
        connection = self._connect(host.record.address)
        try:
            seen, first = await self._look(connection, host.record.id, elsewhere)
            if not first:
                return seen, []
            seen, second = await self._look(connection, host.record.id, elsewhere)
        finally:
            await connection.close()
        before = {finding.name for finding in first}
        return seen, [finding for finding in second if finding.name in before]

    async def _look(
        self, connection: Connection, host: str, elsewhere: Collection[str]
    ) -> tuple[Seen, list[Finding]]:
        accepted = [
            name for workflow in await self._open() for name in open_attempts(workflow, host)
        ]
        seen = await look(connection, host, elsewhere=elsewhere)
        knowledge = await self._knowledge(seen, accepted)
        return seen, compare(seen, knowledge)

    async def _knowledge(self, seen: Seen, accepted: Iterable[str]) -> Knowledge:
        """Returns what bears on what was seen."""
        by_workflow: dict[str, list[names.AttemptName]] = {}
        for text in _attempts_in(seen):
            if name := names.parse_attempt(text):
                by_workflow.setdefault(name.workflow_id, []).append(name)
        standings: dict[str, Known] = {}
        for workflow_id, attempts in by_workflow.items():
            workflow = await self._workflow(workflow_id)
            standings |= {str(name): known(workflow, name) for name in attempts}
        workflows = await self._open()
        # What another host made in a pool that both reach is seen from here as well.
        shared = {pool.pool_id: pool.shared for pool in seen.pools if pool.looked_at}
        relied_on = [
            one
            for workflow in workflows
            for one in expected(workflow)
            if one.place.pool_id in shared and (one.host == seen.host or shared[one.place.pool_id])
        ]
        held = {
            Place(lock.pool, lock.image): names.workflow_name(workflow.id)
            for workflow in workflows
            for lock in workflow.locks
        }
        still_open = {name for w in workflows for name in open_attempts(w, seen.host)}
        return Knowledge(
            cluster_id=self._cluster_id,
            of=lambda name: standings.get(name, NOT_OURS),
            accepted=[name for name in accepted if name in still_open],
            expected=relied_on,
            held=held,
            forgotten=await self._forgotten(seen, standings),
        )

    async def _forgotten(self, seen: Seen, standings: Mapping[str, Known]) -> frozenset[str]:
        """Returns those of the fenced attempts that their hosts have been told to forget."""
        evidence: dict[str, frozenset[str]] = {}
        gone: set[str] = set()
        for oddity in seen.oddities:
            name, found = names.parse_attempt(oddity.attempt), standings.get(oddity.attempt)
            if oddity.kind is not Odd.FENCE or name is None or found is None or not found.settled:
                continue
            if found.host not in evidence:
                kept = await self._store.evidence(found.host, below=EVER, limit=EVIDENCE_MAX)
                # A list that may be longer says nothing about what is not on it.
                evidence[found.host] = frozenset(kept) if len(kept) < EVIDENCE_MAX else ALL
            kept_there = evidence[found.host]
            if kept_there is not ALL and name.workflow_id not in kept_there:
                gone.add(oddity.attempt)
        return frozenset(gone)

    async def _open(self) -> Sequence[Workflow]:
        """Returns every open workflow, whosesoever, or nobody's."""
        # Where it has none, they may be nobody's: until somebody has looked at the store.
        if not self._store.shared and (own := self._loop.open_workflows()):
            return own
        return [stored.workflow for stored in await self._store.load_open()]

    async def _workflow(self, workflow_id: str) -> Workflow | None:
        if workflow := self._loop.workflow(workflow_id):
            return workflow
        stored = await self._store.load(workflow_id)
        return stored.workflow if stored else None

    # -- repairing ------------------------------------------------------------------------------

    async def _apply(self, connection: Connection, seen: Seen, finding: Finding) -> Failure | None:
        try:
            match finding.fix:
                case Fix.NONE:
                    raise VerbForbidden(
                        name=finding.name, state="as it is", verb="Repair", because=finding.advice
                    )
                case Fix.CANCEL_ATTEMPT:
                    await self._cancel(connection, seen, finding)
                    return None
                case Fix.REMOVE_IMAGE:
                    orphan = Orphan(
                        image_id=finding.subject,
                        attempt=finding.attempt,
                        expected_generation=finding.generation,
                    )
                    # Nobody takes it up between the agent's last look and its end.
                    with self._loop.withheld(finding.pool_id, finding.subject.partition(AT)[0]):
                        return await self._remove(connection, finding, images=[orphan])
                case Fix.REMOVE_STAGED | Fix.REMOVE_FENCE:
                    return await self._remove(connection, finding, staged=[finding.attempt])
        except CountermandError as error:
            return error.failure(host_id=finding.host)

    async def _remove(
        self,
        connection: Connection,
        finding: Finding,
        *,
        staged: Sequence[str] = (),
        images: Sequence[Orphan] = (),
    ) -> Failure | None:
        request = RemoveOrphansRequest(
            cluster_id=self._cluster_id, pool_id=finding.pool_id, staged=staged, images=images
        )
        answer = await connection.call("RemoveOrphans", request, timeout_s=LOOK_TIMEOUT_S)
        return answer.kept[0] if answer.kept else None

    async def _cancel(self, connection: Connection, seen: Seen, finding: Finding) -> None:
        name = names.parse_attempt(finding.attempt)
        assert name is not None, finding
        header = AttemptHeader(
            attempt=finding.attempt,
            cluster_id=self._cluster_id,
            owner_epoch=known(await self._workflow(name.workflow_id), name).owner_epoch,
            expected_incarnation=seen.incarnation,
        )
        request = CancelAttemptRequest(header=header)
        await connection.call("CancelAttempt", request, timeout_s=LOOK_TIMEOUT_S)


def _event(
    finding: Finding,
    change: HostChange,
    *,
    time: datetime,
    reason: str,
    kept: Failure | None = None,
) -> AuditEvent:
    log.info("doctor.%s", change.lower(), extra={"finding": finding.name, "reason": reason})
    return AuditEvent(
        subject=names.host_name(finding.host),
        change=change,
        time=time,
        principal=PRINCIPAL,
        reason=reason,
        detail=finding.name,
        failure=failure_from_proto(kept) if kept else None,
    )


def _attempts_in(seen: Seen) -> Iterator[str]:
    yield from (attempt.name for attempt in seen.attempts)
    yield from (image.attempt for image in seen.images)
    yield from (oddity.attempt for oddity in seen.oddities)


def _away(host: HostView) -> Iterator[Finding]:
    """Yields that a host is quarantined: it is looked at all the same."""
    if host.state is HostState.QUARANTINED:
        yield _host_finding(host, host.problem.message if host.problem else "it is quarantined")


def _unreachable(host: HostView, error: CountermandError) -> Finding:
    finding = _host_finding(host, error.message)
    if host.state is not HostState.READY:
        return finding
    # Its line does not know yet; `host get` would say that all is well.
    advice = "it has just gone away, or hangs: see whether its agent is alive, and look again"
    return replace(finding, advice=advice)


def _host_finding(host: HostView, message: str) -> Finding:
    return Finding(
        kind=Kind.HOST_AWAY,
        host=host.record.id,
        subject="",
        message=message,
        advice=f"`countermand host get {host.record.id}` says what it waits for",
    )
