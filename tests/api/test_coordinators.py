"""Which coordinators there are: each of them tells the same."""

from __future__ import annotations

from collections.abc import AsyncIterator
from importlib.metadata import version

import pytest

from countermand.v1 import coordinator_pb2 as pb
from countermand.v1 import workflow_pb2 as wpb
from tests.api.calls import refused
from tests.api.replicas import Replica, look_often, replica, shared_on
from tests.runtime.replicas import Shared
from tests.runtime.rig import Agent, noop, series, until


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    look_often(monkeypatch)


@pytest.fixture(params=["memory", "postgres"])
def shared(request: pytest.FixtureRequest) -> Shared:
    return shared_on(request, {"a": Agent(pools=("p",))})


@pytest.fixture
async def one(shared: Shared) -> AsyncIterator[Replica]:
    """Yields the replica that keeps the house."""
    async with replica(shared) as one:
        await until(lambda: one.receivers.opened)
        yield one


@pytest.fixture
async def other(shared: Shared, one: Replica) -> AsyncIterator[Replica]:
    async with replica(shared) as other:
        yield other


async def seen(at: Replica, **said: object) -> list[pb.Coordinator]:
    request = pb.ListCoordinatorsRequest(**said)  # type: ignore[arg-type]  # a page's fields
    return list((await at.coordinators.ListCoordinators(request)).coordinators)


async def start(at: Replica, *workflow_ids: str) -> None:
    for workflow_id in workflow_ids:
        spec = series(noop("t", "a"))
        request = wpb.StartWorkflowRequest(workflow_id=workflow_id, spec=spec)
        await at.workflows.StartWorkflow(request)


def told(coordinators: list[pb.Coordinator]) -> list[tuple[str, str, bool, bool, int]]:
    return [
        (
            each.name,
            pb.Coordinator.State.Name(each.state).removeprefix("STATE_"),
            each.answers,
            each.keeps_house,
            each.open_workflows,
        )
        for each in coordinators
    ]


async def test_each_tells_of_all_who_has_what_and_which_one_answers(one, other):
    await start(one, "x", "y")
    await start(other, "z")
    assert told(await seen(one)) == [
        ("coordinators/1", "ALIVE", True, True, 2),
        ("coordinators/2", "ALIVE", False, False, 1),
    ]
    assert told(await seen(other)) == [
        ("coordinators/1", "ALIVE", False, True, 2),
        ("coordinators/2", "ALIVE", True, False, 1),
    ]
    for each in await seen(other):
        assert each.version == version("countermand")
        assert each.start_time.ToDatetime() < each.expire_time.ToDatetime()


async def test_one_that_has_ended_is_told_of_until_others_have_what_it_had(one, other):
    await start(one, "x", "y")
    await other.freeze()  # it takes nothing over
    await one.die()
    assert told(await seen(other)) == [
        ("coordinators/1", "ENDED", False, False, 2),
        ("coordinators/2", "ALIVE", True, False, 0),
    ]


async def test_when_one_has_died_the_other_has_all_of_it(one, other):
    await start(one, "x", "y")
    await one.die()
    await until(lambda: other.receivers.opened and other.loop.workflow("y"))
    [left] = [each for each in await seen(other) if each.open_workflows]
    assert told([left]) == [("coordinators/2", "ALIVE", True, True, 2)]


async def test_there_are_pages(one, other):
    request = pb.ListCoordinatorsRequest(page_size=1)
    names = []
    while True:
        page = await other.coordinators.ListCoordinators(request)
        names += [each.name for each in page.coordinators]
        request.page_token = page.next_page_token
        if not request.page_token:
            break
    assert names == ["coordinators/1", "coordinators/2"]
    wrong = pb.ListCoordinatorsRequest(page_token="x")
    assert (await refused(one.coordinators.ListCoordinators(wrong))).reason == "FIELD_INVALID"
