"""First letters stand for a whole id if they are of one only, and change nothing unasked."""

from __future__ import annotations

from tests.cli.terminal import Terminal


def test_the_first_letters_of_one_workflow_are_enough_to_look(shell):
    shell.held("first-42")

    done = shell.run("workflow", "get", "first-4")

    assert done.exit_code == 0
    assert done.stdout.startswith("workflows/first-42  ‖ paused")
    assert done.stderr == "first-4 is workflows/first-42\n"


def test_a_whole_id_is_that_one_though_others_begin_so(shell):
    shell.held("whole-4")
    shell.held("whole-42")

    assert shell("workflow", "get", "whole-4", "-o", "name") == "workflows/whole-4\n"


def test_letters_of_several_are_refused_with_those_there_are(shell):
    for number in range(7):
        shell.submit(shell.task("one"), workflow_id=f"alike-{number}")
    done = shell.run("workflow", "get", "alike-")

    assert done.exit_code == 2
    assert (
        "'alike-' is no workflow, and more than one begins so: alike-6, alike-5, alike-4, "
        "alike-3, alike-2, …" in done.stderr
    )


def test_letters_of_none_are_no_workflow(shell):
    done = shell.run("workflow", "get", "nobody")

    assert done.exit_code == 1
    assert done.stderr.startswith("Error: There is no workflow workflows/nobody: check the name")


def test_a_script_that_changes_something_writes_ids_whole(shell):
    shell.held("script-42")
    done = shell.run("workflow", "cancel", "script-4", "--reason", "typo")

    assert done.exit_code == 2
    assert (
        "'script-4' is no workflow. script-42 begins so: a script writes ids whole" in done.stderr
    )
    assert "paused" in shell("workflow", "get", "script-42")


def test_a_person_is_asked_before_first_letters_change_anything(shell):
    shell.held("person-42")
    with Terminal(shell.address, "workflow", "cancel", "person-4", "--reason", "typo") as terminal:
        terminal.until("person-4 is workflows/person-42. Cancel it? [y/N]").type("")
        assert terminal.end() == 1
    kept = shell("workflow", "get", "person-42")
    with Terminal(shell.address, "workflow", "cancel", "person-4", "--reason", "meant") as terminal:
        terminal.until("Cancel it?").type("y")
        assert terminal.end() == 0

    assert "paused" in kept
    shell("workflow", "wait", "person-42", code=3)


def test_hosts_go_by_their_first_letters_too(shell):
    for port, host in enumerate(("letters-a", "letters-b", "quite-other"), 1):
        shell("host", "add", host, f"127.0.0.1:{port}", "--unreachable-allowed")

    named = shell.run("host", "get", "quite", "-o", "name")
    several = shell.run("host", "get", "letters")
    removed = shell.run("host", "remove", "quite", "--reason", "sold")

    assert (named.stdout, named.stderr) == ("hosts/quite-other\n", "quite is hosts/quite-other\n")
    assert several.exit_code == removed.exit_code == 2
    assert "'letters' is no host, and more than one begins so: letters-a, letters-b" in (
        several.stderr
    )
    assert "quite-other begins so: a script writes ids whole" in removed.stderr
