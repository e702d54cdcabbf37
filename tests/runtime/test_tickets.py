"""Tickets for copies across hosts: who is asked, how often, and what a refusal makes certain."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest
from google.protobuf.message import Message

from coordinator.saga.states import TaskState, WorkflowState
from countermand.client.spec import image, parallel, task
from countermand.rpc.errors import (
    CountermandError,
    Fenced,
    ImageNotFound,
    IncarnationChanged,
    StorageFailed,
)
from countermand.v1.agent_pb2 import CopyImageRequest, ServeImageRequest, ServeImageResponse
from countermand.v1.verb_pb2 import CopyImage
from countermand.v1.workflow_spec_pb2 import Node
from tests.runtime.rig import Agent, coordinator, noop, series, until

NAME = "workflows/w/tasks/pull/attempts/1"


@dataclass
class Serving(Agent):
    """An agent that serves images, or says why not."""

    refuses: CountermandError | None = None
    asked: list[ServeImageRequest] = field(default_factory=list)
    given: list[bytes] = field(default_factory=list)  # tickets that came with copies

    async def call(
        self, rpc: str, request: Message, *, timeout_s: float, traceparent: str = ""
    ) -> Any:
        if isinstance(request, ServeImageRequest) and self.up:
            self.asked.append(request)
            if self.refuses is not None:
                raise self.refuses
            answer = ServeImageResponse(ticket=b"ticket %d" % len(self.asked))
            answer.valid_for.FromTimedelta(timedelta(minutes=1))
            return answer
        if isinstance(request, CopyImageRequest) and self.up:
            self.given.append(request.source_access.ticket)
        return await super().call(rpc, request, timeout_s=timeout_s, traceparent=traceparent)


def pull(name: str = "pull", source_host: str = "a") -> Node:
    action = CopyImage(
        source=image("far/base"), target=image(f"near/{name}"), source_host_id=source_host
    )
    return task(name, host="b", action=action)


def agents() -> dict[str, Any]:
    return {"a": Serving(pools=("far",)), "b": Serving(pools=("near",))}


async def test_each_sending_and_each_asking_brings_a_fresh_ticket(tmp_path):
    hosts = agents()
    async with coordinator(tmp_path, hosts) as life:
        await life.start("w", series(pull()))
        await until(lambda: life.task("w", "pull") is TaskState.RUNNING)
        [asked] = hosts["a"].asked
        assert (asked.header.attempt, asked.address) == (NAME, image("far/base"))
        assert asked.header.expected_incarnation == "of-a"
        assert hosts["b"].given == [b"ticket 1"]
        life.fleet._lines["b"].orders.see_to_all()  # as it does now and then
        await until(lambda: hosts["b"].given == [b"ticket 1", b"ticket 2"])
        hosts["a"].refuses = StorageFailed(pool="far", error="EIO", image="base")
        life.fleet._lines["b"].orders.see_to_all()
        await until(lambda: len(hosts["a"].asked) == 3)
        hosts["b"].end(NAME)
        await until(lambda: life.state("w") is WorkflowState.SUCCEEDED)


async def test_a_source_that_is_away_takes_nobody_a_slot(tmp_path):
    hosts = agents()
    async with coordinator(tmp_path, hosts, window=1) as life:
        await until(lambda: hosts["b"].streams and hosts["a"].streams)
        hosts["a"].go_down()
        await until(lambda: life.fleet._lines["a"].server().connection is None)
        await life.start("w", series(parallel("both", pull(), noop("other", "b"))))
        await until(lambda: hosts["b"].tasks == ["other"])
        assert life.waits("w", "pull") == "a, which serves its source"
        hosts["b"].end("workflows/w/tasks/other/attempts/1")
        hosts["a"].up = True
        await until(lambda: hosts["b"].tasks == ["other", "pull"])
        hosts["b"].end(NAME)
        await until(lambda: life.state("w") is WorkflowState.SUCCEEDED)


async def test_an_image_that_is_not_there_fails_what_was_never_sent(tmp_path):
    hosts = agents()
    hosts["a"].refuses = ImageNotFound(image="base", pool="far")
    async with coordinator(tmp_path, hosts) as life:
        await life.start("w", series(pull()))
        await until(lambda: life.state("w") is WorkflowState.COMPENSATED)
        failure = life.known("w").task(1).failure
        assert failure is not None
        assert (failure.reason, hosts["b"].sent) == ("IMAGE_NOT_FOUND", [])


async def test_of_what_may_be_out_a_refused_ticket_proves_nothing(tmp_path):
    """The agent decides: it may have the attempt by then."""
    hosts = agents()
    async with coordinator(tmp_path, hosts) as life:
        await life.start("w", series(pull()))
        await until(lambda: hosts["b"].sent == [NAME])
    hosts["a"].refuses = ImageNotFound(image="base", pool="far")
    hosts["b"].journal.clear()  # as if it had never come
    hosts["b"].given.clear()
    async with coordinator(tmp_path, hosts) as life:
        await until(lambda: b"" in hosts["b"].given)
        assert life.task("w", "pull") in {TaskState.STARTING, TaskState.RUNNING}
        hosts["b"].end(NAME)
        await until(lambda: life.state("w") is WorkflowState.SUCCEEDED)


@pytest.mark.parametrize(
    "error",
    [
        StorageFailed(pool="far", error="EIO", image="base"),
        IncarnationChanged(incarnation="j", expected="i"),
        Fenced(owner_epoch=1, workflow="workflows/w", highest=2),
    ],
    ids=lambda error: error.reason,
)
async def test_what_is_wrong_with_a_source_is_not_held_against_the_target(tmp_path, error):
    hosts = agents()
    hosts["a"].refuses = error
    async with coordinator(tmp_path, hosts) as life:
        await life.start("w", series(pull()))
        await until(lambda: len(hosts["a"].asked) > 1)
        assert life.task("w", "pull") is TaskState.STARTING
        assert life.fleet._lines["b"].problem is None
        hosts["a"].refuses = None
        await until(lambda: life.task("w", "pull") is TaskState.RUNNING)
        hosts["b"].end(NAME)
        await until(lambda: life.state("w") is WorkflowState.SUCCEEDED)


async def test_a_source_host_that_is_gone_fails_what_was_never_sent(tmp_path):
    hosts = agents()
    async with coordinator(tmp_path, hosts) as life:
        await life.fleet.end("a")
        await life.start("w", series(pull()))
        await until(lambda: life.state("w") is WorkflowState.COMPENSATED)
        failure = life.known("w").task(1).failure
        assert failure is not None
        assert failure.reason == "HOST_NOT_FOUND"
