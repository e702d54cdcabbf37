"""Metrics for Prometheus: a service lists them in a table, counts in plain values, and shows both.

Counting is an addition: nothing of Prometheus' own library is needed before somebody asks. It draws
the page, in whichever of its forms is asked for, with what it knows of the process; it is imported
with the first question, beside the loop.

The labels of a metric stand in its table and name what there are few of. A workflow, a task or an
attempt is never one: whoever needs those asks for a trace or reads the log.
"""

from __future__ import annotations

import sys
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prometheus_client.core import Metric

OTHER = "other"  # stands for all those beyond a bound


class Kind(StrEnum):
    """What the numbers of a metric mean."""

    GAUGE = "gauge"  # as it is now
    COUNTER = "counter"  # since this process began
    HISTOGRAM = "histogram"  # likewise, by size


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One metric of a table."""

    name: str  # as people ask for it: of a counter with its _total
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()  # of a histogram: upper bounds, the last without one left out


class Histogram:
    """How often something was how large."""

    __slots__ = ("_bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        """Begins with nothing observed."""
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Counts one."""
        self.counts[bisect_left(self._bounds, value)] += 1
        self.total += value

    def copy(self) -> Histogram:
        """Returns it as it is now."""
        found = Histogram(self._bounds)
        found.counts, found.total = self.counts[:], self.total
        return found

    def cumulated(self) -> list[tuple[str, int]]:
        """Returns each bound with the number of those that are not above it."""
        pairs, below = [], 0
        for bound, count in zip((*self._bounds, float("inf")), self.counts, strict=True):
            below += count
            pairs.append(("+Inf" if bound == float("inf") else str(float(bound)), below))
        return pairs


Labels = tuple[str, ...]  # values, in the order of the row's names
Number = float | Histogram


@dataclass(slots=True)
class Reading:
    """What a service knows at one moment: the numbers of its metrics."""

    numbers: dict[str, Iterable[tuple[Labels, Number]]] = field(default_factory=dict)

    def one(self, name: str, number: Number) -> None:
        """Keeps the number of a metric without labels."""
        self.numbers[name] = (((), number),)

    def many(self, name: str, numbers: Iterable[tuple[Labels, Number]]) -> None:
        """Keeps the numbers of a metric with labels."""
        self.numbers[name] = tuple(numbers)

    def by(self, name: str, numbers: Mapping[str, float]) -> None:
        """Keeps the numbers of a metric with one label."""
        self.many(name, (((label,), number) for label, number in numbers.items()))


def bounded(numbers: Mapping[str, int], count_max: int) -> dict[str, int]:
    """Returns the largest numbers under their names, and the rest together as "other"."""
    if len(numbers) <= count_max:
        return dict(numbers)
    largest = Counter(numbers).most_common(count_max - 1)
    rest = sum(numbers.values()) - sum(number for _, number in largest)
    return {**dict(largest), OTHER: rest}


# What every service shows beside its own; `process_*` comes from the library.
EVERYWHERE = (
    Row(
        name="countermand_build_info",
        kind=Kind.GAUGE,
        help="Always 1; its labels say what runs.",
        labels=("version", "python"),
    ),
    Row(
        name="countermand_clock_seconds",
        kind=Kind.GAUGE,
        help="This machine's time of day when it was asked, in seconds since 1970.",
    ),
)


def note_everywhere(reading: Reading) -> None:
    """Adds what every service shows."""
    reading.many("countermand_build_info", [(_build(), 1)])
    reading.one("countermand_clock_seconds", time.time())


@cache
def _build() -> Labels:
    return version("countermand"), ".".join(map(str, sys.version_info[:3]))


def page(table: Sequence[Row], reading: Reading, accept: str) -> tuple[bytes, str]:
    """Returns the page in the form that is asked for, and its content type. Blocks: in a thread."""
    from prometheus_client.exposition import choose_encoder  # noqa: PLC0415 - see above

    try:
        encode, content_type = choose_encoder(accept)
    except (TypeError, ValueError):  # a version that is none: as if nothing had been asked for
        encode, content_type = choose_encoder("")
    return encode(Shown(table, reading)), content_type


class Shown:
    """Numbers in the shape that the library writes."""

    def __init__(self, table: Sequence[Row], reading: Reading) -> None:
        """Keeps them."""
        self._table = table
        self._reading = reading

    def collect(self) -> Iterator[Metric]:
        """Yields every metric of which there are numbers, then what is known of the process."""
        from prometheus_client import CollectorRegistry, ProcessCollector  # noqa: PLC0415

        for row in self._table:
            if row.name in self._reading.numbers:
                yield family(row, self._reading.numbers[row.name])
        registry = CollectorRegistry(auto_describe=False)
        yield from ProcessCollector(registry=registry).collect()


def family(row: Row, numbers: Iterable[tuple[Labels, Number]]) -> Metric:
    """Returns one metric as the library knows it."""
    from prometheus_client import core  # noqa: PLC0415

    made: Any = {
        Kind.GAUGE: core.GaugeMetricFamily,
        Kind.COUNTER: core.CounterMetricFamily,
        Kind.HISTOGRAM: core.HistogramMetricFamily,
    }[row.kind](row.name.removesuffix("_total"), row.help, labels=row.labels)
    for labels, number in numbers:
        assert len(labels) == len(row.labels), (row.name, labels)
        if isinstance(number, Histogram):
            made.add_metric(labels, buckets=number.cumulated(), sum_value=number.total)
        else:
            made.add_metric(labels, number)
    found: Metric = made
    return found
