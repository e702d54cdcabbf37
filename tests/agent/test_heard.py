"""What an agent has heard of from coordinators: the highest ever, whatever was forgotten since."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from agent.journal import Heard, Journal, Transaction
from agent.service import AgentService
from countermand.rpc.errors import CountermandError, Expired, Fenced
from countermand.v1.agent_pb2 import GetHostRequest
from tests.agent.requests import CLUSTER, attempt_name, noop_action
from tests.agent.rig import NOW, Rig
from tests.agent.test_fence_attempt import COPY, LOST, fence, hosts  # noqa: F401  # a fixture
from tests.agent.test_forgotten import OTHER, ask, asked_to_stop, forget, refused
from tests.agent.test_journal import name, open_journal, path, record  # noqa: F401  # a fixture


def taken(tx: Transaction, *, workflow: str, epoch: int, intent: int) -> None:
    """Writes down what an order does that is taken."""
    tx.remember_owner(workflow=f"workflows/{workflow}", owner_epoch=epoch, cluster_id=CLUSTER)
    tx.put(record(name("t", workflow=workflow), owner_epoch=epoch, intent_sequence=intent))


def heard(journal: Journal) -> Heard:
    return journal.transact(lambda tx: tx.heard)[0]


def forgotten(*workflows: str) -> Callable[[Transaction], object]:
    named = [f"workflows/{workflow}" for workflow in workflows]
    return lambda tx: tx.forget(named, 1000, 1000)


def test_it_never_decreases(path):  # noqa: F811
    """The highest epoch and the highest intent may be of different workflows."""
    journal = open_journal(path)
    assert heard(journal) == Heard(0, 0)
    journal.transact(partial(taken, workflow="w1", epoch=7, intent=10))
    journal.transact(partial(taken, workflow="w2", epoch=3, intent=20))
    for named in ("w1", "w2"):
        journal.transact(forgotten(named))
        assert heard(journal) == Heard(7, 20)
        journal.close()
        journal = open_journal(path)
        assert heard(journal) == Heard(7, 20)
    assert journal.transact(lambda tx: tx.page("", after="", count_max=9, open_only=False))[0] == []
    journal.transact(partial(taken, workflow="w3", epoch=5, intent=21))
    journal.close()
    assert heard(open_journal(path)) == Heard(7, 21)


def test_what_was_taken_back_was_not_heard_of(path):  # noqa: F811
    """Neither of one that raised in a commit of many, nor of a commit that never was."""
    journal = open_journal(path)

    def dies(tx: Transaction, *, error: type[BaseException]) -> None:
        taken(tx, workflow="w9", epoch=90, intent=90)
        tx.forget([], 0)
        raise error

    lower, higher = (
        partial(taken, workflow=f"w{number}", epoch=number, intent=number) for number in (1, 2)
    )
    results, _ = journal.transact_many([lower, partial(dies, error=ValueError), higher])
    assert [type(error) for _, error in results] == [type(None), ValueError, type(None)]
    assert heard(journal) == Heard(2, 2)
    with pytest.raises(KeyboardInterrupt):
        journal.transact_many([partial(dies, error=KeyboardInterrupt)])
    assert heard(journal) == Heard(2, 2)
    journal.close()
    assert heard(open_journal(path)) == Heard(2, 2)


def test_a_journal_of_an_earlier_version_tells_what_it_still_has(path):  # noqa: F811
    """It noted nothing when it forgot; and it may have gone on with what a later one had noted."""
    journal = open_journal(path)
    journal.transact(partial(taken, workflow="w1", epoch=7, intent=70))
    journal.transact(forgotten("w1"))
    journal.transact(partial(taken, workflow="w2", epoch=8, intent=20))
    journal.transact(
        lambda tx: tx.remember_owner(
            workflow="workflows/w3", owner_epoch=4, cluster_id=CLUSTER, fenced=30
        )
    )
    journal.close()
    again = open_journal(path)
    assert heard(again) == Heard(8, 70)
    again._connection.execute("DELETE FROM meta WHERE key LIKE 'heard%'")
    again.close()
    assert heard(open_journal(path)) == Heard(8, 30)


async def told(rig: Rig) -> tuple[int, int]:
    """Returns what an agent tells of it."""
    service = AgentService(rig.runner, now=lambda: NOW, version="1")
    host = (await service.GetHost(GetHostRequest(), None)).host
    assert host.HasField("heard")
    return host.heard.owner_epoch, host.heard.intent_sequence


@pytest.mark.parametrize(
    "order",
    [partial(ask, epoch=5, intent=20), refused, asked_to_stop],
    ids=["asked", "refused", "cancelled"],
)
async def test_what_leaves_no_attempt_teaches_its_epoch_only(rig, order):
    """Their intent is 20."""
    assert await told(rig) == (0, 0)
    await order(rig)
    assert await told(rig) == (5, 0)
    assert list((await forget(rig, 21)).kept) == []
    await rig.restart()
    assert await told(rig) == (5, 0)


async def test_what_is_late_or_of_an_old_owner_teaches_nothing(rig):
    await rig.run(OTHER, noop_action(), owner_epoch=5, intent_sequence=3)
    for error, fields in (
        (Fenced, {"owner_epoch": 4, "intent_sequence": 50}),
        (CountermandError, {"owner_epoch": 9, "intent_sequence": 50, "cluster_id": "other"}),
    ):
        with pytest.raises(error):
            await rig.accept(attempt_name("new"), noop_action(), **fields)
    assert (await forget(rig, 40)).forgotten == 1
    with pytest.raises(Expired):
        await rig.accept(OTHER, noop_action(), owner_epoch=9, intent_sequence=39)
    assert await told(rig) == (5, 3)


async def test_what_was_fenced_for_another_host_counts(hosts):  # noqa: F811
    _a, b = hosts
    await fence(b, LOST, COPY, owner_epoch=5, intent_sequence=30)
    assert list((await forget(b, 9, fence_low_watermark=31)).kept) == []
    await b.restart()
    assert await told(b) == (5, 30)
