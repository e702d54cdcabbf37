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
