"""The workflows that these tests run again and again, on hosts a, b and c.

Host b is slow, so that something still runs when something else fails; c has a pool that is too
small for any copy.
"""

from __future__ import annotations

from collections.abc import Callable

from countermand.client.spec import parallel, policy, sequence, workflow_spec
from countermand.v1.workflow_spec_pb2 import Policy, WorkflowSpec
from tests.endtoend.cluster import TEMPLATES, copy

HOSTS = {
    "a": {"pool-a": ""},
    "b": {
        "pool-b": "bandwidth=4MiB",
        "crawling": "bandwidth=1MiB",
        "endless": "bandwidth=64KiB",  # for what is cancelled
    },
    "c": {"pool-c": "", "small": "quota=256KiB"},
}
BASE = f"{TEMPLATES}/base"
AWAIT = policy(on_sibling_failure=Policy.ON_SIBLING_FAILURE_AWAIT)


def success(workflow_id: str) -> WorkflowSpec:
    """Returns three copies at once, then one that reads where the first has put its own."""
    again = copy("again", "a", "bound/bound", f"pool-a/{workflow_id}-again")
    again.task.action.copy_image.ClearField("source")
    for part in ("pool_id", "image_id"):
        again.task.bindings.add(field=f"source.{part}", source=f"tasks.copy-a.output.image.{part}")
    copies = [
        copy(f"copy-{host}", host, BASE, f"pool-{host}/{workflow_id}-{host}") for host in HOSTS
    ]
    return workflow_spec("success", sequence("all", parallel("copies", *copies), again))


def failure(workflow_id: str, group: Policy | None = None) -> WorkflowSpec:
    """Returns one copy, then two of which the second fails while the first runs, then another."""
    return workflow_spec(
        "failure",
        sequence(
            "all",
            copy("first", "a", BASE, f"pool-a/{workflow_id}-first"),
            parallel(
                "both",
                copy("done", "c", BASE, f"pool-c/{workflow_id}-done"),
                copy("slow", "b", BASE, f"pool-b/{workflow_id}-slow"),
                copy("fails", "c", BASE, f"small/{workflow_id}-fails", after=["done"]),
                policy=group,
            ),
            copy("never", "a", BASE, f"pool-a/{workflow_id}-never"),
        ),
    )


def slow(workflow_id: str) -> WorkflowSpec:
    """Returns a copy, and then one that takes long enough to be found at work."""
    first = copy("first", "a", BASE, f"pool-a/{workflow_id}-first")
    then = copy("slow", "b", BASE, f"crawling/{workflow_id}-slow")
    return workflow_spec("slow", sequence("all", first, then))


PLANS: dict[str, tuple[Callable[[str], WorkflowSpec], str]] = {
    "success": (success, "SUCCEEDED"),
    "failure": (failure, "COMPENSATED"),
}
