"""AgentService over gRPC: one coroutine per call, each as thin as it can be.

Handlers only raise errors of the table; `countermand.rpc.server` turns them into statuses.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing
from datetime import datetime
from functools import partial

from agent import wire
from agent.attempts import AttemptRecord
from agent.closed import driver_of
from agent.drivers.driver import Driver, PoolFound
from agent.executors import Executor
from agent.fences import Fencer
from agent.frames import Frame
from agent.journal import Forgotten, Transaction
from agent.lookers import Lookers
from agent.orphans import Orphans
from agent.runner import Runner
from agent.serving import Serving
from agent.verbs import catalogue
from agent.verbs.plugins import works_in
from countermand.rpc import names
from countermand.rpc.errors import (
    AttemptNotFound,
    CallUnsupported,
    Fenced,
    FieldInvalid,
    PoolReadOnly,
    Violation,
    WrongCluster,
)
from countermand.v1.agent_pb2 import (
    AttemptUpdate,
    CancelAttemptRequest,
    CancelAttemptResponse,
    CloneImageRequest,
    CloneImageResponse,
    CompensateRequest,
    CompensateResponse,
    CopyImageRequest,
    CopyImageResponse,
    CreateImageRequest,
    CreateImageResponse,
    CreateSnapshotRequest,
    CreateSnapshotResponse,
    CustomRequest,
    CustomResponse,
    DeleteImageRequest,
    DeleteImageResponse,
    DeleteSnapshotRequest,
    DeleteSnapshotResponse,
    FenceAttemptRequest,
    FenceAttemptResponse,
    ForgetRequest,
    ForgetResponse,
    GetAttemptRequest,
    GetAttemptResponse,
    GetHostRequest,
    GetHostResponse,
    Heard,
    HostReport,
    InspectRequest,
    InspectResponse,
    ListAttemptsRequest,
    ListAttemptsResponse,
    ListImagesRequest,
    ListImagesResponse,
    NoopRequest,
    NoopResponse,
    ReadImageRequest,
    ReadImageResponse,
    RemoveOrphansRequest,
    RemoveOrphansResponse,
    ResizeImageRequest,
    ResizeImageResponse,
    RevertImageRequest,
    RevertImageResponse,
    ServeImageRequest,
    ServeImageResponse,
    SessionRequest,
    SessionResponse,
    SourceAccess,
    SurveyPoolRequest,
    SurveyPoolResponse,
    VerifyImageRequest,
    VerifyImageResponse,
    WatchAttemptsRequest,
    WatchAttemptsResponse,
)
from countermand.v1.agent_pb2_grpc import AgentServiceServicer
from countermand.v1.image_pb2 import Pool
from countermand.v1.verb_pb2 import Action

PAGE_SIZE = 50
PAGE_SIZE_MAX = 1000
PORT_MAX = 65_535


class AgentService(AgentServiceServicer):
    """What the coordinator asks of this host."""

    def __init__(
        self,
        runner: Runner,
        *,
        now: Callable[[], datetime],
        version: str,
        lookers: Executor | None = None,
        servers: Executor | None = None,
        identities: Mapping[str, str] | None = None,
    ) -> None:
        """Serves one runner; lookers and servers without threads of their own share its own.

        `identities` says of each pool which storage it is, as far as that is known.
        """
        self._runner = runner
        self._lookers = Lookers(runner.pools, lookers or runner.executor)
        self._serving = Serving(runner, self._lookers, servers or runner.executor, now=now)
        self._orphans = Orphans(lookers=self._lookers, running=runner.running, now=now)
        self._fencer = Fencer(runner, lookers or runner.executor)
        self._now = now
        self._version = version
        self._identities = identities or {}

    async def stop(self) -> None:
        """Returns once nothing is done for callers who have gone."""
        await self._serving.stop()

    # -- verbs ----------------------------------------------------------------------------------

    async def CreateImage(
        self, request: CreateImageRequest, context: object
    ) -> CreateImageResponse:
        """Makes an empty image."""
        action = Action(create_image=request.create_image)
        return CreateImageResponse(attempt=await self._runner.accept(request.header, action))

    async def CopyImage(self, request: CopyImageRequest, context: object) -> CopyImageResponse:
        """Copies an image's data in full."""
        action = Action(copy_image=request.copy_image)
        access = request.source_access if request.HasField("source_access") else None
        if access is not None:
            _check_access(access)
        attempt = await self._runner.accept(request.header, action, access=access)
        return CopyImageResponse(attempt=attempt)

    async def CloneImage(self, request: CloneImageRequest, context: object) -> CloneImageResponse:
        """Makes an image that shares its source's data."""
        action = Action(clone_image=request.clone_image)
        return CloneImageResponse(attempt=await self._runner.accept(request.header, action))

    async def DeleteImage(
        self, request: DeleteImageRequest, context: object
    ) -> DeleteImageResponse:
        """Removes an image."""
        action = Action(delete_image=request.delete_image)
        return DeleteImageResponse(attempt=await self._runner.accept(request.header, action))

    async def ResizeImage(
        self, request: ResizeImageRequest, context: object
    ) -> ResizeImageResponse:
        """Changes an image's virtual size."""
        action = Action(resize_image=request.resize_image)
        return ResizeImageResponse(attempt=await self._runner.accept(request.header, action))

    async def CreateSnapshot(
        self, request: CreateSnapshotRequest, context: object
    ) -> CreateSnapshotResponse:
        """Remembers an image's present content."""
        action = Action(create_snapshot=request.create_snapshot)
        return CreateSnapshotResponse(attempt=await self._runner.accept(request.header, action))

    async def DeleteSnapshot(
        self, request: DeleteSnapshotRequest, context: object
    ) -> DeleteSnapshotResponse:
        """Forgets a snapshot."""
        action = Action(delete_snapshot=request.delete_snapshot)
        return DeleteSnapshotResponse(attempt=await self._runner.accept(request.header, action))

    async def RevertImage(
        self, request: RevertImageRequest, context: object
    ) -> RevertImageResponse:
        """Puts an image back to a snapshot."""
        action = Action(revert_image=request.revert_image)
        return RevertImageResponse(attempt=await self._runner.accept(request.header, action))

    async def VerifyImage(
        self, request: VerifyImageRequest, context: object
    ) -> VerifyImageResponse:
        """Reads an image and says whether it is whole."""
        action = Action(verify_image=request.verify_image)
        return VerifyImageResponse(attempt=await self._runner.accept(request.header, action))

    async def Noop(self, request: NoopRequest, context: object) -> NoopResponse:
        """Passes through the whole protocol."""
        action = Action(noop=request.noop)
        return NoopResponse(attempt=await self._runner.accept(request.header, action))

    async def Custom(self, request: CustomRequest, context: object) -> CustomResponse:
        """Does what a plug-in of this host knows."""
        action = Action(custom=request.custom)
        return CustomResponse(attempt=await self._runner.accept(request.header, action))

    # -- attempts -------------------------------------------------------------------------------

    async def Compensate(self, request: CompensateRequest, context: object) -> CompensateResponse:
        """Makes up for one attempt."""
        return CompensateResponse(attempt=await self._runner.compensate(request))

    async def CancelAttempt(
        self, request: CancelAttemptRequest, context: object
    ) -> CancelAttemptResponse:
        """Asks an attempt to stop."""
        return CancelAttemptResponse(attempt=await self._runner.cancel(request.header))

    async def GetAttempt(self, request: GetAttemptRequest, context: object) -> GetAttemptResponse:
        """Reads one attempt from the journal."""
        parts = names.parse_attempt(request.name)
        if parts is None:
            rule = "must be workflows/{workflow}/tasks/{task}/attempts/{attempt}"
            raise FieldInvalid(Violation("name", rule))
        if request.owner_epoch and not request.cluster_id:
            raise FieldInvalid(Violation("cluster_id", "is required with owner_epoch"))
        if request.intent_sequence < 0:
            raise FieldInvalid(Violation("intent_sequence", "must not be negative"))
        identity = self._runner.identity
        record = await self._runner.transact(
            partial(_read_attempt, request=request, workflow=parts.workflow)
        )
        if record is None:
            raise AttemptNotFound(attempt=request.name, incarnation=identity.incarnation)
        return GetAttemptResponse(
            attempt=self._runner.tell(record, with_action=True), incarnation=identity.incarnation
        )

    async def ListAttempts(
        self, request: ListAttemptsRequest, context: object
    ) -> ListAttemptsResponse:
        """Lists the journal's attempts in order of their names."""
        size = page_size(request.page_size)
        records = await self._runner.transact(
            lambda tx: tx.page(
                request.name_prefix,
                after=request.page_token,
                count_max=size + 1,
                open_only=request.open_only,
            )
        )
        page = records[:size]
        return ListAttemptsResponse(
            attempts=[self._runner.tell(record, with_action=True) for record in page],
            next_page_token=page[-1].name if len(records) > size else "",
            incarnation=self._runner.identity.incarnation,
        )

    async def WatchAttempts(
        self, request: WatchAttemptsRequest, context: object
    ) -> AsyncIterator[WatchAttemptsResponse]:
        """Streams changes of attempts, and progress between them."""
        after = request.after_sequence if request.HasField("after_sequence") else None
        identity = self._runner.identity
        async with aclosing(self._runner.watchers.watch(after)) as batches:
            async for batch in batches:
                updates = [
                    AttemptUpdate(sequence=record.sequence, attempt=wire.attempt(record, identity))
                    for record in batch.changes
                ]
                updates += [
                    AttemptUpdate(attempt=wire.attempt(record, identity, progress=progress))
                    for record, progress in batch.progress
                ]
                yield WatchAttemptsResponse(
                    updates=updates, bookmark=batch.bookmark, incarnation=identity.incarnation
                )

    async def Session(
        self, request_iterator: AsyncIterator[SessionRequest], context: object
    ) -> AsyncIterator[SessionResponse]:
        """Is not offered yet."""
        raise CallUnsupported(call="Session")
        yield SessionResponse()  # type: ignore[unreachable]  # it only makes this a stream

    async def Forget(self, request: ForgetRequest, context: object) -> ForgetResponse:
        """Allows evidence to be dropped."""
        violations = [
            Violation(f"workflows[{index}]", "must be workflows/{workflow}")
            for index, name in enumerate(request.workflows)
            if names.parse_workflow(name) is None
        ]
        if not request.cluster_id:
            violations.append(Violation("cluster_id", "is required"))
        violations += [
            Violation(field, "must not be negative")
            for field in ("low_watermark", "fence_low_watermark")
            if getattr(request, field) < 0
        ]
        if violations:
            raise FieldInvalid(*violations)

        def forget(tx: Transaction) -> Forgotten:
            expected = tx.meta("cluster_id")
            if expected and request.cluster_id != expected:
                raise WrongCluster(expected=expected, cluster_id=request.cluster_id)
            return tx.forget(request.workflows, request.low_watermark, request.fence_low_watermark)

        # In several transactions, between which others come: a caller who goes away asks again.
        forgotten = await self._runner.transact(forget)
        count = forgotten.attempts
        while not forgotten.done:
            forgotten = await self._runner.transact(forget)
            count += forgotten.attempts
        return ForgetResponse(forgotten=count, kept=forgotten.kept)

    # -- storage --------------------------------------------------------------------------------

    async def Inspect(self, request: InspectRequest, context: object) -> InspectResponse:
        """Looks at one image on the storage itself."""
        address = request.address
        if not names.is_id(address.image_id):
            raise FieldInvalid(Violation("address.image_id", names.ID_RULE))
        driver = self._pool(address.pool_id)
        found = await self._lookers.find(driver, address.image_id)
        holders = self._holders(driver).get(found.image_id, [])
        image = wire.image(found, driver.config.pool_id, holders)
        if request.take_digest:
            image.digest = await self._lookers.digest(driver, address.image_id)
        return InspectResponse(image=image)

    async def ListImages(self, request: ListImagesRequest, context: object) -> ListImagesResponse:
        """Lists the images of a pool in order of their ids."""
        driver = self._pool(request.pool_id)
        size = page_size(request.page_size)
        found = await self._lookers.list_images(
            driver, after=request.page_token, count_max=size + 1
        )
        page, holders = found[:size], self._holders(driver)
        return ListImagesResponse(
            images=[
                wire.image(image, driver.config.pool_id, holders.get(image.image_id, []))
                for image in page
            ],
            next_page_token=page[-1].image_id if len(found) > size else "",
        )

    async def SurveyPool(self, request: SurveyPoolRequest, context: object) -> SurveyPoolResponse:
        """Lists what is in a pool and is no image."""
        driver = self._pool(request.pool_id)
        size = page_size(request.page_size)
        begin = page_offset(request.page_token)
        found = await self._orphans.survey(driver)
        page = found[begin : begin + size]
        return SurveyPoolResponse(
            oddities=[
                wire.oddity(oddity, in_use=self._orphans.in_use(oddity.attempt)) for oddity in page
            ],
            next_page_token=str(begin + size) if len(found) > begin + size else "",
        )

    async def RemoveOrphans(
        self, request: RemoveOrphansRequest, context: object
    ) -> RemoveOrphansResponse:
        """Removes from a pool what belongs to nothing any more."""
        _check_removal(request)
        driver = self._pool(request.pool_id)
        if driver.config.read_only:
            raise PoolReadOnly(pool=request.pool_id)
        expected = await self._runner.transact(lambda tx: tx.meta("cluster_id"))
        if expected and request.cluster_id != expected:
            raise WrongCluster(expected=expected, cluster_id=request.cluster_id)
        removal = await self._orphans.remove(
            driver, cluster_id=request.cluster_id, staged=request.staged, images=request.images
        )
        return RemoveOrphansResponse(
            removed=removal.removed,
            kept=[wire.kept(name, error) for name, error in removal.kept],
        )

    async def FenceAttempt(
        self, request: FenceAttemptRequest, context: object
    ) -> FenceAttemptResponse:
        """Settles an attempt of another host, on storage that both reach."""
        return FenceAttemptResponse(attempt=await self._fencer.fence(request))

    async def ServeImage(self, request: ServeImageRequest, context: object) -> ServeImageResponse:
        """Allows one attempt of another host to read one image here, for a while."""
        return await self._serving.issue(request)

    async def ReadImage(
        self, request: ReadImageRequest, context: object
    ) -> AsyncIterator[ReadImageResponse]:
        """Streams one image's content to whoever holds a ticket for it."""
        async with aclosing(self.read_frames(request, context)) as frames:
            async for frame in frames:
                yield ReadImageResponse.FromString(frame)

    async def read_frames(
        self, request: ReadImageRequest, context: object
    ) -> AsyncGenerator[Frame, None]:
        """Streams the same, serialized: what gRPC really calls."""
        async with aclosing(self._serving.read(request)) as frames:
            async for frame in frames:
                yield frame

    async def GetHost(self, request: GetHostRequest, context: object) -> GetHostResponse:
        """Describes the agent."""
        runner = self._runner
        cluster_id, sequence, heard = await runner.transact(
            lambda tx: (tx.meta("cluster_id"), tx.sequence, tx.heard)
        )
        drivers = list(runner.pools.values())
        reports = await asyncio.gather(*map(self._lookers.report, drivers))
        report = HostReport(
            cluster_id=cluster_id,
            incarnation=runner.identity.incarnation,
            journal_sequence=sequence,
            pools=list(map(self._tell_pool, drivers, reports)),
            attempts_max=runner.limits.attempts_max,
            queue_max=runner.limits.queue_max,
            version=self._version,
            custom_verbs=sorted(runner.plugins),
            heard=Heard(owner_epoch=heard.owner_epoch, intent_sequence=heard.intent_sequence),
        )
        for pool in report.pools:
            pool.identity = self._identities.get(pool.pool_id, "")
        return GetHostResponse(host=report, now=wire.timestamp(self._now()))

    def _tell_pool(self, driver: Driver, found: PoolFound) -> Pool:
        runner, config = self._runner, driver.config
        host_max = runner.limits.attempts_max
        told = wire.pool(
            driver,
            found,
            attempts_max=min(config.attempts_max or host_max, host_max),
            attempts_running=runner.running_in(config.pool_id),
        )
        told.verbs.extend(
            name for name, verb in sorted(runner.plugins.items()) if works_in(verb, driver)
        )
        return told

    def _pool(self, pool_id: str) -> Driver:
        return driver_of(self._runner.pools, pool_id)

    def _holders(self, driver: Driver) -> Mapping[str, list[str]]:
        """Returns who is at work on the images of a pool."""
        holders: dict[str, list[str]] = {}
        for name, running in self._runner.running.items():
            for _, address in catalogue.local_addresses(wire.action_of(running.record)):
                if address.pool_id == driver.config.pool_id:
                    holders.setdefault(address.image_id, []).append(name)
        for reader in self._serving.readers:
            if reader.pool_id == driver.config.pool_id:
                holders.setdefault(reader.image_id, []).append(reader.attempt)
        return holders


def _read_attempt(
    tx: Transaction, *, request: GetAttemptRequest, workflow: str
) -> AttemptRecord | None:
    """Reads an attempt, and learns the asking owner's epoch before anything is decided by it."""
    expected = tx.meta("cluster_id")
    if expected and request.cluster_id and request.cluster_id != expected:
        raise WrongCluster(expected=expected, cluster_id=request.cluster_id)
    record = tx.get(request.name)
    if request.owner_epoch:
        highest = tx.highest_epoch(workflow)
        if request.owner_epoch < highest:
            raise Fenced(owner_epoch=request.owner_epoch, workflow=workflow, highest=highest)
        is_late = 0 < request.intent_sequence < tx.low_watermark
        if record is not None or highest or not is_late:
            tx.remember_owner(
                workflow=workflow,
                owner_epoch=request.owner_epoch,
                cluster_id=request.cluster_id,
                intent=0 if record else request.intent_sequence or tx.low_watermark,
            )
    return record


def _check_access(access: SourceAccess) -> None:
    host, _, port = access.address.rpartition(":")
    violations = []
    is_port = port.isascii() and port.isdecimal() and len(port) <= len(str(PORT_MAX))
    if not host or not is_port or not 0 < int(port) <= PORT_MAX:
        violations.append(Violation("source_access.address", "must be address:port"))
    if not access.ticket:
        violations.append(Violation("source_access.ticket", "is required: from ServeImage"))
    if violations:
        raise FieldInvalid(*violations)


def _check_removal(request: RemoveOrphansRequest) -> None:
    violations = []
    if not request.cluster_id:
        violations.append(Violation("cluster_id", "is required"))
    rule = "must be workflows/{workflow}/tasks/{task}/attempts/{attempt}"
    violations += [
        Violation(f"staged[{index}]", rule)
        for index, name in enumerate(request.staged)
        if names.parse_attempt(name) is None
    ]
    for index, orphan in enumerate(request.images):
        if not all(map(names.is_id, orphan.image_id.split("@", maxsplit=1))):
            violations.append(Violation(f"images[{index}].image_id", names.ID_RULE))
        if names.parse_attempt(orphan.attempt) is None:
            violations.append(Violation(f"images[{index}].attempt", rule))
        if orphan.expected_generation < 0:
            field = f"images[{index}].expected_generation"
            violations.append(Violation(field, "must not be negative"))
    if violations:
        raise FieldInvalid(*violations)


def page_offset(token: str) -> int:
    """Returns where a page of a survey begins.

    Raises:
        FieldInvalid: It is not a token of ours.
    """
    if token and not (token.isascii() and token.isdecimal() and len(token) < 10):  # noqa: PLR2004
        raise FieldInvalid(Violation("page_token", "must come from the previous answer"))
    return int(token or 0)


def page_size(asked: int) -> int:
    """Returns how many to list; the contract's bounds.

    Raises:
        FieldInvalid: It is negative.
    """
    if asked < 0:
        raise FieldInvalid(Violation("page_size", "must not be negative"))
    return min(asked or PAGE_SIZE, PAGE_SIZE_MAX)
