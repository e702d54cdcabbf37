"""How a webhook is shown, and what to do about it."""

from __future__ import annotations

import pytest
from click.testing import CliRunner
from google.protobuf.timestamp_pb2 import Timestamp

from countermand.cli.main import main
from countermand.cli.webhook import _change_row, _describe
from countermand.rpc.errors import ReceiverGone, ReceiverRefused
from countermand.v1.webhook_pb2 import Webhook, WebhookChange

ONE = Webhook(
    name="webhooks/tickets",
    url="https://tickets.example/in",
    event_types=["workflow.failed", "task.*"],
    state=Webhook.STATE_ACTIVE,
    position=7,
)


def test_one_that_was_never_called_says_how_to_try_it(capsys):
    _describe(ONE)
    assert capsys.readouterr().out == (
        "webhooks/tickets  ✓ active  https://tickets.example/in\n"
        "  told of workflow.failed, task.*\n"
        "  at position 7, 0 behind\n"
        "  nothing was sent yet; try it: countermand webhook ping tickets\n"
    )


def test_one_that_fails_says_why_since_when_and_what_to_do(capsys):
    failing = Webhook(
        state=Webhook.STATE_FAILING,
        behind=12,
        labels={"team": "storage"},
        kind="add-vm",
        missed_events=3,
        failures=2,
        failure=ReceiverRefused(answer="500 Internal Server Error").failure(),
        next_try_time=Timestamp(seconds=1_800_000_000),
    )
    failing.MergeFrom(Webhook(name=ONE.name, url=ONE.url, event_types=ONE.event_types, position=7))
    _describe(failing)
    assert capsys.readouterr().out.splitlines()[2:] == [
        "  only of workflows with label team=storage, kind add-vm",
        "  at position 7, 12 behind",
        "  missed: at most 3 events, removed after the retention time before it was told",
        f"  problem: {failing.failure.message} (RECEIVER_REFUSED)",
        "  failed 2 times since it last took anything",
        "  next try at 2027-01-15 08:00:00.000Z; at once with:",
        '  countermand webhook resume tickets --reason "…"',
    ]


def test_one_that_is_gone_waits_for_somebody(capsys):
    gone = Webhook(state=Webhook.STATE_DISABLED, failures=1, failure=ReceiverGone().failure())
    gone.MergeFrom(Webhook(name=ONE.name, url=ONE.url))
    _describe(gone)
    said = capsys.readouterr().out
    assert "⊘ disabled" in said
    assert "410 Gone" in said
    assert "next try" not in said
    assert 'countermand webhook resume tickets --reason "…"' in said


@pytest.mark.parametrize(
    "args",
    [
        ("add", "tickets"),
        ("add", "tickets", "https://h/", "--label", "team"),
        ("add", "tickets", "https://h/", "--since", "-1"),
        ("add", "tickets", "https://h/", "--secret-file", "/nowhere/at/all"),
        ("resume", "tickets"),
        ("remove", "tickets"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_asked(args):
    done = CliRunner().invoke(main, ["--coordinator", "127.0.0.1:1", "webhook", *args])
    assert done.exit_code == 2, done.output


def test_what_was_done_is_one_line_each():
    resumed = WebhookChange(
        webhook="webhooks/tickets",
        kind=WebhookChange.KIND_RESUMED,
        time=Timestamp(seconds=1_800_000_000),
        principal="local",
        reason="it is\nback",
        since_position=0,
    )
    rotated = WebhookChange(webhook="webhooks/tickets", kind=WebhookChange.KIND_SECRET_ROTATED)
    assert _change_row(resumed)[1:] == ("tickets", "resumed from 0 on", "local", "it is back")
    assert _change_row(rotated)[2:] == ("secret rotated", "", "-")
