"""Alerts fire when they should, say what to do next, and lead to a page that explains it."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest
import yaml

from countermand.cli.main import main
from tests.metrics.services import ROOT, promtool
from tests.metrics.test_page import DASHBOARD, DEPLOY, RULES, expressions

TESTS = Path(__file__).with_name("alerts_test.yaml")
ALERTS = pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])


def test_rules_and_configuration_are_sound():
    promtool("check", "config", str(DEPLOY / "prometheus/prometheus.yaml"))


def test_each_fires_when_it_should_and_not_before():
    promtool("test", "rules", TESTS.name, cwd=TESTS.parent)


def test_what_the_dashboard_asks_for_is_sound(tmp_path):
    rules = [{"record": f"a:{n}", "expr": asked} for n, asked in enumerate(expressions())]
    file = tmp_path / "asked.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "asked", "rules": rules}]}))
    promtool("check", "rules", str(file))


STATS = {
    panel["title"]: panel["targets"][0]["expr"]
    for panel in DASHBOARD["panels"]
    if panel["type"] == "stat"
}


def test_while_the_coordinator_is_down_nothing_is_told_of_it_but_that(tmp_path):
    """A zero in green would say that all is well."""
    at = 'job="countermand-coordinator", instance="a:7780"'
    told = {"Coordinator": (1, 0), "Hosts down": (1, None)}
    series = {
        f"up{{{at}}}": "1x5 0x5",
        f'countermand_host_up{{{at}, host="h1"}}': "1x5 stale",
        f'countermand_host_up{{{at}, host="h2"}}': "0x5 stale",
        f"countermand_attention_oldest_seconds{{{at}}}": "0x5 stale",
    }
    tried = [
        {
            "expr": asked,
            "eval_time": time,
            "exp_samples": [] if value is None else [{"labels": "{}", "value": value}],
        }
        for title, asked in STATS.items()
        for time, value in zip(
            ("4m", "8m"), told.get(title, (0 if "bool" in asked else None, None)), strict=True
        )
        if title != "Waiting longest" or time == "8m"
    ]
    file = tmp_path / "tried.yaml"
    inputs = [{"series": name, "values": values} for name, values in series.items()]
    test = {"interval": "1m", "input_series": inputs, "promql_expr_test": tried}
    file.write_text(yaml.safe_dump({"rule_files": [], "tests": [test]}))
    assert len(STATS) == 8
    promtool("test", "rules", str(file))


@ALERTS
def test_each_is_tried_both_ways(rule):
    [tried] = [
        each for each in yaml.safe_load(TESTS.read_text())["tests"] if each["name"] == rule["alert"]
    ]
    asked = f'ALERTS{{alertname="{rule["alert"]}", alertstate="firing"}}'
    assert {each["expr"] for each in tried["promql_expr_test"]} == {asked}
    assert {bool(each.get("exp_samples")) for each in tried["promql_expr_test"]} == {True, False}
    assert rule["labels"]["severity"] in ("page", "ticket")


@ALERTS
def test_each_leads_to_a_page_that_is_there(rule):
    path, _, anchor = rule["annotations"]["how_to"].partition("#")
    text = (ROOT / path).read_text()
    anchors = {anchor_of(line) for line in text.splitlines() if line.startswith("#")}
    assert not anchor or anchor in anchors, anchors


@ALERTS
def test_commands_in_a_summary_are_ours(rule):
    for command in re.findall(
        r"`countermand ([^`]+)`", " ".join(rule["annotations"]["summary"].split())
    ):
        found: click.Command | None = main
        for word in command.split():
            if not isinstance(found, click.Group):
                break  # the rest are arguments
            found = found.get_command(click.Context(found), word)
        assert found is not None, command
        options = {name for each in found.params for name in each.opts}
        assert set(re.findall(r"(?<= )--[a-z-]+", command)) <= options, command


def anchor_of(heading: str) -> str:
    """Returns what a heading is linked by."""
    return re.sub(r"[^a-z0-9 -]", "", heading.lstrip("# ").lower()).replace(" ", "-")
