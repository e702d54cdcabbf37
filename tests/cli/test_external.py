"""`countermand external`, and how external tasks look, with a real coordinator."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.cli.shell import Shell, coordinating
from tests.cli.terminal import Terminal

CHECKLIST = "Remove the label on the array.\nThen look into its audit log."


@pytest.fixture(scope="module")
def address(tmp_path_factory) -> Iterator[str]:
    with coordinating(tmp_path_factory.mktemp("coordinator")) as address:
        yield address


@pytest.fixture
def shell(address, request):
    name = request.node.name.removeprefix("test_").replace("_", "-")[:40].rstrip("-")
    return Shell(address, name)


def lines(text: str) -> list[str]:
    return [" ".join(line.split()) for line in text.splitlines()]


# -- a vendor's part, by hand -------------------------------------------------------------------


def test_a_task_is_done_by_hand_from_the_list_to_its_end(shell):
    """S-V26: nobody has to look a token up."""
    shell.submit(
        shell.task("clone", arguments={"source": "lun-1"}, outputs={"volume": "string"}),
        shell.task(
            "use", bindings=[{"field": "arguments.v", "source": "tasks.clone.output.volume"}]
        ),
    )
    [_, row] = lines(shell.external("list"))
    assert row.startswith(f"{shell.name}/clone ▸ start do-clone no ")

    said = lines(shell.external("accept", "@/clone"))
    assert said[0] == f"{shell.name}/clone ▸ start do-clone"
    assert "source lun-1" in said
    assert f"countermand external end {shell.name}/clone --output volume=STRING" in said

    progress = ("progress", "@/clone", "12/40", "--unit", "volumes", "--message", "second shelf")
    said = shell.external(*progress)
    assert lines(said) == [f"{shell.name}/clone ▸ running 12/40 volumes second shelf"]
    assert lines(shell.external("list"))[1].endswith("12/40 volumes second shelf")

    # What looks like a number stays a text, since the spec promises one.
    shell.external("end", "@/clone", "--output", "volume=7")
    shell.external("accept", "@/use")
    [asked] = shell.json("external", "list")
    assert asked["arguments"] == {"v": "7"}
    shell.external("end", "@/use")
    assert shell("workflow", "wait", "@", "-o", "name") == f"workflows/{shell.name}\n"
    assert shell.external("list").startswith(f"Nothing waits for {shell.name}. Follow it:")


def test_what_is_not_asked_for_yet_can_be_waited_for(shell, address):
    shell.submit(shell.task("first"), shell.task("then"))
    refused = shell.external("accept", "@/then", code=1)
    assert "its owner is not asked for it yet; `countermand external accept --wait`" in refused

    command = [sys.executable, "-m", "countermand.cli", "external", "accept", "--wait"]
    where = [f"{shell.name}/then", "--coordinator", address, "-o", "name"]
    with subprocess.Popen([*command, *where], stdout=subprocess.PIPE, text=True) as waiting:
        shell.do("first")
        assert waiting.communicate()[0] == f"workflows/{shell.name}/tasks/then/attempts/1\n"
    shell.external("end", "@/then")


def test_an_output_that_was_promised_is_asked_for(shell):
    shell.submit(shell.task("clone", outputs={"size": "int64"}))
    shell.external("accept", "@/clone")

    assert "output.size: was promised, as int64" in shell.external("end", "@/clone", code=1)
    shell.external("end", "@/clone", "--output", "size=4")
    assert "size 4" in lines(shell("workflow", "task", "@", "clone"))


def test_a_large_number_arrives_as_it_was_written(shell):
    """Doubles, as JSON's numbers are, would make ...992 of it."""
    shell.submit(
        shell.task("make", outputs={"size": "int64"}),
        shell.task("use", bindings=[{"field": "arguments.s", "source": "tasks.make.output.size"}]),
    )
    shell.external("accept", "@/make")
    shell.external("end", "@/make", "--output", "size=9007199254740993")
    shell.external("accept", "@/use")
    assert shell.json("external", "list")[0]["arguments"] == {"s": "9007199254740993"}
    assert "size 9007199254740993" in lines(shell("workflow", "task", "@", "make"))
    shell.external("end", "@/use")


def test_a_task_is_named_by_the_beginning_of_its_workflow(shell):
    """A script writes ids whole, where it changes something."""
    shell.submit(shell.task("one"), workflow_id="@-begun-like-this")
    begun = f"{shell.name}-begun"

    refused = shell("external", "accept", f"{begun}/one", code=2)
    assert f"{begun}-like-this begins so: a script writes ids whole" in refused
    with Terminal(shell.address, "external", "accept", f"{begun}/one") as terminal:
        terminal.until(f"{begun} is workflows/{begun}-like-this. Go on").type("y")
        assert terminal.end() == 0
    assert "Accepted" in terminal.text


def test_a_resume_keeps_texts_as_they_are_written(shell):
    """Arguments of external tasks and promised texts may look like numbers."""
    shell.submit(
        shell.task("clone", arguments={"lun": "007"}, outputs={"volume": "string"})
        | {"policy": {"on_failure": "ON_FAILURE_PAUSE"}},
        shell.task(
            "use", bindings=[{"field": "arguments.v", "source": "tasks.clone.output.volume"}]
        ),
    )
    shell.external("accept", "@/clone")
    shell.external("end", "@/clone", "--failed", "ARRAY_FULL")
    resume = ("workflow", "resume", "@", "--reason", "space freed")
    for lun in ("8", "true", "1e3", '"8"'):
        said = shell(*resume, "--rerun", "clone", "--set", f"arguments.lun={lun}", "--dry-run")
        assert lines(said)[2].split() == ["clone", "arguments.lun", "007", lun.strip('"')]
    shell(*resume, "--rerun", "clone", "--set", "clone.arguments.lun=1.50")
    shell.external("accept", "@/clone")
    assert shell.json("external", "list")[0]["arguments"] == {"lun": "1.50"}

    shell.external("end", "@/clone", "--failed", "ARRAY_FULL")
    shell(*resume, "--skip", "clone", "--output", "volume=7")
    shell.external("accept", "@/use")
    assert shell.json("external", "list")[0]["arguments"] == {"v": "7"}
    shell.external("end", "@/use")


def test_progress_without_a_unit_counts_what_it_counted_before(shell):
    shell.submit(shell.task("clone"), shell.task("then"))
    shell.external("accept", "@/clone")

    def said(*words: str) -> str:
        return " ".join(shell.external("progress", "@/clone", *words).split()[3:])

    assert said("1/40") == "1/40 parts"
    assert said("12/40", "--unit", "volumes") == "12/40 volumes"
    assert said("13/40") == "13/40 volumes"
    assert said("7/40", "--message", "slower") == "13/40 volumes slower"
    token = shell.json("external", "list")[0]["capability_token"]
    assert said("14/40", "--token", token) == "14/40 volumes"
    assert said("50%") == "50%"
    assert said("60/100") == "60%"
    shell.external("end", "@/clone")


def test_what_is_over_says_how_it_ended_and_what_has_followed(shell):
    """An attempt's own state, and not that of its task, which may be at work again."""
    retry = {"policy": {"retry": {"attempts_max": 2, "delay": "0.01s"}}}
    shell.submit(shell.task("clone") | retry)
    shell.external("accept", "@/clone")
    shell.external("end", "@/clone/1", "--failed", "SLOW", "--retriable")
    shell.external("accept", "@/clone", "--wait")
    said = shell.external("end", "@/clone/1", code=1)
    assert "attempts/1 is over: it is failed; attempt 2 has followed, and is running." in said
    said = shell.external("end", "@/clone/7", code=1)
    assert "There is no attempt" in said
    assert "its task has had 2 so far. (TASK_NOT_FOUND)" in said
    shell.external("end", "@/clone")
    assert "attempts/2 is over: it is succeeded, and" in shell.external("end", "@/clone", code=1)


def test_a_heartbeat_of_what_was_not_accepted_says_what_comes_first(shell):
    shell.submit(shell.task("clone"))
    said = shell.external("heartbeat", "@/clone", code=1)
    assert "clone/attempts/1 is starting, and a heartbeat is not possible: accept it first" in said
    shell.do("clone")


def test_whoever_waits_for_a_task_is_told_what_that_waits_for(shell, address):
    """What was done within an attempt that failed is made up for before the next one."""
    retry = {"policy": {"retry": {"attempts_max": 2, "delay": "0.01s"}}}
    shell.submit(shell.task("clone") | retry)
    shell.external("accept", "@/clone")
    shell.external("add", "@/clone", "part", "--kind", "k", "--effect", "reversible")
    shell.do("part")
    shell.external("end", "@/clone", "--failed", "SLOW", "--retriable")
    waiting = ("external", "accept", f"{shell.name}/clone", "--wait", "-o", "name")
    with Terminal(address, *waiting) as terminal:
        terminal.until("clone waits for its parts: part, to be made up for")
        shell.do("part")
        assert terminal.until("tasks/clone/attempts/2").end() == 0
    shell.external("end", "@/clone")


def test_a_heartbeat_that_is_refused_says_whether_it_is_over(shell):
    """Who lost its token may still be at work: only of what is over nobody waits for it."""
    shell.submit(shell.task("clone"), shell.task("then"))
    shell.external("accept", "@/clone")
    beat = ("heartbeat", "@/clone/1", "--token")
    token = shell.json("external", "list")[0]["capability_token"]
    assert "▸ running" in shell.external(*beat, token)
    refused = shell.external(*beat, "another", code=1)
    assert "its capability token is another" in refused
    assert refused.endswith("(NOT_OWNER)\n")
    shell.external("end", "@/clone")
    assert "forget it. (ATTEMPT_CLOSED)" in shell.external(*beat, token, code=1)


def test_the_newest_workflow_need_not_be_named(shell):
    shell.submit(shell.task("clone"))
    newest = f"workflows/{shell.name}"
    assert f"\n{newest}" in shell.external("accept", "@latest/clone", "-o", "name")
    shell.external("end", "@latest/clone/1")
    shell.external("start", "@-own", "--kind", "k")
    assert f"\n{newest}" in shell.external("add", "@latest", "one", "--kind", "k", "-o", "name")
    shell.external("finish", "@latest", "--force")


def test_a_vendors_own_workflow_says_what_can_be_done_about_it(shell):
    shell.external("start", "@-a", "--kind", "k")
    shown = lines(shell("workflow", "get", "@-a"))
    assert f"belongs to {shell.name}: `countermand external finish {shell.name}-a` ends it" in shown
    shell.external("accept", "@-a/main")
    shell.external("finish", "@-a")
    [own] = [line for line in lines(shell("workflow", "get", "@-a")) if "belongs to " in line]
    assert "removed at 20" in own
    assert own.endswith(f"or by `countermand external clear {shell.name}-a --token …`")
    shell.external("start", "@-b", "--kind", "k", "--keep")
    shell.external("finish", "@-b", "--force", "--failed", "GONE")
    assert lines(shell("workflow", "tasks", "@-b"))[1].startswith("main ✗ failed - ")
    assert "100%" not in shell("workflow", "tasks", "@-b")
    [own] = [line for line in lines(shell("workflow", "get", "@-b")) if "belongs to " in line]
    assert own.endswith("removed soon, as it was ended by force")


def test_a_vendor_that_never_comes_back_is_found(shell):
    shell.submit(shell.task("clone", heartbeat_timeout="1s"))
    shell.external("accept", "@/clone")
    while "?" not in shell("workflow", "tasks", "@"):
        pass  # each look takes a while
    [row] = [each for each in lines(shell("workflow", "list", "--attention")) if shell.name in each]
    assert row.startswith(f"{shell.name} d ▸ running 0/1 "), row
    assert f"{shell.name} has been silent since 20" in row
    assert f"`countermand external end {shell.name}/clone --failed REASON`" in row
    shown = lines(shell("workflow", "get", "@"))
    assert [each for each in shown if each.endswith("(OWNER_SILENT)")]
    needs = lines(shell("workflow", "requirements", "@"))
    assert needs[0] == f"workflows/{shell.name} is ▸ running. No decision is open."
    assert needs[1].startswith(f"needs somebody: {shell.name} has been silent since ")
    assert len(needs) == 2  # and no resume, which would be refused
    with Terminal(shell.address, "workflow", "wait", shell.name) as waits:  # it is told meanwhile
        waits.until(f"needs somebody: {shell.name} has been silent since").interrupt()
        assert waits.end() == 130
    shell.external("end", "@/clone", "--failed", "GONE")


def test_who_ends_a_task_in_the_place_of_a_silent_owner_is_asked_what_is_left(shell):
    """A failure says that nothing is, and nobody would look for it. No script is asked."""
    effect = {"ask_owner": True, "heartbeat_timeout": "1s"}
    for workflow in ("@-a", "@-b"):
        shell.submit(shell.task("clone", **effect), workflow_id=workflow)
        shell.external("accept", f"{workflow}/clone")
    while any("?" not in shell("workflow", "tasks", name) for name in ("@-a", "@-b")):
        pass  # each look takes a while
    [row] = [r for r in lines(shell("workflow", "list", "--attention")) if f"{shell.name}-a" in r]
    assert "Only if you know that nothing of clone is left, end it in its place" in row

    end = ("external", "end", f"{shell.name}-a/clone", "--failed", "GONE")
    with Terminal(shell.address, *end) as terminal:
        terminal.until("Do you know that? [y/N]").type("n")
        assert terminal.end() != 0
    assert "? unknown" in shell("workflow", "tasks", "@-a")
    with Terminal(shell.address, *end, "--nothing-is-left") as terminal:
        assert terminal.end() == 0
    shell("workflow", "wait", "@-a", code=3)
    shell.external("end", "@-b/clone", "--failed", "GONE")
    shell("workflow", "wait", "@-b", code=3)


def test_what_failed_is_made_up_for_by_its_owner_and_by_people(shell):
    """A compensation waits like a start; a checklist is for people, and is shown whole."""
    shell.submit(
        shell.task("clone", ask_owner=True, outputs={"volume": "string"}),
        shell.task("label", operator_checklist=CHECKLIST),
        shell.task("use"),
    )
    shell.external("accept", "@/clone")
    shell.external("end", "@/clone", "--output", "volume=lun-7")
    shell.do("label")
    shell.external("accept", "@/use")
    shell.external("end", "@/use", "--failed", "NO_HOST", "--message", "no host has room")

    assert shell("workflow", "wait", "@", code=4)
    said = shell("workflow", "get", "@")
    assert "needs somebody: To be done by people: Remove the label on the array.\n" in said
    assert (
        "\n    Then look into its audit log.\n    Once it is done: `countermand workflow " in said
    )
    assert shell.external("list").startswith("Nothing waits")  # people's is not its owner's

    refused = shell.external("accept", "@/label", code=1)
    assert "a report is not possible: it waits for people, by its checklist: `" in refused
    shell("workflow", "compensation", "done", "@", "label", "--reason", "did it")
    assert "local asked to mark done: did it" in shell("workflow", "events", "@")
    row = lines(shell.external("list"))[1]
    assert row.startswith(f"{shell.name}/clone ↶ compensate do-clone no ")
    assert row.endswith("because NO_HOST: no host has room")
    said = lines(shell.external("accept", "@/clone"))
    assert "makes up for attempt 1" in said
    assert "volume lun-7" in said
    shell.external("end", "@/clone")

    end = shell("workflow", "wait", "@", code=3)
    assert "Made up for: label (marked done by local: did it)" in end
    assert f"clone (asking {shell.name})" in end
    drawn = shell("workflow", "timeline", "@")
    assert f"use failed with {shell.name}: no host has room." in " ".join(drawn.split())
    assert "1 owner" in " ".join(drawn.split())
    assert " on ." not in drawn


def test_what_is_cancelled_is_stopped_by_its_owner(shell):
    shell.submit(shell.task("first", ask_owner=True), shell.task("then", ask_owner=True))
    shell.external("accept", "@/first")
    shell("workflow", "cancel", "@", "--reason", "wrong machine")

    row = lines(shell.external("list"))[1]
    assert row.startswith(f"{shell.name}/first ◐ cancel do-first yes ")
    said = shell.external("progress", "@/first", "1/2", code=1)
    assert "It is to be stopped: leave nothing behind, then countermand external end" in said
    shell.external("heartbeat", "@/first", code=1)
    shell.external("end", "@/first", "--cancelled")
    assert shell("workflow", "wait", "@", "-o", "name", code=3)
    assert "it is cancelled" in shell.external("end", "@/first", "--cancelled", code=1)


def test_a_token_is_taken_from_the_environment_and_a_wrong_one_is_refused(shell):
    """S-V30: and nothing has changed."""
    shell.submit(shell.task("clone"))
    [asked] = shell.json("external", "list")
    whole = asked["attempt"]

    refused = shell.external("accept", whole, "--token", "made-up", code=1)
    assert "(NOT_OWNER)" in refused
    assert shell.json("external", "list")[0].get("accepted") is None
    shell.external("accept", whole, "--token", asked["capability_token"])
    assert shell.json("external", "list")[0]["accepted"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("accept", "nowhere"), "names no external task: write WORKFLOW/TASK"),
        (("accept", "nowhere/at-all"), "There is no workflow workflows/nowhere"),
        (("progress", "a/b", "much"), "is no progress: write 12/40, 60%, 12 or 3GiB/10GiB"),
        (("progress", "a/b", "160%"), "from 0% to 100%"),
        (("progress", "a/b", "5/3"), "is more than there is to do"),
        (("progress", "a/b", "1GiB", "--unit", "volumes"), "is a size, and no number of volumes"),
        (("end", "a/b", "--cancelled", "--failed", "X"), "exclude each other"),
        (("end", "a/b", "--message", "x"), "say more about --failed REASON"),
        (("end", "a/b", "--output", "volume"), "write FIELD=VALUE"),
        (("list", "--owner", "Acme"), "must match"),
    ],
)
def test_what_cannot_be_meant_says_what_to_write(shell, words, said):
    done = shell.run("external", *words)

    assert done.exit_code in (1, 2), done.output
    assert said in " ".join(done.output.split())


# -- a vendor's own workflow --------------------------------------------------------------------


def test_a_vendors_own_workflow_grows_and_ends(shell):
    """S-V26 S-V28: parts roll up by their weights; what is open keeps it from ending."""
    started = shell.external("start", "@", "--kind", "rebalance")
    assert lines(started)[1] == f"accept it: countermand external accept {shell.name}/main"
    shell.external("accept", "@/main")
    shell.external("add", "@/main", "shelf-1", "--kind", "move-shelf", "--weight", "3")
    shell.external("add", "@/main", "shelf-2", "--kind", "move-shelf")
    shell.do("shelf-1")

    said = lines(shell("workflow", "tasks", "@"))
    assert f"main ▸ running - {shell.name}: rebalance 75%" in said
    assert f"shelf-1 ✓ succeeded - {shell.name}: move-shelf" in said
    waits = f"waits for {shell.name}, which has not accepted it yet"
    assert f"shelf-2 ◌ starting - {shell.name}: move-shelf {waits}" in said

    assert f"to {shell.name}: `countermand external finish {shell.name}` ends it" in shell(
        "workflow", "get", "@"
    )
    refused = shell.external("end", "@/main", code=1)
    assert "/tasks/main/attempts/1 is running, and end is not possible: shelf-2 must" in refused
    refused = shell.external("finish", "@", code=1)
    assert "shelf-2 must end first, or be closed by force" in refused
    shell.do("shelf-2")
    assert "✓ succeeded" in shell.external("finish", "@")
    token = started.split()[-1]
    assert "give the --token" in shell.external("clear", "@", code=1)
    shell.external("clear", "@", "--token", token)
    shell.external("clear", "@", "--token", token)
    assert "There is no workflow" in shell("workflow", "get", "@", code=1)


def test_a_repeat_with_other_labels_says_that_they_do_not_count(shell):
    root = {"kind": "KIND_SEQUENCE", "members": [shell.task("one")]}
    spec = json.dumps({"kind": "d", "root": root})
    submit = ("workflow", "submit", "-", "--id", "@", "--label")
    shell(*submit, "team=a", given=spec)
    assert "Note:" not in shell.run(*submit, "team=a", given=spec).stderr
    again = shell.run(*submit, "team=b", given=spec)
    assert (again.exit_code, again.stdout.split(":")[0]) == (
        0,
        f"workflows/{shell.name} exists already",
    )
    assert again.stderr == (
        f"Note: workflows/{shell.name} was there before, and its labels stay as they are: team=a.\n"
    )


def test_an_own_workflow_ends_by_force_and_as_failed(shell):
    """S-V28: what is open is closed as cancelled."""
    shell.external("start", "@", "--kind", "rebalance", "--keep")
    shell.external("add", "@", "beside", "--kind", "other")
    shell.external("finish", "@", "--failed", "ARRAY_LOST", "--message", "it is gone", "--force")

    assert "what failed: it is gone (ARRAY_LOST)" in shell("workflow", "get", "@")
    said = lines(shell("workflow", "tasks", "@"))
    assert any(line.startswith("beside ⊘ cancelled") for line in said)


def test_a_task_is_added_to_an_open_group_of_another(shell):
    group = {"kind": "KIND_PARALLEL", "open": True, "members": [shell.task("planned")]}
    shell.submit({"name": "extras", "group": group})

    assert any("parallel, open" in line for line in lines(shell("workflow", "tasks", "@")))
    added = shell.external("add", "@/extras", "mirror", "--kind", "mirror", "--arg", "to=b")
    assert f"Added workflows/{shell.name}/tasks/mirror." in added
    [_, mirror] = shell.json("external", "list")
    assert mirror["arguments"] == {"to": "b"}
    assert "open" in shell("workflow", "task", "@", "extras")
    refused = shell.external("add", "@", "elsewhere", "--kind", "mirror", code=1)
    assert "its spec does not say that the group is open" in refused


def test_a_watch_tells_what_waits_and_every_change_as_it_comes(shell, address):
    """And what is closed; in a pipe at once, an object a line."""
    shell.submit(shell.task("clone"))
    command = [sys.executable, "-m", "countermand.cli", "external", "watch", "-o", "json"]
    where = ["--coordinator", address, "--owner", shell.name]
    with subprocess.Popen([*command, *where], stdout=subprocess.PIPE, text=True) as watching:
        assert watching.stdout is not None
        first = json.loads(watching.stdout.readline())
        assert first["request"]["attempt"].endswith("/tasks/clone/attempts/1")
        shell.external("accept", "@/clone")
        assert json.loads(watching.stdout.readline())["request"]["accepted"]
        shell.external("end", "@/clone")
        assert json.loads(watching.stdout.readline()) == {"closed": first["request"]["attempt"]}
        watching.terminate()
