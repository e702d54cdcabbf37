"""There are never more labels than the tables say, and every sample has all of them."""

from __future__ import annotations

import subprocess
import sys

import pytest

from coordinator.metrics.counting import verb_of
from coordinator.metrics.table import TABLE
from countermand.rpc import metrics
from countermand.rpc.metrics import Histogram, Kind, Reading, Row, bounded
from tests.metrics.services import ROOT, promtool
from tests.saga.language import play


def test_the_least_busy_are_told_together():
    numbers = {f"owner-{n}": n for n in range(1, 11)}
    found = bounded(numbers, 3)
    assert found == {"owner-10": 10, "owner-9": 9, "other": sum(range(1, 9))}
    assert bounded(numbers, 10) == numbers


def test_what_vendors_bring_is_one_verb():
    [external, custom] = [
        next(leaf.task for leaf in play(tree, setup).workflow.plan.leaves if leaf.task)
        for tree, setup in (("a:ext", "a:run+ok"), ("a", "a:ok"))
    ]
    assert verb_of(external) == "external"
    assert verb_of(custom) == "custom"  # the language's own verb is none of the contract


def test_a_page_says_what_was_counted_whatever_its_labels_are():
    rows = (
        Row(name="a_total", kind=Kind.COUNTER, help="A.", labels=("x",)),
        Row(name="b_seconds", kind=Kind.HISTOGRAM, help="B.", buckets=(1.0, 10.0)),
        Row(name="c", kind=Kind.GAUGE, help="C."),
        Row(name="not_known_now", kind=Kind.GAUGE, help="D."),
    )
    sizes, reading = Histogram((1.0, 10.0)), Reading()
    for size in (0.5, 1.0, 5.0, 50.0):
        sizes.observe(size)
    reading.by("a_total", {'"\n\\': 3})
    reading.one("b_seconds", sizes)
    reading.one("c", 7)
    page, content_type = metrics.page(rows, reading, "")
    text = page.decode()
    assert content_type.startswith("text/plain")
    shown = [line for line in text.splitlines() if not line.startswith(("#", "process_"))]
    assert shown == [
        'a_total{x="\\"\\n\\\\"} 3.0',
        'b_seconds_bucket{le="1.0"} 2.0',
        'b_seconds_bucket{le="10.0"} 3.0',
        'b_seconds_bucket{le="+Inf"} 4.0',
        "b_seconds_count 4.0",
        "b_seconds_sum 56.5",
        "c 7.0",
    ]
    promtool("check", "metrics", text=text)


def test_each_metric_has_one_row():
    assert len({row.name for row in TABLE}) == len(TABLE)


@pytest.mark.parametrize("service", ["agent.__main__", "coordinator.__main__"])
def test_a_start_does_not_wait_for_what_draws_the_page(service):
    script = f"import sys, {service}; sys.exit('prometheus_client' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False).returncode == 0
