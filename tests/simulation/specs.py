"""Random specs with everything that the contract has, each sound by the coordinator's own check.

Groups of every kind and policy, lists, nested workflows, conditions, bindings, hosts left to the
coordinator, end actions, other compensations, and pivots with a clean-up behind them.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.struct_pb2 import Struct

from coordinator.wire.spec import check_spec
from countermand.rpc.errors import FieldInvalid
from countermand.v1 import verb_pb2 as verb
from countermand.v1 import workflow_spec_pb2 as spec
from countermand.v1.annotation_pb2 import (
    EFFECT_FORWARD_ONLY,
    EFFECT_PIVOT,
    EFFECT_READ_ONLY,
    EFFECT_REVERSIBLE,
)
from countermand.v1.image_pb2 import ImageAddress

TEMPLATES = 3
WANTED_BY_MANY = ("shared-1", "shared-2")  # targets that several workflows ask for
TRIES_MAX = 100  # of drawing a sound spec
DEPTH_MAX = 3

P = spec.Policy
SEQUENCE, PARALLEL = spec.Group.KIND_SEQUENCE, spec.Group.KIND_PARALLEL
_POLICIES = (
    (P.ON_FAILURE_UNSPECIFIED, 12),
    (P.ON_FAILURE_PAUSE, 4),
    (P.ON_FAILURE_IGNORE, 3),
    (P.ON_FAILURE_STOP, 2),
    (P.ON_FAILURE_COMPENSATE_GROUP, 2),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Victim:
    """An image that is there before, and that a workflow removes."""

    host: str
    image: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """A spec with its input, and what it removes."""

    spec: spec.WorkflowSpec
    input: Struct
    victims: tuple[Victim, ...]


def draw_spec(
    chance: random.Random,
    hosts: tuple[str, ...],
    job_id: str,
    owners: tuple[str, ...] = (),
    *,
    crowded: bool = False,
) -> Drawn:
    """Draws a sound spec; where there are owners, with external tasks and open groups."""
    for _ in range(TRIES_MAX):
        draw = _Draw(chance, hosts, job_id, owners)
        draw.wanted_by_many = 0.5 if crowded else 0.2
        drawn = draw.draw()
        try:
            check_spec(drawn.spec, drawn.input, lambda *_: None)
        except FieldInvalid:
            continue
        return drawn
    raise AssertionError("no sound spec in so many tries")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Made:
    """An image that a task of the spec makes."""

    task: str
    host: str
    digest: bool


class _Draw:
    """Draws one spec, sound or not."""

    def __init__(
        self, chance: random.Random, hosts: tuple[str, ...], job_id: str, owners: tuple[str, ...]
    ) -> None:
        self.chance = chance
        self.hosts = hosts
        self.owners = owners
        self.id = job_id
        self.count = 0
        self.input: dict[str, Any] = {"yes": True, "no": False, "fault": "a drill"}
        self.victims: list[Victim] = []
        self.made: list[_Made] = []
        self.external: list[str] = []  # external tasks of the spec
        self.wanted_by_many = 0.2  # of targets

    def draw(self) -> Drawn:
        chance = self.chance
        root = self.group(depth=1, most=4)
        if chance.random() < 0.3:
            root = self.with_pivot(root)
        plan = spec.WorkflowSpec(
            kind="simulated",
            root=root,
            lock_policy=spec.WorkflowSpec.LOCK_POLICY_REFUSE
            if chance.random() < 0.25
            else spec.WorkflowSpec.LOCK_POLICY_WAIT,
        )
        for _ in range(chance.choice((0, 0, 0, 1, 2))):
            plan.on_success.append(self.end_action(failed=False))
        for _ in range(chance.choice((0, 0, 0, 1, 2))):
            plan.on_failure.append(self.end_action(failed=True))
        if chance.random() < 0.1:
            plan.timeout.FromSeconds(chance.randint(10, 60))
        if chance.random() < 0.1:
            plan.policy.on_failure = P.ON_FAILURE_PAUSE
        input_ = Struct()
        input_.update(self.input)
        return Drawn(spec=plan, input=input_, victims=tuple(self.victims))

    def name(self, kind: str) -> str:
        self.count += 1
        return f"{kind}-{self.count}"

    # -- groups ---------------------------------------------------------------------------------

    def group(self, depth: int, most: int = 3) -> spec.Group:
        chance = self.chance
        group = spec.Group(kind=chance.choice((SEQUENCE, PARALLEL)))
        for _ in range(chance.randint(1 if depth > 1 else 2, most)):
            node = self.node(depth)
            if group.kind == PARALLEL:
                node.after.extend(m.name for m in group.members if chance.random() < 0.25)
            group.members.append(node)
        group.open = bool(self.owners) and group.kind == PARALLEL and chance.random() < 0.5
        return group

    def node(self, depth: int) -> spec.Node:
        chance = self.chance
        if depth >= DEPTH_MAX or chance.random() < 0.5:
            return self.task()
        draw = chance.random()
        if draw < 0.3:
            return self.for_each()
        if draw < 0.45:
            inner = spec.WorkflowSpec(kind="inner", root=self.group(depth + 1))
            return spec.Node(name=self.name("nested"), workflow=inner, when=self.when())
        node = spec.Node(name=self.name("group"), group=self.group(depth + 1), when=self.when())
        self.rule(node, len(node.group.members))
        return node

    def rule(self, node: spec.Node, count: int) -> None:
        """Gives a group rules of its own, perhaps."""
        chance, group = self.chance, node.group
        if chance.random() < 0.25:
            return
        if group.kind == PARALLEL and count:
            group.min_success = chance.choice((0, chance.randint(1, count)))
            group.concurrency_max = chance.choice((0, 0, 1, 2))
        group.rounds_max = chance.choice((0, 0, 0, 2, 3))
        policy = chance.choice(
            (
                P.ON_FAILURE_UNSPECIFIED,
                P.ON_FAILURE_COMPENSATE_GROUP,
                P.ON_FAILURE_COMPENSATE_GROUP,
                P.ON_FAILURE_RECOVER,
                P.ON_FAILURE_RECOVER,
                P.ON_FAILURE_PAUSE,
            )
        )
        if policy:
            node.policy.on_failure = policy
        if policy == P.ON_FAILURE_RECOVER:
            group.recovery.append(self.noop(why=chance.choice(("", "", "failure.reason"))))
            if chance.random() < 0.4:
                group.recovery.append(self.image())

    def for_each(self) -> spec.Node:
        chance = self.chance
        name, key = self.name("each"), f"list{self.count}"
        count = chance.choice((0, 1, 2, 2, 3))
        self.input[key] = [
            {"source": f"t-{chance.randrange(TEMPLATES)}", "target": f"{self.id}-{name}-{item}"}
            for item in range(count)
        ]
        host = chance.choice(self.hosts)
        copy = self.copy_node(host, f"pool-{host}", "unbound")
        copy.task.action.copy_image.take_digest = True
        copy.task.ClearField("compensation")
        del copy.task.bindings[:]
        copy.task.bindings.add(field="source.image_id", source="disk.source")
        copy.task.bindings.add(field="target.image_id", source="disk.target")
        group = spec.Group(
            kind=chance.choice((SEQUENCE, PARALLEL, PARALLEL)),
            members=[copy],
            for_each=spec.ForEach(items=f"input.{key}", item="disk"),
        )
        if chance.random() < 0.4:
            self.input[f"{key}z"] = [chance.choice(("", "", "a drill")) for _ in range(count)]
            group.for_each.zip["why"] = f"input.{key}z"
            noop = self.noop()
            del noop.task.bindings[:]
            noop.task.bindings.add(field="failure_message", source="why")
            group.members.append(noop)
        node = spec.Node(name=name, group=group)
        self.rule(node, count)
        return node

    def with_pivot(self, root: spec.Group) -> spec.Group:
        """Lets a removal follow that cannot be made up for, and perhaps something after it."""
        chance = self.chance
        whole = spec.Group(kind=SEQUENCE)
        whole.members.add(name=self.name("group")).group.CopyFrom(root)
        if self.owners and chance.random() < 0.5:
            whole.members.append(self.irreversible(EFFECT_PIVOT))
        else:
            whole.members.append(self.delete())
        draw = chance.random()
        if self.owners and draw < 0.3:
            whole.members.append(self.irreversible(EFFECT_FORWARD_ONLY))
        elif draw < 0.35:
            whole.members.append(self.delete())
            whole.members[-1].policy.on_failure = P.ON_FAILURE_IGNORE
        elif draw < 0.6:
            whole.members.append(self.task())
        elif draw < 0.75 and self.made:
            # On a host that does not reach the pool: it fails, whatever it is.
            made = self.made[-1]
            other = next(host for host in self.hosts if host != made.host)
            node = self.delete()
            node.task.host_id = other
            node.task.bindings.add(
                field="target.pool_id", source=f"tasks.{made.task}.output.image.pool_id"
            )
            node.policy.on_failure = chance.choice(
                (P.ON_FAILURE_IGNORE, P.ON_FAILURE_PAUSE, P.ON_FAILURE_UNSPECIFIED)
            )
            whole.members.append(node)
        return whole

    def when(self) -> spec.Condition | None:
        if self.chance.random() < 0.85:
            return None
        return spec.Condition(path=self.chance.choice(("input.yes", "input.no")), truthy=True)

    # -- leaves ---------------------------------------------------------------------------------

    def task(self) -> spec.Node:
        chance = self.chance
        draw = chance.random()
        if self.owners and chance.random() < 0.5:
            node = self.external_task()
        elif draw < 0.45:
            node = self.image()
        elif draw < 0.6:
            node = self.verify()
        else:
            node = self.noop()
        if (when := self.when()) is not None:
            node.when.CopyFrom(when)
        node.policy.CopyFrom(self.policy())
        return node

    def irreversible(self, effect: Any) -> spec.Node:
        """Lets an owner do what nobody can make up for."""
        node = self.external_task()
        node.external_task.ClearField("compensation")
        node.external_task.kind, node.external_task.effect = "clone", effect
        if effect == EFFECT_FORWARD_ONLY:
            choices = (P.ON_FAILURE_IGNORE, P.ON_FAILURE_PAUSE, P.ON_FAILURE_UNSPECIFIED)
            node.policy.on_failure = self.chance.choice(choices)
        return node

    def external_task(self) -> spec.Node:
        chance = self.chance
        node = spec.Node(name=self.name("external"))
        task = node.external_task
        task.owner_id = chance.choice(self.owners)
        task.kind, task.effect = "clone", EFFECT_REVERSIBLE
        draw = chance.random()
        if draw < 0.25:
            task.kind, task.effect = "check", EFFECT_READ_ONLY
        elif draw < 0.4:
            task.operator_checklist = "Delete the clone on the array."
        elif draw < 0.7:
            task.ask_owner = True
        if chance.random() < 0.7:
            task.outputs.update({"volume": "string", "size": "int64", "fault": "string"})
        if chance.random() < 0.6:
            task.heartbeat_timeout.FromSeconds(chance.randint(2, 8))
        task.weight = chance.randint(0, 5)
        if self.made and chance.random() < 0.4:
            made = chance.choice(self.made).task
            source = f"tasks.{made}.output.image.image_id"
            task.bindings.add(field="arguments.image", source=source)
        if self.external and chance.random() < 0.4:
            source = f"tasks.{chance.choice(self.external)}.output.volume"
            task.bindings.add(field="arguments.volume", source=source)
        if task.outputs:
            self.external.append(node.name)
        return node

    def place(self, task: spec.Node.Task) -> str:
        """Lets a task run somewhere; returns a pool that is reached there."""
        chance = self.chance
        draw = chance.random()
        if draw < 0.55:
            task.host_id = chance.choice([made.host for made in self.made] or self.hosts)
            return chance.choice(("scratch", *[f"pool-{task.host_id}"] * 3))
        if draw < 0.75:
            task.candidate_host_ids.extend(chance.sample(self.hosts, 2))
            if chance.random() < 0.3:
                task.host_id = task.candidate_host_ids[0]
        return "scratch"

    def image(self) -> spec.Node:
        """Draws a task that makes an image."""
        chance = self.chance
        place = spec.Node.Task()
        pool = self.place(place)
        name = self.name("image")
        target = f"{self.id}-{name}"
        if shared := chance.random() < self.wanted_by_many:
            target = chance.choice(WANTED_BY_MANY)
            pool = "scratch" if chance.random() < 0.7 else pool
        own = [made for made in self.made if made.host == place.host_id]
        if own and not shared and pool != "scratch" and chance.random() < 0.6:
            made = chance.choice(own)
            node = self.copy_node(place.host_id, pool, target, name)
            node.task.action.copy_image.source.pool_id = pool
            node.task.bindings.add(
                field="source.image_id", source=f"tasks.{made.task}.output.image.image_id"
            )
            return node
        if chance.random() < 0.3:
            size = 4096
            action = verb.Action(
                create_image=verb.CreateImage(
                    target=ImageAddress(pool_id=pool, image_id=target), virtual_size_bytes=size
                )
            )
            node = spec.Node(name=name, task=place)
            node.task.action.CopyFrom(action)
        else:
            node = self.copy_node(place.host_id, pool, target, name)
            node.task.candidate_host_ids.extend(place.candidate_host_ids)
        if not shared and chance.random() < 0.2:
            key = f"name{self.count}"
            self.input[key] = target
            node.task.bindings.add(field="target.image_id", source=f"input.{key}")
        self.opposite(node, pool)
        return node

    def copy_node(self, host: str, pool: str, target: str, name: str = "") -> spec.Node:
        chance = self.chance
        source = "missing" if chance.random() < 0.1 else f"t-{chance.randrange(TEMPLATES)}"
        digest = chance.random() < 0.7
        action = verb.Action(
            copy_image=verb.CopyImage(
                source=ImageAddress(pool_id="templates", image_id=source),
                target=ImageAddress(pool_id=pool, image_id=target),
                take_digest=digest,
            )
        )
        node = spec.Node(
            name=name or self.name("copy"), task=spec.Node.Task(host_id=host, action=action)
        )
        if name and host and pool == f"pool-{host}":
            self.made.append(_Made(task=name, host=host, digest=digest))
        return node

    def opposite(self, node: spec.Node, pool: str) -> None:
        """Replaces the opposite of what makes an image, perhaps: by one that works, or not."""
        draw = self.chance.random()
        compensation = node.task.compensation
        if draw < 0.12:
            target = ImageAddress(pool_id=pool)
            compensation.action.CopyFrom(verb.Action(delete_image=verb.DeleteImage(target=target)))
            compensation.bindings.add(
                field="target.image_id", source=f"tasks.{node.name}.output.image.image_id"
            )
        elif draw < 0.25:
            drill = verb.Noop(failure_message="a drill")
            compensation.action.CopyFrom(verb.Action(noop=drill))

    def verify(self) -> spec.Node:
        chance = self.chance
        node = spec.Node(name=self.name("verify"))
        taken = [made for made in self.made if made.digest]
        if not taken or chance.random() < 0.2:
            self.place(node.task)
            target = ImageAddress(pool_id="templates", image_id="t-0")
            node.task.action.verify_image.target.CopyFrom(target)
            return node
        made = chance.choice(taken)
        node.task.host_id = made.host
        node.task.action.verify_image.target.pool_id = f"pool-{made.host}"
        output = f"tasks.{made.task}.output"
        node.task.bindings.add(field="target.image_id", source=f"{output}.image.image_id")
        node.task.bindings.add(field="digest", source=f"{output}.digest")
        return node

    def noop(self, why: str = "") -> spec.Node:
        chance = self.chance
        node = spec.Node(name=self.name("noop"))
        self.place(node.task)
        node.task.action.noop.SetInParent()
        draw = chance.random()
        if self.external and not why and chance.random() < 0.4:
            why = f"tasks.{chance.choice(self.external)}.output.fault"
        if why:
            node.task.bindings.add(field="failure_message", source=why)
        elif draw < 0.2:
            node.task.action.noop.failure_message = "a drill"
        elif draw < 0.4:
            node.task.bindings.add(field="failure_message", source="input.fault")
        elif draw < 0.55:
            drill = verb.Noop(failure_message="a drill")
            node.task.compensation.action.CopyFrom(verb.Action(noop=drill))
        return node

    def delete(self) -> spec.Node:
        name = self.name("delete")
        victim = Victim(host=self.chance.choice(self.hosts), image=f"{self.id}-{name}")
        if self.chance.random() < 0.2:  # what another workflow makes, or will make, or never
            victim = Victim(host=victim.host, image=self.chance.choice(WANTED_BY_MANY))
        else:
            self.victims.append(victim)
        address = ImageAddress(pool_id=f"pool-{victim.host}", image_id=victim.image)
        action = verb.Action(delete_image=verb.DeleteImage(target=address))
        return spec.Node(name=name, task=spec.Node.Task(host_id=victim.host, action=action))

    def end_action(self, *, failed: bool) -> spec.Node:
        chance = self.chance
        draw = chance.random()
        if self.owners and chance.random() < 0.3:
            return self.external_task()
        if failed and draw < 0.3:
            return self.noop(why=chance.choice(("failure.message", "compensated.tasks")))
        if draw < 0.7:
            node = self.noop()
            node.task.ClearField("compensation")
            return node
        node = self.image()
        node.task.ClearField("compensation")
        return node

    # -- policies -------------------------------------------------------------------------------

    def policy(self) -> spec.Policy:
        chance = self.chance
        policy = spec.Policy(
            on_failure=_one_of(chance, _POLICIES),
            on_sibling_failure=chance.choice(
                (P.ON_SIBLING_FAILURE_CANCEL, P.ON_SIBLING_FAILURE_AWAIT)
            ),
            retry=spec.Retry(
                attempts_max=chance.choice((0, 2, 3)), delay=Duration(seconds=chance.randint(1, 4))
            ),
        )
        if chance.random() < 0.5:
            policy.retry.reasons.extend(("DRILL", "IMAGE_NOT_FOUND", "HOST_UNREACHABLE"))
        if chance.random() < 0.5:
            policy.compensation_retry.attempts_max = chance.choice((1, 2))
        if chance.random() < 0.08:
            policy.run_timeout.FromMilliseconds(chance.randint(50, 2000))
        if chance.random() < 0.12:
            policy.start_timeout.FromSeconds(chance.randint(1, 8))
        if chance.random() < 0.1:
            policy.wait_before.FromMilliseconds(chance.randint(10, 4000))
        if chance.random() < 0.1:
            policy.wait_after.FromMilliseconds(chance.randint(10, 4000))
        if chance.random() < 0.05:
            policy.pause_before = True
        if chance.random() < 0.05:
            policy.pause_on_success = True
        if chance.random() < 0.1:
            policy.priority = chance.randint(-5, 5)
        return policy


def _one_of(chance: random.Random, weighted: Sequence[tuple[int, int]]) -> Any:
    return chance.choices([each for each, _ in weighted], [weight for _, weight in weighted])[0]
