"""Copies from a host to another, through coordinator and agents: with TLS and without, and deaths.

Host "a" has a pool of its own, and so has "b"; nothing but the agents connects the two.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import asynccontextmanager

import pytest

from countermand.client.spec import image, parallel, sequence, task, workflow_spec
from countermand.rpc.errors import FieldInvalid
from countermand.v1.verb_pb2 import CopyImage
from countermand.v1.workflow_spec_pb2 import Node, WorkflowSpec
from tests.endtoend.checks import assert_clean, journal, labels, recorded
from tests.endtoend.cluster import MIB, Cluster, copy, until
from tests.endtoend.plans import BASE
from tests.endtoend.stories import word
from tests.tls import Authority, needs_openssl

pytestmark = pytest.mark.slow

HOSTS = {"a": {"pool-a": ""}, "b": {"pool-b": "bandwidth=24MiB,flush=4MiB", "fast-b": ""}}
LONG = {"size_mib": 64, "extents": 160}  # about 30 MiB: more than is ever on its way


def pull(name: str, source: str, target: str, **node: object) -> Node:
    """Returns a task on host b that copies from host a."""
    action = CopyImage(
        source=image(source), target=image(target), source_host_id="a", take_digest=True
    )
    return task(name, host="b", action=action, **node)  # type: ignore[arg-type]


def across(workflow_id: str) -> WorkflowSpec:
    """Returns a copy on host a, and a copy of that on host b."""
    seed = copy("seed", "a", BASE, f"pool-a/{workflow_id}")
    then = pull("pull", f"pool-a/{workflow_id}", f"pool-b/{workflow_id}")
    return workflow_spec("across", sequence("all", seed, then))


@asynccontextmanager
async def running(lives, folder, options: Mapping[str, tuple[str, ...]], **shape: int):
    cluster = Cluster(lives, folder, HOSTS, options=options)
    await cluster.add_template("base", **shape)
    await cluster.start()
    try:
        yield cluster
    finally:
        await cluster.end()


async def submit(cluster: Cluster, spec: WorkflowSpec, workflow_id: str) -> None:
    async with cluster.client() as client:
        await client.submit(spec, workflow_id=workflow_id)


async def settles(cluster: Cluster, workflow_id: str, state: str) -> None:
    workflow = await cluster.settled(workflow_id)
    assert word(workflow) == state, workflow


async def half_way(cluster: Cluster, workflow_id: str) -> None:
    """Returns once some megabytes of a pull are there."""
    await until(
        lambda: cluster.half_made_bytes("pool-b", workflow_id) > 2 * MIB, "the copy has begun"
    )


@needs_openssl
async def test_a_workflow_copies_from_host_to_host_over_tls(lives, tmp_path):
    authority = Authority(tmp_path / "tls")
    services = ("a", "b", "coordinator")
    options = {name: authority.certificate(name).options for name in services}
    async with running(lives, tmp_path, options) as cluster:
        async with cluster.client() as client:
            # Whoever drains a host wants to have its images elsewhere.
            await submit(cluster, across("one"), "one")
            await settles(cluster, "one", "SUCCEEDED")
            await client.hosts.drain("a", "it goes")
            spec = workflow_spec("out", sequence("all", pull("out", "pool-a/one", "fast-b/out")))
            await submit(cluster, spec, "out")
            await settles(cluster, "out", "SUCCEEDED")
            for wrong, source in (("c", "pool-a/one"), ("a", "pool-b/one")):
                bad = pull("bad", source, "fast-b/bad")
                bad.task.action.copy_image.source_host_id = wrong
                spec = workflow_spec("bad", sequence("all", bad))
                with pytest.raises(FieldInvalid) as refused:
                    await client.submit(spec, workflow_id="bad")
                assert [violation.field for violation in refused.value.violations] == [
                    "spec.root.members[0].task.action.copy_image.source_host_id"
                ]
        for workflow_id in ("one", "out"):
            assert_clean(cluster, workflow_id, "SUCCEEDED")


async def test_whoever_dies_in_the_middle_the_copy_is_whole_in_the_end(lives, tmp_path):
    """S-V6, S-V7: each attempt is made once, and goes on where it was."""
    async with running(lives, tmp_path, {}, **LONG) as cluster:
        for victim in ("a", "b"):
            workflow_id = f"dies-{victim}"
            await submit(cluster, across(workflow_id), workflow_id)
            await half_way(cluster, workflow_id)
            await cluster.agents[victim].kill()
            await cluster.agents[victim].start()
            await settles(cluster, workflow_id, "SUCCEEDED")
            workflow = assert_clean(cluster, workflow_id, "SUCCEEDED")
            assert len(workflow.attempts) == 2, workflow.attempts


async def test_a_source_that_is_away_keeps_only_its_own_reader_waiting(lives, tmp_path):
    async with running(lives, tmp_path, {}) as cluster:
        await submit(cluster, across("first"), "first")
        await settles(cluster, "first", "SUCCEEDED")
        await cluster.agents["a"].kill()
        other = [copy(f"other-{n}", "b", BASE, f"fast-b/other-{n}") for n in range(4)]
        waits = pull("waits", "pool-a/first", "fast-b/waits")
        spec = workflow_spec("away", sequence("all", parallel("both", waits, *other)))
        await submit(cluster, spec, "away")

        def others_are_done() -> bool:
            tasks = recorded(cluster, "away").tasks
            return all(tasks[node.name] == "SUCCEEDED" for node in other)

        await until(others_are_done, "the other copies")
        assert recorded(cluster, "away").tasks["waits"] == "STARTING"
        assert not any("/waits/" in name for name in journal(cluster, "b"))
        await cluster.agents["a"].start()
        await settles(cluster, "away", "SUCCEEDED")
        assert_clean(cluster, "away", "SUCCEEDED")


async def test_a_source_that_is_not_there_fails_the_task_by_name(lives, tmp_path):
    async with running(lives, tmp_path, {}) as cluster:
        await submit(
            cluster,
            workflow_spec("no", sequence("all", pull("no", "pool-a/none", "fast-b/none"))),
            "no",
        )
        await settles(cluster, "no", "COMPENSATED")
        workflow = assert_clean(cluster, "no", "COMPENSATED")
        ended = [
            event.attempt_ended for event in workflow.events if event.HasField("attempt_ended")
        ]
        assert [one.failure.reason for one in ended] == ["IMAGE_NOT_FOUND"]
        assert not journal(cluster, "b")
        assert list(labels(cluster)) == [BASE]
