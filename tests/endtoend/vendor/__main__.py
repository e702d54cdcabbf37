"""A vendor as a process of its own: it makes files, and may be killed anywhere.

    python -m tests.endtoend.vendor OWNER ADDRESS FOLDER

A task's effect is a file in the folder, with the attempt that made it; each effect is one line of
`effects`, written when it happens and never again. What the argument "hold" names is waited for,
with the effect made: a file of that name in the folder. "fail" makes it fail instead.
"""

from __future__ import annotations

import asyncio
import os
import sys
import uuid
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TypeVar

from google.protobuf.struct_pb2 import Struct
from grpc import StatusCode
from grpc.aio import AioRpcError, Channel

from countermand.rpc.channel import open_channel
from countermand.v1 import external_task_pb2 as pb
from countermand.v1.attempt_pb2 import Progress
from countermand.v1.external_task_pb2_grpc import ExternalTaskServiceStub
from countermand.v1.failure_pb2 import Failure

T = TypeVar("T")
AGAIN_S = 0.02
BEAT_S = 0.25
PARTS = 3


class OverError(Exception):
    """An attempt is over, or to be stopped: whoever works on it leaves it."""


class Vendor:
    """Works on everything that waits for it, each at the same time."""

    def __init__(self, channel: Channel, owner: str, folder: Path) -> None:
        self.stub = ExternalTaskServiceStub(channel)
        self.owner = owner
        self.folder = folder
        self.at_work: dict[tuple[str, int], asyncio.Task[None]] = {}

    async def serve(self) -> None:
        """Watches and works until it is killed."""
        request = pb.WatchExternalTasksRequest(owner_id=self.owner)
        while True:
            try:
                async for said in self.stub.WatchExternalTasks(request, wait_for_ready=True):
                    if said.HasField("request"):
                        self.take(said.request)
            except AioRpcError:
                await asyncio.sleep(AGAIN_S)

    def take(self, asked: pb.ExternalRequest) -> None:
        """Begins what is asked, unless it has."""
        key = asked.attempt, asked.kind
        if key not in self.at_work:
            self.at_work[key] = asyncio.create_task(self.work(asked))

    async def work(self, asked: pb.ExternalRequest) -> None:
        """Does what is asked, however often it is killed meanwhile."""
        try:
            if asked.kind == asked.KIND_CANCEL:
                self.unmake(asked, asked.attempt)
                await self.end(asked, cancelled=True)
                return
            await self.call(
                lambda: self.stub.AcceptExternalTask(
                    pb.AcceptExternalTaskRequest(
                        attempt=asked.attempt, capability_token=asked.capability_token
                    )
                )
            )
            if asked.kind == asked.KIND_COMPENSATE:
                self.unmake(asked, asked.compensates)
                await self.end(asked, output=Struct())
            elif "fail" in asked.arguments:
                await self.end(asked, failure=Failure(reason="AS_ASKED", message="As asked."))
            else:
                await self.make(asked)
        except OverError:
            pass  # what is left of it is asked for by its own request

    async def make(self, asked: pb.ExternalRequest) -> None:
        """Makes the effect in parts, and ends."""
        self.note("made", asked, asked.attempt)
        hold = self.folder / asked.arguments.get("hold", "")
        for done in range(1, PARTS + 1):
            await self.report(asked, done)
        while not hold.exists():
            await self.report(asked, PARTS)
            await asyncio.sleep(BEAT_S)
        output = Struct()
        output["file"] = self.file(asked).name
        await self.end(asked, output=output)

    # -- effects --------------------------------------------------------------------------------

    def file(self, asked: pb.ExternalRequest) -> Path:
        _, workflow, _, task, *_ = asked.attempt.split("/")
        return self.folder / f"{workflow}.{task}"

    def note(self, verb: str, asked: pb.ExternalRequest, attempt: str) -> None:
        """Makes the file of an attempt, once."""
        try:
            with self.file(asked).open("x") as file:
                file.write(attempt)
        except FileExistsError:
            assert self.file(asked).read_text() == attempt, (attempt, self.file(asked))
            return
        self.log(verb, attempt)

    def unmake(self, asked: pb.ExternalRequest, attempt: str) -> None:
        """Removes the file of an attempt, once; what never was is a success."""
        if self.file(asked).exists():
            assert self.file(asked).read_text() == attempt, (attempt, self.file(asked))
            self.file(asked).unlink()
            self.log("unmade", attempt)

    def log(self, verb: str, attempt: str) -> None:
        number = os.open(self.folder / "effects", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.write(number, f"{verb} {attempt}\n".encode())
        os.close(number)

    # -- reports --------------------------------------------------------------------------------

    async def report(self, asked: pb.ExternalRequest, done: int) -> None:
        progress = Progress(done=done, total=PARTS, unit="parts")
        answer = await self.call(
            lambda: self.stub.ReportExternalTask(
                pb.ReportExternalTaskRequest(
                    attempt=asked.attempt,
                    capability_token=asked.capability_token,
                    progress=progress,
                )
            )
        )
        if answer.attempt.state == answer.attempt.STATE_CANCELLING:
            raise OverError

    async def end(self, asked: pb.ExternalRequest, **outcome: object) -> None:
        # The same id in every life: whoever does not know whether it was heard says it again.
        report_id = str(uuid.uuid5(uuid.NAMESPACE_URL, f"{asked.attempt} {asked.kind}"))
        request = pb.EndExternalTaskRequest(
            attempt=asked.attempt,
            capability_token=asked.capability_token,
            report_id=report_id,
            **outcome,  # type: ignore[arg-type]
        )
        await self.call(lambda: self.stub.EndExternalTask(request))

    async def call(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Asks until there is an answer."""
        while True:
            try:
                return await ask()
            except AioRpcError as error:
                if error.code() is StatusCode.FAILED_PRECONDITION:
                    raise OverError from error
                if error.code() is not StatusCode.UNAVAILABLE:
                    raise
                await asyncio.sleep(AGAIN_S)


async def serve(owner: str, address: str, folder: Path) -> None:
    async with open_channel(address) as channel:
        await Vendor(channel, owner, folder).serve()


def main(arguments: Sequence[str], prog_name: str = "") -> None:
    owner, address, folder = arguments
    Path(folder).mkdir(parents=True, exist_ok=True)
    asyncio.run(serve(owner, address, Path(folder)))


if __name__ == "__main__":
    main(sys.argv[1:])
