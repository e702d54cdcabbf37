"""Does the work of one attempt: finds its verb, drives it, and says how it ended.

Every way in which work can end is turned into an outcome here, and what is not certain is never
called so: only a verb that raised one of our errors has swept what it had begun.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from agent import wire
from agent.attempts import OPEN, AttemptRecord, Event, Kind, State
from agent.drivers.driver import Driver, OutcomeUnknown, Steps, Work
from agent.executors import Executor, InlineExecutor, Interrupted
from agent.journal import Transacts
from agent.pulling import Pulling
from agent.running import Running
from agent.verbs import catalogue
from agent.verbs.context import Context
from agent.verbs.noop import unnoop
from agent.verbs.plugins import NO_PLUGINS, Plugins
from countermand.rpc.crash import Crash
from countermand.rpc.errors import (
    AttemptCancelled,
    Bug,
    CountermandError,
    PoolFailing,
    PoolNotFound,
    VerbUnsupported,
)
from countermand.rpc.names import parse_attempt
from countermand.rpc.telemetry import OFF, Telemetry, parse_traceparent
from countermand.v1.agent_pb2 import CompensateRequest, SourceAccess
from countermand.v1.verb_pb2 import Action, Output

log = logging.getLogger(__name__)


# What has taken effect, or may have.
COMPENSABLE = OPEN | {State.SUCCEEDED, State.UNKNOWN}


@dataclass(frozen=True, slots=True, kw_only=True)
class Outside:
    """The world, as the runner sees it."""

    now: Callable[[], datetime]
    monotonic: Callable[[], float]
    crash: Crash
    telemetry: Telemetry = OFF


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How work ended."""

    event: Event
    output: bytes = b""
    failure: bytes = b""


class Worker:
    """Does the work of one agent's attempts."""

    def __init__(
        self,
        *,
        journal: Transacts,
        pools: Mapping[str, Driver],
        executor: Executor,
        outside: Outside,
        host_id: str,
        pulling: Pulling,
        plugins: Plugins = NO_PLUGINS,
    ) -> None:
        """Belongs to no cluster yet."""
        self.cluster_id = ""
        self._plugins = plugins
        self._journal = journal
        self._pools = pools
        self._executor = executor
        self._inline = InlineExecutor()
        self._outside = outside
        self._host_id = host_id
        self._pulling = pulling

    async def outcome(self, running: Running) -> Outcome:
        """Does the work; returns how it ended."""
        record = running.record
        # A compensation is simply tried again, under another number.
        uncertain = Event.LOST if record.kind is Kind.ACTION else Event.FAILED
        try:
            output = await self._drive(running)
            return Outcome(
                event=Event.SUCCEEDED, output=output.SerializeToString(deterministic=True)
            )
        except AttemptCancelled:
            return Outcome(event=Event.STOPPED)
        except (PoolNotFound, PoolFailing) as error:
            # It was there when the attempt was admitted: what it did cannot be looked at now.
            return Outcome(event=uncertain, failure=self._failure(error, record))
        except CountermandError as error:
            return Outcome(event=Event.FAILED, failure=self._failure(error, record))
        except OutcomeUnknown as error:
            return Outcome(event=uncertain, failure=self._failure(error.cause, record))
        except Interrupted:
            raise
        except Exception as error:
            log.exception("attempt.defect", extra={"attempt": record.name})
            return Outcome(event=uncertain, failure=self._failure(Bug(what=repr(error)), record))

    async def _drive(self, running: Running) -> Output:
        record = running.record
        verb, steps = await self._steps(running)
        executor = self._executor if verb.touches_storage else self._inline
        with self._outside.telemetry.span(
            f"agent.{record.kind.lower()}",
            parent=parse_traceparent(record.traceparent, record.tracestate),
            attributes=self._about(record),
        ):
            return await executor.drive(steps, running)

    def _about(self, record: AttemptRecord) -> dict[str, str]:
        """Returns the attributes of its span: those that the coordinator's spans have."""
        name = parse_attempt(record.name)
        assert name is not None, record.name
        return {
            "countermand.workflow": name.workflow,
            "countermand.task": name.task_id,
            "countermand.attempt": record.name,
            "countermand.host": self._host_id,
        }

    def _failure(self, error: CountermandError, record: AttemptRecord) -> bytes:
        failure = error.failure(attempt=record.name, host_id=self._host_id)
        return failure.SerializeToString(deterministic=True)

    async def _steps(self, running: Running) -> tuple[catalogue.Verb, Steps[Output]]:
        """Returns the work of an attempt."""
        record = running.record
        work = Work(
            attempt=record.name,
            cluster_id=self.cluster_id,
            note=record.note,
            resumed=running.resumed,
            now=self._outside.now,
            crash=self._outside.crash,
        )
        action = wire.action_of(record)
        pull = partial(
            self._pulling.source,
            record.name,
            check=running.check_between,
            take_digest=action.copy_image.take_digest,
        )
        context = Context(work=work, pools=self._pools, pull=pull)
        if record.kind is Kind.ACTION:
            verb = catalogue.verb_of(action, self._plugins)
            # An older version has taken over, or a plug-in has gone: nobody can look at it.
            if verb is None:
                raise OutcomeUnknown(_unsupported("", action, _NOT_HERE))
            await self._recall_access(record.name)
            return verb, verb.act(context, action)
        request = wire.compensation_of(record)
        if request.HasField("replacement"):
            verb = catalogue.verb_of(request.replacement, self._plugins)
            if verb is None:
                raise OutcomeUnknown(_unsupported("", request.replacement, _NOT_HERE))
            return verb, verb.act(context, request.replacement)
        target = await self._journal.transact(lambda tx: tx.get(record.compensates))
        verb = catalogue.verb_of(action, self._plugins)
        make_up = catalogue.make_up_of(action, self._plugins)
        if verb is None or make_up is None:
            if target is not None and target.received and target.state in COMPENSABLE:
                raise _unsupported("make up for ", action, _NO_OPPOSITE if verb else _NOT_HERE)
            if _was_elsewhere(action, target):
                raise _unsupported("make up for ", action, _NOT_HERE)
            verb, make_up = catalogue.VERBS["noop"], unnoop  # there is nothing to make up for
        return verb, _without_output(make_up(context, action, record.compensates))

    async def _recall_access(self, name: str) -> None:
        """Takes up how an attempt reached its source in an earlier life."""
        if self._pulling.access(name) is None:
            known = await self._journal.transact(lambda tx: tx.source_access(name))
            if known and self._pulling.access(name) is None:
                self._pulling.offer(name, SourceAccess.FromString(known))


_NO_OPPOSITE = "it has no opposite"
_NOT_HERE = "nothing that is installed here has such a verb"


def _was_elsewhere(action: Action, target: AttemptRecord | None) -> bool:
    """Returns whether an attempt may have run in a life that this journal knows nothing of.

    No plug-in's verb is sent to a host that never had it: it was uninstalled since.
    """
    is_custom = catalogue.name_of(action) == catalogue.CUSTOM
    return is_custom and (target is None or not target.received)


def action_for(record: AttemptRecord) -> Action:
    """Returns the action whose verb does the work of an attempt."""
    if record.kind is Kind.ACTION:
        return wire.action_of(record)
    return work_of(wire.compensation_of(record))


def work_of(request: CompensateRequest) -> Action:
    """Returns the action whose verb does the work of a compensation."""
    return request.replacement if request.HasField("replacement") else request.action


def _unsupported(doing: str, action: Action, why: str) -> VerbUnsupported:
    pool = next((address.pool_id for _, address in catalogue.addresses(action)), "")
    name = action.custom.verb or catalogue.name_of(action)
    return VerbUnsupported(pool=pool, verb=doing + name, why=why)


def _without_output(steps: Steps[None]) -> Steps[Output]:
    yield from steps
    return Output()
