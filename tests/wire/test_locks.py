"""Which images a workflow holds, from what its tasks name beforehand."""

from __future__ import annotations

from collections.abc import Mapping

from coordinator.saga.spec import Lock
from countermand.client.spec import compensate_by, image, parallel, policy, sequence, task
from countermand.v1.image_pb2 import ImageAddress
from countermand.v1.verb_pb2 import DeleteImage, Noop, VerifyImage
from countermand.v1.workflow_spec_pb2 import Policy, WorkflowSpec
from tests.wire.specs import copy, copy_to, for_each, plan, spec_of, verify


def locks(spec: WorkflowSpec, input_: Mapping[str, object] | None = None) -> list[str]:
    """Returns the images that are held, an exclamation mark behind those nobody else may."""
    held = plan(spec, input_).terms.locks
    assert list(held) == sorted(held)
    return [f"{lock.pool}/{lock.image}{'!' * lock.exclusive}" for lock in held]


def reads(name: str, of: str):
    return task(name, host="a", action=VerifyImage(target=image(of)))


def deletes(name: str, of: str):
    return task(name, host="a", action=DeleteImage(target=image(of)))


def test_sources_are_shared_and_targets_are_not():
    assert locks(spec_of(copy("b"), copy("a"))) == ["pool/a!", "pool/b!", "pool/base"]


def test_what_is_only_read_is_shared():
    assert locks(spec_of(reads("r", "pool/x"))) == ["pool/x"]


def test_an_image_is_held_once_and_exclusive_wins():
    spec = spec_of(reads("r", "pool/x"), copy("c", source="pool/x"), deletes("d", "pool/x"))
    assert plan(spec).terms.locks == (
        Lock(pool="pool", image="c", exclusive=True),
        Lock(pool="pool", image="x", exclusive=True),
    )


def test_images_of_the_input_are_held_and_those_of_outputs_are_not():
    each = for_each(parallel("each", copy_to("c", "disk.id")), "input.disks", "disk")
    spec = spec_of(copy_to("one", "input.name"), verify("two", "one"), each)
    input_ = {"name": "n", "disks": [{"id": "x"}, {"id": "y"}]}
    assert locks(spec, input_) == ["pool/base", "pool/n!", "pool/x!", "pool/y!"]


def test_half_an_address_is_none():
    told = {"target.image_id": "tasks.one.output.image.image_id"}
    half = task(
        "half", host="a", action=VerifyImage(target=ImageAddress(pool_id="pool")), bindings=told
    )
    assert locks(spec_of(copy("one"), half)) == ["pool/base", "pool/one!"]


def test_end_actions_recovery_and_compensations_count():
    group = sequence(
        "g",
        task(
            "n",
            host="a",
            action=Noop(),
            compensation=compensate_by(DeleteImage(target=image("pool/c"))),
        ),
        policy=policy(on_failure=Policy.ON_FAILURE_RECOVER),
    )
    group.group.recovery.append(reads("r", "pool/r"))
    spec = spec_of(group, on_success=[reads("s", "pool/s")], on_failure=[deletes("f", "pool/f")])
    assert locks(spec) == ["pool/c!", "pool/f!", "pool/r", "pool/s"]


def test_a_spec_says_whether_it_waits_for_them():
    assert not plan(spec_of(copy("one"))).terms.lock_refused
    assert plan(spec_of(copy("one"), refuse_when_locked=True)).terms.lock_refused
