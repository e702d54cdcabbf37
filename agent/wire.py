"""Where the agent's values meet the contract's messages: the only place that knows both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from agent.attempts import AttemptRecord, Header, Kind, State
from agent.drivers import driver as driver_words
from agent.drivers.driver import Driver, Format, ImageFound, PoolFound
from countermand.rpc import names
from countermand.rpc.errors import CountermandError, FieldInvalid, Violation
from countermand.v1.agent_pb2 import CompensateRequest, Oddity
from countermand.v1.attempt_pb2 import Attempt, AttemptHeader, Progress
from countermand.v1.failure_pb2 import Failure
from countermand.v1.image_pb2 import (
    IMAGE_FORMAT_QCOW2,
    IMAGE_FORMAT_RAW,
    Image,
    ImageAddress,
    ImageFormat,
    OwnerTag,
    Pool,
    Snapshot,
)
from countermand.v1.verb_pb2 import Action, Output

# A hundred years: beyond it no clock of ours can tell when it is over.
TIMEOUT_S_MAX = 3_155_760_000

STATES: dict[State, Attempt.State.ValueType] = {
    State.ACCEPTED: Attempt.STATE_ACCEPTED,
    State.RUNNING: Attempt.STATE_RUNNING,
    State.CANCELLING: Attempt.STATE_CANCELLING,
    State.SUCCEEDED: Attempt.STATE_SUCCEEDED,
    State.FAILED: Attempt.STATE_FAILED,
    State.CANCELLED: Attempt.STATE_CANCELLED,
    State.UNKNOWN: Attempt.STATE_UNKNOWN,
}
KINDS: dict[Kind, Attempt.Kind.ValueType] = {
    Kind.ACTION: Attempt.KIND_ACTION,
    Kind.COMPENSATION: Attempt.KIND_COMPENSATION,
}
FORMATS: dict[Format, ImageFormat.ValueType] = {
    Format.RAW: IMAGE_FORMAT_RAW,
    Format.QCOW2: IMAGE_FORMAT_QCOW2,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who this agent is, in every attempt it tells of."""

    host_id: str
    incarnation: str


def read_header(message: AttemptHeader, *, hash_needed: bool = True) -> Header:
    """Returns a request's header.

    Raises:
        FieldInvalid: A field is missing or malformed; every such field is named.
    """
    violations: list[Violation] = []
    if names.parse_attempt(message.attempt) is None:
        rule = "must be workflows/{workflow}/tasks/{task}/attempts/{attempt}"
        violations.append(Violation("header.attempt", rule))
    needed = ["cluster_id", "expected_incarnation", *(["request_hash"] if hash_needed else [])]
    violations += [
        Violation(f"header.{field}", "is required")
        for field in needed
        if not getattr(message, field)
    ]
    violations += [
        Violation(f"header.{field}", "must be 1 or more")
        for field in ("owner_epoch", "intent_sequence")
        if getattr(message, field) < 1
    ]
    violations += [
        Violation(f"header.{field}", f"must be longer than nothing, and at most {TIMEOUT_S_MAX} s")
        for field in ("run_timeout", "stall_timeout")
        if message.HasField(field) and not _is_timeout(getattr(message, field))
    ]
    if violations:
        raise FieldInvalid(*violations)
    return Header(
        attempt=message.attempt,
        cluster_id=message.cluster_id,
        owner_epoch=message.owner_epoch,
        intent_sequence=message.intent_sequence,
        request_hash=message.request_hash,
        expected_incarnation=message.expected_incarnation,
        run_timeout=message.run_timeout.ToTimedelta() if message.HasField("run_timeout") else None,
        stall_timeout=(
            message.stall_timeout.ToTimedelta() if message.HasField("stall_timeout") else None
        ),
        traceparent=message.traceparent,
        tracestate=message.tracestate,
    )


def _is_timeout(span: Duration) -> bool:
    return 0 <= span.seconds < TIMEOUT_S_MAX and (span.seconds > 0 or span.nanos > 0)


def action_of(record: AttemptRecord) -> Action:
    """Returns the action of an attempt; for a compensation, the one that it makes up for."""
    if record.kind is Kind.ACTION:
        return Action.FromString(record.request)
    return compensation_of(record).action


def compensation_of(record: AttemptRecord) -> CompensateRequest:
    """Returns the request of a compensation, without its header."""
    return CompensateRequest.FromString(record.request)


def attempt(
    record: AttemptRecord,
    identity: Identity,
    *,
    progress: Progress | None = None,
    with_action: bool = False,
) -> Attempt:
    """Returns an attempt as it is told of."""
    message = Attempt(
        name=record.name,
        kind=KINDS[record.kind],
        compensates=record.compensates,
        host_id=identity.host_id,
        incarnation=identity.incarnation,
        state=STATES[record.state],
        traceparent=record.traceparent,
        tombstoned=record.tombstoned,
        owner_epoch=record.owner_epoch,
        create_time=timestamp(record.create_time),
    )
    if with_action:
        message.action.CopyFrom(action_of(record))
    if record.output:
        message.output.CopyFrom(Output.FromString(record.output))
    if record.failure:
        message.failure.CopyFrom(Failure.FromString(record.failure))
    if progress is not None:
        message.progress.CopyFrom(progress)
    elif record.done_bytes or record.total_bytes:
        message.progress.CopyFrom(
            Progress(done=record.done_bytes, total=record.total_bytes, unit="bytes")
        )
    if record.start_time is not None:
        message.start_time.CopyFrom(timestamp(record.start_time))
    if record.end_time is not None:
        message.end_time.CopyFrom(timestamp(record.end_time))
    return message


def image(found: ImageFound, pool_id: str, held_by: Sequence[str]) -> Image:
    """Returns an image as it is told of."""
    return Image(
        address=ImageAddress(pool_id=pool_id, image_id=found.image_id),
        format=FORMATS[found.format],
        virtual_size_bytes=found.virtual_size_bytes,
        allocated_bytes=found.allocated_bytes,
        generation=found.generation,
        owner=OwnerTag(
            cluster_id=found.cluster_id,
            attempt=found.attempt,
            create_time=timestamp(found.create_time),
        ),
        digest=found.digest,
        moved_by=found.moved_by,
        chain=[ImageAddress(pool_id=pool_id, image_id=below) for below in found.chain],
        held_by=held_by,
        snapshots=[
            Snapshot(
                snapshot_id=snapshot.snapshot_id,
                owner=OwnerTag(
                    cluster_id=snapshot.cluster_id,
                    attempt=snapshot.attempt,
                    create_time=timestamp(snapshot.create_time),
                ),
            )
            for snapshot in found.snapshots
        ],
    )


def pool(driver: Driver, found: PoolFound, *, attempts_max: int, attempts_running: int) -> Pool:
    """Returns a pool as it is told of."""
    return Pool(
        pool_id=driver.config.pool_id,
        driver=driver.config.driver,
        capacity_bytes=found.capacity_bytes,
        used_bytes=found.used_bytes,
        formats=[FORMATS[image_format] for image_format in found.formats],
        verbs=sorted(found.verbs),
        read_only=driver.config.read_only,
        shared=driver.config.shared,
        free_bytes=found.free_bytes,
        reserved_bytes=found.reserved_bytes,
        attempts_max=attempts_max,
        attempts_running=attempts_running,
        bandwidth_bytes_per_second=driver.config.bandwidth_bytes_per_s or 0,
        problem=found.problem.failure() if found.problem is not None else None,
    )


def oddity(found: driver_words.Oddity, *, in_use: bool) -> Oddity:
    """Returns something that is no image as it is told of."""
    return Oddity(
        kind=Oddity.Kind.Value(f"KIND_{found.kind}"),
        name=found.name,
        attempt=found.attempt,
        allocated_bytes=found.allocated_bytes,
        why=found.why,
        in_use=in_use,
    )


def kept(name: str, error: CountermandError) -> Failure:
    """Returns why something was not removed."""
    failure = error.failure()
    failure.metadata["name"] = name
    return failure


def timestamp(time: datetime) -> Timestamp:
    """Returns a moment as protobuf has it."""
    # Several times as fast as Timestamp.FromDatetime, and each message has three.
    microseconds = (time - _EPOCH) // _MICROSECOND
    return Timestamp(seconds=microseconds // 10**6, nanos=microseconds % 10**6 * 1000)


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
