"""Images that several workflows want: in line, refused, over a crash, and free at the end."""

from __future__ import annotations

import pytest
import pytest_asyncio

from countermand.client import Client, Run
from countermand.client.spec import image, parallel, sequence, task, workflow_spec
from countermand.rpc.errors import ImageBusy, StateForbids
from countermand.v1.verb_pb2 import Noop
from countermand.v1.workflow_pb2 import ImageLock, WorkflowView
from countermand.v1.workflow_spec_pb2 import WorkflowSpec
from tests.endtoend.checks import journals, labels, recorded
from tests.endtoend.cluster import Cluster, copy, until
from tests.endtoend.effects import assert_at_rest, locks_of, purged
from tests.endtoend.plans import BASE
from tests.endtoend.stories import ends, needs

pytestmark = pytest.mark.slow

HOSTS = {"a": {"pool-a": "", "endless": "bandwidth=64KiB"}}
FAST_REPEATS = 10


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(lives, tmp_path_factory):
    cluster = Cluster(lives, tmp_path_factory.mktemp("locks"), HOSTS, evidence_kept=True)
    cluster.coordinator.arguments = ("--window", "1")
    await cluster.add_template("base", size_mib=1, extents=2)
    await cluster.start()
    yield cluster
    await cluster.end()


def makes(target: str, *, held: bool = False) -> WorkflowSpec:
    """Returns a plan that makes an image; one that is held waits for somebody behind it."""
    last = task("last", host="a", action=Noop())
    last.policy.pause_before = held
    return workflow_spec("makes", sequence("all", copy("makes", "a", BASE, target), last))


def reads(source: str, target: str, *, refuse: bool = False) -> WorkflowSpec:
    """Returns a plan that copies an image."""
    copies = copy("reads", "a", source, target)
    return workflow_spec("reads", sequence("all", copies), refuse_when_locked=refuse)


async def holder(client: Client, name: str) -> Run:
    """Returns a workflow that holds pool-a/<name> until it is resumed."""
    run = await client.submit(makes(f"pool-a/{name}", held=True), workflow_id=name)
    await needs(run, "PAUSED")
    return run


async def lock_on(run: Run, address: str) -> ImageLock:
    """Returns how a workflow stands with one image."""
    found = (await run.get(WorkflowView.WORKFLOW_VIEW_FULL)).locks
    [lock] = [lock for lock in found if lock.image == image(address)]
    return lock


async def test_who_comes_second_waits_in_line_and_a_crash_changes_nothing(cluster, client):
    """S-V24: a visible place, the same holder after kill -9, and nothing locked at the end."""
    first = await holder(client, "first")
    second = await client.submit(reads("pool-a/first", "pool-a/second"), workflow_id="second")
    third = await client.submit(makes("pool-a/second"), workflow_id="third")
    for life in range(2):
        assert (await lock_on(first, "pool-a/first")).held
        waiting = await lock_on(second, "pool-a/first")
        assert (waiting.held, waiting.position) == (False, 1)
        assert list(waiting.holders) == ["workflows/first"]
        assert "pool-a/first" in (await second.get()).waits_for
        behind = await lock_on(third, "pool-a/second")
        assert (behind.held, behind.position, list(behind.holders)) == (False, 1, [])
        assert not any(held for _, held in locks_of(cluster, "second"))
        begun = {attempt.workflow for attempt in journals(cluster).values()}
        assert not begun & {"second", "third"}
        if not life:
            await cluster.coordinator.kill()
            await cluster.coordinator.start()
    await first.resume()
    await ends(first, "SUCCEEDED")
    await ends(second, "SUCCEEDED")
    await ends(third, "COMPENSATED")  # the image is there: nothing of it is touched
    assert_at_rest(cluster, "first", "SUCCEEDED", {"pool-a/first"})
    assert_at_rest(cluster, "second", "SUCCEEDED", {"pool-a/second"})
    third_of_all = assert_at_rest(cluster, "third", "COMPENSATED")
    assert third_of_all.tasks["makes"] == "FAILED"
    history = recorded(cluster, "second").events
    assert sum(event.HasField("locks_taken") for event in history) == 1


async def test_who_does_not_wait_is_told_who_holds_it(cluster, client):
    """S-V24: refused with the holder's name, and nothing of it is kept; readers share."""
    first = await holder(client, "held")
    for source, target in (("pool-a/held", "pool-a/x"), (BASE, "pool-a/held")):
        with pytest.raises(ImageBusy) as raised:
            await client.submit(reads(source, target, refuse=True), workflow_id="refused")
        assert raised.value.metadata == {
            "pool": "pool-a",
            "image": "held",
            "holder": "workflows/held",
        }
    shares = await client.submit(reads(BASE, "pool-a/shared", refuse=True), workflow_id="shares")
    await ends(shares, "SUCCEEDED")
    await first.resume()
    await ends(first, "SUCCEEDED")
    again = await client.submit(
        reads("pool-a/held", "pool-a/x", refuse=True), workflow_id="refused"
    )
    await ends(again, "SUCCEEDED")
    assert_at_rest(cluster, "refused", "SUCCEEDED", {"pool-a/x"})


async def test_when_a_wait_returns_its_images_are_free(cluster, client):
    """S-V33: whoever comes next is not refused, however soon it comes; what ended can be read."""
    for n in range(FAST_REPEATS):
        spec = makes("pool-a/again") if n % 2 else _deletes("pool-a/again")
        spec.lock_policy = WorkflowSpec.LOCK_POLICY_REFUSE
        run = await client.submit(spec, workflow_id=f"again-{n}")
        await ends(run, "SUCCEEDED")
        shown = await run.get(WorkflowView.WORKFLOW_VIEW_FULL)
        assert not any(lock.held for lock in shown.locks)
        assert shown.end_time.seconds
    await purged(cluster)
    assert locks_of(cluster, f"again-{FAST_REPEATS - 1}") == []


def _deletes(address: str) -> WorkflowSpec:
    spec = WorkflowSpec(kind="deletes", root=sequence("all", task("x", action=Noop())).group)
    spec.root.members[0].task.action.delete_image.target.CopyFrom(image(address))
    return spec


async def test_who_is_cancelled_in_line_leaves_it(cluster, client):
    """S-V19: nothing of it was sent; those behind move up. And once more after its end: told so."""
    first = await holder(client, "front")
    second = await client.submit(makes("pool-a/front"), workflow_id="gives-up")
    third = await client.submit(reads("pool-a/front", "pool-a/back"), workflow_id="back")
    assert (await lock_on(third, "pool-a/front")).position == 2
    await second.cancel("too long")
    await ends(second, "COMPENSATED")
    gone = assert_at_rest(cluster, "gives-up", "COMPENSATED")
    assert (set(gone.tasks.values()), gone.attempts) == ({"CANCELLED"}, {})
    assert (await lock_on(third, "pool-a/front")).position == 1
    await first.resume()
    await ends(third, "SUCCEEDED")
    assert "pool-a/back" in labels(cluster)


async def test_who_is_cancelled_before_its_slot_was_never_sent(cluster, client):
    """S-V19: one copies and the others wait for its place on the host; nothing is left of any."""
    copies = [copy(f"copy-{n}", "a", BASE, f"endless/slot-{n}") for n in range(3)]
    spec = workflow_spec("slots", sequence("all", parallel("copies", *copies)))
    run = await client.submit(spec, workflow_id="slots")
    await until(lambda: sent(cluster, "slots"), "the first copy")
    await run.cancel("a test")
    await ends(run, "COMPENSATED")
    workflow = assert_at_rest(cluster, "slots", "COMPENSATED")
    assert set(workflow.tasks.values()) == {"CANCELLED"}
    assert len(sent(cluster, "slots")) == 1
    with pytest.raises(StateForbids) as raised:
        await run.cancel("once more")
    assert raised.value.metadata["state"] == "COMPENSATED"


def sent(cluster: Cluster, workflow_id: str) -> list[str]:
    """Returns the actions that an agent has received of a workflow."""
    return [
        name
        for name, attempt in journals(cluster).items()
        if attempt.workflow == workflow_id and attempt.kind == "ACTION" and attempt.received
    ]


async def test_what_is_made_up_for_frees_its_images_when_it_is(cluster, client):
    """S-V33: cancelled while it holds them; who waits begins only when nothing of it is left."""
    first = await holder(client, "cancelled")
    second = await client.submit(makes("pool-a/cancelled"), workflow_id="then")
    await first.cancel("a test")
    await ends(second, "SUCCEEDED")  # else: the image would be there already
    assert_at_rest(cluster, "cancelled", "COMPENSATED")
    assert_at_rest(cluster, "then", "SUCCEEDED", {"pool-a/cancelled"})
