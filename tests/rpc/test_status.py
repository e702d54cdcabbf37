"""Every error of the table survives the way to a peer and back."""

from datetime import timedelta

import pytest
from grpc import StatusCode
from grpc.aio import AioRpcError, Metadata

from countermand.rpc import errors, status
from countermand.rpc.errors import (
    TABLE,
    Bug,
    Busy,
    CountermandError,
    FieldInvalid,
    RequirementsUnmet,
    StateForbids,
    Violation,
)

VIOLATIONS = (
    Violation(field="spec.root", description="is empty", kind="DECISION", choices=("skip",)),
    Violation(field="spec.kind", description="must match [a-z0-9]", kind="OUTPUT", key="a.b"),
)


def an_error(cls: type[CountermandError]) -> CountermandError:
    """Builds one of each, with a value in every field of its message."""
    if cls is FieldInvalid:
        return FieldInvalid(
            *(Violation(field=v.field, description=v.description) for v in VIOLATIONS)
        )
    if cls is RequirementsUnmet:
        return RequirementsUnmet(name="workflows/w", violations=VIOLATIONS)
    if cls is Busy:
        return Busy(retry_delay=timedelta(seconds=1.5))
    fields = [part.split("}")[0] for part in (cls.__doc__ or "").split("{")[1:]]
    return cls(**{field: f"some {field} 💾" for field in fields})


def sent(error: CountermandError) -> AioRpcError:
    """Returns what a client would get."""
    answer = status.status_from_error(error)
    return AioRpcError(
        code=error.code,
        initial_metadata=Metadata(),
        trailing_metadata=Metadata(*status.trailing_metadata(answer)),
        details=answer.message,
        debug_error_string="",
    )


@pytest.mark.parametrize("cls", TABLE.values(), ids=TABLE)
def test_an_error_comes_back_as_it_was_raised(cls):
    error = an_error(cls)

    back = status.error_from_rpc(sent(error))

    assert type(back) is cls
    assert (back.code, back.reason, back.message, back.metadata, back.retriable) == (
        error.code,
        error.reason,
        error.message,
        error.metadata,
        error.retriable,
    )
    assert getattr(back, "violations", ()) == getattr(error, "violations", ())
    assert getattr(back, "retry_delay", None) == getattr(error, "retry_delay", None)
    assert back.failure() == error.failure()


def test_the_words_of_another_version_are_kept():
    answer = status.status_from_error(StateForbids(name="workflows/w", state="PAUSED"))
    answer.message = "said differently"

    back = status.error_from_status(answer)

    assert isinstance(back, StateForbids)
    assert (back.message, str(back)) == ("said differently", "said differently")


def test_an_unknown_reason_keeps_code_reason_and_message():
    class FromTheFuture(CountermandError):
        """The {thing} of tomorrow."""

        code = StatusCode.FAILED_PRECONDITION
        reason = "FROM_THE_FUTURE"

    back = status.error_from_rpc(sent(FromTheFuture(thing="shape")))

    assert isinstance(back, status.RemoteError)
    assert (back.code, back.reason, back.message, back.metadata) == (
        StatusCode.FAILED_PRECONDITION,
        "FROM_THE_FUTURE",
        "The shape of tomorrow.",
        {"thing": "shape"},
    )


@pytest.mark.parametrize(
    ("code", "retriable"),
    [(StatusCode.UNAVAILABLE, True), (StatusCode.DEADLINE_EXCEEDED, False)],
    ids=["unavailable", "deadline"],
)
def test_what_grpc_says_itself_has_its_code_as_reason(code, retriable):
    raised = AioRpcError(code, Metadata(), Metadata(), details="gone", debug_error_string="")

    back = status.error_from_rpc(raised)

    assert (back.code, back.reason, back.message) == (code, code.name, "gone")
    assert back.retriable is retriable


def test_an_unknown_exception_is_a_bug_and_tells_nothing():
    failure = status.failure_from_error(OSError("/secret/path"), attempt="a", host_id="h")

    assert (failure.reason, failure.attempt, failure.host_id) == ("BUG", "a", "h")
    assert "secret" not in str(failure)


def test_a_flood_of_violations_still_fits_into_trailing_metadata():
    flood = FieldInvalid(
        *(Violation(field=f"members[{i}]", description="é" * 2000) for i in range(1000))
    )

    answer = status.status_from_error(flood)

    assert answer.ByteSize() <= status.STATUS_BYTES_MAX
    back = status.error_from_status(answer)
    assert isinstance(back, FieldInvalid)
    assert back.violations[0].field == "members[0]"


def test_every_error_is_in_the_table_or_shares_its_reason_and_code():
    for cls in CountermandError.__subclasses__():
        if cls.__module__ == errors.__name__:
            assert TABLE[cls.reason].code is cls.code, cls
    assert TABLE["BUG"] is Bug
