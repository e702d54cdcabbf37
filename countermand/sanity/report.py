"""Tells how the checks ended: a table for people, JSON and JUnit for programs."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterator, Sequence

import click

from countermand.sanity.promises import Check
from countermand.sanity.run import Ending, Result
from countermand.sanity.subject import Subject
from countermand.v1.image_pb2 import ImageFormat

MARKS = {Ending.KEPT: "✓", Ending.BROKEN: "✗", Ending.SKIPPED: "-"}
COLORS = {Ending.KEPT: "green", Ending.BROKEN: "red", Ending.SKIPPED: "yellow"}
_FORMAT_PREFIX = "IMAGE_FORMAT_"


# -- for people ---------------------------------------------------------------------------------


def head(subject: Subject) -> str:
    """Returns what is being checked."""
    lines = [f"agent-sanity: {subject.address}, version {subject.host.version or '?'}"]
    for pool_id in subject.pools:
        pool = subject.pool(pool_id)
        formats = [
            ImageFormat.Name(one).removeprefix(_FORMAT_PREFIX).lower() for one in pool.formats
        ]
        shared = ", shared" if pool.shared else ""
        offered = ", ".join(sorted(pool.verbs)) or "no verbs"
        lines.append(f"  pool {pool_id} ({pool.driver or '?'}: {', '.join(formats)}{shared})")
        lines.append(f"    offers {offered}")
    return "\n".join(lines)


def line(check: Check, results: Sequence[Result], width: int) -> str:
    """Returns how a check ended, in all that it was run for."""
    counts = Counter(result.ending for result in results)
    worst = next(
        (ending for ending in (Ending.BROKEN, Ending.KEPT) if counts[ending]), Ending.SKIPPED
    )
    mark = click.style(MARKS[worst], fg=COLORS[worst])
    name = check.name.partition(".")[2]
    told = f"  {mark} {name:<{width}}  {check.promise}"
    if len(results) > 1:
        told += f" ({', '.join(f'{counts[one]} {one}' for one in Ending if counts[one])})"
    return told


def width_of(wanted: Sequence[Check]) -> int:
    """Returns how wide the names of checks are."""
    return max(len(check.name.partition(".")[2]) for check in wanted)


def details(results: Sequence[Result]) -> Iterator[str]:
    """Yields what was skipped, and what is broken: expected, seen, and where it is written."""
    skipped = [result for result in results if result.ending is Ending.SKIPPED]
    reasons = Counter(result.why for result in skipped)
    if reasons:
        yield f"\n{click.style('Skipped', bold=True)}"
    for why in reasons:
        names = sorted({result.instance.check.name for result in skipped if result.why == why})
        yield f"  {why}"
        yield f"    {', '.join(names)}"
    broken = [result for result in results if result.ending is Ending.BROKEN]
    if broken:
        yield f"\n{click.style('Broken', bold=True)}"
    for result in broken:
        yield f"  {click.style(result.instance.label, fg='red')}"
        yield f"    promise   {result.instance.check.promise}"
        yield f"    expected  {result.expected}"
        yield f"    seen      {result.seen}"
        yield f"    contract  {result.instance.check.told}"
        yield from (f"    left      {one}" for one in result.left)


def summary(results: Sequence[Result]) -> str:
    """Returns the last line."""
    counts = Counter(result.ending for result in results)
    kept, broken, skipped = (counts[one] for one in (Ending.KEPT, Ending.BROKEN, Ending.SKIPPED))
    seconds = sum(result.seconds for result in results)
    told = f"{kept} kept, {broken} broken, {skipped} skipped, in {seconds:.1f} s"
    return click.style(told, fg="red" if broken else "green", bold=True)


def listing(wanted: Sequence[Check]) -> Iterator[str]:
    """Yields every check with its promise and where the contract makes it."""
    area = ""
    for check in wanted:
        if check.area != area:
            area = check.area
            yield f"{'' if check is wanted[0] else chr(10)}{click.style(area, bold=True)}"
        yield f"  {check.name}"
        yield f"    {check.promise}"
        yield f"    {click.style(check.told, dim=True)}"


# -- for programs -------------------------------------------------------------------------------


def as_json(subject: Subject, results: Sequence[Result]) -> str:
    """Returns everything, for a program."""
    counts = Counter(result.ending for result in results)
    return json.dumps(
        {
            "address": subject.address,
            "version": subject.host.version,
            "incarnation": subject.host.incarnation,
            "pools": list(subject.pools),
            **{ending.value: counts[ending] for ending in Ending},
            "checks": [
                {
                    "name": result.instance.check.name,
                    "label": result.instance.label,
                    "promise": result.instance.check.promise,
                    "contract": result.instance.check.told,
                    "ending": result.ending.value,
                    "expected": result.expected,
                    "seen": result.seen,
                    "why": result.why,
                    "left": list(result.left),
                    "seconds": result.seconds,
                }
                for result in results
            ],
        },
        ensure_ascii=False,
        indent=2,
    )


def as_junit(subject: Subject, results: Sequence[Result]) -> str:
    """Returns everything, for a build server."""
    counts = Counter(result.ending for result in results)
    suite = ET.Element(
        "testsuite",
        name=f"agent-sanity {subject.address}",
        tests=str(len(results)),
        failures=str(counts[Ending.BROKEN]),
        skipped=str(counts[Ending.SKIPPED]),
        time=f"{sum(result.seconds for result in results):.3f}",
    )
    for result in results:
        check = result.instance.check
        case = ET.SubElement(
            suite,
            "testcase",
            classname=f"agent-sanity.{check.area}",
            name=_plain(result.instance.label),
            time=f"{result.seconds:.3f}",
        )
        if result.ending is Ending.SKIPPED:
            ET.SubElement(case, "skipped", message=_plain(result.why))
        elif result.ending is Ending.BROKEN:
            broken = ET.SubElement(case, "failure", message=_plain(check.promise))
            text = f"expected {result.expected}\nseen {result.seen}\ncontract {check.told}"
            broken.text = _plain(text)
    ET.indent(suite)
    return ET.tostring(suite, encoding="unicode", xml_declaration=True)


def _plain(text: str) -> str:
    """Returns a text without the characters that XML cannot hold."""
    return "".join(one if one.isprintable() or one in "\n\t" else "\ufffd" for one in text)
