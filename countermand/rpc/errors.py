"""The one table of errors: what can go wrong, its code, its reason, and what to do next.

An error's docstring is its message, with every varying word as a named field; the fields travel as
metadata, so that a program never parses the message. `status.py` turns these into a
`google.rpc.Status` and back; `failure()` turns one into the `Failure` that is stored. Handlers and
verbs only raise. Nothing here does any I/O.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import ClassVar

from grpc import StatusCode

from countermand.v1.failure_pb2 import Failure

DOMAIN = "countermand"

# Violations told in a message; all of them travel as details.
SUMMARY_MAX = 3


class CountermandError(Exception):
    """Something went wrong."""

    code: ClassVar[StatusCode] = StatusCode.INTERNAL
    reason: ClassVar[str] = "BUG"
    # Whether another attempt of the same arguments may end better.
    retriable: ClassVar[bool] = False
    # The words it was raised with elsewhere; None for one that was raised here.
    said: str | None = None
    # Who has said so, where there are several to ask.
    asked_at: str | None = None

    def __init__(self, **metadata: object) -> None:
        """Keeps the fields; the message is made from the docstring when it is asked for."""
        self.metadata = {key: str(value) for key, value in metadata.items()}
        super().__init__(self.message)

    @property
    def message(self) -> str:
        """Returns what happened, where, and what to do next, for people."""
        if self.said is not None:
            return self.said
        template = " ".join((self.__doc__ or "").split())
        return template.format_map(_Fields(self.spoken())).rstrip()

    def spoken(self) -> dict[str, str]:
        """Returns the fields as the message has them."""
        return self.metadata

    def failure(self, *, attempt: str = "", host_id: str = "") -> Failure:
        """Returns the failure that is stored for this error."""
        return Failure(
            reason=self.reason,
            message=self.message,
            metadata=self.metadata,
            retriable=self.retriable,
            attempt=attempt,
            host_id=host_id,
        )


class _Fields(dict[str, str]):
    """Shows a missing field by its name: an error about an error helps nobody."""

    def __missing__(self, key: str) -> str:
        return f"<{key}>"


@dataclass(frozen=True, slots=True)
class Violation:
    """One thing that is wrong with one field, or one unmet requirement about one subject."""

    field: (
        str  # a path such as "spec.root.members[1].task.host_id"; for a precondition: the subject
    )
    description: str  # what is wrong and what would be right
    kind: str = ""  # for a precondition: its type, such as "DECISION"
    key: str = ""  # of an unmet OUTPUT: its path
    choices: tuple[str, ...] = ()  # of an unmet DECISION: what may be decided


# -- the request --------------------------------------------------------------------------------


class FieldInvalid(CountermandError):
    """{summary}"""

    code = StatusCode.INVALID_ARGUMENT
    reason = "FIELD_INVALID"

    def __init__(self, *violations: Violation) -> None:
        """Keeps every violation: a caller should not have to find them one by one."""
        assert violations, "an invalid field needs at least one violation"
        self.violations = violations
        summary = "; ".join(f"{v.field}: {v.description}" for v in violations[:SUMMARY_MAX])
        if len(violations) > SUMMARY_MAX:
            summary += f"; and {len(violations) - SUMMARY_MAX} more"
        super().__init__(summary=summary)


class FieldUnsupported(CountermandError):
    """{field} is part of the contract but not served by this version: leave it out."""

    code = StatusCode.UNIMPLEMENTED
    reason = "FIELD_UNSUPPORTED"


class CallUnsupported(CountermandError):
    """{call} is part of the contract but not served by this version."""

    code = StatusCode.UNIMPLEMENTED
    reason = "CALL_UNSUPPORTED"


class RequestIdReused(CountermandError):
    """Request id {request_id} was used for another request: choose a new one."""

    code = StatusCode.INVALID_ARGUMENT
    reason = "REQUEST_ID_REUSED"


class PayloadTooLarge(CountermandError):
    """{field} has {size_bytes} bytes, more than {size_bytes_max}: send a reference instead."""

    code = StatusCode.INVALID_ARGUMENT
    reason = "PAYLOAD_TOO_LARGE"


# -- workflows and hosts ------------------------------------------------------------------------


class WorkflowNotFound(CountermandError):
    """There is no workflow {name}: check the name, or `countermand workflow list`."""

    code = StatusCode.NOT_FOUND
    reason = "WORKFLOW_NOT_FOUND"


class TaskNotFound(CountermandError):
    """There is no task {name}: `countermand workflow get` lists the tasks."""

    code = StatusCode.NOT_FOUND
    reason = "TASK_NOT_FOUND"


class NoSuchAttempt(TaskNotFound):
    """There is no attempt {name}: its task has had {count} so far."""


class HostNotFound(CountermandError):
    """There is no host {name}: `countermand host list` shows the known ones."""

    code = StatusCode.NOT_FOUND
    reason = "HOST_NOT_FOUND"


class WorkflowIdTaken(CountermandError):
    """{name} {why}: choose another workflow id."""

    code = StatusCode.ALREADY_EXISTS
    reason = "WORKFLOW_ID_TAKEN"


class HostIdTaken(CountermandError):
    """{name} exists with address {address}: remove it first, or choose another host id."""

    code = StatusCode.ALREADY_EXISTS
    reason = "HOST_ID_TAKEN"


class AgentTaken(CountermandError):
    """The agent at {address} is that of {name}: use that host, or give this one its own agent."""

    code = StatusCode.ALREADY_EXISTS
    reason = "AGENT_TAKEN"


class HostBusy(CountermandError):
    """{name} is named by {workflow}, which is open: wait until it is settled, or cancel it."""

    code = StatusCode.FAILED_PRECONDITION
    reason = "HOST_BUSY"


class HostUnreachable(CountermandError):
    """The agent at {address} does not answer: is it running, and is the address right?"""

    code = StatusCode.UNAVAILABLE
    reason = "HOST_UNREACHABLE"
    retriable = True


class HostRefused(HostUnreachable):
    """No connection to the agent at {address}: {why}; {advice}."""


class HostSilent(HostUnreachable):
    """The agent at {address} takes calls, and sent nothing for {silent_s} s: look at its log."""


class NotOwner(CountermandError):
    """{name} is not yours to report on: {why}. Nothing has changed."""

    code = StatusCode.PERMISSION_DENIED
    reason = "NOT_OWNER"


class AttemptClosed(CountermandError):
    """{attempt} is over: {why}. Nothing has changed; forget it."""

    code = StatusCode.FAILED_PRECONDITION
    reason = "ATTEMPT_CLOSED"


class ReportReused(CountermandError):
    """Report id {report_id} was used for another report: nothing has changed; report a bug."""

    code = StatusCode.ALREADY_EXISTS
    reason = "REPORT_REUSED"


_FORK = "Run it anew: `countermand workflow fork {id} --id NEW`."
_WATCH = "follow it with `countermand workflow watch {id}`."
_GET = "`countermand workflow get {id}` says what it needs."
_HELD = "It is paused already: `countermand workflow resume {id}` lets it go on."
# What to do instead, by the state and the verb that it forbids; without a verb, by any other.
INSTEAD = {
    ("PAUSING", "pause"): _HELD,
    ("PAUSED", "pause"): _HELD,
    ("PAUSED", ""): "`countermand workflow resume {id}` lets it go on.",
    ("RUNNING", "resume"): f"It goes on already: {_WATCH}",
    ("RUNNING", ""): f"It goes on: {_WATCH}",
    ("COMPENSATING", ""): f"It is being made up for: {_WATCH}",
    ("ENDING", ""): f"Its end actions run: {_WATCH}",
    ("BLOCKED", ""): f"It needs somebody: {_GET}",
    ("SUCCEEDED", ""): "It is settled, and nothing is changed any more.",
    ("COMPENSATED", "cancel"): "It is made up for already, and nothing is changed any more.",
    ("COMPENSATED", ""): _FORK,
    ("FAILED", ""): _FORK,
    ("QUARANTINED", ""): "Nothing is done to it any more: look at the coordinator's log.",
}


class StateForbids(CountermandError):
    """{name} is {state}; {verb} needs one of: {allowed}. {instead}"""

    code = StatusCode.FAILED_PRECONDITION
    reason = "STATE_FORBIDS"

    def __init__(self, **metadata: object) -> None:
        """Adds what to do instead, where it is about a whole workflow."""
        name, state, verb = (str(metadata.get(key, "")) for key in ("name", "state", "verb"))
        kind, _, workflow_id = name.partition("/")
        if kind == "workflows" and "/" not in workflow_id:
            instead = INSTEAD.get((state, verb)) or INSTEAD.get((state, ""), "")
            metadata.setdefault("instead", instead.format(id=workflow_id))
        super().__init__(**{"instead": "", **metadata})

    def spoken(self) -> dict[str, str]:
        """Returns the fields as the message has them: programs know states by their capitals."""
        words = {
            key: self.metadata[key].lower().replace("_", " ")
            for key in ("state", "allowed")
            if key in self.metadata
        }
        return self.metadata | words


class VerbForbidden(StateForbids):
    """{name} is {state}, and {verb} is not possible: {because}."""


class RequirementsUnmet(CountermandError):
    """{name} cannot go on yet: {summary}"""

    code = StatusCode.FAILED_PRECONDITION
    reason = "REQUIREMENTS_UNMET"

    def __init__(self, *, name: str, violations: tuple[Violation, ...]) -> None:
        """Keeps every unmet requirement; their count tells whether a peer got all of them."""
        self.violations = violations
        summary = "; ".join(f"{v.field}: {v.description}" for v in violations[:SUMMARY_MAX])
        if len(violations) > SUMMARY_MAX:
            summary += f"; and {len(violations) - SUMMARY_MAX} more"
        super().__init__(name=name, summary=summary, count=len(violations))


class Conflict(CountermandError):
    """{name} changed since it was read: read it again, then decide anew."""

    code = StatusCode.ABORTED
    reason = "CONFLICT"
    retriable = True


class WatcherTooSlow(CountermandError):
    """The watch fell behind by more than {events_max} events: watch again from the last one."""

    code = StatusCode.RESOURCE_EXHAUSTED
    reason = "WATCHER_TOO_SLOW"
    retriable = True


class StoreUnavailable(CountermandError):
    """The coordinator's store failed: {why}. Look at its disk and at the coordinator's log."""

    code = StatusCode.UNAVAILABLE
    reason = "STORE_UNAVAILABLE"
    retriable = True


class RecoveryRequired(CountermandError):
    """The database went back in time ({why}): `countermand coordinator list` says what to do."""

    code = StatusCode.FAILED_PRECONDITION
    reason = "RECOVERY_REQUIRED"
    retriable = True


class RecoveryNotRequired(CountermandError):
    """Nothing is to be recovered: the coordinators go on, `countermand coordinator list`."""

    code = StatusCode.FAILED_PRECONDITION
    reason = "RECOVERY_NOT_REQUIRED"


class CoordinatorUnavailable(CountermandError):
    """The coordinator at {address} does not answer: is it running, and is the address right?"""

    code = StatusCode.UNAVAILABLE
    reason = "COORDINATOR_UNAVAILABLE"
    retriable = True


class NoCoordinatorAnswers(CoordinatorUnavailable):
    """No coordinator answers: {tried}. Are they running, and are the addresses right?"""


class OwnerUnavailable(CountermandError):
    """{name} cannot be changed now: {why}. Ask again, with the same request id."""

    code = StatusCode.UNAVAILABLE
    reason = "OWNER_UNAVAILABLE"
    retriable = True


class Stopping(CountermandError):
    """The coordinator stops, and what was asked may have been done: ask again once it runs."""

    code = StatusCode.UNAVAILABLE
    reason = "STOPPING"
    retriable = True


class Cancelled(CountermandError):
    """Cancelled by {principal}: {why}."""

    code = StatusCode.CANCELLED
    reason = "CANCELLED"


class Busy(CountermandError):
    """Too much at once: wait {retry_delay_s} s and ask again."""

    code = StatusCode.RESOURCE_EXHAUSTED
    reason = "QUEUE_FULL"
    retriable = True

    def __init__(self, *, retry_delay: timedelta) -> None:
        """Keeps how long the caller should wait."""
        self.retry_delay = retry_delay
        super().__init__(retry_delay_s=retry_delay.total_seconds())


# -- webhooks -----------------------------------------------------------------------------------


class WebhookNotFound(CountermandError):
    """There is no webhook {name}: `countermand webhook list` shows the known ones."""

    code = StatusCode.NOT_FOUND
    reason = "WEBHOOK_NOT_FOUND"


class WebhookIdTaken(CountermandError):
    """{name} exists with another {field}: remove it first, or choose another webhook id."""

    code = StatusCode.ALREADY_EXISTS
    reason = "WEBHOOK_ID_TAKEN"


class WebhooksFull(CountermandError):
    """There are {count} webhooks, and no more may be added: remove one, or let one be shared."""

    code = StatusCode.RESOURCE_EXHAUSTED
    reason = "WEBHOOKS_FULL"


class ReceiverRefused(CountermandError):
    """The receiver answered {answer}: look at its log, or try `countermand webhook ping`."""

    code = StatusCode.UNKNOWN
    reason = "RECEIVER_REFUSED"
    retriable = True


class ReceiverUnreachable(CountermandError):
    """The receiver does not answer ({why}): is it running, and is the URL right?"""

    code = StatusCode.UNAVAILABLE
    reason = "RECEIVER_UNREACHABLE"
    retriable = True


class ReceiverGone(CountermandError):
    """The receiver answered 410 Gone: nothing is sent until `countermand webhook resume`."""

    code = StatusCode.FAILED_PRECONDITION
    reason = "RECEIVER_GONE"


# -- the attempt protocol -----------------------------------------------------------------------


class WrongCluster(CountermandError):
    """This agent serves cluster {expected}, not {cluster_id}: check the host's address."""

    code = StatusCode.PERMISSION_DENIED
    reason = "WRONG_CLUSTER"


class IncarnationChanged(CountermandError):
    """The agent's journal is {incarnation}, not {expected}: put back the data folder it had."""

    code = StatusCode.FAILED_PRECONDITION
    reason = "INCARNATION_CHANGED"


class Fenced(CountermandError):
    """Epoch {owner_epoch} of {workflow} is over, {highest} is in charge: stop."""

    code = StatusCode.FAILED_PRECONDITION
    reason = "FENCED"


class AttemptReused(CountermandError):
    """{attempt} was already sent with other arguments."""

    code = StatusCode.ALREADY_EXISTS
    reason = "ATTEMPT_REUSED"


class Compensated(CountermandError):
    """{attempt} has been compensated and may never start."""

    code = StatusCode.FAILED_PRECONDITION
    reason = "COMPENSATED"


class Expired(CountermandError):
    """{attempt} is older than anything this agent still knows: it may never start."""

    code = StatusCode.FAILED_PRECONDITION
    reason = "EXPIRED"


class AttemptNotFound(CountermandError):
    """{attempt} is not in this agent's journal."""

    code = StatusCode.NOT_FOUND
    reason = "ATTEMPT_NOT_FOUND"


class SequenceAhead(CountermandError):
    """Sequence {after_sequence} is beyond the journal's end {journal_sequence}: it went back."""

    code = StatusCode.FAILED_PRECONDITION
    reason = "SEQUENCE_AHEAD"


class AttemptFenced(CountermandError):
    """{attempt} was fenced in pool {pool}: nothing of it is there, and nothing ever will be."""

    code = StatusCode.FAILED_PRECONDITION
    reason = "ATTEMPT_FENCED"
    retriable = True


class JournalLost(CountermandError):
    """The agent's journal is a new one, and {why}: put back what it had, or accept the host."""

    code = StatusCode.FAILED_PRECONDITION
    reason = "JOURNAL_LOST"


class JournalRewound(CountermandError):
    """The agent's journal went back ({why}): put back the newest if you can, accept the host."""

    code = StatusCode.FAILED_PRECONDITION
    reason = "JOURNAL_REWOUND"


class TicketInvalid(CountermandError):
    """This ticket does not open image {image} ({why}): have another one issued."""

    code = StatusCode.PERMISSION_DENIED
    reason = "TICKET_INVALID"
    retriable = True


class AttemptCancelled(CountermandError):
    """Stopped as asked; nothing is left behind."""

    code = StatusCode.CANCELLED
    reason = "CANCELLED"


class RunTimeout(CountermandError):
    """It ran longer than {run_timeout_s} s and was stopped; nothing is left behind."""

    code = StatusCode.DEADLINE_EXCEEDED
    reason = "RUN_TIMEOUT"
    retriable = True


# -- storage ------------------------------------------------------------------------------------


class PoolNotFound(CountermandError):
    """This host reaches no pool {pool}: `countermand host get` lists its pools."""

    code = StatusCode.NOT_FOUND
    reason = "POOL_NOT_FOUND"


class PoolFailing(CountermandError):
    """Pool {pool} is not served on this host: {why}. It is tried again every few seconds."""

    code = StatusCode.FAILED_PRECONDITION
    reason = "POOL_FAILING"
    retriable = True


class PoolReadOnly(CountermandError):
    """Pool {pool} is read-only on this host: choose another target pool."""

    code = StatusCode.FAILED_PRECONDITION
    reason = "POOL_READ_ONLY"


class PoolNotShared(CountermandError):
    """Pool {pool} is not shared: no other host can settle what an attempt does in it."""

    code = StatusCode.FAILED_PRECONDITION
    reason = "POOL_NOT_SHARED"


class ImageNotFound(CountermandError):
    """There is no image {image} in pool {pool}: check the name and the pool."""

    code = StatusCode.NOT_FOUND
    reason = "IMAGE_NOT_FOUND"


class ImageExists(CountermandError):
    """Image {image} is already in pool {pool}, made by {owner}: choose another target."""

    code = StatusCode.ALREADY_EXISTS
    reason = "IMAGE_EXISTS"


class GenerationMismatch(CountermandError):
    """Image {image} in pool {pool} has generation {generation}, not {expected}, by {owner}."""

    code = StatusCode.FAILED_PRECONDITION
    reason = "GENERATION_MISMATCH"


class ImageInUse(CountermandError):
    """Image {image} in pool {pool} is in use by {holder}: wait for it, or delete that first."""

    code = StatusCode.FAILED_PRECONDITION
    reason = "IMAGE_IN_USE"
    retriable = True


class ImageUnsafe(CountermandError):
    """Image {image} in pool {pool} is not a plain image ({why}): it is not touched."""

    code = StatusCode.FAILED_PRECONDITION
    reason = "IMAGE_UNSAFE"


class ImageBusy(CountermandError):
    """Image {image} in pool {pool} is held by {holder}: try again later."""

    code = StatusCode.ABORTED
    reason = "IMAGE_BUSY"
    retriable = True


class NoSpace(CountermandError):
    """Pool {pool} has no room: {needed}. Free space in it, or choose a larger pool."""

    code = StatusCode.RESOURCE_EXHAUSTED
    reason = "NO_SPACE"


class StorageFailed(CountermandError):
    """Pool {pool} answered {error} while working on {image}: look at the storage."""

    code = StatusCode.UNAVAILABLE
    reason = "STORAGE_FAILED"
    retriable = True


class ToolFailed(CountermandError):
    """{tool} failed on {image}: {stderr}"""

    code = StatusCode.UNKNOWN
    reason = "TOOL_FAILED"


class VerbUnsupported(CountermandError):
    """Pool {pool} cannot do {verb} ({why}): choose another verb or pool."""

    code = StatusCode.UNIMPLEMENTED
    reason = "VERB_UNSUPPORTED"


class Stalled(CountermandError):
    """It made no progress for {stall_timeout_s} s and was stopped; nothing is left behind."""

    code = StatusCode.DEADLINE_EXCEEDED
    reason = "STALLED"
    retriable = True


class SnapshotNotFound(CountermandError):
    """Image {image} in pool {pool} has no snapshot {snapshot}: Inspect lists those it has."""

    code = StatusCode.NOT_FOUND
    reason = "SNAPSHOT_NOT_FOUND"


class SnapshotExists(CountermandError):
    """Image {image} in pool {pool} has a snapshot {snapshot}, of {owner}: choose another id."""

    code = StatusCode.ALREADY_EXISTS
    reason = "SNAPSHOT_EXISTS"


class DigestMismatch(CountermandError):
    """Image {image} in pool {pool} has digest {found}, not {expected}: its content is another."""

    code = StatusCode.DATA_LOSS
    reason = "DIGEST_MISMATCH"


class CopyDamaged(DigestMismatch):
    """What came of image {image} at byte {offset} is not what its host read there: copy it anew."""

    retriable = True


class ImageDamaged(CountermandError):
    """Image {image} in pool {pool} is damaged ({why}): restore it before it is used again."""

    code = StatusCode.DATA_LOSS
    reason = "IMAGE_DAMAGED"


class Drill(CountermandError):
    """{text}"""

    code = StatusCode.ABORTED
    reason = "DRILL"


class Bug(CountermandError):
    """A defect in Countermand ({what}): please report it, with the log."""

    code = StatusCode.INTERNAL
    reason = "BUG"


def _by_reason(base: type[CountermandError]) -> dict[str, type[CountermandError]]:
    """Returns every concrete error by its reason; the first definition of a reason stands."""
    table: dict[str, type[CountermandError]] = {}
    for cls in base.__subclasses__():
        table.setdefault(cls.reason, cls)
    return table


# Reason → error, for whoever reads a status. Both kinds of CANCELLED read as the first.
TABLE = _by_reason(CountermandError)
