"""What the simulated engine wants done: random plans over three hosts, some bound to fail."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from google.protobuf.duration_pb2 import Duration

from countermand.v1 import verb_pb2 as verb
from countermand.v1 import workflow_spec_pb2 as spec
from countermand.v1.image_pb2 import ImageAddress

TEMPLATES = 3
IMAGE_BYTES = 16 * 1024
EXTENT_BYTES = 512
WANTED_BY_MANY = ("shared-1", "shared-2")  # targets that several workflows ask for


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What one task is to leave."""

    name: str
    host: str
    target: str = ""  # the image's folder on the host's disk; empty for none
    deletes: bool = False
    content: bytes | None = None  # None: not looked at


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One workflow of the engine."""

    id: str
    spec: spec.WorkflowSpec
    tasks: tuple[Wish, ...]
    at_s: float
    cancel_after_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Everything that the engine wants, and what is there before."""

    jobs: tuple[Job, ...]
    templates: tuple[bytes, ...]

    def imports(self, host: str) -> Iterator[tuple[str, str, bytes]]:
        """Yields (pool, image, content) of what is on a host before."""
        for number, content in enumerate(self.templates):
            yield "templates", f"t-{number}", content
        for job in self.jobs:
            for task in job.tasks:
                if task.deletes and task.host == host:
                    yield f"pool-{host}", task.target.rpartition("/")[2], self.templates[0]

    def furniture(self, host: str) -> dict[str, str]:
        """Returns the images that are on a host before, each without an attempt."""
        places = {"templates": "/templates", f"pool-{host}": "/pool"}
        return {f"{places[pool]}/images/{image}": "" for pool, image, _ in self.imports(host)}

    def host_of(self, job_id: str, task: str) -> str:
        """Returns the host of a task."""
        return next(
            wish.host
            for job in self.jobs
            if job.id == job_id
            for wish in job.tasks
            if wish.name == task
        )


def draw(chance: random.Random, hosts: tuple[str, ...]) -> Load:
    """Draws a load."""
    templates = tuple(_content(chance) for _ in range(TEMPLATES))
    jobs = tuple(
        _Draw(chance, hosts, templates, f"w{number}").job()
        for number in range(chance.randint(1, 4))
    )
    return Load(jobs=jobs, templates=templates)


def _content(chance: random.Random) -> bytes:
    """Returns an image with some extents of data."""
    data = bytearray(IMAGE_BYTES)
    for _ in range(chance.randint(1, 6)):
        begin = chance.randrange(IMAGE_BYTES // EXTENT_BYTES) * EXTENT_BYTES
        data[begin : begin + EXTENT_BYTES] = chance.randbytes(EXTENT_BYTES)
    return bytes(data)


class _Draw:
    """Draws one workflow."""

    def __init__(
        self,
        chance: random.Random,
        hosts: tuple[str, ...],
        templates: tuple[bytes, ...],
        job_id: str,
    ) -> None:
        self.chance = chance
        self.hosts = hosts
        self.templates = templates
        self.id = job_id
        self.wishes: list[Wish] = []

    def job(self) -> Job:
        chance = self.chance
        root = self.group(depth=0)
        if root.kind == spec.Group.KIND_SEQUENCE and chance.random() < 0.3:
            root.members.append(self.delete())
        plan = spec.WorkflowSpec(kind="simulated", root=root)
        return Job(
            id=self.id,
            spec=plan,
            tasks=tuple(self.wishes),
            at_s=chance.random() * 30.0,
            cancel_after_s=chance.random() * 20.0 if chance.random() < 0.2 else None,
        )

    def group(self, depth: int) -> spec.Group:
        chance = self.chance
        kind = chance.choice((spec.Group.KIND_SEQUENCE, spec.Group.KIND_PARALLEL))
        group = spec.Group(kind=kind)
        for _ in range(chance.randint(1, 3)):
            if depth < 2 and chance.random() < 0.3:
                inner = self.group(depth + 1)
                name = f"g{len(self.wishes)}-{depth}-{len(group.members)}"
                group.members.append(spec.Node(name=name, group=inner))
            else:
                group.members.append(self.task())
        if kind == spec.Group.KIND_PARALLEL:
            for later in range(1, len(group.members)):
                if chance.random() < 0.3:
                    earlier = group.members[chance.randrange(later)].name
                    group.members[later].after.append(earlier)
        return group

    def task(self) -> spec.Node:
        chance = self.chance
        name = f"task-{len(self.wishes)}"
        host = chance.choice(self.hosts)
        pool = f"pool-{host}"
        target = f"{self.id}-{name}"
        if chance.random() < 0.1:
            target = chance.choice(WANTED_BY_MANY)
        content: bytes | None = None
        draw = chance.random()
        if draw < 0.55:
            number = chance.randrange(TEMPLATES)
            source = f"t-{number}" if chance.random() < 0.95 else "missing"
            content = self.templates[number]
            action = verb.Action(
                copy_image=verb.CopyImage(
                    source=ImageAddress(pool_id="templates", image_id=source),
                    target=ImageAddress(pool_id=pool, image_id=target),
                    take_digest=chance.random() < 0.5,
                )
            )
        elif draw < 0.75:
            action = verb.Action(
                create_image=verb.CreateImage(
                    target=ImageAddress(pool_id=pool, image_id=target),
                    virtual_size_bytes=4096,
                )
            )
        elif draw < 0.85:
            pool = "templates"
            target = f"{self.id}-{name}"
            content = self.templates[0]
            action = verb.Action(
                clone_image=verb.CloneImage(
                    source=ImageAddress(pool_id="templates", image_id="t-0"),
                    target=ImageAddress(pool_id="templates", image_id=target),
                )
            )
        else:
            target = ""
            failure = "a drill" if chance.random() < 0.4 else ""
            action = verb.Action(noop=verb.Noop(failure_message=failure))
        folder = "/templates" if pool == "templates" else "/pool"
        self.wishes.append(
            Wish(
                name=name,
                host=host,
                target=f"{folder}/images/{target}" if target else "",
                content=content,
            )
        )
        return spec.Node(
            name=name, policy=self.policy(), task=spec.Node.Task(host_id=host, action=action)
        )

    def delete(self) -> spec.Node:
        name = f"delete-{len(self.wishes)}"
        host = self.chance.choice(self.hosts)
        victim = f"{self.id}-victim"
        self.wishes.append(
            Wish(name=name, host=host, target=f"/pool/images/{victim}", deletes=True)
        )
        address = ImageAddress(pool_id=f"pool-{host}", image_id=victim)
        action = verb.Action(delete_image=verb.DeleteImage(target=address))
        return spec.Node(name=name, task=spec.Node.Task(host_id=host, action=action))

    def policy(self) -> spec.Policy:
        chance = self.chance
        retry = spec.Retry(attempts_max=chance.choice((0, 2, 3)), delay=Duration(seconds=1))
        sibling = chance.choice(
            (spec.Policy.ON_SIBLING_FAILURE_CANCEL, spec.Policy.ON_SIBLING_FAILURE_AWAIT)
        )
        policy = spec.Policy(retry=retry, on_sibling_failure=sibling)
        if chance.random() < 0.1:
            policy.run_timeout.FromMilliseconds(chance.randint(50, 2000))
        return policy
