"""Lists come in pages, in order, whole; and who looks sees what is there."""

from __future__ import annotations

from typing import Any

from countermand.sanity.asking import Refused, refused, served
from countermand.sanity.cases import first
from countermand.sanity.probe import Probe
from countermand.sanity.promises import Area, Each, NotOffered, equal, holds
from countermand.sanity.seeing import must, seen, told
from countermand.v1.agent_pb2 import (
    ForgetRequest,
    GetAttemptRequest,
    ListAttemptsRequest,
    ListImagesRequest,
    SurveyPoolRequest,
)
from countermand.v1.attempt_pb2 import Attempt

AREA = Area("listing", told="agent.proto, ListAttempts and ListImages")

COUNT = 5


async def pages(probe: Probe, call: str, request: Any, field: str) -> list[list[Any]]:  # noqa: ANN401 - of either call
    """Returns a list, page by page."""
    found: list[list[Any]] = []
    tokens = {""}
    while True:
        answer = await probe.calls.ask(call, request)
        found.append(list(getattr(answer, field)))
        request.page_token = answer.next_page_token
        if not request.page_token:
            return found
        holds(request.page_token not in tokens, "each page goes on to another one", "the same")
        tokens.add(request.page_token)


@AREA.promise("ListAttempts comes in pages, in order of names, each attempt once")
async def attempts(probe: Probe) -> None:
    """The pages together are the whole list."""
    action = probe.light()
    sent = [probe.attempt(f"t{number}") for number in range(COUNT)]
    for name in sent:
        await probe.run(name, action)
    request = ListAttemptsRequest(name_prefix=probe.workflow, page_size=2)
    found = await pages(probe, "ListAttempts", request, "attempts")
    holds(all(len(page) <= 2 for page in found), "no page is longer than asked for", len(found))  # noqa: PLR2004 - as asked
    equal([one.name for page in found for one in page], sorted(sent), "the names of all pages")
    one_task = await probe.attempts(f"{probe.workflow}/tasks/t3")
    equal([one.name for one in one_task], [sent[3]], "the names with the prefix of one task")


@AREA.promise("open_only lists no attempt that has an outcome")
async def open_only(probe: Probe) -> None:
    """And the full list has all of them."""
    action = probe.light()
    await probe.run(probe.attempt("t"), action)
    listed = await probe.attempts(open_only=True)
    equal([told(one) for one in listed], [], "open attempts")
    equal(len(await probe.attempts()), 1, "all attempts")


@AREA.promise(
    "an unknown attempt is told with the incarnation that does not know it",
    told="agent.proto, GetAttempt",
)
async def unknown(probe: Probe) -> None:
    """Only together with the expected one does it mean "not received so far"."""
    request = GetAttemptRequest(name=probe.attempt("none"))
    refusal = await refused("ATTEMPT_NOT_FOUND", probe.calls.ask("GetAttempt", request))
    own = probe.subject.host.incarnation
    equal(refusal.metadata.get("incarnation"), own, "its incarnation is in the metadata")


@AREA.promise("ListImages comes in pages, in order of ids, each image once", each=Each.POOL)
async def images(probe: Probe) -> None:
    """The pages together are the whole list, also of what was there before."""
    for number in range(COUNT):
        await probe.created(f"i{number}")
    request = ListImagesRequest(pool_id=probe.pool_id, page_size=2)
    found = await pages(probe, "ListImages", request, "images")
    holds(all(len(page) <= 2 for page in found), "no page is longer than asked for", len(found))  # noqa: PLR2004 - as asked
    ids = [one.address.image_id for page in found for one in page]
    equal(ids, sorted(set(ids)), "the ids of all pages")
    own = [one for one in ids if one.startswith(f"{probe.prefix}-")]
    equal(own, [probe.address(f"i{number}").image_id for number in range(COUNT)], "our images")


@AREA.promise(
    "an image says where it is, how large, whose, and that nobody is at work on it",
    told="image.proto, Image",
    each=Each.POOL,
)
async def images_and_inspect(probe: Probe) -> None:
    """By Inspect and by ListImages the same."""
    case = first(probe.subject, probe.pool)
    action = await case.prepare(probe)
    name = probe.attempt("act")
    must(await probe.run(name, action), Attempt.STATE_SUCCEEDED)
    for listed in await probe.images():
        inspected = await probe.inspect(listed.address)
        equal(seen(inspected), seen(listed), "Inspect and ListImages say the same")
        equal(inspected.address.pool_id, probe.pool_id, "the pool of its address")
        equal(list(inspected.held_by), [], "open attempts that hold it")
        holds(inspected.owner.create_time.seconds, "create_time is in its owner tag", "none")
        holds(inspected.allocated_bytes >= 0, "no negative room", inspected.allocated_bytes)


@AREA.promise(
    "what the host says of itself can be believed",
    told="agent.proto, HostReport; image.proto, Pool",
)
async def host(probe: Probe) -> None:
    """An incarnation, a version, limits, and pools whose figures fit together."""
    await probe.run(probe.attempt("t"), probe.light())
    report = await probe.subject.look()
    holds(report.incarnation, "an incarnation", "none")
    holds(report.version, "a version", "none")
    holds(report.attempts_max > 0, "attempts_max of 1 or more", report.attempts_max)
    holds(report.queue_max >= 0, "queue_max of 0 or more", report.queue_max)
    equal(report.cluster_id, probe.subject.cluster_id, "the cluster that spoke to it")
    ids = [pool.pool_id for pool in report.pools]
    equal(sorted(set(ids)), sorted(ids), "each pool once")
    for pool in report.pools:
        holds(pool.driver, f"pool {pool.pool_id} says what serves it", "nothing")
        holds(
            pool.read_only or pool.problem.reason or pool.capacity_bytes > 0,
            f"the capacity of pool {pool.pool_id}",
            pool.capacity_bytes,
        )
        if not pool.problem.reason:
            holds(pool.verbs, f"verbs of pool {pool.pool_id}", "none")


@AREA.promise(
    "who tells what it has heard of tells no less than of what it took, also after Forget",
    told="agent.proto, Heard",
)
async def heard(probe: Probe) -> None:
    """Under a higher epoch than any before: what else is in the journal hides nothing."""
    host = await probe.subject.look()
    if not host.HasField("heard"):
        raise NotOffered("the agent does not tell what it has heard of")
    epoch, intent = host.heard.owner_epoch + 1, probe.subject.next_intent()
    name, own, action = probe.attempt("t"), probe.attempt("t", 2), probe.light()
    await probe.run(name, action, owner_epoch=epoch, intent_sequence=intent)
    await _has_heard(probe, epoch, intent)
    await probe.compensate(own, name, action, owner_epoch=epoch)
    must(await probe.settled(own), Attempt.STATE_SUCCEEDED)
    request = ForgetRequest(
        cluster_id=probe.subject.cluster_id,
        workflows=[probe.workflow],
        low_watermark=probe.subject.next_intent(),
    )
    await probe.calls.ask("Forget", request)
    await _has_heard(probe, epoch, intent)


async def _has_heard(probe: Probe, epoch: int, intent: int) -> None:
    told = (await probe.subject.look()).heard
    holds(told.owner_epoch >= epoch, f"heard.owner_epoch of {epoch} or more", told.owner_epoch)
    holds(
        told.intent_sequence >= intent,
        f"heard.intent_sequence of {intent} or more",
        told.intent_sequence,
    )


@AREA.promise(
    "a survey shows nothing half-made of attempts that have ended",
    told="agent.proto, SurveyPool",
    each=Each.POOL,
)
async def survey(probe: Probe) -> None:
    """After what succeeded, what failed, and what was made up for."""
    case = first(probe.subject, probe.pool)
    action = await case.prepare(probe)
    name = probe.attempt("act")
    must(await probe.run(name, action), Attempt.STATE_SUCCEEDED)
    await probe.run(probe.attempt("taken"), action)
    await probe.made_up(probe.attempt("act", 2), name, action)
    request = SurveyPoolRequest(pool_id=probe.pool_id, page_size=2)
    try:
        found = await pages(probe, "SurveyPool", request, "oddities")
    except Refused as error:
        served(error.refusal)
        raise
    own = [one for page in found for one in page if probe.prefix in one.attempt]
    equal([f"{one.name} of {one.attempt}: {one.why}" for one in own], [], "oddities of ours")
