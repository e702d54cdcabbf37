"""What the agent looks at before anything else: who asks, and what it knows of the attempt."""

from __future__ import annotations

import asyncio
from typing import Any

from countermand.rpc.request_hash import request_hash
from countermand.sanity.asking import Refused, refused
from countermand.sanity.probe import Probe
from countermand.sanity.promises import Area, Each, NotOffered, equal, holds
from countermand.v1.agent_pb2 import ForgetRequest, GetAttemptRequest
from countermand.v1.attempt_pb2 import AttemptHeader

AREA = Area("header", told="agent.proto, AgentService: errors of every verb")

OTHER_CLUSTER = "sanity-other-cluster"
OTHER_INCARNATION = "sanity-other-incarnation"
CALLERS_MAX = 8
QUEUE_MAX = 64


async def _unknown(probe: Probe, name: str) -> None:
    """Raises unless the journal does not know an attempt."""
    holds(await probe.find(name) is None, f"nothing of {name} is journalled", "GetAttempt knows it")


@AREA.promise("another cluster's request is refused, and nothing of it is journalled")
async def other_cluster(probe: Probe) -> None:
    """Looks into every call that carries a header, and into Forget."""
    name, action = probe.attempt("t"), probe.light()
    await probe.run(probe.attempt("first"), action)  # from now on it belongs to a cluster
    other = {"cluster_id": OTHER_CLUSTER}
    await refused("WRONG_CLUSTER", probe.send(name, action, **other), about="a verb")
    compensation = probe.compensate(probe.attempt("t", 2), name, action, **other)
    await refused("WRONG_CLUSTER", compensation, about="Compensate")
    await refused("WRONG_CLUSTER", probe.cancel(name, **other), about="CancelAttempt")
    request = GetAttemptRequest(name=name, owner_epoch=1, cluster_id=OTHER_CLUSTER)
    await refused("WRONG_CLUSTER", probe.calls.ask("GetAttempt", request), about="GetAttempt")
    forget = ForgetRequest(cluster_id=OTHER_CLUSTER, workflows=[probe.workflow])
    await refused("WRONG_CLUSTER", probe.calls.ask("Forget", forget), about="Forget")
    await _unknown(probe, name)


@AREA.promise("a request that was planned with another incarnation is refused, with the real one")
async def other_incarnation(probe: Probe) -> None:
    """Looks into every call that carries a header."""
    name, action = probe.attempt("t"), probe.light()
    other = {"expected_incarnation": OTHER_INCARNATION}
    refusal = await refused("INCARNATION_CHANGED", probe.send(name, action, **other))
    own = probe.subject.host.incarnation
    equal(refusal.metadata.get("incarnation"), own, "its own incarnation is in the metadata")
    compensation = probe.compensate(probe.attempt("t", 2), name, action, **other)
    await refused("INCARNATION_CHANGED", compensation, about="Compensate")
    await refused("INCARNATION_CHANGED", probe.cancel(name, **other), about="CancelAttempt")
    await _unknown(probe, name)


@AREA.promise("a lower owner epoch than the highest seen for the workflow is refused")
async def lower_epoch(probe: Probe) -> None:
    """Looks into every call that carries one; another workflow's epoch has no say."""
    name, action = probe.attempt("t"), probe.light()
    await probe.run(probe.attempt("first"), action, owner_epoch=7)
    await refused("FENCED", probe.send(name, action, owner_epoch=6), about="a verb")
    again = probe.send(probe.attempt("first"), action, owner_epoch=6)
    await refused("FENCED", again, about="the repeat of a known attempt")
    compensation = probe.compensate(probe.attempt("t", 2), name, action, owner_epoch=6)
    await refused("FENCED", compensation, about="Compensate")
    await refused("FENCED", probe.cancel(name, owner_epoch=6), about="CancelAttempt")
    await _unknown(probe, name)
    taken = await probe.run(name, action, owner_epoch=7)
    holds(not taken.tombstoned, "what was refused has left no tombstone", "it is tombstoned")


@AREA.promise("a higher owner epoch is remembered from a repeat, and from GetAttempt, too")
async def higher_epoch(probe: Probe) -> None:
    """The new owner need not begin anything to keep the old one out."""
    name, action = probe.attempt("t"), probe.light()
    await probe.run(name, action)
    await probe.send(name, action, owner_epoch=3)
    await refused("FENCED", probe.send(name, action, owner_epoch=2), about="after a repeat with 3")
    cluster_id = probe.subject.cluster_id
    unknown = GetAttemptRequest(name=probe.attempt("unknown"), owner_epoch=5, cluster_id=cluster_id)
    await refused("ATTEMPT_NOT_FOUND", probe.calls.ask("GetAttempt", unknown))
    late = probe.send(name, action, owner_epoch=4)
    await refused("FENCED", late, about="after a GetAttempt with 5")
    lower = GetAttemptRequest(name=name, owner_epoch=4, cluster_id=cluster_id)
    await refused("FENCED", probe.calls.ask("GetAttempt", lower), about="a GetAttempt with 4")


@AREA.promise("cluster, incarnation, epoch, then the attempt: the first that is wrong is told")
async def order(probe: Probe) -> None:
    """A caller that is not in charge learns nothing of what is known."""
    name, action = probe.attempt("t"), probe.light()
    await probe.run(name, action, owner_epoch=5)
    other = {"request_hash": b"another request"}
    wrong: dict[str, dict[str, Any]] = {
        "FENCED": {**other, "owner_epoch": 4},
        "INCARNATION_CHANGED": {"owner_epoch": 4, "expected_incarnation": OTHER_INCARNATION},
        "WRONG_CLUSTER": {
            "owner_epoch": 4,
            "expected_incarnation": OTHER_INCARNATION,
            "cluster_id": OTHER_CLUSTER,
        },
    }
    for reason, changes in wrong.items():
        about = f"a request with wrong {', '.join(sorted(changes))}"
        values: dict[str, Any] = {"request_hash": request_hash(action), **changes}
        header = probe.header(name, **values)
        await refused(reason, probe.calls.verb(header, action), about=about)


@AREA.promise("a repeat of the same request joins the attempt: nothing runs twice")
async def repeat(probe: Probe) -> None:
    """The repeat may come with another intent, deadline or trace."""
    name, action = probe.attempt("t"), probe.light()
    first = await probe.run(name, action)
    again = await probe.send(name, action, traceparent="")
    equal(again.state, first.state, "the recorded state is the answer")
    equal(again.end_time, first.end_time, "it ended once")
    equal(len(await probe.attempts()), 1, "attempts in the journal")


@AREA.promise("the same request, sent many times at once, is one attempt")
async def many_at_once(probe: Probe) -> None:
    """All of the callers are told of the same one."""
    name, action = probe.attempt("t"), probe.light()
    answers = await asyncio.gather(*(probe.send(name, action) for _ in range(CALLERS_MAX)))
    last = await probe.settled(name)
    for answer in answers:
        equal(answer.create_time, last.create_time, "each answer is of the same attempt")
    equal(len(await probe.attempts()), 1, "attempts in the journal")


@AREA.promise("the same attempt with other arguments is refused, and the first one stands")
async def reused(probe: Probe) -> None:
    """The hash says what the arguments are."""
    name, action = probe.attempt("t"), probe.light()
    first = await probe.run(name, action)
    header = probe.header(name, b"another hash")
    await refused("ATTEMPT_REUSED", probe.calls.verb(header, action))
    equal((await probe.get(name)).state, first.state, "the attempt's state")


@AREA.promise("an action whose compensation came first is refused, for ever")
async def tombstone(probe: Probe) -> None:
    """However often, and under a higher epoch, too."""
    name, action = probe.attempt("t"), probe.light()
    await probe.made_up(probe.attempt("t", 2), name, action)
    for epoch in (1, 1, 2):
        await refused("COMPENSATED", probe.send(name, action, owner_epoch=epoch))
    await refused("ATTEMPT_NOT_FOUND", probe.cancel(name, owner_epoch=2), about="CancelAttempt")


@AREA.promise(
    "after Forget and the low-watermark, a late action of a forgotten workflow never starts",
    told="agent.proto, Forget; attempt.proto, AttemptHeader.intent_sequence",
)
async def forgotten(probe: Probe) -> None:
    """What is forgotten is unknown; below the watermark what is unknown has expired."""
    name, other, action = probe.attempt("t"), probe.attempt("u"), probe.light()
    intent = probe.subject.next_intent()
    late = probe.header(other, request_hash(action), intent_sequence=intent)
    await probe.run(name, action)
    await probe.made_up(probe.attempt("t", 2), name, action)
    await probe.made_up(probe.attempt("u", 2), other, action)
    answer = await probe.calls.ask(
        "Forget",
        ForgetRequest(
            cluster_id=probe.subject.cluster_id,
            workflows=[probe.workflow],
            low_watermark=probe.subject.next_intent(),
        ),
    )
    holds(answer.forgotten > 0, "Forget says how many attempts it dropped", answer.forgotten)
    await _unknown(probe, name)
    await refused("EXPIRED", probe.calls.verb(late, action), about="an action below the watermark")
    await _unknown(probe, other)
    again = probe.attempt("v")
    holds((await probe.run(again, action)).end_time.seconds, "above it, work goes on", "no end")


@AREA.promise(
    "what is not settled, or not in a workflow that was named, is not forgotten",
    told="agent.proto, Forget",
)
async def remembered(probe: Probe) -> None:
    """Evidence goes when the coordinator says so, and never by itself."""
    name, action = probe.attempt("t"), probe.light()
    await probe.run(name, action)
    await probe.calls.ask("Forget", ForgetRequest(cluster_id=probe.subject.cluster_id))
    await probe.get(name)


@AREA.promise(
    "what is missing or malformed in a header is refused, and every such field is named",
    told="attempt.proto, AttemptHeader",
)
async def fields(probe: Probe) -> None:
    """All of them at once: who mends a request mends it once."""
    action = probe.light()
    refusal = await refused("FIELD_INVALID", probe.calls.verb(AttemptHeader(), action))
    needed = {"attempt", "cluster_id", "owner_epoch", "intent_sequence", "request_hash"}
    named = {field.rpartition(".")[2] for field in refusal.fields}
    missing = sorted((needed | {"expected_incarnation"}) - named)
    equal(missing, [], "required fields of an empty header that are not named")
    for changes in ({"owner_epoch": -1}, {"intent_sequence": -1}, {"attempt": "t"}):
        header = probe.header(probe.attempt("t"), request_hash(action))
        for field, value in changes.items():
            setattr(header, field, value)
        refusal = await refused("FIELD_INVALID", probe.calls.verb(header, action))
        for field in changes:
            holds(
                any(one.endswith(field) for one in refusal.fields),
                f"the refusal names header.{field}",
                refusal,
            )


@AREA.promise(
    "beyond the queue a request is refused with a delay, and nothing of it is journalled",
    told="agent.proto, AgentService: QUEUE_FULL; HostReport.queue_max",
    each=Each.POOL,
)
async def queue_full(probe: Probe) -> None:
    """Needs copies that last, and limits that can be reached."""
    limit = probe.subject.open_max
    copies = probe.copies(limit + CALLERS_MAX)
    if limit > QUEUE_MAX:
        raise NotOffered(f"attempts_max + queue_max is {limit}: more than {QUEUE_MAX} are not sent")
    answers = await asyncio.gather(
        *(probe.send_once(name, copy) for name, copy in copies.items()), return_exceptions=True
    )
    waiting = len(await probe.attempts(open_only=True))
    full = 0
    for name, answer in zip(copies, answers, strict=True):
        if isinstance(answer, Refused):
            full += 1
            equal(answer.refusal.reason, "QUEUE_FULL", f"why {name} was refused")
            holds(answer.refusal.retry_delay, "a RetryInfo says how long to wait", answer.refusal)
            await _unknown(probe, name)
        elif isinstance(answer, BaseException):
            raise answer
        else:
            await probe.cancel(name)
    if not full:
        holds(waiting <= limit, f"of attempts at most {limit} are open at once", waiting)
        raise NotOffered("the copies ended sooner than they came: a larger --source would show it")
