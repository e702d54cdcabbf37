"""Every verb, in every way: it acts once, can be made up for, and what never ran never will."""

from __future__ import annotations

import asyncio
from operator import attrgetter

from countermand.sanity.asking import Refused, refused
from countermand.sanity.probe import SIZE_BYTES, Probe, create
from countermand.sanity.promises import Area, Each, NotOffered, equal, holds
from countermand.sanity.seeing import CERTAIN, Seen, failed, must, shows, told, without_generations
from countermand.v1.attempt_pb2 import Attempt
from countermand.v1.verb_pb2 import (
    Action,
    CreateSnapshot,
    DeleteImage,
    DeleteSnapshot,
    RevertImage,
    VerifyImage,
)

AREA = Area("verbs", told="verb.proto, at the verb; agent.proto, AgentService")

ACT, MAKE_UP, MAKE_UP_AGAIN = "act", 2, 3
RACERS = 6
SUCCEEDED = Attempt.STATE_SUCCEEDED

COMPENSABLE = attrgetter("compensable")
MAKES = attrgetter("makes")
NEEDS_IMAGE = attrgetter("needs_image")


def _back(probe: Probe, picture: dict[str, Seen], before: dict[str, Seen], about: str) -> None:
    """Raises unless a pool shows what it showed before; a generation only ever moves on."""
    if probe.case.counts:
        picture, before = without_generations(picture), without_generations(before)
    shows(picture, before, about)


@AREA.promise("it acts, and says so: an output, an owner tag, a generation", each=Each.CASE)
async def acts(probe: Probe) -> None:
    """The pool shows what the verb says that it leaves, and nothing else."""
    action = await probe.case.prepare(probe)
    before = await probe.picture()
    name = probe.attempt(ACT)
    acted = await probe.done(name, action)
    equal(acted.output.WhichOneof("verb"), probe.case.verb, "the output is of its verb")
    holds(acted.end_time.seconds, "end_time says when the outcome was recorded", "none")
    holds(acted.start_time.seconds, "start_time says when work began", "none")
    shows(await probe.picture(), await probe.case.after(probe, before, name), "after it")


@AREA.promise("a repeat answers with the first outcome, and changes nothing", each=Each.CASE)
async def repeats(probe: Probe) -> None:
    """As often as it is asked for, also at once."""
    action = await probe.case.prepare(probe)
    name = probe.attempt(ACT)
    first = await probe.done(name, action)
    before = await probe.picture()
    for again in await asyncio.gather(*(probe.send(name, action) for _ in range(4))):
        equal(again.state, first.state, "the state of a repeat")
        equal(again.output, first.output, "the output of a repeat")
    last = await probe.settled(name)
    equal(last.end_time, first.end_time, "it ended once")
    shows(await probe.picture(), before, "after the repeats")


@AREA.promise("the journal tells the same by GetAttempt and ListAttempts", each=Each.CASE)
async def journal(probe: Probe) -> None:
    """The action as it was sent, and whose journal it is."""
    action = await probe.case.prepare(probe)
    name = probe.attempt(ACT)
    await probe.done(name, action)
    one = await probe.get(name)
    equal(one.action, action, "the action, as it was sent")
    equal(one.kind, Attempt.KIND_ACTION, "its kind")
    equal(one.incarnation, probe.subject.host.incarnation, "the incarnation")
    equal(one.owner_epoch, 1, "the owner epoch accepted with it")
    listed = {attempt.name: attempt for attempt in await probe.attempts()}
    equal(listed.get(name), one, "ListAttempts says the same as GetAttempt")


@AREA.promise(
    "it is made up for: nothing is left, however often that is asked",
    each=Each.CASE,
    fits=COMPENSABLE,
)
async def made_up_for(probe: Probe) -> None:
    """The same compensation again joins; another one finds nothing to do."""
    action = await probe.case.prepare(probe)
    before = await probe.picture()
    name, own = probe.attempt(ACT), probe.attempt(ACT, MAKE_UP)
    await probe.done(name, action)
    undone = await probe.made_up(own, name, action)
    _back(probe, await probe.picture(), before, "after its compensation")
    equal(undone.kind, Attempt.KIND_COMPENSATION, "the kind of the compensation")
    equal(undone.compensates, name, "what it makes up for")
    again = await probe.compensate(own, name, action)
    equal(again.end_time, undone.end_time, "a repeat of the compensation joins it")
    await probe.made_up(probe.attempt(ACT, MAKE_UP_AGAIN), name, action)
    _back(probe, await probe.picture(), before, "after a second compensation")
    one = await probe.get(name)
    holds(one.tombstoned, f"{name} is tombstoned", "it is not")
    repeat = await probe.send(name, action)
    holds(repeat.tombstoned, "a repeat of the action joins the tombstoned attempt", told(repeat))
    _back(probe, await probe.picture(), before, "after a late repeat of the action")


@AREA.promise("making up for what never ran succeeds, and it never will run", each=Each.CASE)
async def never_ran(probe: Probe) -> None:
    """The late action is refused, however late, and nothing of it is ever seen."""
    action = await probe.case.prepare(probe)
    before = await probe.picture()
    name = probe.attempt(ACT)
    await probe.made_up(probe.attempt(ACT, MAKE_UP), name, action)
    shows(await probe.picture(), before, "after its compensation")
    for _ in range(2):
        await refused("COMPENSATED", probe.send(name, action), about="the late action")
    shows(await probe.picture(), before, "after the late action")


@AREA.promise(
    "action and compensation at once: both end, and nothing is left",
    each=Each.CASE,
    fits=COMPENSABLE,
)
async def at_once(probe: Probe) -> None:
    """Whichever comes first; the compensation is sent without waiting for an answer."""
    action = await probe.case.prepare(probe)
    before = await probe.picture()
    name, own = probe.attempt(ACT), probe.attempt(ACT, MAKE_UP)
    acting, undoing = await asyncio.gather(
        probe.send(name, action), probe.compensate(own, name, action), return_exceptions=True
    )
    if isinstance(undoing, BaseException):
        raise undoing
    if isinstance(acting, Refused):
        equal(acting.refusal.reason, "COMPENSATED", "why the action was refused")
    elif isinstance(acting, BaseException):
        raise acting
    else:
        must(await probe.settled(name), *CERTAIN)
    must(await probe.settled(own), SUCCEEDED)
    _back(probe, await probe.picture(), before, "after both")


@AREA.promise(
    "a name that is taken stays its owner's, whatever makes up for it", each=Each.CASE, fits=MAKES
)
async def taken(probe: Probe) -> None:
    """A compensation removes what exactly that attempt made, and goes by no bare name."""
    reason = probe.case.taken
    action = await probe.case.prepare(probe)
    await probe.done(probe.attempt(ACT), action)
    before = await probe.picture()
    second = probe.attempt("second")
    failed(await probe.run(second, action), reason)
    shows(await probe.picture(), before, "after the second attempt")
    await probe.made_up(probe.attempt("second", MAKE_UP), second, action)
    shows(await probe.picture(), before, "after the compensation of the second attempt")
    never = probe.attempt("never")
    await probe.made_up(probe.attempt("never", MAKE_UP), never, action)
    shows(await probe.picture(), before, "after the compensation of one that never ran")


@AREA.promise(
    "of many that want a name at once, one gets it",
    each=Each.CASE,
    fits=lambda case: case.makes and not case.counts,
)
async def race(probe: Probe) -> None:
    """The others fail for certain, and leave nothing."""
    reason = probe.case.taken
    action = await probe.case.prepare(probe)
    before = await probe.picture()
    count = min(RACERS, probe.subject.open_max)
    racers = [probe.attempt(f"racer-{number}") for number in range(count)]
    await asyncio.gather(*(probe.send(name, action) for name in racers))
    ended = [await probe.settled(name) for name in racers]
    won = [one for one in ended if one.state == SUCCEEDED]
    equal(len(won), 1, "how many succeeded")
    for one in ended:
        if one.state != SUCCEEDED:
            failed(one, reason, "CONFLICT", "IMAGE_BUSY")
    shows(await probe.picture(), await probe.case.after(probe, before, won[0].name), "after all")


# -- what single verbs promise ------------------------------------------------------------------


@AREA.promise("a failure is kept as it was told", told="verb.proto, Noop.failure_message")
async def failure(probe: Probe) -> None:
    """Reason and words, for whoever asks later."""
    name, words = probe.attempt(ACT), "as agreed"
    ended = failed(await probe.run(name, probe.light(words)), "DRILL")
    holds(words in ended.failure.message, f"the failure says {words!r}", ended.failure.message)
    equal(ended.failure.attempt or name, name, "the attempt that the failure names")


@AREA.promise(
    "deleting what is absent succeeds, and says so",
    told="verb.proto, DeleteImage and DeleteSnapshot",
    each=Each.POOL,
)
async def delete_absent(probe: Probe) -> None:
    """An image, and a snapshot of an image that is there."""
    probe.need("delete_image")
    action = Action(delete_image=DeleteImage(target=probe.address("none")))
    gone = await probe.done(probe.attempt(ACT), action)
    equal(gone.output.delete_image.existed, expected=False, about="existed")
    if "delete_snapshot" in probe.pool.verbs:
        base = await probe.created("base")
        of = Action(delete_snapshot=DeleteSnapshot(target=base, snapshot_id="none"))
        none = await probe.done(probe.attempt("snapshot"), of)
        equal(none.output.delete_snapshot.existed, expected=False, about="existed")


@AREA.promise(
    "an image that has snapshots, or that others read through, is not deleted",
    told="verb.proto, DeleteImage",
    each=Each.POOL,
)
async def delete_in_use(probe: Probe) -> None:
    """Nothing goes but what was named."""
    probe.need("delete_image", "create_snapshot")
    base = await probe.created("base")
    snapshot = Action(create_snapshot=CreateSnapshot(target=base, snapshot_id="old"))
    await probe.done(probe.attempt("snapshot"), snapshot)
    before = await probe.picture()
    delete = Action(delete_image=DeleteImage(target=base))
    failed(await probe.run(probe.attempt(ACT), delete), "IMAGE_IN_USE")
    shows(await probe.picture(), before, "after it")


@AREA.promise(
    "an image of another generation than was expected is left alone",
    told="verb.proto, expected_generation",
    each=Each.POOL,
)
async def generations(probe: Probe) -> None:
    """Of every verb that takes one and is offered here."""
    probe.need("create_image")
    base = await probe.created("base")
    before = await probe.picture()
    actions = {
        "delete_image": Action(delete_image=DeleteImage(target=base, expected_generation=9)),
        "create_snapshot": Action(
            create_snapshot=CreateSnapshot(target=base, snapshot_id="old", expected_generation=9)
        ),
    }
    actions["resize_image"] = Action()
    actions["resize_image"].resize_image.target.CopyFrom(base)
    actions["resize_image"].resize_image.virtual_size_bytes = 2 * SIZE_BYTES
    actions["resize_image"].resize_image.expected_generation = 9
    offered = [verb for verb in actions if probe.subject.offers(verb, probe.pool)]
    if not offered:
        raise NotOffered(f"pool {probe.pool_id} offers no verb that expects a generation")
    for verb in offered:
        task = verb.replace("_", "-")
        failed(await probe.run(probe.attempt(task), actions[verb]), "GENERATION_MISMATCH")
        shows(await probe.picture(), before, f"after {verb}")


@AREA.promise(
    "there is no way back to a snapshot that is not there",
    told="verb.proto, RevertImage.snapshot_id",
    each=Each.POOL,
)
async def revert_absent(probe: Probe) -> None:
    """Nor is a safety snapshot left of it."""
    probe.need("revert_image")
    base = await probe.created("base")
    before = await probe.picture()
    action = Action(
        revert_image=RevertImage(target=base, snapshot_id="none", safety_snapshot_id="safe")
    )
    failed(await probe.run(probe.attempt(ACT), action), "SNAPSHOT_NOT_FOUND")
    shows(await probe.picture(), before, "after it")


@AREA.promise(
    "what is not there cannot be copied, cloned, verified or remembered",
    told="agent.proto, Inspect: IMAGE_NOT_FOUND",
    each=Each.VERB,
    fits=NEEDS_IMAGE,
)
async def source_absent(probe: Probe) -> None:
    """It fails for certain, and leaves nothing."""
    verb = probe.case.verb
    field = {"copy_image": "source", "clone_image": "source"}.get(verb, "target")
    action = await probe.case.prepare(probe)
    getattr(getattr(action, verb), field).image_id = probe.address("none").image_id
    before = await probe.picture()
    failed(await probe.run(probe.attempt(ACT), action), "IMAGE_NOT_FOUND")
    shows(await probe.picture(), before, "after it")


@AREA.promise(
    "a copy's digest is its content's, and another one is noticed",
    told="verb.proto, CopyImage.take_digest and VerifyImage.digest",
    each=Each.POOL,
)
async def digests(probe: Probe) -> None:
    """Taken while copying, by Inspect, and by VerifyImage."""
    probe.need("copy_image", "verify_image")
    action = Action()
    action.copy_image.source.CopyFrom(await probe.base())
    action.copy_image.target.CopyFrom(probe.address("made"))
    action.copy_image.take_digest = True
    copied = await probe.run(probe.attempt(ACT), action)
    if copied.failure.reason == "FIELD_UNSUPPORTED":
        raise NotOffered(copied.failure.message)
    digest = must(copied, SUCCEEDED).output.copy_image.digest
    holds(":" in digest, "a digest as <algorithm>:<hex>", digest)
    looked = await probe.inspect(probe.address("made"), take_digest=True)
    equal(looked.digest, digest, "the digest that Inspect takes")
    verify = Action(verify_image=VerifyImage(target=probe.address("made"), digest=digest))
    await probe.done(probe.attempt("verify"), verify)
    algorithm, _, value = digest.partition(":")
    other = value[:-1] + ("0" if value[-1] != "0" else "1")
    verify.verify_image.digest = f"{algorithm}:{other}"
    failed(await probe.run(probe.attempt("other"), verify), "DIGEST_MISMATCH")


@AREA.promise(
    "a caller that goes away stops nothing",
    told="agent.proto, AgentService: the work belongs to the agent",
    each=Each.POOL,
)
async def lost_caller(probe: Probe) -> None:
    """If the agent has heard of it, it ends by itself."""
    probe.need("create_image")
    name, action = probe.attempt(ACT), create(probe.address("made"))
    calling = asyncio.ensure_future(probe.send(name, action))
    await asyncio.sleep(0)
    calling.cancel()
    await asyncio.wait([calling])
    if await probe.find(name) is not None:
        must(await probe.settled(name), *CERTAIN)
    again = must(await probe.run(name, action), SUCCEEDED)
    equal([one.made_by for one in (await probe.picture()).values()], [again.name], "owners")


@AREA.promise(
    "what has run out of time ends for certain",
    told="attempt.proto, AttemptHeader.run_timeout",
    each=Each.POOL,
)
async def run_timeout(probe: Probe) -> None:
    """Done, or nothing of it."""
    name, action = probe.attempt(ACT), probe.copying()
    timeout = probe.header(name).run_timeout
    timeout.FromMilliseconds(1)
    ended = await probe.run(name, action, run_timeout=timeout)
    if ended.state == SUCCEEDED:
        raise NotOffered("the copy ended sooner: a larger --source would show it")
    failed(ended, "RUN_TIMEOUT")
    shows(await probe.picture(), {}, "after it")
