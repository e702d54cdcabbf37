"""`countermand workflow`: submits, shows, follows and steers workflows."""

from __future__ import annotations

import click

from countermand.cli.lazy import LazyMembers
from countermand.cli.settings import NAMES_OF_WORKFLOWS, examples, names

MEMBERS = {
    "submit": "submit:submit",
    "lint": "lint:lint",
    "plan": "lint:plan",
    "list": "looks:list_",
    "get": "looks:get",
    "tasks": "looks:tasks",
    "task": "looks:task",
    "events": "events:workflow_events",
    "timeline": "timeline:timeline",
    "bundle": "bundle:bundle",
    "watch": "waits:watch",
    "wait": "waits:wait",
    "cancel": "steer:cancel",
    "pause": "steer:pause",
    "resume": "resume:resume",
    "requirements": "resume:requirements",
    "compensation": "compensation:compensation",
    "fence": "steer:fence",
    "fork": "steer:fork",
}


@click.group(
    cls=LazyMembers,
    lazy={name: f"countermand.cli.{place}" for name, place in MEMBERS.items()},
    aliases={"logs": "events", "show": "get"},  # what hands type that come from elsewhere
    epilog=names(*NAMES_OF_WORKFLOWS)
    + examples(
        "countermand workflow submit add-vm.json --id vm-42 --watch",
        "countermand workflow list --attention",
        "countermand workflow get @latest",
        exits=(),
    ),
)
def workflow() -> None:
    """Submit, follow and steer workflows."""
