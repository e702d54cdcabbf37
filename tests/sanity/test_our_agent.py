"""Our agent keeps every promise that `agent-sanity` looks into: every driver, every file system."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from agent.service import AgentService
from countermand.sanity.run import Ending
from tests.agent.rig import NOW
from tests.agent.storages import STORAGES
from tests.sanity.served import POOL, SLOW, broken, results, subject

# What touches no storage is looked into once. What needs a kill has a process of its own.
ELSEWHERE = ("watch.", "header.", "fields.", "restart.", "verbs.journal", "verbs.race", "cancel.s")


@pytest.mark.parametrize("name", list(STORAGES))
async def test_each_driver_keeps_every_promise(name, request, tmp_path):
    storage = STORAGES[name]
    skip = ("bookmarks", "restart.") if name == "file" else ELSEWHERE
    with storage.places(request, tmp_path)() as place:
        options = place.config(place.folder / POOL)
        async with subject(place.folder, options=options, source=name == "file") as one:
            one.verbs = tuple(storage.verbs)
            found = await results(one, skip=skip)
    assert broken(found) == {}
    kept = {result.instance.check.area for result in found if result.ending is Ending.KEPT}
    assert {"verbs", "listing", "cancel"} <= kept


@pytest.mark.parametrize("kind", ["btrfs", "tmpfs", "xfs"])
async def test_the_file_driver_keeps_them_on_each_kind_of_file_system(kind, request):
    root: Path = request.getfixturevalue(f"{kind}_mount")
    folder = Path(tempfile.mkdtemp(dir=root))
    async with subject(folder, source=True) as one:
        found = await results(one, "verbs.acts", "cancel.running", "verbs.digests")
    assert broken(found) == {}


async def test_two_agents_of_one_storage_keep_the_promises_between_hosts(tmp_path):
    """Fences, and images served to another host."""
    pool = {"path": tmp_path / "pool", "shared": True}
    for name in ("a", "b", "pool"):
        (tmp_path / name).mkdir()
    async with (
        subject(tmp_path / "a", options=pool) as one,
        subject(tmp_path / "b", options=pool) as other,
    ):
        one.other = other
        found = await results(one, "fence.", "serve.", skip=("not_shared",))
    assert [(one.instance.label, one.why) for one in found if one.ending is not Ending.KEPT] == []


async def test_a_queue_that_can_be_filled_is_filled(tmp_path):
    async with subject(tmp_path, source=True, **SLOW) as one:
        found = await results(one, "queue_full")
    assert [result.ending for result in found] == [Ending.KEPT], found


async def test_an_agent_that_takes_few_attempts_at_once_is_not_blamed_for_it(tmp_path):
    """It is sent no more than it takes, or sent it again as told."""
    async with subject(tmp_path, source=True, **SLOW) as one:
        found = await results(one, "cancel.running")
    assert [result.ending for result in found] == [Ending.KEPT], found


async def test_what_is_not_offered_is_skipped_aloud(tmp_path):
    async with subject(tmp_path, options={"read_only": True}) as one:
        found = await results(one, "verbs.acts", "fence.", "serve.")
    skipped = {
        result.instance.label: result.why for result in found if result.ending is Ending.SKIPPED
    }
    assert skipped["verbs.acts[fast/create_image]"] == "pool fast is read-only"
    assert all(skipped.values())
    assert broken(found) == {}


class KeepsNothingHeard(AgentService):
    """As an agent that was written before that was asked for."""

    async def GetHost(self, request, context):
        answer = await super().GetHost(request, context)
        answer.host.ClearField("heard")
        return answer


async def test_an_agent_need_not_keep_what_it_has_heard_of(tmp_path):
    def make(runner):
        return KeepsNothingHeard(runner, now=lambda: NOW, version="1.2.3")

    async with subject(tmp_path, make=make) as one:
        [found] = await results(one, "listing.heard")
    assert found.ending is Ending.SKIPPED


async def test_nothing_is_left_in_the_pool_nor_in_the_journal(tmp_path):
    async with subject(tmp_path) as one:
        await results(one, "verbs.acts")
        await one.forget()
        host = await one.look()
        assert host.cluster_id == "agent-sanity"
    assert list((tmp_path / "fast/images").iterdir()) == []
    assert list((tmp_path / "fast/staging").iterdir()) == []
