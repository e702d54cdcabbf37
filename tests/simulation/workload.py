"""What the simulated engine wants done: random workflows over three hosts, some bound to fail.

Plain ones are sequences and parallel groups of image verbs, as most engines write them; `specs`
draws those that use everything else.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace

from google.protobuf.duration_pb2 import Duration
from google.protobuf.struct_pb2 import Struct

from countermand.v1 import verb_pb2 as verb
from countermand.v1 import workflow_spec_pb2 as spec
from countermand.v1.external_task_pb2 import StartExternalWorkflowRequest
from countermand.v1.image_pb2 import ImageAddress
from tests.simulation.specs import TEMPLATES, WANTED_BY_MANY, Drawn, Victim, draw_spec

IMAGE_BYTES = 16 * 1024
EXTENT_BYTES = 512
PLAIN_WORLDS = 0.35  # of all: nothing but plain workflows, and nobody intervenes
EXTERNAL_WORLDS = 0.35  # of those in which anything happens: owners take part
OWNERS = ("acme", "zenith")
PLAIN_JOBS = 0.2  # of the workflows in the others

FOLDERS = {"templates": "/templates", "scratch": "/scratch"}  # of pools; others are "/pool"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One workflow of the engine."""

    id: str
    spec: spec.WorkflowSpec
    input: Struct
    victims: tuple[Victim, ...]  # images that it removes: they are there before
    at_s: float
    cancel_after_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnJob:
    """One workflow of an owner's own."""

    id: str
    request: StartExternalWorkflowRequest
    at_s: float
    by_main: bool  # it ends with its task main; else it is ended from outside, after a while
    after_s: float
    succeeds: bool
    is_forced: bool
    is_cleared: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Everything that the engine wants, and what is there before."""

    jobs: tuple[Job, ...]
    templates: tuple[bytes, ...]
    operators: int  # how many intervene
    owners: tuple[str, ...] = ()  # of external tasks
    own_jobs: tuple[OwnJob, ...] = ()

    def imports(self, host: str) -> Iterator[tuple[str, str, bytes]]:
        """Yields (pool, image, content) of what is on a host before."""
        for number, content in enumerate(self.templates):
            yield "templates", f"t-{number}", content
        for job in self.jobs:
            for victim in job.victims:
                if victim.host == host:
                    yield f"pool-{host}", victim.image, self.templates[0]

    def furniture(self, host: str) -> set[str]:
        """Returns the images that are on a host before, each without an attempt."""
        return {path_of(pool, image) for pool, image, _ in self.imports(host)}


def path_of(pool: str, image: str) -> str:
    """Returns the folder of an image on the disk of a host."""
    return f"{FOLDERS.get(pool, '/pool')}/images/{image}"


def draw(
    chance: random.Random,
    hosts: tuple[str, ...],
    *,
    plain: float,
    external: bool,
    crowded: bool = False,
) -> Load:
    """Draws a load, a plain one by so much chance; else perhaps one in which owners take part.

    In a crowded one there are more workflows, and many want the same images.
    """
    templates = tuple(_content(chance) for _ in range(TEMPLATES))
    is_plain = chance.random() < plain
    owners = OWNERS if external and not is_plain else ()
    draws = _Draws(chance=chance, hosts=hosts, owners=owners, crowded=crowded)
    jobs = tuple(
        _job(draws, f"w{number}", is_plain=is_plain or chance.random() < PLAIN_JOBS)
        for number in range(
            chance.randint(3, 7) if crowded else chance.randint(1 if is_plain else 2, 4)
        )
    )
    operators = 0 if is_plain else chance.choice((0, 1, 2, 2))
    own_jobs = tuple(
        _own_job(chance, owner, f"{owner}-{number}")
        for owner in owners
        for number in range(chance.choice((0, 1, 2)))
    )
    return Load(
        jobs=jobs,
        templates=templates,
        operators=operators,
        owners=owners,
        own_jobs=own_jobs,
    )


def draw_more(seed: int, hosts: tuple[str, ...]) -> Job:
    """Draws one plain workflow more, by dice of its own."""
    draws = _Draws(chance=random.Random(f"more {seed}"), hosts=hosts, owners=(), crowded=False)
    return replace(_job(draws, "since", is_plain=True), victims=(), cancel_after_s=None)


def _content(chance: random.Random) -> bytes:
    """Returns an image with some extents of data."""
    data = bytearray(IMAGE_BYTES)
    for _ in range(chance.randint(1, 6)):
        begin = chance.randrange(IMAGE_BYTES // EXTENT_BYTES) * EXTENT_BYTES
        data[begin : begin + EXTENT_BYTES] = chance.randbytes(EXTENT_BYTES)
    return bytes(data)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Draws:
    """Who there is to do something."""

    chance: random.Random
    hosts: tuple[str, ...]
    owners: tuple[str, ...]
    crowded: bool


def _job(draws: _Draws, job_id: str, *, is_plain: bool) -> Job:
    chance = draws.chance
    if is_plain:
        drawn = _Plain(chance, draws.hosts, job_id, crowded=draws.crowded).draw()
        cancelled = 0.2
    else:
        drawn = draw_spec(chance, draws.hosts, job_id, draws.owners, crowded=draws.crowded)
        cancelled = 0.08
    return Job(
        id=job_id,
        spec=drawn.spec,
        input=drawn.input,
        victims=drawn.victims,
        at_s=chance.random() * (30.0 if is_plain else 15.0),
        cancel_after_s=chance.random() * 20.0 if chance.random() < cancelled else None,
    )


def _own_job(chance: random.Random, owner: str, job_id: str) -> OwnJob:
    """Draws a workflow of an owner's own."""
    request = StartExternalWorkflowRequest(workflow_id=job_id, kind="job", owner_id=owner)
    if chance.random() < 0.5:
        request.heartbeat_timeout.FromSeconds(chance.randint(2, 8))
    if chance.random() < 0.4:
        request.policy.on_failure = chance.choice(
            (
                spec.Policy.ON_FAILURE_COMPENSATE,
                spec.Policy.ON_FAILURE_PAUSE,
                spec.Policy.ON_FAILURE_IGNORE,
            )
        )
    if chance.random() < 0.3:
        request.policy.retry.attempts_max = 2
    return OwnJob(
        id=job_id,
        request=request,
        at_s=chance.random() * 40.0,
        by_main=chance.random() < 0.5,
        after_s=chance.random() * 20.0,
        succeeds=chance.random() < 0.7,
        is_forced=chance.random() < 0.5,
        is_cleared=chance.random() < 0.5,
    )


class _Plain:
    """Draws one plain workflow."""

    def __init__(
        self, chance: random.Random, hosts: tuple[str, ...], job_id: str, *, crowded: bool
    ) -> None:
        self.chance = chance
        self.crowded = crowded
        self.hosts = hosts
        self.id = job_id
        self.count = 0
        self.victims: list[Victim] = []

    def draw(self) -> Drawn:
        root = self.group(depth=0)
        if root.kind == spec.Group.KIND_SEQUENCE and self.chance.random() < 0.3:
            root.members.append(self.delete())
        plan = spec.WorkflowSpec(kind="simulated", root=root)
        return Drawn(spec=plan, input=Struct(), victims=tuple(self.victims))

    def group(self, depth: int) -> spec.Group:
        chance = self.chance
        kind = chance.choice((spec.Group.KIND_SEQUENCE, spec.Group.KIND_PARALLEL))
        group = spec.Group(kind=kind)
        for _ in range(chance.randint(1, 3)):
            if depth < 2 and chance.random() < 0.3:
                inner = self.group(depth + 1)
                name = f"g{self.count}-{depth}-{len(group.members)}"
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
        name = f"task-{self.count}"
        self.count += 1
        host = chance.choice(self.hosts)
        target = ImageAddress(pool_id=f"pool-{host}", image_id=f"{self.id}-{name}")
        if chance.random() < (0.4 if self.crowded else 0.1):
            target.image_id = chance.choice(WANTED_BY_MANY)
        draw = chance.random()
        if draw < 0.55:
            number = chance.randrange(TEMPLATES)
            source = f"t-{number}" if chance.random() < 0.95 else "missing"
            action = verb.Action(
                copy_image=verb.CopyImage(
                    source=ImageAddress(pool_id="templates", image_id=source),
                    target=target,
                    take_digest=chance.random() < 0.5,
                )
            )
        elif draw < 0.75:
            action = verb.Action(
                create_image=verb.CreateImage(target=target, virtual_size_bytes=4096)
            )
        elif draw < 0.85:
            action = verb.Action(
                clone_image=verb.CloneImage(
                    source=ImageAddress(pool_id="templates", image_id="t-0"),
                    target=ImageAddress(pool_id="templates", image_id=f"{self.id}-{name}"),
                )
            )
        else:
            failure = "a drill" if chance.random() < 0.4 else ""
            action = verb.Action(noop=verb.Noop(failure_message=failure))
        return spec.Node(
            name=name, policy=self.policy(), task=spec.Node.Task(host_id=host, action=action)
        )

    def delete(self) -> spec.Node:
        victim = Victim(host=self.chance.choice(self.hosts), image=f"{self.id}-victim")
        self.victims.append(victim)
        address = ImageAddress(pool_id=f"pool-{victim.host}", image_id=victim.image)
        action = verb.Action(delete_image=verb.DeleteImage(target=address))
        return spec.Node(
            name=f"delete-{self.count}",
            task=spec.Node.Task(host_id=victim.host, action=action),
        )

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
