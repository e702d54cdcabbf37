"""Runs checks against one agent, one after the other, and says how each ended."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from countermand.sanity.asking import Refused, served
from countermand.sanity.cases import Case, tried
from countermand.sanity.checks.catalogue import AREAS
from countermand.sanity.probe import Probe
from countermand.sanity.promises import Broken, Check, Each, NotOffered, matches
from countermand.sanity.subject import Subject


class Ending(StrEnum):
    """How a check ended."""

    KEPT = "kept"
    BROKEN = "broken"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """A check in one pool, for one way of one verb."""

    check: Check
    pool_id: str
    case: Case | None = None
    refusal: str = ""  # why it cannot be run at all

    @property
    def label(self) -> str:
        """Returns the check's name with what it is run for."""
        if self.check.each is Each.AGENT:
            return self.check.name
        what = f"/{self.case.name}" if self.case is not None else ""
        return f"{self.check.name}[{self.pool_id}{what}]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """How one check ended."""

    instance: Instance
    ending: Ending
    expected: str = ""  # of BROKEN
    seen: str = ""
    why: str = ""  # of SKIPPED
    left: tuple[str, ...] = ()  # what could not be made up for
    seconds: float = 0.0


def checks(only: Sequence[str] = (), skip: Sequence[str] = ()) -> list[Check]:
    """Returns the checks that are meant, in order."""
    return [
        check
        for area in AREAS
        for check in area.checks
        if (not only or matches(check.name, only)) and not matches(check.name, skip)
    ]


def instances(subject: Subject, check: Check) -> Iterator[Instance]:
    """Yields all that a check is to be run for."""
    if check.each is Each.AGENT:
        yield Instance(check=check, pool_id=subject.pools[0])
        return
    for pool_id in subject.pools:
        if check.each is Each.POOL:
            yield Instance(check=check, pool_id=pool_id)
            continue
        seen: set[str] = set()
        for case, refusal in tried(subject, subject.pool(pool_id)):
            if not check.fits(case) or (check.each is Each.VERB and case.verb in seen):
                continue
            seen.add(case.verb)
            yield Instance(check=check, pool_id=pool_id, case=case, refusal=refusal)


async def run(
    subject: Subject, check: Check, *, monotonic: Callable[[], float] = time.monotonic
) -> AsyncIterator[Result]:
    """Runs a check for all that it is to be run for, and yields how it ended each time."""
    for instance in instances(subject, check):
        began = monotonic()
        result = await _run_one(subject, instance)
        yield replace(result, seconds=round(monotonic() - began, 3))


async def _run_one(subject: Subject, instance: Instance) -> Result:
    """Runs one check, and tidies up after it."""
    if instance.refusal:
        return Result(instance=instance, ending=Ending.SKIPPED, why=instance.refusal)
    number = str(len(subject.workflows) + 1)
    probe = Probe(subject, number=number, pool_id=instance.pool_id, case=instance.case)
    result = await _look(probe, instance)
    left = tuple(await probe.clean_up())
    if not left:
        return result
    broken = result.ending is Ending.BROKEN
    return Result(
        instance=instance,
        ending=Ending.BROKEN,
        expected=result.expected if broken else "all that the check made can be made up for",
        seen=result.seen if broken else f"left behind: {', '.join(left)}",
        left=left,
    )


async def _look(probe: Probe, instance: Instance) -> Result:
    try:
        await instance.check.function(probe)
    except NotOffered as error:
        return Result(instance=instance, ending=Ending.SKIPPED, why=str(error))
    except Broken as error:
        expected, seen = error.expected, error.seen
        return Result(instance=instance, ending=Ending.BROKEN, expected=expected, seen=seen)
    except Refused as error:
        try:
            served(error.refusal)
        except NotOffered as reason:
            return Result(instance=instance, ending=Ending.SKIPPED, why=str(reason))
        seen = f"it was refused: {error.refusal}"
        return Result(
            instance=instance, ending=Ending.BROKEN, expected="the request is taken", seen=seen
        )
    return Result(instance=instance, ending=Ending.KEPT)
