"""Templates, workflow files and lint: what can be told without a coordinator."""

import contextlib
import copy
import json
import random

import pytest
from click.testing import CliRunner
from google.protobuf import json_format
from google.protobuf.struct_pb2 import Struct
from hypothesis import given
from hypothesis import strategies as st

from coordinator.wire.spec import check_spec
from countermand.cli.main import main
from countermand.cli.planned import show_plan
from countermand.cli.settings import Settings
from countermand.cli.spec_tree import tree_lines
from countermand.client.spec_json import Json, mistakes
from countermand.client.spec_lint import findings
from countermand.client.templates import load, names, read_template
from countermand.client.workflow_file import (
    Lines,
    WorkflowFile,
    dump_yaml,
    read_value,
    read_workflow_file,
)
from countermand.rpc.errors import CountermandError, FieldInvalid
from countermand.v1.annotation_pb2 import Effect
from countermand.v1.task_pb2 import Task
from countermand.v1.workflow_pb2 import PlanWorkflowResponse
from countermand.v1.workflow_spec_pb2 import WorkflowSpec

SHIPPED = (
    "add-vm-from-template",
    "clone-vm",
    "create-snapshot",
    "live-storage-migration",
    "move-disk",
    "rapid-clone",
    "remove-snapshot",
)
DISK = ("--input", "disks.0.source=slow/a", "--input", "disks.0.target=fast/a")


def cli(*args, given=None):
    return CliRunner().invoke(main, args, input=given)


# -- what is shipped ----------------------------------------------------------------------------


def test_every_template_is_shipped():
    assert tuple(names()) == SHIPPED
    assert cli("template", "list", "-o", "name").stdout.split() == list(SHIPPED)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_template_is_sound_and_its_example_is_what_it_takes(name):
    template = load(name)

    assert (template.name, template.spec().kind) == (name, name)
    assert findings(template.spec(), template.example) == []
    assert template.fill(template.example) == template.example
    assert all(field.summary for field in template.fields)


@pytest.mark.parametrize("name", SHIPPED)
@pytest.mark.parametrize("form", ["yaml", "json"])
def test_what_is_rendered_is_a_workflow_file_of_the_same_spec(name, form):
    done = cli("template", "render", name, "-o", form)
    file = read_workflow_file(done.stdout, origin="rendered")

    assert file.message() == load(name).spec()
    assert file.input == load(name).example
    assert cli("workflow", "lint", "-", given=done.stdout).stdout == "<stdin>: nothing is wrong.\n"


@pytest.mark.parametrize("name", SHIPPED)
def test_a_template_is_shown_as_a_tree_as_its_file_and_as_json(name):
    shown = cli("template", "show", name).stdout
    whole = json.loads(cli("template", "show", name, "-o", "json").stdout)

    assert shown.startswith(f"{name}: {load(name).summary}\n\n  {name}: ")
    assert f"countermand workflow submit --template {name} --id ID" in shown
    assert cli("template", "show", name, "-o", "yaml").stdout == load(name).file.text
    assert json_format.ParseDict(whole["spec"], WorkflowSpec()) == load(name).spec()
    assert list(mistakes(json.dumps(whole["spec"]), origin="")) == []


def test_a_tree_says_what_makes_up_for_each_task_and_what_nothing_does():
    lines = cli("template", "show", "move-disk").stdout.splitlines()

    assert lines[2:8] == [
        "  move-disk: in order",
        "  ├─ copies            together, each disk of input.disks, its members in order",
        "  │  ├─ copy           copy image; made up for by: delete the copy",
        "  │  └─ verify         verify image; read-only",
        "  └─ sources           together, each disk of input.disks, a failure is allowed",
        "     └─ delete-source  delete image; forward only",
    ]


# -- inputs -------------------------------------------------------------------------------------


def rendered(*inputs, name="move-disk"):
    pairs = [word for one in inputs for word in ("--input", one)]
    done = cli("template", "render", name, *pairs, "-o", "json")
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)["input"]


def test_an_input_may_be_given_value_by_value_and_gets_its_defaults():
    assert rendered("disks.0.source=slow/42", "disks.0.target.pool_id=fast",
                    "disks.0.target.image_id=42") == {
        "disks": [
            {
                "source": {"pool_id": "slow", "image_id": "42"},
                "target": {"pool_id": "fast", "image_id": "42"},
            }
        ],
        "flatten": False,
    }  # fmt: skip


def test_an_input_may_be_a_file_or_json_with_values_laid_over_it(tmp_path):
    disks: dict[str, Json] = {"disks": [{"source": "slow/a", "target": "fast/a"}]}
    (tmp_path / "disks.json").write_text(json.dumps(disks))
    (tmp_path / "disks.yaml").write_text("disks:\n  - {source: slow/a, target: fast/a}\n")
    expected = load("move-disk").fill({**disks, "flatten": True})

    for given_ in (str(tmp_path / "disks.json"), str(tmp_path / "disks.yaml"), json.dumps(disks)):
        assert rendered(given_, "flatten=true") == expected


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        (["disks.0.source=slow/a"], "input.disks[0].target: is required"),
        (["disks.0.sorce=slow/a"], "input.disks[0].sorce: there is no such field: is source meant"),
        (["disks.0.source=slow"], "input.disks[0].source: must be an image, {pool_id, image"),
        (["disks.0.source=Slow/a"], "input.disks[0].source: must be an image"),
        (["flatten=perhaps"], "input.flatten: must be true or false"),
        (['{"disks": []}'], "input.disks: must be a list of objects {source, target}, not empty"),
        (["disks.1.source=slow/a"], "lists begin at 0, without gaps"),
        (["disks.x.source=slow/a"], "input.disks: must be a list"),
        (["no-such-file.json"], "is no JSON object, no file that exists, and no KEY=VALUE"),
        (["[1]"], "no file that exists"),
        (["x" * 300], "xxx…' is no JSON object, no file that exists"),
        (["flatten=" + "x" * 300], "input.flatten: must be true or false"),
    ],
)  # fmt: skip
def test_an_input_that_a_template_does_not_take_is_refused_in_words(inputs, said):
    pairs = [word for one in inputs for word in ("--input", one)]
    done = cli("template", "render", "move-disk", *pairs)

    assert done.exit_code in {1, 2}
    assert (done.stdout, said in done.stderr) == ("", True), done.stderr


def test_a_misspelt_template_is_answered_with_the_nearest():
    done = cli("template", "show", "move-disc")

    assert done.exit_code == 2
    assert "there is no template 'move-disc': is move-disk meant?" in done.stderr


def test_an_example_is_never_submitted_by_accident(tmp_path):
    (tmp_path / "own.yaml").write_text(cli("template", "show", "clone-vm", "-o", "yaml").stdout)
    for named in (["--template", "clone-vm"], [str(tmp_path / "own.yaml")]):
        done = cli("workflow", "submit", *named, "--id", "x")

        assert done.exit_code == 2
        assert "its own input an example: give --input" in " ".join(done.stderr.split())


def test_a_template_is_planned_as_it_is_named(run):
    done = run("workflow", "plan", "--template", "move-disk", *DISK)

    assert [line.split()[0] for line in done.stdout.splitlines()] == ["TASK", "copies", "sources"]
    assert run("workflow", "plan").exit_code == 2
    assert run("workflow", "plan", "-", "--template", "clone-vm").exit_code == 2


def test_a_file_brings_its_id_its_labels_and_its_input(run):
    leaf = "{name: a, task: {action: {noop: {}}}}"
    spec = f"{{kind: drill, root: {{kind: KIND_SEQUENCE, members: [{leaf}]}}}}"
    file = f"workflow_id: from-file\nlabels: {{team: storage}}\nspec: {spec}\n"

    assert (
        run("workflow", "submit", "-", "-o", "name", given=file).stdout == "workflows/from-file\n"
    )
    assert run("workflow", "submit", "-", given=f"spec: {spec}\n").exit_code == 2


# -- files --------------------------------------------------------------------------------------


def test_yaml_means_what_it_says():
    text = (
        "a: no\nb: 12:30\nc: 2026-01-01\nd: 010\ne: '1'\nf: 1e3\ng: ~\nh:\ni: 0x1f\nj: -7\nk: null"
    )

    assert read_value(text, origin="") == {
        "a": "no",
        "b": "12:30",
        "c": "2026-01-01",
        "d": "010",
        "e": "1",
        "f": 1000.0,
        "g": "~",
        "h": None,
        "i": "0x1f",
        "j": -7,
        "k": None,
    }


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text() | st.sampled_from(["no", "1e3", "010", "null", "", "~", "12:30", "- a", "a: b"]),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)  # fmt: skip


@given(JSON)
def test_what_is_written_as_yaml_is_read_again(value):
    assert read_value(dump_yaml(value), origin="") == value


SPEC = """\
kind: drill
root:
  kind: KIND_PARALLEL
  for_each: {items: input.disks, item: disk}
  members:
    - name: copy
      task:
        action: {copy_image: {source: {pool_id: p, image_id: i}}}
        bindings:
          - {field: target.pool_id, source: disk.pool}
          - {field: target.image_id, source: disk.image}
    - name: drop
      policy: {retry: {attempts_max: 3}}
      task:
        action: {delete_image: {}}
        bindings:
          - {field: target.pool_id, source: tasks.copy.output.image.pool_id}
          - {field: target.image_id, source: tasks.copy.output.image.image_id}
"""

# What is put in the place of what, and what is said then: the line, the path, the words.
SLIPS = [
    ("name: drop", "nam: drop", 12, "members[1].nam: there is no such field: is name meant?"),
    ("name: drop", "name: copy", 12, "'copy' is taken by spec.root.members[0]: names are unique"),
    ("name: drop", "name: Drop", 12, "spec.root.members[1].name: 'Drop' must match"),
    ("copy_image:", "copy_imag:", 8, "is copy_image meant?"),
    ("  kind: KIND_PARALLEL", "  kind: PARALLEL", 3, "must be one of KIND_SEQUENCE, KIND_PARALLEL"),
    ("  kind: KIND_PARALLEL\n", "", 2, "root.kind: is required: KIND_SEQUENCE or KIND_PARALLEL"),
    ("field: target.pool_id, source: disk.pool", "field: target.pool, source: disk.pool", 10,
     "copy_image has no field 'target.pool': is target.pool_id meant?"),
    ("disk.pool", "disc.pool", 10, "'disc.pool' is no source: write input.<field>"),
    ("tasks.copy.output.image.pool_id", "tasks.cop.output.image.pool_id", 17,
     "there is no task 'cop' in this spec: is copy meant?"),
    ("output.image.image_id", "output.image_id", 18,
     "copy_image leaves no 'image_id': is image.image_id meant?"),
    ("output.image.image_id", "image.image_id", 18, "write tasks.<name>.output.<field>"),
    ("items: input.disks", "items: disks", 4, 'must be a list in the input, as "input.disks"'),
    ("          - {field: target.image_id, source: disk.image}\n", "", 8,
     "action.copy_image.target.image_id: is required"),
    ("attempts_max: 3", "attempts_max: many", 13, "must be a whole number"),
    ("name: drop", "name: drop\n      after: [copi]", 13, "is not a sibling: is copy meant?"),
    ("{delete_image: {}}", "{}", 15, "needs a verb: create_image, copy_image"),
    ("disk.pool", "failure.reason", 10, "on_failure end actions and recovery tasks only"),
    ("attempts_max: 3", "attempts_max: 3, attempts_max: 4", 13, "'attempts_max' stands here twice"),
    ("disk.pool}", "disk.pool", 11, "is not YAML"),
    ("disk.pool", "&a disk.pool", 10, ""),
]  # fmt: skip


HYBRID = """\
kind: drill
root:
  kind: KIND_PARALLEL
  open: true
  members:
    - name: clone
      external_task:
        owner_id: acme
        kind: clone-volume
        effect: EFFECT_REVERSIBLE
        ask_owner: true
        arguments: {size: "10"}
        outputs: {volume: string}
    - name: use
      after: [clone]
      external_task:
        owner_id: engine
        kind: use
        effect: EFFECT_READ_ONLY
        bindings:
          - {field: arguments.volume, source: tasks.clone.output.volume}
"""

EXTERNAL_SLIPS = [
    ("owner_id: acme", "owner: acme", 8, "owner: there is no such field: is owner_id meant?"),
    ("owner_id: acme", "owner_id: Acme", 8, "external_task.owner_id: 'Acme' must match"),
    ("        kind: use\n", "", 16, "external_task.kind: is required"),
    ("        ask_owner: true\n", "", 10, "needs ask_owner or operator_checklist"),
    ("EFFECT_REVERSIBLE", "EFFECT_READ_ONLY", 11, "is for EFFECT_REVERSIBLE"),
    ('size: "10"', "size: 10", 12, 'arguments.size: must be a text: write "10"'),
    ('size: "10"', 'a.b: "10"', 12, "is a key that must be 1 to 63 characters without a dot"),
    ("volume: string", "volume: text", 13, "one of string, int64, double, bool: is string meant?"),
    ("volume: string", "volumes: string", 21,
     "clone promises no output 'volume': is volumes meant?"),
    ("        outputs: {volume: string}\n", "", 20, "promise it there, as `outputs"),
    ("field: arguments.volume", "field: volume", 21, "no 'volume': is arguments.volume meant?"),
    ("kind: KIND_PARALLEL", "kind: KIND_SEQUENCE", 4, "is for parallel groups without for_each"),
    ("owner_id: engine", "owner_id: engine\n        weight: -1", 18, "weight: must be in 0 to"),
    ("owner_id: engine", "owner_id: engine\n        heartbeat_timeout: 0.1s", 18,
     "must be at least 1s"),
]  # fmt: skip


ALL_SLIPS = [(SPEC, *slip) for slip in SLIPS] + [(HYBRID, *slip) for slip in EXTERNAL_SLIPS]


@pytest.mark.parametrize(
    ("spec", "old", "new", "line", "said"), ALL_SLIPS, ids=range(len(ALL_SLIPS))
)
def test_lint_names_the_line_and_what_would_be_right(spec, old, new, line, said):
    """And a coordinator takes none of them, if it can read it at all."""
    assert spec.count(old) == 1
    text = spec.replace(old, new)
    done = cli("workflow", "lint", "-", given=text)

    if not said:  # an anchor alone harms nobody
        assert done.exit_code == 0
        return
    assert done.exit_code == 1, done.stdout
    [found] = [told for told in done.stdout.splitlines() if said in told]
    assert found.startswith(f"<stdin>:{line}: "), found
    with contextlib.suppress(CountermandError):
        file = read_workflow_file(text, origin="")
        assert list(file.mistakes()) or not taken_by_coordinator(file.message(), {})


def test_a_tree_says_who_does_an_external_task_and_that_a_group_is_open():
    assert cli("workflow", "lint", "-", given=HYBRID).stdout == "<stdin>: nothing is wrong.\n"
    assert taken_by_coordinator(read_workflow_file(HYBRID, origin="").message(), {})
    assert tree_lines(read_workflow_file(HYBRID, origin="").message()) == [
        "drill: together, open: vendors may add tasks",
        "├─ clone  acme: clone-volume; made up for by: asking acme",
        "└─ use    engine: use; read-only, after clone",
    ]


def test_lint_finds_nothing_in_what_is_right():
    done = cli("workflow", "lint", "-", given=SPEC)

    assert (done.exit_code, done.stdout) == (0, "<stdin>: nothing is wrong.\n")


def test_lint_warns_of_what_is_tried_once_and_cannot_be_made_up_for():
    done = cli("workflow", "lint", "-", "-o", "json", given=SPEC.replace("attempts_max: 3", ""))

    assert done.exit_code == 0
    [found] = json.loads(done.stdout)
    assert (found["line"], found["severity"]) == (15, "warning")
    assert (
        found["message"] == "delete_image cannot be made up for, and is tried once: give it a retry"
    )


def test_lint_looks_at_the_input_that_a_file_brings():
    spec = "\n".join(f"  {line}" for line in SPEC.splitlines())
    whole = f"spec:\n{spec}\ninput:\n  disks:\n    - {{pool: a, image: b}}\n    - {{pool: a}}\n"
    done = cli("workflow", "lint", "-", given=whole)

    assert done.stdout == (
        "<stdin>:12: spec.root.members[0].task.bindings[1].source: "
        "input.disks[1] of the input given has no 'image'\n"
    )


@pytest.mark.parametrize("name", SHIPPED)
def test_lint_refuses_nothing_that_a_coordinator_takes(name):
    """And the other way round nearly always: what differs is what only a coordinator can know."""
    chance = random.Random(name)
    both = refused = 0
    for _ in range(60):
        spec = copy.deepcopy(load(name).file.spec)
        slip(spec, chance)
        file = WorkflowFile(origin="", spec=spec, lines=Lines(""))
        if list(file.mistakes()):
            continue
        input_ = load(name).example
        wrong = [one for one in findings(file.message(), input_) if not one.warning]
        taken = taken_by_coordinator(file.message(), input_)
        assert not (wrong and taken), (spec, wrong)
        both, refused = both + bool(wrong), refused + (not taken)

    assert refused > 10
    assert both > 0.8 * refused


def taken_by_coordinator(spec, input_):
    struct = Struct()
    struct.update(input_)
    try:
        check_spec(spec, struct, lambda *_: None)
    except CountermandError:
        return False
    return True


def slip(spec, chance):
    """Leaves out, doubles or misspells one thing somewhere in a spec."""
    holder, key = chance.choice(list(places(spec)))
    match chance.randrange(3):
        case 0:
            del holder[key]
        case 1 if isinstance(holder, list):
            holder.append(copy.deepcopy(holder[key]))
        case _:
            holder[key] = chance.choice(
                ["input.disks", "disk.source", "copy", "sources", "a", True]
            )


def places(value):
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
        yield value, key
        if isinstance(inner, dict | list):
            yield from places(inner)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{\n"kind": }', "<stdin>:2: is not JSON"),
        ("kind: [a\nroot: 1", "<stdin>:2: is not YAML"),
        ("a: &x {b: 1}\nc: *x", "<stdin>:2: is not YAML: anchors are not read here"),
        ("a: !!python/none x", "<stdin>:1: is not YAML: tags are not read here"),
        ("spec: {}\nimput: {}", "<stdin>:2: imput: there is no such field: is input meant?"),
        ("", "<stdin>: spec: must be an object"),
        ("[" * 5000, "<stdin>: is nested too deeply"),
        ("\x00", "is not YAML"),
    ],
)  # fmt: skip
def test_what_is_no_workflow_file_is_told_in_a_line(text, said):
    done = cli("workflow", "lint", "-", given=text)

    assert (done.exit_code, done.stderr) == (1, "")
    assert done.stdout.startswith(said) or said in done.stdout
    assert len(done.stdout.splitlines()) == 1


SHORT = """
spec:
  kind: short
  lock_policy: {lock}
  root:
    kind: {kind}
    members:
      - name: one
        policy: {{on_failure: {failure}}}
        task:
          action: {{create_image: {{target: {{pool_id: p, image_id: i}}, format: {layout}}}}}
"""


def short(**words):
    given = {"lock": "refuse", "kind": "sequence", "failure": "compensate_group", "layout": "qcow2"}
    return read_workflow_file(SHORT.format(**given | words), origin="<x>")


def test_words_of_the_contract_may_be_short():
    """As the commands print them; what is sent has them in full."""
    full = short(
        lock="LOCK_POLICY_REFUSE",
        kind="KIND_SEQUENCE",
        failure="ON_FAILURE_COMPENSATE_GROUP",
        layout="IMAGE_FORMAT_QCOW2",
    )
    assert short().message() == full.message()


@pytest.mark.parametrize("word", ["unspecified", "QCOW2", "qcow", "format_qcow2"])
def test_a_short_word_that_is_none_of_them_is_told_with_its_line(word):
    [mistake] = short(layout=word).mistakes()
    assert mistake.field.endswith("create_image.format")
    assert f'must be one of IMAGE_FORMAT_RAW, IMAGE_FORMAT_QCOW2; not "{word}"' in (
        mistake.description
    )


def test_a_template_of_ones_own_is_read_like_those_shipped():
    own = load("clone-vm").file.text.replace("name: clone-vm", "name: mine")

    assert read_template(own, origin="mine.yaml").fields == load("clone-vm").fields
    with pytest.raises(
        FieldInvalid, match=r"mine.yaml:12: template.input.copy_allowed: needs a type"
    ):
        read_template(own.replace("type: bool", "type: boolean"), origin="mine.yaml")


# -- plans --------------------------------------------------------------------------------------


def task(name, verb="", effect=Effect.EFFECT_UNSPECIFIED, **fields):
    kind = Task.KIND_VERB if verb else Task.KIND_SEQUENCE
    return Task(name=f"workflows/plan/tasks/{name}", verb=verb, effect=effect, kind=kind, **fields)


FINAL = (
    "Mind: nothing makes up for drop. Before the first of them takes effect a failure is made up "
    "for whole; after it nothing is taken back any more."
)
ALLOWED = (
    "Mind: the failure of drop is allowed: the workflow goes on. What should have been removed is "
    "then listed as left behind."
)


def test_a_plan_names_what_nothing_makes_up_for_and_what_is_held(capsys):
    planned = PlanWorkflowResponse(
        tasks=[
            task("root"),
            task("copy", "copy_image", Effect.EFFECT_REVERSIBLE, opposite="delete the copy",
                 parent="workflows/plan/tasks/root"),
            task("drop", "delete_image", Effect.EFFECT_FORWARD_ONLY, optional_by_policy=True,
                 parent="workflows/plan/tasks/root", host_id="host-a"),
        ]
    )  # fmt: skip
    lock = planned.locks.add(exclusive=True)
    lock.image.pool_id, lock.image.image_id = "fast", "disk-1"
    show_plan(Settings(), planned)

    assert capsys.readouterr().out.splitlines() == [
        "TASK    VERB          HOST    EFFECT        MADE UP FOR BY",
        "root    sequence      -       -             -",
        "  copy  copy image    chosen  reversible    delete the copy",
        "  drop  delete image  host-a  forward only  nothing: from here it only goes forward",
        "",
        "Images held from its start to its end:",
        "  exclusive  fast/disk-1",
        "",
        FINAL,
        "",
        ALLOWED,
    ]
