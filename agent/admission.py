"""Decides what a request begins: what the journal gets of it, and what is refused beforehand.

The rules are those of `attempts.admit`; here they meet the journal, each decision in the one
durable transaction that also writes it down. Called by the runner, which begins what was admitted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from agent import attempts, work
from agent.attempts import (
    Admit,
    AttemptRecord,
    Decision,
    Event,
    Header,
    Kind,
    Place,
    Refuse,
)
from agent.drivers.driver import Driver
from agent.executors import Calls
from agent.journal import Transaction
from agent.running import Lane
from agent.verbs import catalogue
from agent.verbs.plugins import Plugins
from countermand.rpc import names
from countermand.rpc.errors import (
    AttemptNotFound,
    CountermandError,
    FieldInvalid,
    VerbUnsupported,
    Violation,
)
from countermand.v1.agent_pb2 import CompensateRequest, SourceAccess
from countermand.v1.verb_pb2 import Action

# A plug-in looks at some words; less than a caller waits for its answer.
CHECK_S_MAX = 3.0
CHECKS_MAX = 32  # threads, at worst: of plug-ins that never come to an end
_CHECKS_LATE = f"its plug-in has not checked the arguments within {CHECK_S_MAX:g} s"


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A request that may begin an attempt, as the journal will have it."""

    header: Header
    kind: Kind
    lane: Lane
    pools: frozenset[str]
    request: bytes
    refusal: CountermandError | None  # why this host cannot do such a thing at all
    compensates: str = ""
    compensated: bytes = b""  # the action of that attempt
    access: SourceAccess | None = None  # of a copy from another host


def order_of_action(
    header: Header,
    action: Action,
    *,
    refusal: CountermandError | None,
    access: SourceAccess | None,
) -> Order:
    """Returns what the journal will have of an action."""
    return Order(
        header=header,
        kind=Kind.ACTION,
        lane=lane_of(Kind.ACTION, action),
        pools=catalogue.pools(action),
        request=action.SerializeToString(deterministic=True),
        refusal=refusal,
        access=access,
    )


def order_of_compensation(
    header: Header, request: CompensateRequest, *, refusal: CountermandError | None
) -> Order:
    """Returns what the journal will have of a compensation."""
    arguments = CompensateRequest()
    arguments.CopyFrom(request)
    arguments.ClearField("header")
    return Order(
        header=header,
        kind=Kind.COMPENSATION,
        lane=lane_of(Kind.COMPENSATION, work.work_of(request)),
        pools=catalogue.pools(work.work_of(request)),
        request=arguments.SerializeToString(deterministic=True),
        refusal=refusal,
        compensates=request.compensates,
        compensated=request.action.SerializeToString(deterministic=True),
    )


class Refusals:
    """Says beforehand what this host cannot do at all."""

    def __init__(self, pools: Mapping[str, Driver], plugins: Plugins, checks: Calls) -> None:
        """Plug-ins check their arguments by `checks`, which may never come back."""
        self._pools = pools
        self._plugins = plugins
        self._checks = checks
        self._turns = asyncio.Semaphore(CHECKS_MAX)

    async def of(self, action: Action) -> CountermandError | None:
        """Returns why this host cannot do an action at all, or None.

        A plug-in says so itself: it is somebody else's code, and may take its time.
        """
        decide = partial(catalogue.refusal, action, self._pools, self._plugins)
        if action.custom.verb not in self._plugins:
            return decide()
        try:
            async with asyncio.timeout(CHECK_S_MAX):
                await self._turns.acquire()  # many may come at once, and each ends in a moment
                checking = asyncio.ensure_future(self._checks.call(decide))
                checking.add_done_callback(self._checked)  # the thread outlives who asked
                return await asyncio.shield(checking)
        except TimeoutError:
            pool = ", ".join(sorted(catalogue.pools(action))) or "(none)"
            return VerbUnsupported(pool=pool, verb=action.custom.verb, why=_CHECKS_LATE)

    def _checked(self, check: asyncio.Future[CountermandError | None]) -> None:
        self._turns.release()
        if not check.cancelled():
            check.exception()  # nobody may wait for it any more


def decide(
    tx: Transaction, *, order: Order, place: Place, now: datetime
) -> tuple[Decision, AttemptRecord | None]:
    """Decides on an order, and writes down what that makes of it."""
    header = order.header
    facts = tx.facts(header)
    decision = attempts.admit(header, facts, place=place, refusal=order.refusal)
    if not isinstance(decision, Refuse):
        _remember(tx, header)
    elif decision.in_charge:
        _remember(tx, header, intent=header.intent_sequence)
    if order.access is not None and not isinstance(decision, Refuse):
        tx.keep_source_access(header.attempt, order.access.SerializeToString())
    if not isinstance(decision, Admit):
        return decision, None
    if order.kind is Kind.COMPENSATION:
        _bury(tx, header, order.compensates, order.compensated, now)
    record = attempts.begin(
        header,
        kind=order.kind,
        request=order.request,
        compensates=order.compensates,
        place=place,
        now=now,
    )
    return decision, tx.put(record)


def ask_to_stop(
    tx: Transaction, *, header: Header, now: datetime
) -> tuple[AttemptRecord, bool] | CountermandError:
    """Asks an attempt to stop; returns it, and whether it was taken up again for that."""
    facts = tx.facts(header)
    if error := attempts.challenge(header, facts):
        return error
    record = facts.attempt
    if not attempts.is_late(header, facts):
        _remember(tx, header, intent=header.intent_sequence)
    if record is None or not record.received:
        return AttemptNotFound(attempt=header.attempt, incarnation=facts.incarnation)
    if record.kind is Kind.COMPENSATION:
        return record, False
    reopened = attempts.can_look_again(record)
    if reopened:  # its work finds out what there is to stop
        record = attempts.move(record, Event.STARTED, now=now)
    moved = attempts.move(record, Event.CANCEL_ASKED, now=now)
    return (record if moved is record else tx.put(moved)), reopened


def lane_of(kind: Kind, action: Action) -> Lane:
    """Returns who takes turns with an attempt."""
    verb = catalogue.VERBS.get(catalogue.name_of(action))
    return Lane(kind, touches_storage=verb is None or verb.touches_storage)


def _remember(tx: Transaction, header: Header, *, intent: int = 0) -> None:
    """Learns the caller's epoch; with the intent, unless an attempt of it is in the journal."""
    tx.remember_owner(
        workflow=header.workflow,
        owner_epoch=header.owner_epoch,
        cluster_id=header.cluster_id,
        intent=intent,
    )


def _bury(tx: Transaction, header: Header, name: str, action: bytes, now: datetime) -> None:
    """Writes the tombstone of an attempt, if it has none."""
    known = tx.get(name)
    if known is not None and known.kind is Kind.COMPENSATION:
        raise FieldInvalid(Violation("compensates", "must name an action's attempt"))
    if known is None or not known.tombstoned:
        tx.put(attempts.bury(known, name=name, header=header, request=action, now=now))


def check_compensation(header: Header, request: CompensateRequest) -> None:
    """Refuses what no host could make up for.

    Raises:
        FieldInvalid: A field is missing or malformed; every such field is named.
    """
    target = names.parse_attempt(request.compensates)
    violations = []
    if target is None or target.workflow != header.workflow:
        violations.append(Violation("compensates", "must name an attempt of the same workflow"))
    if request.compensates == header.attempt:
        violations.append(Violation("compensates", "must not be the compensation itself"))
    if violations:
        raise FieldInvalid(*violations)
    catalogue.check(request.action)
