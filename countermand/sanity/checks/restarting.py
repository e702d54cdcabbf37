"""Killed and started again: what was said still holds, and what was begun comes to an end.

Needs to be told how: `--kill-command` and `--start-command`, or `--restart-command`.
"""

from __future__ import annotations

from collections.abc import Sequence

from countermand.rpc.request_hash import request_hash
from countermand.sanity.asking import refused
from countermand.sanity.cases import first, tried
from countermand.sanity.checks.watching import Heard
from countermand.sanity.probe import Probe
from countermand.sanity.promises import Area, Each, NotOffered, equal, holds
from countermand.sanity.seeing import CERTAIN, Seen, must, shows, told, without_generations
from countermand.v1.agent_pb2 import ForgetRequest
from countermand.v1.attempt_pb2 import Attempt
from countermand.v1.verb_pb2 import Action

AREA = Area("restart", told="agent.proto, AgentService: journalled before it is answered")

SUCCEEDED = Attempt.STATE_SUCCEEDED
COPIES = 4


async def _kill(probe: Probe) -> None:
    """Kills the agent and starts it again; it must be the same one."""
    subject = probe.subject
    before = await subject.look()
    assert subject.restart is not None
    await subject.restart()
    after = await subject.look()
    equal(after.incarnation, before.incarnation, "the incarnation: the journal is the same")
    equal(after.cluster_id, before.cluster_id, "the cluster")
    holds(
        after.journal_sequence >= before.journal_sequence,
        f"the journal's sequence is {before.journal_sequence} or more",
        after.journal_sequence,
    )
    for field in ("owner_epoch", "intent_sequence"):
        low, heard = getattr(before.heard, field), getattr(after.heard, field)
        holds(heard >= low, f"heard.{field} is {low} or more", heard)


def _possible(probe: Probe) -> None:
    """Returns if it can be killed.

    Raises:
        NotOffered: The command was not told how.
    """
    if probe.subject.restart is None:
        raise NotOffered("it needs --kill-command and --start-command, or --restart-command")


@AREA.promise("the journal survives: attempts, tombstones and epochs are as they were")
async def journal(probe: Probe) -> None:
    """A repeat joins, a late action is refused, an old owner stays out."""
    _possible(probe)
    name, late, action = probe.attempt("t"), probe.attempt("late"), probe.light()
    await probe.run(name, action, owner_epoch=5)
    await probe.compensate(probe.attempt("late", 2), late, action, owner_epoch=5)
    must(await probe.settled(probe.attempt("late", 2)), SUCCEEDED)
    before = await probe.attempts()
    await _kill(probe)
    equal(await probe.attempts(), before, "what ListAttempts tells")
    again = await probe.send(name, action, owner_epoch=5)
    equal(again.end_time, (await probe.get(name)).end_time, "a repeat joins")
    await refused("COMPENSATED", probe.send(late, action, owner_epoch=5), about="a late action")
    await refused("FENCED", probe.send(name, action, owner_epoch=4), about="the old owner")
    await refused("WRONG_CLUSTER", probe.send(name, action, cluster_id="sanity-other-cluster"))


@AREA.promise("the low-watermark survives: what has expired never starts")
async def expired(probe: Probe) -> None:
    """After Forget, after the restart: a late action is refused."""
    _possible(probe)
    name, action = probe.attempt("t"), probe.light()
    late = probe.header(name, request_hash(action))
    await probe.made_up(probe.attempt("t", 2), name, action)
    request = ForgetRequest(
        cluster_id=probe.subject.cluster_id,
        workflows=[probe.workflow],
        low_watermark=probe.subject.next_intent(),
    )
    await probe.calls.ask("Forget", request)
    await _kill(probe)
    await refused("EXPIRED", probe.calls.verb(late, action), about="an action below the watermark")


def _cases(probe: Probe) -> list[Probe]:
    """Returns a view for each case that can be tried: one kill is enough for all of them."""
    cases = [case for case, refusal in tried(probe.subject, probe.pool) if not refusal]
    return [probe.child(case) for case in cases]


@AREA.promise("effects survive, are not repeated, and are made up for after it", each=Each.POOL)
async def effects(probe: Probe) -> None:
    """Every way of every verb; killed as soon as the last one has said SUCCEEDED."""
    _possible(probe)
    prepared: list[tuple[Probe, Action, dict[str, Seen], Attempt]] = []
    for one in _cases(probe):
        action = await one.case.prepare(one)
        before = await one.picture()
        prepared.append((one, action, before, await one.done(one.attempt("act"), action)))
    await _kill(probe)
    for one, action, before, done in prepared:
        shows(await one.picture(), await one.case.after(one, before, done.name), one.case.name)
        equal((await one.send(done.name, action)).output, done.output, "the output of a repeat")
        if one.case.compensable:
            await one.made_up(one.attempt("act", 2), done.name, action)
            picture = without_generations(await one.picture())
            shows(picture, without_generations(before), f"{one.case.name} was made up for")


@AREA.promise("what was at work comes to a certain end by itself", each=Each.POOL)
async def interrupted(probe: Probe) -> None:
    """Killed when all were taken, in turns if there are more than the agent takes at once."""
    _possible(probe)
    cases, at_once = _cases(probe), probe.subject.open_max
    for begin in range(0, len(cases), at_once):
        await _interrupt(probe, cases[begin : begin + at_once])


async def _interrupt(probe: Probe, cases: Sequence[Probe]) -> None:
    """Kills the agent at work: each is done or nothing of it, and a repeat says the same."""
    prepared = []
    for one in cases:
        action = await one.case.prepare(one)
        prepared.append((one, action, await one.picture()))
    for one, action, _ in prepared:
        await one.send(one.attempt("act"), action)
    await _kill(probe)
    for one, action, before in prepared:
        name = one.attempt("act")
        ended = must(await one.settled(name), *CERTAIN)
        after = before
        if ended.state == SUCCEEDED:
            after = await one.case.after(one, before, name)
        shows(await one.picture(), after, f"{one.case.name} ended as {told(ended)}")
        equal(told(await one.send(name, action)), told(ended), "what a repeat is answered")


@AREA.promise(
    "so do copies, in the middle of them: resumed, or failed with certainty", each=Each.POOL
)
async def copies(probe: Probe) -> None:
    """Those whose end is not SUCCEEDED have left nothing."""
    _possible(probe)
    sent = probe.copies(min(COPIES, probe.subject.open_max))
    for name, copy in sent.items():
        await probe.send(name, copy)
    await _kill(probe)
    await probe.copied(sent, *CERTAIN)


@AREA.promise("a compensation goes on by itself: nobody has to ask again", each=Each.POOL)
async def compensation(probe: Probe) -> None:
    """Killed as soon as it was taken."""
    _possible(probe)
    action = await first(probe.subject, probe.pool).prepare(probe)
    before = await probe.picture()
    name, own = probe.attempt("act"), probe.attempt("act", 2)
    await probe.done(name, action)
    await probe.compensate(own, name, action)
    await _kill(probe)
    must(await probe.settled(own), SUCCEEDED)
    shows(await probe.picture(), before, "after the compensation")


@AREA.promise("a watch goes on over a restart, and misses nothing")
async def watch(probe: Probe) -> None:
    """From a sequence of before it."""
    _possible(probe)
    before = (await probe.subject.look()).journal_sequence
    names = [probe.attempt(f"t{number}") for number in range(4)]
    for name in names[:2]:
        await probe.run(name, probe.light())
    await _kill(probe)
    for name in names[2:]:
        await probe.run(name, probe.light())
    heard = Heard()
    async with probe.calls.watch(before) as messages:
        async for message in messages:
            heard.hear(message, probe.workflow)
            if set(names) <= heard.outcomes().keys():
                break
    equal(heard.sequences, sorted(set(heard.sequences)), "sequences in order, each once")
    equal(set(heard.outcomes()), set(names), "the attempts that were told of")
