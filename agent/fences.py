"""Settles attempts of other hosts, on storage that this one reaches as well.

First the driver puts a fence in the place of the attempt; then the verb's own action is run on its
behalf, as after a restart. It finds what the attempt made, and returns its output; or it runs into
the fence, and that is the certain answer that nothing is there and nothing ever will be. No attempt
is journalled: the fence itself is the record, and who asks again gets the same answer. Called by
the service; a caller that goes away stops nothing.

What is kept in the journal is the caller's epoch, with the intent of the attempt. It is of another
host, whose low-watermark is not ours: so it counts against the lowest of all hosts, below which
nothing is fenced any more. A late call that nobody waits for leaves no fence behind.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial

from agent import attempts, crash_points, wire
from agent.attempts import Header
from agent.closed import driver_of
from agent.drivers.driver import (
    Content,
    Fences,
    Format,
    ImageFound,
    OutcomeUnknown,
    Source,
    Work,
)
from agent.executors import Executor
from agent.journal import Transaction
from agent.lookers import CallGuard
from agent.runner import Runner
from agent.verbs import catalogue
from agent.verbs.context import Context
from countermand.rpc.errors import (
    AttemptFenced,
    CountermandError,
    Expired,
    FieldInvalid,
    PoolNotShared,
    PoolReadOnly,
    StorageFailed,
    VerbUnsupported,
    Violation,
)
from countermand.v1.agent_pb2 import FenceAttemptRequest
from countermand.v1.attempt_pb2 import Attempt
from countermand.v1.image_pb2 import ImageAddress
from countermand.v1.verb_pb2 import Action, Output


class Fencer:
    """Fences attempts of other hosts, one at a time in each pool."""

    def __init__(self, runner: Runner, executor: Executor) -> None:
        """Needs one thread for each pool, beside those of the attempts."""
        self._runner = runner
        self._executor = executor
        self._outside = runner.outside
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._fencing: dict[str, asyncio.Task[Attempt]] = {}

    async def fence(self, request: FenceAttemptRequest) -> Attempt:
        """Returns the attempt as the storage has it, now and for ever.

        Raises:
            CountermandError: Any of the table in agent.proto; nothing is known of the attempt.
        """
        header = wire.read_header(request.header)
        catalogue.check(request.action)
        await self._take_charge(header)
        driver = self._driver(request.action)
        name = header.attempt
        if name not in self._fencing:
            task = asyncio.ensure_future(self._settle(header, request.action, driver))
            self._fencing[name] = task
            task.add_done_callback(lambda _: self._fencing.pop(name, None))
        return await asyncio.shield(self._fencing[name])

    async def _take_charge(self, header: Header) -> None:
        """Learns the caller's epoch, as of any order.

        Raises:
            FieldInvalid: It is an attempt of this agent's own.
        """

        def take(tx: Transaction) -> CountermandError | None:
            facts = tx.facts(header)
            if error := attempts.challenge(header, facts):
                return error
            if header.intent_sequence < facts.fence_low_watermark:
                return Expired(attempt=header.attempt)
            tx.remember_owner(
                workflow=header.workflow,
                owner_epoch=header.owner_epoch,
                cluster_id=header.cluster_id,
                fenced=header.intent_sequence,
            )
            if facts.attempt is not None and facts.attempt.received:
                why = "must be of another host: this agent runs it, and can be asked about it"
                return FieldInvalid(Violation("header.attempt", why))
            return None

        if error := await self._runner.transact(take):
            raise error

    def _driver(self, action: Action) -> Fences:
        """Returns the driver of the only pool that an action may change."""
        verb = catalogue.name_of(action)
        known = catalogue.VERBS.get(verb)
        targets = [
            address.pool_id
            for field, address in catalogue.addresses(action)
            if field.endswith(".target")
        ]
        if not targets or (known is not None and known.only_reads):
            raise FieldInvalid(Violation("action", "must be one that leaves something in a pool"))
        [pool_id] = targets
        driver = driver_of(self._runner.pools, pool_id)
        if known is None or verb not in driver.verbs or not isinstance(driver, Fences):
            raise VerbUnsupported(pool=pool_id, verb=verb, why="its driver fences no such attempt")
        if action.resize_image.shrink_allowed:
            # A host that was held up just before it cuts would do so whenever it goes on, in the
            # middle of what others have written since: that is no rename, and nothing decides it.
            why = "it cuts off data in place, which no fence can stop: its own host must end it"
            raise VerbUnsupported(pool=pool_id, verb="to fence a resize that may shrink", why=why)
        if not driver.config.shared:
            raise PoolNotShared(pool=pool_id)
        if driver.config.read_only:
            raise PoolReadOnly(pool=pool_id)
        return driver

    async def _settle(self, header: Header, action: Action, driver: Fences) -> Attempt:
        async with self._turns[driver.config.pool_id]:
            try:
                await self._executor.call(partial(driver.fence, header.attempt))
            except OSError as error:  # nothing is known
                pool_id = driver.config.pool_id
                raise StorageFailed(pool=pool_id, error=error, image=header.attempt) from error
            self._outside.crash(crash_points.AFTER_FENCE)
            return await self._look(header, action)

    async def _look(self, header: Header, action: Action) -> Attempt:
        """Finds out whether an attempt that can do nothing any more had come to its effect."""
        told = Attempt(
            name=header.attempt,
            kind=Attempt.KIND_ACTION,
            host_id=self._runner.identity.host_id,
            incarnation=self._runner.identity.incarnation,
            traceparent=header.traceparent,
            owner_epoch=header.owner_epoch,
            end_time=wire.timestamp(self._outside.now()),
        )
        work = Work(
            attempt=header.attempt,
            cluster_id=header.cluster_id,
            note="",
            resumed=True,
            now=self._outside.now,
            crash=self._outside.crash,
        )
        context = _Fenced(
            work=work, pools=self._runner.pools, pull=partial(_NoSource, header.attempt)
        )
        verb = catalogue.VERBS[catalogue.name_of(action)]
        try:
            output: Output = await self._executor.drive(verb.act(context, action), CallGuard())
        except AttemptFenced as error:
            told.state = Attempt.STATE_FAILED
            told.failure.CopyFrom(error.failure(attempt=header.attempt, host_id=told.host_id))
        except OutcomeUnknown as error:
            raise error.cause from error
        else:
            told.state = Attempt.STATE_SUCCEEDED
            told.output.CopyFrom(output)
        return told


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fenced(Context):
    """What a fenced attempt's verb works with: it reads no source, wherever that is."""

    def source(self, address: ImageAddress, *, host_id: str = "") -> Source:  # noqa: ARG002 - any
        """Returns a source that says that the attempt is fenced."""
        return self.pull(address)


@dataclass(frozen=True, slots=True)
class _NoSource:
    """An image that is not read, because its attempt is fenced."""

    attempt: str
    address: ImageAddress

    @property
    def name(self) -> str:
        """Returns the pool and the image."""
        return f"{self.address.pool_id}/{self.address.image_id}"

    def find(self) -> ImageFound:
        """Is not to be called behind a fence."""
        raise self._fenced()

    def reading(self, layout: Format) -> AbstractContextManager[Content]:  # noqa: ARG002
        """Is not to be called behind a fence."""
        raise self._fenced()

    def _fenced(self) -> AttemptFenced:
        return AttemptFenced(attempt=self.attempt, pool=self.address.pool_id)
