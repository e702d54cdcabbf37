"""Turns errors into `google.rpc.Status` and back: the only place that knows both.

A status carries the canonical code, the message, one `ErrorInfo` (reason, domain, metadata) and,
for the errors that hold more than words, one detail: `BadRequest`, `PreconditionFailure`,
`RetryInfo`. Servers reach it through the interceptor, clients through `error_from_rpc`. What is not
ours becomes `Bug` with the name of its type and nothing else: its text may hold anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import timedelta
from itertools import chain, repeat
from typing import TypeVar, cast

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, PreconditionFailure, RetryInfo
from google.rpc.status_pb2 import Status
from grpc import StatusCode
from grpc.aio import AioRpcError
from grpc_status import rpc_status

from countermand.rpc.errors import (
    DOMAIN,
    TABLE,
    Bug,
    Busy,
    CountermandError,
    FieldInvalid,
    RequirementsUnmet,
    Violation,
)
from countermand.v1.failure_pb2 import Failure, UnmetRequirements

# gRPC peers refuse more than 8 KiB of trailing metadata by default, and the message travels twice,
# once percent-encoded: beyond these bounds an error would be replaced by an error about its size.
MESSAGE_CHARACTERS_MAX = 1000
VALUE_CHARACTERS_MAX = 500
STATUS_BYTES_MAX = 5 * 1024
VIOLATIONS_MAX = 50  # as many as a person mends before asking again

# The key that every gRPC implementation looks for.
DETAILS_KEY = "grpc-status-details-bin"

_Detail = TypeVar(
    "_Detail", ErrorInfo, BadRequest, PreconditionFailure, RetryInfo, UnmetRequirements
)

_CODES: Mapping[int, StatusCode] = {code.value[0]: code for code in StatusCode}


class RemoteError(CountermandError):
    """An error whose reason is not in our table: another version's, or gRPC's own."""

    def __init__(
        self, *, code: StatusCode, reason: str, message: str, metadata: Mapping[str, str]
    ) -> None:
        """Keeps what was said; only UNAVAILABLE is safe to ask again (AIP-194)."""
        self.said = message
        self.code = code  # type: ignore[misc]  # per instance, since the class is not known
        self.reason = reason  # type: ignore[misc]
        self.retriable = code is StatusCode.UNAVAILABLE  # type: ignore[misc]
        super().__init__(**metadata)


def code_number(error: CountermandError) -> int:
    """Returns the google.rpc.Code of an error."""
    return int(error.code.value[0])


# -- there --------------------------------------------------------------------------------------


def known(error: BaseException) -> CountermandError:
    """Returns the error itself if it is ours, what a peer said, or else a bug without its text."""
    match error:
        case CountermandError():
            return error
        case AioRpcError():
            return error_from_rpc(error)
        case _:
            return Bug(what=type(error).__name__)


def status_from_error(error: CountermandError) -> Status:
    """Returns the status that stands for an error, small enough for every peer."""
    metadata = {key: _clip(value, VALUE_CHARACTERS_MAX) for key, value in error.metadata.items()}
    info = ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=metadata)
    violations = list(getattr(error, "violations", ()))[:VIOLATIONS_MAX]
    while True:
        status = Status(
            code=code_number(error), message=_clip(error.message, MESSAGE_CHARACTERS_MAX)
        )
        for detail in (info, *_details(error, violations)):
            status.details.add().Pack(detail)
        if status.ByteSize() <= STATUS_BYTES_MAX or not violations:
            return status
        violations.pop()


def trailing_metadata(status: Status) -> tuple[tuple[str, bytes], ...]:
    """Returns the metadata that carries a status beside its code and message."""
    return ((DETAILS_KEY, status.SerializeToString()),)


def failure_from_error(error: BaseException, *, attempt: str = "", host_id: str = "") -> Failure:
    """Returns the failure that is stored for any error."""
    return known(error).failure(attempt=attempt, host_id=host_id)


def _details(
    error: CountermandError, violations: list[Violation]
) -> Iterable[BadRequest | PreconditionFailure | RetryInfo | UnmetRequirements]:
    """Returns what an error holds besides words."""
    match error:
        case FieldInvalid():
            yield BadRequest(
                field_violations=[
                    BadRequest.FieldViolation(
                        field=v.field, description=_clip(v.description, VALUE_CHARACTERS_MAX)
                    )
                    for v in violations
                ]
            )
        case RequirementsUnmet():
            yield PreconditionFailure(
                violations=[
                    PreconditionFailure.Violation(
                        type=v.kind,
                        subject=v.field,
                        description=_clip(v.description, VALUE_CHARACTERS_MAX),
                    )
                    for v in violations
                ]
            )
            if any(v.key or v.choices for v in violations):
                yield UnmetRequirements(
                    unmet=[
                        UnmetRequirements.Unmet(key=v.key, choices=v.choices) for v in violations
                    ]
                )
        case Busy():
            delay = Duration()
            delay.FromTimedelta(error.retry_delay)
            yield RetryInfo(retry_delay=delay)
        case _:
            pass


def _clip(text: str, characters_max: int) -> str:
    return text if len(text) <= characters_max else text[: characters_max - 1] + "…"


# -- and back -----------------------------------------------------------------------------------


def error_from_rpc(error: AioRpcError | grpc.Call) -> CountermandError:
    """Returns the error that a peer raised; what carries no reason of ours is a `RemoteError`."""
    try:
        # An AioRpcError answers what from_call asks of a call, though its stubs do not say so.
        status = rpc_status.from_call(cast("grpc.Call", error))
    except ValueError:  # the details contradict the code: believe the code
        status = None
    if status is None:
        code = error.code()
        return RemoteError(
            code=code, reason=code.name, message=error.details() or code.name, metadata={}
        )
    return error_from_status(status)


def error_from_status(status: Status) -> CountermandError:
    """Returns the error that a status stands for."""
    info = _unpack(status.details, ErrorInfo) or ErrorInfo()
    cls = TABLE.get(info.reason) if info.domain == DOMAIN else None
    if cls is None:
        code = _CODES.get(status.code, StatusCode.UNKNOWN)
        return RemoteError(
            code=code,
            reason=info.reason or code.name,
            message=status.message,
            metadata=dict(info.metadata),
        )
    # Not by its own __init__, which wants what only the raiser had.
    error = cls.__new__(cls)
    error.said = status.message
    CountermandError.__init__(error, **dict(info.metadata))
    _restore(error, status)
    return error


def _restore(error: CountermandError, status: Status) -> None:
    """Gives an error back what it held besides words."""
    match error:
        case FieldInvalid():
            bad = _unpack(status.details, BadRequest) or BadRequest()
            error.violations = tuple(
                Violation(field=v.field, description=v.description) for v in bad.field_violations
            )
        case RequirementsUnmet():
            unmet = _unpack(status.details, PreconditionFailure) or PreconditionFailure()
            known = _unpack(status.details, UnmetRequirements) or UnmetRequirements()
            error.violations = tuple(
                Violation(
                    field=violation.subject,
                    description=violation.description,
                    kind=violation.type,
                    key=each.key,
                    choices=tuple(each.choices),
                )
                # Of another version, or where there is nothing to say, there are fewer.
                for violation, each in zip(
                    unmet.violations,
                    chain(known.unmet, repeat(UnmetRequirements.Unmet())),
                    strict=False,
                )
            )
        case Busy():
            retry = _unpack(status.details, RetryInfo)
            error.retry_delay = retry.retry_delay.ToTimedelta() if retry else timedelta(0)
        case _:
            pass


def _unpack(details: Iterable[AnyMessage], kind: type[_Detail]) -> _Detail | None:
    """Returns the first detail of a kind."""
    for detail in details:
        if detail.Is(kind.DESCRIPTOR):
            found = kind()
            detail.Unpack(found)
            return found
    return None
