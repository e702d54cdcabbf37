"""A value that is laid over a plain file's input must be one that the workflow takes."""

import pytest

from countermand.cli.input_paths import unknown
from countermand.client.spec_json import Json
from countermand.client.workflow_file import read_value

SPEC = read_value(
    """
kind: drill
root:
  kind: KIND_PARALLEL
  members:
    - name: disks
      group:
        kind: KIND_PARALLEL
        for_each: {items: input.disks, item: disk, zip: {pool: input.pools}}
        members:
          - name: copy
            task:
              action: {noop: {}}
              bindings:
                - {field: a, source: disk.source.pool_id}
                - {field: b, source: pool}
    - name: last
      when: {path: input.flatten}
      task:
        action: {noop: {}}
        bindings: [{field: c, source: input.image}]
""",
    origin="spec",
)
INPUT: Json = {"disks": [{"size": 7, "source": {}}], "note": "for people"}


@pytest.mark.parametrize(
    "key",
    [
        "flatten",
        "note",
        "image",
        "image.pool_id",
        "disks",
        "disks.0.size",
        "disks.1.source.pool_id",
        "disks.1.source",
        "pools",
        "pools.0",
    ],
)
def test_what_the_input_has_or_the_spec_names_is_taken(key):
    assert unknown(key, INPUT, SPEC) == ""


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("flaten", "there is no such field: is flatten meant?"),
        ("disks.0.sise", "there is no such field: is disks.0.size meant?"),
        ("pool_id", "there is no such field: is disks.0.source.pool_id meant?"),
        ("xyz", "there is no such field: the workflow takes disks.0.size, disks.0.source"),
        ("disk.size", "there is no such field: is disks.0.size meant?"),
    ],
)
def test_a_slip_is_told_with_what_may_be_meant(key, said):
    assert unknown(key, INPUT, SPEC).startswith(said)


def test_a_workflow_without_an_input_says_so():
    spec = read_value("kind: a\nroot: {members: []}", origin="spec")

    assert unknown("size", {}, spec) == "there is no such field: the workflow takes no input"


def test_a_submit_with_a_slip_is_refused_before_anything_is_sent(run):
    leaf = "{name: a, when: {path: input.flatten}, task: {action: {noop: {}}}}"
    spec = f"spec: {{kind: drill, root: {{kind: KIND_SEQUENCE, members: [{leaf}]}}}}"
    done = run("workflow", "submit", "-", "--id", "slip", "--input", "flaten=true", given=spec)

    assert done.exit_code == 1
    assert "  input.flaten: there is no such field: is flatten meant?" in done.stderr
    assert run("workflow", "get", "slip").exit_code == 1
