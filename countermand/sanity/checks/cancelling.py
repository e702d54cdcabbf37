"""Cancel is asked for, then done: the answer is CANCELLING or the outcome that won the race."""

from __future__ import annotations

import asyncio

from countermand.sanity.asking import refused
from countermand.sanity.cases import first
from countermand.sanity.probe import Probe
from countermand.sanity.promises import Area, Each, equal, holds
from countermand.sanity.seeing import CERTAIN, must, shows, told
from countermand.v1.attempt_pb2 import Attempt

AREA = Area("cancel", told="agent.proto, CancelAttempt")

ANSWERS = (Attempt.STATE_CANCELLING, *sorted(CERTAIN))
COPIES = 8


@AREA.promise("what was never received cannot be cancelled, and may still come")
async def unknown(probe: Probe) -> None:
    """Nothing is proven by it: only a compensation keeps it out."""
    name, action = probe.attempt("t"), probe.light()
    await refused("ATTEMPT_NOT_FOUND", probe.cancel(name))
    holds(await probe.find(name) is None, "nothing is journalled of it", f"{name} is known")
    await probe.done(name, action)


@AREA.promise("who has an outcome keeps it, whoever asks it to stop", each=Each.CASE)
async def settled(probe: Probe) -> None:
    """The answer is that outcome."""
    name, action = probe.attempt("t"), await probe.case.prepare(probe)
    done = await probe.done(name, action)
    before = await probe.picture()
    answer = await probe.cancel(name)
    equal(told(answer), told(done), "the answer")
    equal(answer.end_time, done.end_time, "when it ended")
    shows(await probe.picture(), before, "after the cancel")


@AREA.promise("cancelled means nothing is left, succeeded means all is there", each=Each.CASE)
async def at_once(probe: Probe) -> None:
    """Asked as soon as it was taken; whichever wins, the pool says the same."""
    name, action = probe.attempt("t"), await probe.case.prepare(probe)
    before = await probe.picture()
    await probe.send(name, action)
    must(await probe.cancel(name), *ANSWERS)
    ended = must(await probe.settled(name), Attempt.STATE_SUCCEEDED, Attempt.STATE_CANCELLED)
    after = before
    if ended.state == Attempt.STATE_SUCCEEDED:
        after = await probe.case.after(probe, before, name)
    shows(await probe.picture(), after, f"after it ended as {told(ended)}")
    again = await probe.send(name, action)
    equal(told(again), told(ended), "what a repeat of the action is answered")


@AREA.promise("so do copies that run or stand in line; none is left half-made", each=Each.POOL)
async def running(probe: Probe) -> None:
    """More than can run at once, if so many are taken; all of them asked to stop."""
    sent = probe.copies(min(COPIES, probe.subject.open_max))
    for name, copy in sent.items():
        await probe.send(name, copy)
    for answer in await asyncio.gather(*(probe.cancel(name) for name in sent)):
        must(answer, *ANSWERS)
    await probe.copied(sent, Attempt.STATE_SUCCEEDED, Attempt.STATE_CANCELLED)


@AREA.promise("a compensation goes on, whoever asks it to stop", each=Each.POOL)
async def compensation(probe: Probe) -> None:
    """What makes up for an effect is never given up."""
    action = await first(probe.subject, probe.pool).prepare(probe)
    before = await probe.picture()
    name, own = probe.attempt("t"), probe.attempt("t", 2)
    await probe.done(name, action)
    await probe.compensate(own, name, action)
    await probe.cancel(own)
    must(await probe.settled(own), Attempt.STATE_SUCCEEDED)
    shows(await probe.picture(), before, "after the compensation")
