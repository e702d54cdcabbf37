"""What comes after Forget about something forgotten: refused, and nothing is learned from it.

I6, S-V8: epochs never decrease, whatever is late, and through a restart.
"""

from __future__ import annotations

from typing import Any

import pytest

from agent.service import AgentService
from countermand.rpc.errors import AttemptNotFound, CountermandError, Expired, Fenced
from countermand.v1.agent_pb2 import ForgetRequest, ForgetResponse, GetAttemptRequest
from tests.agent.requests import CLUSTER, attempt_name, noop_action
from tests.agent.rig import NOW, Rig
from tests.agent.test_fence_attempt import COPY, LOST, fence, fences, hosts  # noqa: F401

W1 = "workflows/w1"
ASKED, OTHER = attempt_name("asked"), attempt_name("other")


def service(rig: Rig) -> AgentService:
    return AgentService(rig.runner, now=lambda: NOW, version="1")


async def ask(rig: Rig, *, epoch: int, intent: int) -> None:
    """Asks for an attempt that the agent does not have."""
    request = GetAttemptRequest(
        name=ASKED, owner_epoch=epoch, cluster_id=CLUSTER, intent_sequence=intent
    )
    with pytest.raises(AttemptNotFound):
        await service(rig).GetAttempt(request, None)


async def forget(rig: Rig, low_watermark: int, **fields: Any) -> ForgetResponse:
    request = ForgetRequest(
        cluster_id=CLUSTER, workflows=[W1], low_watermark=low_watermark, **fields
    )
    return await service(rig).Forget(request, None)


async def epoch(rig: Rig) -> int:
    """Returns the highest owner epoch that the agent knows; 0 is none."""
    return await rig.runner.transact(lambda tx: tx.highest_epoch(W1))


async def test_a_late_forget_drops_no_epoch_that_a_question_has_taught(rig):
    """The id was given again by a coordinator whose store was restored."""
    await ask(rig, epoch=5, intent=20)
    assert list((await forget(rig, 10)).kept) == [W1]
    await rig.restart()
    assert list((await forget(rig, 20)).kept) == [W1]
    with pytest.raises(Fenced):
        await rig.accept(OTHER, noop_action(), owner_epoch=4, intent_sequence=21)
    assert list((await forget(rig, 21)).kept) == []
    assert await epoch(rig) == 0


async def refused(rig: Rig) -> None:
    with pytest.raises(CountermandError):
        await rig.accept(OTHER, COPY, owner_epoch=5, intent_sequence=20)  # there is no such pool


async def asked_to_stop(rig: Rig) -> None:
    header = rig.requests.header(OTHER, owner_epoch=5, intent_sequence=20)
    with pytest.raises(AttemptNotFound):
        await rig.runner.cancel(header)


@pytest.mark.parametrize("order", [refused, asked_to_stop])
async def test_nor_one_that_an_order_has_taught_which_left_nothing(rig, order):
    await order(rig)
    assert list((await forget(rig, 20)).kept) == [W1]
    assert await epoch(rig) == 5
    assert list((await forget(rig, 21)).kept) == []
    assert await epoch(rig) == 0


async def test_what_is_late_teaches_no_epoch(rig):
    """Else an agent would keep it for ever: nobody names that workflow again."""
    await rig.run(OTHER, noop_action(), owner_epoch=5, intent_sequence=1)
    assert (await forget(rig, 9)).forgotten == 1
    with pytest.raises(Expired):
        await rig.accept(OTHER, noop_action(), owner_epoch=3, intent_sequence=1)
    await ask(rig, epoch=3, intent=1)
    with pytest.raises(AttemptNotFound):
        await rig.runner.cancel(rig.requests.header(OTHER, owner_epoch=3, intent_sequence=1))
    assert await epoch(rig) == 0


async def test_a_fence_that_is_asked_for_late_is_none(hosts):  # noqa: F811
    """S-V8: and what it was to fence is refused by the other host, which has forgotten it, too."""
    a, b = hosts
    await fence(b, LOST, COPY, owner_epoch=5, intent_sequence=3)
    b.pools["fast"].remove_fence(LOST)
    # The other host's attempts are still open below it: more may be fenced.
    assert list((await forget(b, 9, fence_low_watermark=3)).kept) == [W1]
    await b.restart()
    with pytest.raises(Fenced):
        await fence(b, LOST, COPY, owner_epoch=4, intent_sequence=3)
    assert list((await forget(b, 9, fence_low_watermark=4)).kept) == []
    assert await epoch(b) == 0
    for _ in range(2):
        with pytest.raises(Expired):
            await fence(b, LOST, COPY, owner_epoch=4, intent_sequence=3)
        await b.restart()
    assert (fences(b), await epoch(b)) == ([], 0)
    await forget(a, 9)
    with pytest.raises(Expired):
        await a.accept(LOST, COPY, owner_epoch=5, intent_sequence=3)
    assert (fences(a), a.images()) == ([], [])


async def test_another_hosts_attempt_may_be_older_than_anything_new_here(hosts):  # noqa: F811
    """Its intent is below this host's own low-watermark, which says nothing about it."""
    _a, b = hosts
    await forget(b, 9)
    told = await fence(b, LOST, COPY, intent_sequence=3)
    assert told.failure.reason == "ATTEMPT_FENCED"
