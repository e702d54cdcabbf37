"""What every store says of what waits for the owners of external tasks."""

from __future__ import annotations

import pytest

from coordinator.runtime.owners import waits_for
from coordinator.runtime.ports import Asked, Store
from coordinator.saga.workflow import Workflow
from countermand.rpc.names import attempt_name
from tests.store.conftest import commit
from tests.store.external import anything, own
from tests.store.walks import Walk

STEPS = 25


def expected(workflow: Workflow) -> list[Asked]:
    """Returns what waits in a workflow, in order."""
    found = [
        Asked(
            workflow_id=workflow.id,
            name=attempt_name(workflow.id, workflow.plan.nodes[index].name, task.last.number),
            owner=owner,
            intent=task.last.intent,
            state=task.state,
            accepted=task.last.start_time is not None,
            create_time=task.last.create_time,
        )
        for index, task in workflow.tasks()
        if (owner := waits_for(workflow, index))
    ]
    return sorted(found, key=lambda each: each.intent)


async def paged(store: Store, owner: str) -> list[Asked]:
    """Returns all that waits for an owner, read two at a time."""
    found: list[Asked] = []
    after = 0
    while page := await store.asked(owner=owner, after=after, limit=2):
        found += page
        after = page[-1].intent
    return found


@pytest.mark.parametrize("seed", range(4))
async def test_what_waits_for_owners_is_what_the_workflows_say(store: Store, seed: int):
    """S-V29: wherever each is on its way, and whatever its vendor has added."""
    walks = [
        Walk(name, seed=seed, spec=own(), owner="acme", wishes=anything) for name in ("x", "y")
    ]
    await commit(store, *(walk.change for walk in walks))
    seen = 0
    for number in range(STEPS):
        walk = walks[number % 2]
        if change := walk.step():
            await commit(store, change)
        mine = expected(walk.workflow)
        seen += len(mine)
        of_one = await store.asked(limit=100, workflow_ids=[walk.workflow.id])
        assert of_one == mine
        both = [each for other in walks for each in expected(other.workflow)]
        found = await store.asked(owner="acme", limit=100)
        assert sorted(found, key=lambda each: each.name) == sorted(both, key=lambda e: e.name)
        assert await store.asked(owner="nobody", limit=100) == []
        assert await store.asked(limit=100, workflow_ids=[]) == []
    assert seen
    intents = {each.intent for each in await store.asked(limit=100)}
    assert {each.intent for each in await paged(store, "acme")} == intents
