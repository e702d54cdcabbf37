"""From the options of a resume to decisions, and from requirements back to options."""

import json

import click
import pytest
from click.testing import CliRunner
from google.protobuf import json_format

from countermand.cli.arguments import plain
from countermand.cli.decided import command, decisions_of, in_options, needed
from countermand.cli.main import main
from countermand.rpc.errors import FieldInvalid, Violation
from countermand.v1.workflow_pb2 import ResumeRequirement as Needed

NOTHING = {
    "reruns": (),
    "sets": (),
    "skips": (),
    "outputs": (),
    "compensates": (),
    "items": (),
    "reset": False,
    "hosts": (),
}


def decided(**given):
    return decisions_of(**{**NOTHING, **given})


def made(**given):
    return [
        json_format.MessageToDict(each, preserving_proto_field_name=True)
        for each in decided(**given)
    ]


def test_who_watches_a_resume_sees_what_came_of_it_and_not_all_that_was(shell):
    shell.held("@")
    before = int(shell.json("workflow", "get", "@")["last_sequence"])
    words = ("resume", "@", "--compensate", "make", "--reason", "no space", "--watch")
    seen = shell("workflow", *words, "-o", "json", code=3)
    events = [json.loads(line) for line in seen.splitlines()]

    assert [int(event["sequence"]) for event in events][:2] == [before + 1, before + 2]


def test_several_tasks_are_decided_about_at_once():
    """S-R11, S-R14, S-R21."""
    assert made(
        reruns=("copy-1", "workflows/w/tasks/copy-2"),
        sets=("copy-1.source.image_id=base", 'copy-2.target.image_id="7"', "copy-2.sparse=true"),
        skips=("verify",),
        outputs=("digest=blake2b:00",),
        compensates=("last",),
        hosts=("copy-1=host-b",),
    ) == [
        {
            "task": "copy-1",
            "rerun": {"patch": {"source.image_id": "base"}, "host_id": "host-b"},
        },
        {"task": "copy-2", "rerun": {"patch": {"target.image_id": "7", "sparse": True}}},
        {"task": "verify", "skip": {"outputs": {"digest": "blake2b:00"}}},
        {"task": "last", "give_up": {}},
    ]


def test_the_longest_name_that_fits_is_meant():
    """Names of items hold dots: copy.1 is no field of copy."""
    [copy, item] = made(reruns=("copy", "copy.1"), sets=("copy.1.host_id=a", "copy.host_id=b"))

    assert item["rerun"]["patch"] == {"host_id": "a"}
    assert copy["rerun"]["patch"] == {"host_id": "b"}


def test_a_single_task_need_not_be_named_again():
    assert made(reruns=("disks",), sets=("sparse=false",), items=(1, 2), hosts=("b",)) == [
        {
            "task": "disks",
            "rerun": {"patch": {"sparse": False}, "indices": [1, 2], "host_id": "b"},
        }
    ]


def test_outputs_become_an_object():
    [skip] = made(skips=("one",), outputs=("image.pool_id=fast", "one.image.image_id=disk"))

    assert skip["skip"]["outputs"] == {"image": {"pool_id": "fast", "image_id": "disk"}}


@pytest.mark.parametrize(
    "given",
    [
        {"sets": ("a.b=1",)},
        {"reruns": ("a", "b"), "sets": ("c.d=1",)},
        {"reruns": ("a",), "sets": ("b",)},
        {"reruns": ("a", "b"), "items": (1,)},
        {"skips": ("a",), "reset": True},
        {"reruns": ("a",), "hosts": ("b=c",)},
    ],
)
def test_what_is_about_no_task_is_refused_with_what_is_right(given):
    with pytest.raises(click.UsageError, match=r"write|name the group"):
        made(**given)


@pytest.mark.parametrize(
    ("text", "value"),
    [("7", 7), ("7.5", 7.5), ("true", True), ('"7"', "7"), ("fast", "fast"), ("007", "007")],
)
def test_a_value_is_what_it_looks_like(text, value):
    found = plain(text)
    assert (found, type(found)) == (value, type(value))


def requirements():
    task = "workflows/w/tasks/one"
    message = "one is FAILED: no space. Decide: rerun, skip or compensate."
    return [
        Needed(
            task=task,
            kind=Needed.KIND_DECISION,
            message=message,
            choices=["rerun", "skip", "give_up"],
        ),
        Needed(
            task=task,
            kind=Needed.KIND_OUTPUT,
            key="image.image_id",
            type="string",
            consumers=["workflows/w/tasks/then"],
        ),
    ]


def test_requirements_say_which_options_meet_them():
    """S-R12, S-R13."""
    assert list(needed(requirements())) == [
        "  one is FAILED: no space. Decide: rerun, skip or compensate.",
        "      --rerun one, --skip one or --compensate one",
        "      with --skip also --output one.image.image_id=STRING  (for then)",
    ]
    assert command("w", requirements()) == "countermand workflow resume w --rerun one --reason WHY"
    assert command("w", []) == "countermand workflow resume w"
    part = Needed(task="workflows/w/tasks/a", kind=Needed.KIND_DECISION, choices=["skip"])
    assert list(needed([part], why=False)) == ["  --skip a"]  # nobody would do it again alone
    assert command("w", [part]) == "countermand workflow resume w --skip a --reason WHY"
    over = Needed(task="workflows/w", kind=Needed.KIND_COMPENSATING, message="too late")
    assert command("w", [over]) == ""


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--rerun", "a"), "a decision needs a --reason"),
        (("--items", "one"), "write 1,2"),
        (("--input", "size"), "write FIELD=VALUE"),
    ],
)
def test_wrong_usage_is_told_before_anything_is_asked(args, said):
    done = CliRunner().invoke(main, ["workflow", "resume", "w", *args])

    assert done.exit_code == 2
    assert said in done.stderr


NEED = "  needs somebody: Free space on host-a."
ANEW = "Anew: `countermand workflow fork failed --id NEW`."


@pytest.mark.parametrize(
    ("name", "said", "needs"),
    [
        ("good", "✓ succeeded: it is settled, and nothing is needed.", []),
        ("failed", f"✗ failed: it is settled, and nothing can be decided any more. {ANEW}", []),
        ("in-ending", "▸ ending: its end actions run, which needs nothing from anybody.", []),
        (
            "in-compensating",
            "↶ compensating: it makes up for what it did, which needs nothing from anybody.",
            [],
        ),
        (
            "blocked",
            "! blocked: it goes forward no more, so there is nothing to resume.",
            [NEED],
        ),
    ],
)
def test_where_nothing_can_be_decided_that_is_all_that_is_said(run, name, said, needs):
    asked = run("workflow", "requirements", name)
    resumed = run("workflow", "resume", name)
    told = f"workflows/{name} is {said}"

    assert (asked.exit_code, asked.stderr) == (0, "")
    assert asked.stdout.splitlines() == [told, *needs]
    assert (resumed.exit_code, resumed.stdout) == (1, "")
    assert resumed.stderr.splitlines() == [f"Error: {told} (REQUIREMENTS_UNMET)", *needs]


def test_what_is_wrong_is_told_at_the_option_that_said_it(shell):
    """Programs have the fields of the request; people wrote options."""
    shell.held("@")
    wrong = ("--rerun", "make", "--set", "make.target.nosuch=1", "--dry-run")
    told = shell("workflow", "resume", "@", *wrong, code=1)
    as_json = json.loads(shell("workflow", "resume", "@", *wrong, "-o", "json", code=1))

    assert "\n  --set make.target.nosuch: " in told
    (violation,) = as_json["error"]["violations"]
    assert violation["field"] == "decisions[0].rerun.patch['target.nosuch']"


@pytest.mark.parametrize(
    ("place", "option"),
    [
        ("decisions[0].rerun.patch['a.b']", "--set one.a.b"),
        ("decisions[0].rerun.host_id", "--host one"),
        ("decisions[0].rerun.patch", "--rerun one"),
        ("decisions[0].rerun.indices", "--items"),
        ('decisions[1].skip.outputs["it\'s"]', "--output two.it's"),
        ("decisions[1].task", "--skip two"),
        ("decisions[2].decision", "decisions[2].decision"),
        ("input['disks']", "--input disks"),
        ("reason", "reason"),
    ],
)
def test_each_place_of_a_request_has_its_option(place, option):
    decisions = decided(reruns=["one"], skips=["two"])
    told = in_options(FieldInvalid(Violation(place, "is wrong")), decisions)

    assert told.message == f"{option}: is wrong"


def test_a_replacement_with_a_wrong_word_says_which_is_meant(shell):
    shell.held("@")
    said = shell(
        *("workflow", "compensation", "replace", "@", "make", "--reason", "x"),
        *("--with", '{"delete_imag": {}}'),
        code=2,
    )
    assert "--with.delete_imag: there is no such field: is delete_image meant?" in said
