"""Words that no program expects: numbers without end, times without end, bytes that are no text."""

from __future__ import annotations

import pytest

from countermand.cli.arguments import plain

LONG = "9" * 23  # beyond 64 bits
VERY_LONG = "9" * 5000  # beyond what Python reads as a number


@pytest.mark.parametrize("number", [LONG, VERY_LONG], ids=["long", "very-long"])
@pytest.mark.parametrize(
    "words",
    [
        "workflow events made-up --after {}",
        "events --after {}",
        "webhook resume hook --reason x --since {}",
        "webhook add hook https://a.example --since {}",
        "workflow resume made-up --rerun one --items {} --reason x",
        "workflow resume made-up --rerun one --items -1 --reason x",
        "external add w/g t --owner o --kind k --weight {}",
        "external add w/g t --owner o --kind k --weight -1",
        "external progress w/t {}",
        "external progress w/t {}GiB",
        "external progress w/t 8191PiB/9000PiB",
        "external progress w/t 1/{}",
        "external accept w/t/{}",
        "workflow list --older-than {}d",
        "workflow list --older-than 40000d",
        "workflow list --timeout {}d",
        "workflow list --timeout 0",
        "workflow list --limit 0",
        "external start w --owner o --kind k --heartbeat {}h",
        "external add w/g t --owner o --kind k --run-timeout {}d",
        "host add h 127.0.0.1:{}",
    ],
)
def test_a_number_that_cannot_be_meant_is_2(run, words, number):
    done = run(*words.format(number).split())

    assert done.exit_code == 2, done.output
    assert done.stderr.rpartition("Error: ")[2], done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("workflow list --label =x", "'=x' is not a label: write KEY=VALUE"),
        ("workflow list --label x", "'x' is not a label: write KEY=VALUE"),
        ("workflow events made-up --after x", "'x' is no whole number: write 0 or more"),
        ("events --after 1.5", "'1.5' is no whole number: write 0 or more"),
    ],
)
def test_a_word_that_is_none_of_these_says_what_would_be(run, words, said):
    done = run(*words.split())

    assert done.exit_code == 2, done.output
    assert said in done.stderr


def test_a_profile_refuses_them_too(run, tmp_path, monkeypatch):
    file = tmp_path / "config.toml"
    file.write_text('profile = "p"\n[profiles.p]\ntimeout = "999999999999d"\n')
    monkeypatch.setenv("COUNTERMAND_CONFIG", str(file))
    done = run("workflow", "list")

    assert done.exit_code == 2
    assert "profiles.p.timeout" in done.stderr


@pytest.mark.parametrize("word", ["NaN", "Infinity", "-Infinity", "1e999", VERY_LONG])
def test_what_is_no_number_of_json_is_a_text(word):
    assert plain(word) == word
