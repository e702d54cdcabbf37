"""Across hosts: fences on storage that several of them reach, and images served to another."""

from __future__ import annotations

from typing import Any

from countermand.rpc.request_hash import request_hash
from countermand.sanity.asking import Refused, refused, served
from countermand.sanity.cases import Case, first
from countermand.sanity.probe import Probe
from countermand.sanity.promises import Area, Each, NotOffered, equal, holds
from countermand.sanity.seeing import failed, must, shows
from countermand.v1.agent_pb2 import (
    FenceAttemptRequest,
    ReadImageRequest,
    ServeImageRequest,
)
from countermand.v1.attempt_pb2 import Attempt
from countermand.v1.image_pb2 import IMAGE_FORMAT_RAW
from countermand.v1.verb_pb2 import Action

FENCES = Area("fence", told="agent.proto, FenceAttempt")
SERVES = Area("serve", told="agent.proto, ServeImage and ReadImage")

SUCCEEDED = Attempt.STATE_SUCCEEDED


async def _fence(probe: Probe, name: str, action: Action, **changes: Any) -> Attempt:  # noqa: ANN401 - the header's fields
    header = probe.header(name, request_hash(action), **changes)
    request = FenceAttemptRequest(header=header, action=action)
    answer: Attempt = (await probe.calls.ask("FenceAttempt", request)).attempt
    return answer


async def _making(probe: Probe) -> tuple[Case, Action]:
    """Returns something that can be fenced here.

    Raises:
        NotOffered: The pool is not shared.
    """
    if not probe.pool.shared:
        raise NotOffered(f"pool {probe.pool_id} is reached by this host alone")
    case = first(probe.subject, probe.pool)
    return case, await case.prepare(probe)


@FENCES.promise("an attempt in a pool of this host alone cannot be fenced", each=Each.POOL)
async def not_shared(probe: Probe) -> None:
    """There is no other host that could still be at work on it."""
    if probe.pool.shared:
        raise NotOffered(f"pool {probe.pool_id} is shared")
    action = await first(probe.subject, probe.pool).prepare(probe)
    await refused("POOL_NOT_SHARED", _fence(probe, probe.attempt("t"), action))


@FENCES.promise("what was fenced before it began never begins", each=Each.POOL)
async def before(probe: Probe) -> None:
    """FAILED for certain, however often it is asked; the late start is refused by the storage."""
    case, action = await _making(probe)
    shown = await probe.picture()
    name = probe.attempt("t")
    for _ in range(2):
        failed(await _fence(probe, name, action), "ATTEMPT_FENCED")
    shows(await probe.picture(), shown, "after the fence")
    late = probe.subject.other
    calls = late.calls if late is not None else probe.calls
    incarnation = (late or probe.subject).host.incarnation
    header = probe.header(name, request_hash(action), expected_incarnation=incarnation)
    probe.owe(name, action)
    try:
        await calls.verb(header, action)
    except Refused as error:
        equal(error.refusal.reason, "ATTEMPT_FENCED", "why the late start was refused")
    else:
        if late is None:
            failed(await probe.settled(name), "ATTEMPT_FENCED")
    shows(await probe.picture(), shown, f"after the late start of {case.name}")


@FENCES.promise("what another host has done succeeded, and a fence says so", each=Each.POOL)
async def after(probe: Probe) -> None:
    """Needs the agent of that other host."""
    case, action = await _making(probe)
    other = probe.subject.other
    if other is None:
        raise NotOffered("it needs another agent of the same storage: say --shared ADDRESS")
    shown = await probe.picture()
    name = probe.attempt("t")
    incarnation = other.host.incarnation
    header = probe.header(name, request_hash(action), expected_incarnation=incarnation)
    probe.owe(name, action)
    await other.calls.verb(header, action)
    there = Probe(other, number="0", pool_id=probe.pool_id, case=None)
    must(await there.settled(name), SUCCEEDED)
    expected = await case.after(probe, shown, name)
    for _ in range(2):
        fenced = must(await _fence(probe, name, action), SUCCEEDED)
        equal(fenced.output.WhichOneof("verb"), case.verb, "the output is of its verb")
    shows(await probe.picture(), expected, "after the fence")


@FENCES.promise("an agent does not fence what it runs itself", each=Each.POOL)
async def own(probe: Probe) -> None:
    """CancelAttempt and GetAttempt are there for that."""
    _, action = await _making(probe)
    name = probe.attempt("t")
    await probe.done(name, action)
    await refused("FIELD_INVALID", _fence(probe, name, action))


@FENCES.promise("a fence is challenged like a verb", each=Each.POOL)
async def challenged(probe: Probe) -> None:
    """Cluster, incarnation, epoch."""
    _, action = await _making(probe)
    name = probe.attempt("t")
    await probe.run(probe.attempt("first"), probe.light(), owner_epoch=4)
    wrong: dict[str, dict[str, Any]] = {
        "FENCED": {"owner_epoch": 3},
        "INCARNATION_CHANGED": {"owner_epoch": 4, "expected_incarnation": "sanity-other"},
        "WRONG_CLUSTER": {"owner_epoch": 4, "cluster_id": "sanity-other-cluster"},
    }
    for reason, changes in wrong.items():
        await refused(reason, _fence(probe, name, action, **changes))


# -- serving ------------------------------------------------------------------------------------


async def _ticket(probe: Probe, **changes: Any) -> bytes:  # noqa: ANN401 - the header's fields
    address = await probe.base()
    request = ServeImageRequest(header=probe.header(probe.attempt("reader"), **changes))
    request.address.CopyFrom(address)
    try:
        answer = await probe.calls.ask("ServeImage", request)
    except Refused as error:
        served(error.refusal)
        raise
    holds(answer.valid_for.ToTimedelta(), "the ticket is valid for a while", answer.valid_for)
    ticket: bytes = answer.ticket
    return ticket


@SERVES.promise("a ticket opens one image: head first, then extents, then data", each=Each.POOL)
async def reads(probe: Probe) -> None:
    """In order of offset, within what the extents told, up to the end."""
    request = ReadImageRequest(ticket=await _ticket(probe), layout=IMAGE_FORMAT_RAW)
    size = offset = told = 0
    parts: list[str] = []
    async with probe.calls.read(request) as messages:
        async for message in messages:
            part = message.WhichOneof("part")
            parts.append(part)
            if part == "head":
                size = message.head.size_bytes
            elif part == "extents":
                told = message.extents.end
            elif part == "data":
                holds(message.data.offset >= offset, f"data from {offset} on", message.data.offset)
                offset = message.data.offset + len(message.data.data)
                holds(offset <= told, f"data within what was told, {told}", offset)
    equal(parts[:1], ["head"], "the first part")
    equal(parts.count("head"), 1, "how many heads")
    holds(size > 0, "the content's size", size)
    equal(told, size, "how far the extents told, at the end")


@SERVES.promise("without a ticket of this agent nothing is read", each=Each.POOL)
async def tickets(probe: Probe) -> None:
    """Neither with none, nor with one that was tampered with."""
    ticket = await _ticket(probe)
    tampered = bytes([ticket[0] ^ 1]) + ticket[1:]
    for what, bad in {"another ticket": b"ticket", "a tampered one": tampered}.items():
        request = ReadImageRequest(ticket=bad)

        async def read(request: ReadImageRequest = request) -> object:
            async with probe.calls.read(request) as messages:
                return await anext(messages)

        await refused("TICKET_INVALID", read(), about=what)


@SERVES.promise("a ticket is given to who is in charge, for an image that is there", each=Each.POOL)
async def issued(probe: Probe) -> None:
    """Cluster, incarnation, epoch, image."""
    await _ticket(probe)
    await refused("WRONG_CLUSTER", _issue(probe, cluster_id="sanity-other-cluster"))
    await refused("INCARNATION_CHANGED", _issue(probe, expected_incarnation="sanity-other"))
    await refused("IMAGE_NOT_FOUND", _issue(probe))


async def _issue(probe: Probe, **changes: Any) -> Any:  # noqa: ANN401 - the header's fields
    request = ServeImageRequest(header=probe.header(probe.attempt("reader"), **changes))
    request.address.CopyFrom(probe.address("none"))
    return await probe.calls.ask("ServeImage", request)
