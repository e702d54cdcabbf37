"""A watch loses nothing: from any sequence on, over any break, and on a quiet day."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

from countermand.sanity.asking import refused
from countermand.sanity.probe import Probe
from countermand.sanity.promises import Area, Broken, Each, equal, holds
from countermand.sanity.seeing import OPEN, told
from countermand.v1.attempt_pb2 import Attempt

AREA = Area("watch", told="agent.proto, WatchAttempts")

COUNT = 4
# Three times what the contract says: by then an agent is mute, and no machine was just slow.
BOOKMARK_S_MAX = 15.0


@dataclass(slots=True)
class Heard:
    """What a watch has told so far of one check's attempts."""

    bookmark: int = -1
    sequences: list[int] = field(default_factory=list)  # of all changes, whoever's
    last: dict[str, tuple[int, Attempt]] = field(default_factory=dict)  # of ours
    states: dict[str, list[Attempt.State.ValueType]] = field(default_factory=dict)
    progress: dict[str, list[int]] = field(default_factory=dict)

    def hear(self, message: Any, prefix: str) -> None:  # noqa: ANN401 - a message of the watch
        """Takes note of one message."""
        holds(
            message.bookmark >= self.bookmark,
            f"bookmarks never go back; the last was {self.bookmark}",
            message.bookmark,
        )
        self.bookmark = message.bookmark
        for update in message.updates:
            attempt = update.attempt
            if attempt.name.startswith(f"{prefix}/"):
                self.progress.setdefault(attempt.name, []).append(attempt.progress.done)
            if not update.sequence:
                continue
            self.sequences.append(update.sequence)
            holds(
                update.sequence <= message.bookmark,
                f"the bookmark of a message, {message.bookmark}, covers its updates",
                update.sequence,
            )
            if attempt.name.startswith(f"{prefix}/"):
                self.last[attempt.name] = (update.sequence, attempt)
                self.states.setdefault(attempt.name, []).append(attempt.state)

    def outcomes(self) -> dict[str, str]:
        """Returns how our attempts ended, as far as was told."""
        return {
            name: told(one) for name, (_, one) in sorted(self.last.items()) if one.state not in OPEN
        }


async def _listen(
    probe: Probe, after: int | None, until: Callable[[Heard], bool], *, patience_s: float = 0.0
) -> Heard:
    """Watches until enough was heard.

    Raises:
        Broken: It was not, after all our patience.
    """
    heard = Heard()
    patience_s = patience_s or probe.subject.patience_s
    try:
        async with asyncio.timeout(patience_s), probe.calls.watch(after) as messages:
            async for message in messages:
                equal(message.incarnation, probe.subject.host.incarnation, "the incarnation")
                heard.hear(message, probe.workflow)
                if until(heard):
                    return heard
    except TimeoutError:
        raise Broken(
            expected=f"the watch after sequence {after} tells of it within {patience_s:g} s",
            seen=f"bookmark {heard.bookmark}, and of our attempts {heard.outcomes()}",
        ) from None
    raise Broken(expected="a watch lasts until its caller goes away", seen="it ended by itself")


def _told_of(names: set[str]) -> Callable[[Heard], bool]:
    return lambda heard: names <= heard.outcomes().keys()


async def _worked(probe: Probe) -> tuple[int, list[str]]:
    """Does some work; returns the journal's sequence before it, and what was done."""
    before = (await probe.subject.look()).journal_sequence
    action = probe.light()
    done = [probe.attempt(f"t{number}") for number in range(COUNT)]
    for name in done:
        await probe.run(name, action)
    return before, done


@AREA.promise("a watch from the beginning tells of every attempt, in order of sequences")
async def from_the_beginning(probe: Probe) -> None:
    """Each change once, none before an earlier one."""
    _, done = await _worked(probe)
    heard = await _listen(probe, 0, _told_of(set(done)))
    equal(heard.sequences, sorted(set(heard.sequences)), "sequences in order, each once")
    for name in done:
        equal(heard.outcomes()[name], told(await probe.get(name)), f"how {name} ended")


@AREA.promise("a watch that goes on from any bookmark misses nothing and repeats nothing")
async def gapless(probe: Probe) -> None:
    """From each sequence between: what came after it, and only that."""
    before, done = await _worked(probe)
    whole = await _listen(probe, before, _told_of(set(done)))
    for index, name in enumerate(done[:-1]):
        sequence, _ = whole.last[name]
        later = set(done[index + 1 :])
        rest = await _listen(probe, sequence, _told_of(later))
        equal(set(rest.last), later, f"the attempts that changed after {name} had ended")
        holds(
            all(one > sequence for one in rest.sequences),
            f"nothing up to sequence {sequence} is told again",
            rest.sequences,
        )


@AREA.promise("the first message comes at once, with a bookmark, whatever there is to tell")
async def first_message(probe: Probe) -> None:
    """From now on, and from the end of the journal."""
    await _worked(probe)
    end = (await probe.subject.look()).journal_sequence
    for after in (None, end):
        heard = await _listen(probe, after, lambda _heard: True)
        holds(heard.bookmark >= end, f"a bookmark of {end} or more", heard.bookmark)


@AREA.promise("what changes while somebody watches is told to everybody who does")
async def live(probe: Probe) -> None:
    """Two watchers, opened before the work, hear of the same."""
    name = probe.attempt("t")
    opened = asyncio.Semaphore(0)

    def until(heard: Heard) -> bool:
        opened.release()
        return name in heard.outcomes()

    watching = [asyncio.ensure_future(_listen(probe, None, until)) for _ in range(2)]
    try:
        async with asyncio.timeout(probe.subject.patience_s):
            for _ in watching:
                await opened.acquire()
        await probe.run(name, probe.light())
        both = await asyncio.gather(*watching)
    finally:
        for one in watching:
            one.cancel()
    first, second = both
    equal(first.last[name][0], second.last[name][0], "the sequence of its outcome")


@AREA.promise("a quiet agent is not mute: its bookmarks come, every five seconds or so")
async def bookmarks(probe: Probe) -> None:
    """Nothing is sent meanwhile; the first message is there at once and does not count."""
    messages = 0

    def second(_heard: Heard) -> bool:
        nonlocal messages
        messages += 1
        return messages > 1

    await _listen(probe, None, second, patience_s=BOOKMARK_S_MAX)


@AREA.promise("a sequence beyond the journal's end is refused: the journal went back in time")
async def sequence_ahead(probe: Probe) -> None:
    """The end itself is fine."""
    end = (await probe.subject.look()).journal_sequence

    async def ahead() -> AsyncIterator[object]:
        async with probe.calls.watch(end + 1_000_000) as messages:
            async for message in messages:
                yield message

    await refused("SEQUENCE_AHEAD", anext(ahead()))


@AREA.promise(
    "progress never goes back, and what is told of it is below its total",
    told="attempt.proto, Progress",
    each=Each.POOL,
)
async def progress(probe: Probe) -> None:
    """Of a copy, from its first report to its end."""
    action = probe.copying()
    before = (await probe.subject.look()).journal_sequence
    name = probe.attempt("t")
    await probe.send(name, action)
    heard = await _listen(probe, before, _told_of({name}))
    done = heard.progress[name]
    equal(done, sorted(done), "the bytes done, as they were told")
    last = (await probe.get(name)).progress
    holds(last.done <= last.total or not last.total, f"at most {last.total} are done", last.done)
