"""What the doctor sees of a host: all of it, whatever one pool is like."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from google.protobuf.message import Message

from coordinator.api.doctor.looking import look
from countermand.rpc.errors import CountermandError, HostUnreachable, StorageFailed
from countermand.v1.agent_pb2 import (
    GetHostResponse,
    HostReport,
    ListAttemptsResponse,
    ListImagesResponse,
    SurveyPoolResponse,
)
from countermand.v1.attempt_pb2 import Attempt
from countermand.v1.image_pb2 import Image, ImageAddress, OwnerTag, Pool

FAILED = StorageFailed(pool="broken", error="EIO", image="any image")


@dataclass
class Host:
    """An agent with two pools, of which one may not answer."""

    error: CountermandError | None = None
    asked: list[tuple[str, str]] = field(default_factory=list)

    async def call(self, rpc: str, request: Any, *, timeout_s: float) -> Message:
        pool_id = getattr(request, "pool_id", "")
        self.asked.append((rpc, pool_id))
        if pool_id == "broken" and self.error:
            raise self.error
        if rpc == "GetHost":
            pools = [Pool(pool_id=name, identity=name) for name in ("broken", "fast")]
            return GetHostResponse(host=HostReport(incarnation="i", pools=pools))
        if rpc == "ListAttempts":
            return ListAttemptsResponse(attempts=[Attempt(name="n", state=Attempt.STATE_RUNNING)])
        if rpc == "SurveyPool":
            return SurveyPoolResponse()
        address = ImageAddress(pool_id=pool_id, image_id="made")
        image = Image(address=address, owner=OwnerTag(attempt="n"))
        first = not request.page_token
        return ListImagesResponse(images=[image], next_page_token="more" if first else "")

    async def close(self) -> None:
        pass


async def test_pages_of_every_pool_and_the_journal_are_read():
    seen = await look(Host(), "a", elsewhere=())
    assert [image.place.pool_id for image in seen.images] == ["broken"] * 2 + ["fast"] * 2
    assert [attempt.open for attempt in seen.attempts] == [True]
    assert all(pool.looked_at for pool in seen.pools)


async def test_a_pool_that_fails_hides_neither_the_others_nor_the_journal():
    seen = await look(Host(error=FAILED), "a", elsewhere=())
    assert [(pool.pool_id, pool.looked_at, bool(pool.problem)) for pool in seen.pools] == [
        ("broken", False, True),
        ("fast", True, False),
    ]
    assert {image.place.pool_id for image in seen.images} == {"fast"}
    assert len(seen.attempts) == 1


async def test_what_was_seen_by_way_of_another_host_is_not_looked_at_again():
    host = Host()
    seen = await look(host, "a", elsewhere={"broken"})
    assert [pool.looked_at for pool in seen.pools] == [False, True]
    assert not [asked for asked in host.asked if asked[1] == "broken"]


async def test_an_agent_that_goes_away_in_the_middle_is_away():
    with pytest.raises(HostUnreachable):
        await look(Host(error=HostUnreachable(address="a:1")), "a", elsewhere=())
