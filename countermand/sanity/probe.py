"""What a check works with: the agent, a workflow and image ids of its own, and a tidy end.

A `Probe` is one check's view of the agent: whatever it sends is remembered, and made up for when
the check has ended, however it has ended.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from countermand.rpc import names
from countermand.rpc.request_hash import request_hash
from countermand.sanity.asking import Refused
from countermand.sanity.promises import Broken, NotOffered, equal
from countermand.sanity.seeing import OPEN, Seen, must, seen
from countermand.sanity.subject import Subject
from countermand.v1.agent_pb2 import (
    CancelAttemptRequest,
    CompensateRequest,
    GetAttemptRequest,
    GetAttemptResponse,
    InspectRequest,
    ListAttemptsRequest,
    ListImagesRequest,
)
from countermand.v1.attempt_pb2 import Attempt, AttemptHeader
from countermand.v1.image_pb2 import IMAGE_FORMAT_RAW, Image, ImageAddress, Pool
from countermand.v1.verb_pb2 import Action, CreateImage, Noop

if TYPE_CHECKING:  # it knows this module
    from countermand.sanity.cases import Case

SIZE_BYTES = 4 * 2**20  # small, and a size that every storage we know of can make

ONLY_READ = frozenset({"verify_image", "noop"})

# Nothing makes up for these; what they leave goes with what they were done to.
FOR_GOOD = frozenset({"delete_image", "delete_snapshot", "verify_image", "noop"})

_LOOK_S = 0.01
_LOOK_S_MAX = 0.25
_CLEAN_UP_NUMBER = 900  # no check numbers its compensations so high
_PAGE_SIZE = 1000


class Probe:
    """One check's view of the agent."""

    def __init__(self, subject: Subject, *, number: str, pool_id: str, case: Case | None) -> None:
        """Has a workflow and image ids of its own."""
        self.subject = subject
        self.calls = subject.calls
        self.pool_id = pool_id
        self._case = case
        self.prefix = f"sanity-{subject.run}-{number}"
        self._sent: dict[str, Action] = {}
        self._children: list[Probe] = []
        self._number = 0
        subject.workflows.append(names.workflow_name(self.prefix))

    def child(self, case: Case) -> Probe:
        """Returns a view for one case of several, with names of its own, tidied up with us."""
        number = f"{self.prefix.rpartition('-')[2]}.{len(self._children)}"
        child = Probe(self.subject, number=number, pool_id=self.pool_id, case=case)
        self._children.append(child)
        return child

    @property
    def pool(self) -> Pool:
        """Returns the pool that the check is run in."""
        return self.subject.pool(self.pool_id)

    @property
    def case(self) -> Case:
        """Returns the way of a verb that the check is run for."""
        assert self._case is not None
        return self._case

    @property
    def workflow(self) -> str:
        """Returns the name of the check's own workflow."""
        return names.workflow_name(self.prefix)

    def need(self, *verbs: str) -> None:
        """Returns if the pool offers all of these verbs.

        Raises:
            NotOffered: It does not.
        """
        for verb in verbs:
            if verb not in self.pool.verbs:
                raise NotOffered(f"pool {self.pool_id} does not offer {verb}")
            if self.pool.read_only and verb not in ONLY_READ:
                raise NotOffered(f"pool {self.pool_id} is read-only")

    # -- names and requests ---------------------------------------------------------------------

    def attempt(self, task: str, number: int = 1) -> str:
        """Returns the name of a task's attempt."""
        return names.attempt_name(self.prefix, task, number)

    def address(self, text: str, *, pool_id: str = "") -> ImageAddress:
        """Returns the address of an image of this check's own."""
        return ImageAddress(pool_id=pool_id or self.pool_id, image_id=f"{self.prefix}-{text}")

    def header(self, name: str, hashed: bytes = b"", **changes: Any) -> AttemptHeader:  # noqa: ANN401 - the header's fields
        """Returns a header as a coordinator in charge would send it, but for the changes."""
        values = {
            "attempt": name,
            "cluster_id": self.subject.cluster_id,
            "owner_epoch": 1,
            "intent_sequence": self.subject.next_intent(),
            "request_hash": hashed,
            "expected_incarnation": self.subject.host.incarnation,
        }
        return AttemptHeader(**{**values, **changes})

    def light(self, failure_message: str = "") -> Action:
        """Returns an action that costs nothing: a no-op, or else an empty image.

        Raises:
            NotOffered: The agent can do neither.
        """
        pools = [self.subject.pool(pool_id) for pool_id in self.subject.pools]
        if any("noop" in pool.verbs for pool in pools):
            return Action(noop=Noop(failure_message=failure_message))
        if failure_message:
            raise NotOffered("no pool offers noop")
        for pool in pools:
            if "create_image" in pool.verbs:
                self._number += 1
                return create(self.address(f"light-{self._number}", pool_id=pool.pool_id))
        raise NotOffered("no pool offers noop or create_image")

    async def send(self, name: str, action: Action, **changes: Any) -> Attempt:  # noqa: ANN401 - the header's fields
        """Sends an action; while the queue is full, again after as long as it was told.

        Raises:
            Refused: The agent does not take it.
        """
        until = time.monotonic() + self.subject.patience_s
        while True:
            try:
                return await self.send_once(name, action, **changes)
            except Refused as error:
                delay = error.refusal.retry_delay
                if error.refusal.reason != "QUEUE_FULL" or not delay or time.monotonic() > until:
                    raise
                await asyncio.sleep(delay.total_seconds())

    async def send_once(self, name: str, action: Action, **changes: Any) -> Attempt:  # noqa: ANN401 - the header's fields
        """Sends an action, whether or not there is a place in the queue.

        Raises:
            Refused: The agent does not take it.
        """
        new = name not in self._sent
        self._sent.setdefault(name, action)
        header = self.header(name, request_hash(action), **changes)
        try:
            return await self.calls.verb(header, action)
        except Refused as error:
            if new and error.refusal.code == "INVALID_ARGUMENT":
                del self._sent[name]  # there are hundreds of these
            raise

    def owe(self, name: str, action: Action) -> None:
        """Takes note of an action that was sent past us, to be made up for in the end."""
        self._sent.setdefault(name, action)

    async def compensate(
        self,
        name: str,
        compensates: str,
        action: Action,
        **changes: Any,  # noqa: ANN401 - the header's fields
    ) -> Attempt:
        """Asks to make up for an attempt.

        Raises:
            Refused: The agent does not take it.
        """
        request = CompensateRequest(compensates=compensates, action=action)
        request.header.CopyFrom(self.header(name, request_hash(request), **changes))
        answer: Attempt = (await self.calls.ask("Compensate", request)).attempt
        return answer

    async def cancel(self, name: str, **changes: Any) -> Attempt:  # noqa: ANN401 - the header's fields
        """Asks an attempt to stop.

        Raises:
            Refused: The agent does not take it.
        """
        request = CancelAttemptRequest(header=self.header(name, **changes))
        answer: Attempt = (await self.calls.ask("CancelAttempt", request)).attempt
        return answer

    async def run(self, name: str, action: Action, **changes: Any) -> Attempt:  # noqa: ANN401 - the header's fields
        """Sends an action and returns its outcome."""
        await self.send(name, action, **changes)
        return await self.settled(name)

    async def done(self, name: str, action: Action) -> Attempt:
        """Sends an action that must succeed, and returns its outcome.

        Raises:
            Broken: It did not.
        """
        return must(await self.run(name, action), Attempt.STATE_SUCCEEDED)

    async def made_up(self, name: str, compensates: str, action: Action) -> Attempt:
        """Sends a compensation that must succeed, and returns its outcome.

        Raises:
            Broken: It did not.
        """
        await self.compensate(name, compensates, action)
        return must(await self.settled(name), Attempt.STATE_SUCCEEDED)

    async def created(self, text: str, **fields: Any) -> ImageAddress:  # noqa: ANN401 - CreateImage's fields
        """Makes an empty image, and returns its address."""
        self.need("create_image")
        address = self.address(text)
        fields = {"format": self.pool.formats[0] if self.pool.formats else 0, **fields}
        await self.done(self.attempt(f"create-{text}"), create(address, **fields))
        return address

    async def base(self) -> ImageAddress:
        """Returns an image to copy from: the one with data if there is one, or an empty one."""
        return self.subject.source or await self.created("base")

    def copying(self) -> Action:
        """Returns a copy of the image with data; it may take a while.

        Raises:
            NotOffered: The command was told of none.
        """
        self.need("copy_image")
        if self.subject.source is None:
            raise NotOffered("it needs an image that holds data: say --source POOL/IMAGE")
        action = Action()
        action.copy_image.source.CopyFrom(self.subject.source)
        action.copy_image.target.CopyFrom(self.address("copy"))
        return action

    def copies(self, count: int) -> dict[str, Action]:
        """Returns copies of the image with data, by their attempts.

        Raises:
            NotOffered: The command was told of none.
        """
        copying = self.copying()
        copies: dict[str, Action] = {}
        for number in range(count):
            copy = copies[self.attempt(f"copy-{number}")] = Action()
            copy.CopyFrom(copying)
            copy.copy_image.target.CopyFrom(self.address(f"copy-{number}"))
        return copies

    async def copied(self, sent: Mapping[str, Action], *states: Attempt.State.ValueType) -> None:
        """Returns once copies have ended, and the pool shows those that succeeded and no others.

        Raises:
            Broken: It shows something else, or one is in none of these states.
        """
        ended = {name: must(await self.settled(name), *states) for name in sent}
        done = {
            sent[name].copy_image.target.image_id.removeprefix(f"{self.prefix}-")
            for name, one in ended.items()
            if one.state == Attempt.STATE_SUCCEEDED
        }
        equal(set(await self.picture()), done, "the copies that the pool shows")

    # -- looking --------------------------------------------------------------------------------

    async def find(self, name: str) -> GetAttemptResponse | None:
        """Reads an attempt with the agent's incarnation; None if it is unknown."""
        try:
            answer = await self.calls.ask("GetAttempt", GetAttemptRequest(name=name))
        except Refused as error:
            if error.refusal.reason == "ATTEMPT_NOT_FOUND":
                return None
            raise
        assert isinstance(answer, GetAttemptResponse)
        return answer

    async def get(self, name: str) -> Attempt:
        """Reads an attempt that must be known.

        Raises:
            Broken: It is not.
        """
        answer = await self.find(name)
        if answer is None:
            raise Broken(
                expected=f"GetAttempt knows {name}, which was taken", seen="ATTEMPT_NOT_FOUND"
            )
        return answer.attempt

    async def settled(self, name: str) -> Attempt:
        """Returns an attempt once it has an outcome.

        Raises:
            Broken: It has none after all our patience.
        """
        delay_s = _LOOK_S
        try:
            async with asyncio.timeout(self.subject.patience_s):
                while True:
                    attempt = await self.get(name)
                    if attempt.state not in OPEN:
                        return attempt
                    await asyncio.sleep(delay_s)
                    delay_s = min(2 * delay_s, _LOOK_S_MAX)
        except TimeoutError:
            raise Broken(
                expected=f"{name} has an outcome within {self.subject.patience_s:g} s",
                seen="it is still open",
            ) from None

    async def attempts(self, prefix: str = "", *, open_only: bool = False) -> list[Attempt]:
        """Lists the attempts of the check's own workflow."""
        found: list[Attempt] = []
        token = ""
        while True:
            answer = await self.calls.ask(
                "ListAttempts",
                ListAttemptsRequest(
                    name_prefix=prefix or self.workflow,
                    open_only=open_only,
                    page_size=_PAGE_SIZE,
                    page_token=token,
                ),
            )
            found += answer.attempts
            if not answer.next_page_token or answer.next_page_token == token:
                return found
            token = answer.next_page_token

    async def inspect(self, address: ImageAddress, *, take_digest: bool = False) -> Image:
        """Looks at an image.

        Raises:
            Refused: There is none.
        """
        request = InspectRequest(address=address, take_digest=take_digest)
        answer: Image = (await self.calls.ask("Inspect", request)).image
        return answer

    async def images(self, pool_id: str = "") -> list[Image]:
        """Lists the images of this check's own."""
        found: list[Image] = []
        token = ""
        while True:
            request = ListImagesRequest(
                pool_id=pool_id or self.pool_id, page_size=_PAGE_SIZE, page_token=token
            )
            answer = await self.calls.ask("ListImages", request)
            found += answer.images
            if not answer.next_page_token or answer.next_page_token == token:
                break
            token = answer.next_page_token
        return [image for image in found if image.address.image_id.startswith(f"{self.prefix}-")]

    async def picture(self) -> dict[str, Seen]:
        """Returns what the pool shows of this check's images; listing and inspection must agree.

        Raises:
            Broken: They do not.
        """
        listed = {image.address.image_id: seen(image) for image in await self.images()}
        for image_id, shown in listed.items():
            address = ImageAddress(pool_id=self.pool_id, image_id=image_id)
            try:
                inspected = seen(await self.inspect(address))
            except Refused as error:
                raise Broken(
                    expected=f"Inspect finds {image_id}, which ListImages lists",
                    seen=str(error.refusal),
                ) from None
            if inspected != shown:
                raise Broken(
                    expected=f"Inspect and ListImages say the same of {image_id}: {shown}",
                    seen=str(inspected),
                )
        return {image_id.removeprefix(f"{self.prefix}-"): one for image_id, one in listed.items()}

    # -- the end --------------------------------------------------------------------------------

    async def clean_up(self) -> list[str]:
        """Makes up for all that was sent, newest first; returns what could not be."""
        left = [one for child in self._children for one in await child.clean_up()]
        for index, (name, action) in enumerate(reversed(self._sent.items())):
            if action.WhichOneof("verb") in FOR_GOOD or not names.parse_attempt(name):
                continue
            parts = names.parse_attempt(name)
            assert parts is not None
            own = names.attempt_name(parts.workflow_id, "clean-up", _CLEAN_UP_NUMBER + index)
            try:
                await self.compensate(own, name, action, owner_epoch=2**31)
                await self.settled(own)
            except (Refused, Broken):
                continue  # what is left of it is found below
        for pool_id in self.subject.pools:
            try:
                left += [
                    f"{pool_id}/{image.address.image_id}" for image in await self.images(pool_id)
                ]
            except Refused as error:
                left.append(f"perhaps something in pool {pool_id}: {error.refusal}")
        return left


def create(address: ImageAddress, **fields: Any) -> Action:  # noqa: ANN401 - CreateImage's fields
    """Returns the making of an empty image."""
    fields = {"format": IMAGE_FORMAT_RAW, "virtual_size_bytes": SIZE_BYTES, **fields}
    return Action(create_image=CreateImage(target=address, **fields))
