"""A coordinator and an agent as real processes, and what they show to whoever scrapes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ANSWER_S_MAX = 60.0
NOWHERE = "http://127.0.0.1:9"  # a collector that is never there: nobody listens on that port


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """One that answers."""

    process: subprocess.Popen[bytes]
    ready: Mapping[str, str]  # what it said when it was
    log: Path

    @property
    def metrics(self) -> str:
        """Returns where to scrape."""
        return self.ready.get("metrics") or f"{self.ready['web']}/metrics"

    def scrape(self, accept: str = "text/plain") -> str:
        """Returns the page as it is now."""
        request = urllib.request.Request(self.metrics, headers={"Accept": accept})
        with urllib.request.urlopen(request, timeout=ANSWER_S_MAX) as answer:
            return str(answer.read(), "utf-8")

    def lines(self) -> list[dict[str, object]]:
        """Returns what it has written into its log; gRPC writes there as well."""
        whole, _, _ = self.log.read_text().rpartition("\n")
        return [json.loads(line) for line in whole.splitlines() if line.startswith("{")]


@contextmanager
def started(
    module: str, folder: Path, *arguments: str, environment: Mapping[str, str] | None = None
) -> Iterator[Service]:
    """Yields a service that is ready; it is killed at the end, unless it has ended."""
    log = folder / f"{module}.log"
    command = [sys.executable, "-m", module, "serve", "--data", str(folder / module)]
    with (
        log.open("ab") as errors,
        subprocess.Popen(
            [*command, "--listen", "127.0.0.1:0", *arguments],
            cwd=ROOT,
            env={**os.environ, **(environment or {})},
            stdout=subprocess.PIPE,
            stderr=errors,
        ) as process,
    ):
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            assert line, log.read_text()
            yield Service(process=process, ready=json.loads(line), log=log)
        finally:
            process.kill()


def coordinator(folder: Path, *arguments: str, **environment: str):
    """Starts a coordinator with its page."""
    return started(
        "coordinator", folder, "--web", "127.0.0.1:0", *arguments, environment=environment
    )


def agent(folder: Path, *arguments: str, **environment: str):
    """Starts an agent with its metrics."""
    (folder / "fast").mkdir(exist_ok=True)
    pool = ("--pool", f"fast={folder / 'fast'}", "--metrics", "127.0.0.1:0")
    return started("agent", folder, *pool, *arguments, environment=environment)


def value(page: str, name: str, **labels: str) -> float:
    """Returns one number of a page."""
    from prometheus_client.parser import text_string_to_metric_families as families

    for family in families(page):
        for sample in family.samples:
            if sample.name == name and sample.labels.items() >= labels.items():
                return float(sample.value)
    raise AssertionError(f"{name} {labels} is not in\n{page}")


def names(page: str) -> set[str]:
    """Returns what a page has, by all the names that somebody may ask for."""
    found = set()
    for line in page.splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split()
            found |= (
                {f"{name}{end}" for end in ("_bucket", "_sum", "_count")}
                if kind == "histogram"
                else {name}
            )
    return found


def promtool(*arguments: str, text: str = "", cwd: Path = ROOT) -> None:
    """Has promtool look at something; it must find nothing wrong."""
    tool = shutil.which("promtool")
    if tool is None:
        pytest.skip("promtool is not installed: apt install prometheus")
    done = subprocess.run(
        [tool, *arguments], input=text, cwd=cwd, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
