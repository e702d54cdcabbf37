"""Who follows a workflow bears with a coordinator that is away, to the last look at its end."""

import pytest

from tests.cli.terminal import Terminal


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("away-watch-soon", ("workflow", "watch")),
        ("away-wait-soon", ("workflow", "wait", "--for", "succeeded")),
    ],
    ids=["watch", "wait"],
)
def test_the_look_after_the_last_event_waits_for_a_restart(run, name, words):
    done = run(*words, name, "-o", "name")

    assert (done.exit_code, done.stdout) == (0, f"workflows/{name}\n"), done.output


def test_the_live_tree_waits_for_it_too(coordinator):
    with Terminal(coordinator, "workflow", "watch", "away-live-soon") as terminal:
        assert terminal.end() == 0, terminal.text
