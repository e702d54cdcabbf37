"""Answers are whole: nothing is cut without a word."""

import json

import pytest


def test_every_task_is_in_the_answer_whatever_a_page_has(run):
    whole = json.loads(run("workflow", "get", "made-up", "-o", "json").stdout)

    assert [one["name"].rpartition("/")[2] for one in whole["tasks"]] == [
        "copies",
        "copy-1",
        "copy-2",
    ]


@pytest.mark.parametrize("form", ["table", "json", "name"])
def test_a_list_that_ends_early_says_so(run, form):
    words = ("workflow", "list", "--state", "compensated", "--state", "blocked", "-o", form)
    cut = run(*words, "--limit", "1")
    whole = run(*words, "--limit", "2")

    assert cut.stderr == "1 shown, and there are more: --limit\n"
    assert cut.stdout != whole.stdout
    assert whole.stderr == ""


def test_what_was_done_to_a_host_says_so_too(run):
    assert "1 shown" in run("host", "events", "--limit", "1").stderr


def test_tasks_are_chosen_by_their_states(run):
    words = ("workflow", "tasks", "made-up", "-o", "name")
    failed = run(*words, "--state", "failed")
    both = run(*words, "--state", "failed", "--state", "COMPENSATED")
    none = run("workflow", "tasks", "made-up", "--state", "retry-wait")
    wrong = run(*words, "--state", "tired")

    assert failed.stdout == "workflows/made-up/tasks/copy-2\n"
    assert len(both.stdout.splitlines()) == 3
    assert (none.exit_code, none.stdout, none.stderr) == (0, "", "No task is retry-wait.\n")
    assert wrong.exit_code == 2
    assert "there is no task state 'tired'; there are: pending, ready" in wrong.stderr
