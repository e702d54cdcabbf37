"""Specs in the contract's own messages: a few plain ones, and any that there may be."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from random import Random

from google.protobuf.struct_pb2 import Struct

from coordinator.wire.spec import check_spec
from countermand.client.spec import (
    Verb,
    image,
    parallel,
    policy,
    retry,
    sequence,
    task,
    workflow_spec,
)
from countermand.rpc.errors import FieldInvalid
from countermand.v1.verb_pb2 import CopyImage, Noop, VerifyImage
from countermand.v1.workflow_spec_pb2 import Condition, ForEach, Node, Policy, WorkflowSpec

HOSTS = ("host-0", "host-1", "host-2")


def three_tasks() -> WorkflowSpec:
    """Returns three tasks in a sequence."""
    members = [task(f"task-{n}", host="host-1", action=Noop()) for n in range(3)]
    return workflow_spec("three", sequence("root", *members))


def one_copy(target: str = "pool/target", source: str = "pool/source") -> WorkflowSpec:
    """Returns a copy, which holds its source with others and its target alone."""
    copy = CopyImage(source=image(source), target=image(target))
    return workflow_spec("copy", sequence("root", task("copy", host="host-1", action=copy)))


def given() -> Struct:
    """Returns what workflows are submitted with."""
    struct = Struct()
    struct.update({"value-1": "pool/image", "flag": True, "disks": [{"id": "a"}, {"id": "b"}]})
    return struct


def random_spec(random: Random, owner: str) -> WorkflowSpec:
    """Returns a small tree of anything that a spec may say; its images are nobody else's."""
    while True:
        spec = _Drawn(random, owner).spec()
        try:
            check_spec(spec, given(), lambda *_: None)
        except FieldInvalid:
            continue  # some draws do not fit each other
        return spec


class _Drawn:
    """One draw of a spec."""

    def __init__(self, random: Random, owner: str) -> None:
        self.random = random
        self.owner = owner
        self.names: Iterator[str] = (f"task-{number}" for number in range(100))

    def chance(self, probability: float) -> bool:
        return self.random.random() < probability

    def spec(self) -> WorkflowSpec:
        first = self.task({"failure_message": "input.value-1"}, Noop())
        copy = CopyImage(source=image("pool/source"), target=image(f"pool/{self.owner}"))
        second = self.task({}, copy)
        last = self.task({"failure_message": f"tasks.{second.name}.output.digest"}, Noop())
        between = [self.group(depth=2) for _ in range(self.random.randrange(1, 4))]
        spec = workflow_spec(
            self.random.choice(("add-vm", "clone")),
            sequence("root", first, second, *between, last),
            policy=self.policy(),
            on_success=[self.task()] if self.chance(0.3) else (),
            on_failure=[self.task()] if self.chance(0.3) else (),
            timeout=timedelta(hours=1) if self.chance(0.3) else None,
        )
        if self.chance(0.3):
            spec.policy.on_failure = self.random.choice(
                (Policy.ON_FAILURE_PAUSE, Policy.ON_FAILURE_IGNORE, Policy.ON_FAILURE_STOP)
            )
        return spec

    def policy(self) -> Policy:
        random = self.random
        made = policy(
            retry=retry(random.choice((1, 3))),
            compensation_retry=retry(random.choice((1, 5))),
            on_sibling_failure=random.choice(
                (Policy.ON_SIBLING_FAILURE_CANCEL, Policy.ON_SIBLING_FAILURE_AWAIT)
            ),
            start_timeout=timedelta(minutes=1) if self.chance(0.3) else None,
        )
        if self.chance(0.2):
            made.wait_after.FromTimedelta(timedelta(seconds=5))
        return made

    def group(self, depth: int) -> Node:
        random = self.random
        if self.chance(0.2):
            return self.fan()
        members = [
            self.group(depth - 1) if depth and self.chance(0.3) else self.task()
            for _ in range(random.choice((1, 2, 3)))
        ]
        node = random.choice((sequence, parallel))(f"group-{next(self.names)}", *members)
        said = random.random()
        if said < 0.4:
            node.policy.on_failure = Policy.ON_FAILURE_COMPENSATE_GROUP
            node.group.rounds_max = random.choice((0, 2))
        elif said < 0.7:
            node.policy.on_failure = Policy.ON_FAILURE_RECOVER
            node.group.recovery.append(self.task())
        if self.chance(0.2):
            node.when.CopyFrom(Condition(path="input.flag", equals=random.choice(("true", "no"))))
        return node

    def fan(self) -> Node:
        node = parallel(f"group-{next(self.names)}", self.task({"failure_message": "disk.id"}))
        node.group.for_each.CopyFrom(ForEach(items="input.disks", item="disk"))
        return node

    def task(self, bindings: dict[str, str] | None = None, verb: Verb | None = None) -> Node:
        random = self.random
        if verb is None:
            verb = Noop()
            if not bindings and self.chance(0.3):
                verb = VerifyImage(target=image("pool/source"))
        named = self.chance(0.8)
        node = task(
            next(self.names),
            host=random.choice(HOSTS) if named else "",
            candidate_hosts=HOSTS[1:] if self.chance(0.2) else (),
            action=verb,
            bindings=bindings or {},
        )
        if self.chance(0.1):
            node.policy.on_failure = Policy.ON_FAILURE_PAUSE
        if self.chance(0.05):
            node.policy.pause_before = True
        return node
