"""Workflows that are asked for long after they settled: read once for all who look at them now."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from coordinator.api import workflow_service
from coordinator.api.shown import KEPT_MAX, Showing
from coordinator.api.workflow_service import WorkflowService
from coordinator.runtime.watch import Watches
from countermand.rpc.errors import WorkflowNotFound
from countermand.v1.attempt_pb2 import Progress
from countermand.v1.workflow_pb2 import TASK_VIEW_FULL, ListTasksRequest
from tests.bench.inside import Inside, plan
from tests.bench.workloads import w1


@pytest.fixture
async def inside(tmp_path):
    """Yields a store with settled workflows, and a loop that does not remember them."""
    before = Inside(tmp_path / "some.sqlite")
    async with before.life():
        for number in range(KEPT_MAX + 1):
            await before.run(f"w-{number}", w1(), plan(w1()))
    after = Inside(tmp_path / "some.sqlite")
    async with after.life():
        yield after


@pytest.fixture
def showing(inside) -> Showing:
    watches: Watches[Progress] = Watches()
    return Showing(
        loop=inside.loop,
        store=inside.store,
        hosts=None,  # type: ignore[arg-type]  # none is asked here
        watches=watches,
        retention=timedelta(days=1),
    )


async def test_a_settled_workflow_is_read_once(showing) -> None:
    first = await showing.find("w-0")
    assert await showing.find("w-0") is first


async def test_one_that_was_removed_is_not_found(showing, inside) -> None:
    await showing.find("w-0")
    await inside.store.expire(before=datetime(2999, 1, 1, tzinfo=UTC), limit=100)
    with pytest.raises(WorkflowNotFound):
        await showing.find("w-0")


async def test_only_a_few_are_kept(showing) -> None:
    first = await showing.find("w-0")
    for number in range(1, KEPT_MAX + 1):
        await showing.find(f"w-{number}")
    assert await showing.find("w-0") is not first


class NoHosts:
    """A fleet of none."""

    def all(self) -> dict[str, object]:
        return {}


async def test_a_page_of_whole_tasks_ends_before_it_is_too_long(inside, monkeypatch) -> None:
    """A task may have been tried a thousand times: what does not fit comes with the next page."""
    monkeypatch.setattr(workflow_service, "FULL_BYTES_MAX", 1)
    fleet: Any = NoHosts()
    context: Any = None
    service = WorkflowService(
        loop=inside.loop, store=inside.store, hosts=fleet, watches=Watches(), clock=context
    )
    found, asked = [], ListTasksRequest(parent="workflows/w-0", view=TASK_VIEW_FULL)
    while True:
        page = await service.ListTasks(asked, context)
        assert len(page.tasks) == 1
        found += [task.name for task in page.tasks]
        asked.page_token = page.next_page_token
        if not asked.page_token:
            break
    whole = await service.ListTasks(ListTasksRequest(parent="workflows/w-0"), context)
    assert found == [task.name for task in whole.tasks]
