"""Workflows that the page is to show: each ends, or waits, in another way. All really run."""

from __future__ import annotations

from datetime import timedelta

from countermand.client import Client
from countermand.client.spec import (
    compensate_by,
    for_each,
    parallel,
    policy,
    retry,
    sequence,
    task,
    workflow_spec,
)
from countermand.v1.verb_pb2 import CreateImage, Noop
from countermand.v1.workflow_spec_pb2 import Node, Policy, WorkflowSpec
from countermand.v1.workflow_state_pb2 import WorkflowState
from tests.api.vendors import external, plan_of
from tests.endtoend.cluster import TEMPLATES, copy, until

HOSTS = {
    "host-a": {"pool-a": "", "slow": "bandwidth=256KiB"},
    "host-b": {"pool-b": "", "tiny": "quota=256KiB"},
}
BASE = f"{TEMPLATES}/base"
LABELS = {"site": "north"}
NAMES = ("good", "undone", "held", "stuck", "left", "asked", "slow")


def create(name: str, host: str, target: str) -> Node:
    """Returns a task that makes a small image."""
    pool_id, _, image_id = target.partition("/")
    action = CreateImage(virtual_size_bytes=1 << 20)
    action.target.pool_id, action.target.image_id = pool_id, image_id
    return task(name, host=host, action=action)


def good(workflow_id: str) -> WorkflowSpec:
    """Returns a plan that goes well."""
    disks = parallel(
        "disks",
        copy("system-disk", "host-a", BASE, f"pool-a/{workflow_id}-system"),
        copy("log-disk", "host-b", BASE, f"pool-b/{workflow_id}-log"),
    )
    data = create("data-disk", "host-a", f"pool-a/{workflow_id}-data")
    return workflow_spec("add-vm-from-template", sequence("all", data, disks))


def undone(workflow_id: str) -> WorkflowSpec:
    """Returns a plan whose last copy finds no room; what was made before is made up for."""
    disks = parallel(
        "disks",
        copy("system-disk", "host-a", BASE, f"pool-a/{workflow_id}-system"),
        copy("log-disk", "host-b", BASE, f"pool-b/{workflow_id}-log"),
    )
    last = copy("swap-disk", "host-b", BASE, f"tiny/{workflow_id}-swap")
    data = create("data-disk", "host-a", f"pool-a/{workflow_id}-data")
    return workflow_spec("add-vm-from-template", sequence("all", data, disks, last))


def held(workflow_id: str) -> WorkflowSpec:
    """Returns the same with a pause where it fails."""
    spec = undone(workflow_id)
    spec.policy.CopyFrom(policy(on_failure=Policy.ON_FAILURE_PAUSE))
    return spec


def stuck(workflow_id: str) -> WorkflowSpec:
    """Returns a plan whose compensation fails until somebody decides."""
    by_noop = compensate_by(Noop(failure_message="The array is read-only since 09:12."))
    made = copy("made", "host-a", BASE, f"pool-a/{workflow_id}", compensation=by_noop)
    fails = task(
        "fails", host="host-b", action=Noop(failure_message="The check found a bad block.")
    )
    patience = retry(1, delay=timedelta(minutes=5), delay_max=timedelta(minutes=5))
    spec = workflow_spec("move-disk", sequence("all", made, fails))
    spec.policy.CopyFrom(policy(compensation_retry=patience))
    return spec


def patient(workflow_id: str) -> WorkflowSpec:
    """Returns a plan that is held where its copy fails; what comes after needs what it leaves."""
    last = copy("swap-disk", "host-b", BASE, f"tiny/{workflow_id}-swap")
    twin = CreateImage()
    twin.target.pool_id = "pool-b"
    after = task(
        "twin",
        host="host-b",
        action=twin,
        bindings={
            "virtual_size_bytes": "tasks.swap-disk.output.virtual_size_bytes",
            "target.image_id": "tasks.swap-disk.output.image.image_id",
        },
    )
    made = create("data-disk", "host-a", f"pool-a/{workflow_id}-data")
    spec = workflow_spec("add-vm-from-template", sequence("all", made, last, after))
    spec.policy.CopyFrom(policy(on_failure=Policy.ON_FAILURE_PAUSE))
    return spec


def fanned(workflow_id: str, *sources: str) -> tuple[WorkflowSpec, dict[str, object]]:
    """Returns a plan of a copy for each of some sources, held where some are not there."""
    item = copy("copy", "host-a", "bound/bound", "bound/bound")
    item.task.action.copy_image.Clear()
    item.task.action.copy_image.source.pool_id = "templates"
    item.task.action.copy_image.target.pool_id = "pool-a"
    item.task.bindings.add(field="source.image_id", source="disk.source")
    item.task.bindings.add(field="target.image_id", source="disk.target")
    group = for_each(parallel("disks", item), "input.disks", "disk")
    spec = workflow_spec("fan-out", sequence("all", group))
    spec.policy.CopyFrom(policy(on_failure=Policy.ON_FAILURE_PAUSE))
    spec.policy.on_sibling_failure = Policy.ON_SIBLING_FAILURE_AWAIT
    disks = [{"source": one, "target": f"{workflow_id}-{n}"} for n, one in enumerate(sources)]
    return spec, {"disks": disks}


def asked() -> WorkflowSpec:
    """Returns a plan that waits for a vendor."""
    return plan_of(external("clone-volume", owner="acme"))


def slow(workflow_id: str) -> WorkflowSpec:
    """Returns a plan that is still at work when it is looked at."""
    first = copy("first", "host-a", BASE, f"pool-a/{workflow_id}-first")
    crawls = copy("crawls", "host-a", BASE, f"slow/{workflow_id}-crawls")
    return workflow_spec("copy-slowly", sequence("all", first, crawls))


def many(tasks: int) -> WorkflowSpec:
    """Returns a plan of many tasks, of which the last fails; nothing is made up for."""
    steps = [task(f"step-{n:04}", host="host-a", action=Noop()) for n in range(tasks)]
    fails = task("fails", host="host-a", action=Noop(failure_message="The last one."))
    spec = workflow_spec("many", sequence("all", parallel("steps", *steps), fails))
    spec.policy.CopyFrom(policy(on_failure=Policy.ON_FAILURE_PAUSE))
    return spec


async def tell(client: Client) -> None:
    """Runs every story up to where it ends, or waits."""
    specs = {name: STORIES[name](name) for name in ("good", "undone", "held", "stuck", "slow")}
    specs |= {"left": stuck("left"), "asked": asked()}
    for name, spec in specs.items():
        labels = LABELS if name in ("good", "undone") else {}
        await client.submit(spec, workflow_id=name, labels=labels)
    ends = {
        "good": WorkflowState.WORKFLOW_STATE_SUCCEEDED,
        "undone": WorkflowState.WORKFLOW_STATE_COMPENSATED,
        "held": WorkflowState.WORKFLOW_STATE_PAUSED,
        "stuck": WorkflowState.WORKFLOW_STATE_BLOCKED,
        "left": WorkflowState.WORKFLOW_STATE_BLOCKED,
    }
    for name, state in ends.items():
        await arrived(client, name, state)
    await client.run("left").decide_compensation(
        "made", "abandon", reason="the array is gone for good"
    )
    await arrived(client, "left", WorkflowState.WORKFLOW_STATE_FAILED)


async def arrived(client: Client, workflow_id: str, state: WorkflowState.ValueType) -> None:
    """Returns once a workflow is where its story ends."""

    async def there() -> bool:
        return (await client.run(workflow_id).get()).state == state

    await until(there, f"{workflow_id} in {WorkflowState.Name(state)}")


STORIES = {"good": good, "undone": undone, "held": held, "stuck": stuck, "slow": slow}
