"""What a check works with: the agent, a workflow and image ids of its own, and a tidy end.

A `Subject` is the agent as the whole run knows it. A `Probe` is one check's view of it: whatever it
sends is remembered, and made up for when the check has ended, however it has ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from countermand.rpc import names
from countermand.rpc.request_hash import request_hash
from countermand.sanity.asking import Calls, Refused
from countermand.sanity.promises import Broken, NotOffered, equal
from countermand.v1.agent_pb2 import (
    CancelAttemptRequest,
    CompensateRequest,
    ForgetRequest,
    GetAttemptRequest,
    GetAttemptResponse,
    GetHostRequest,
    HostReport,
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

OPEN = frozenset({Attempt.STATE_ACCEPTED, Attempt.STATE_RUNNING, Attempt.STATE_CANCELLING})
CERTAIN = frozenset({Attempt.STATE_SUCCEEDED, Attempt.STATE_FAILED, Attempt.STATE_CANCELLED})

ONLY_READ = frozenset({"verify_image", "noop"})

# Nothing makes up for these; what they leave goes with what they were done to.
FOR_GOOD = frozenset({"delete_image", "delete_snapshot", "verify_image", "noop"})

_LOOK_S = 0.01
_LOOK_S_MAX = 0.25
_CLEAN_UP_NUMBER = 900  # no check numbers its compensations so high
_PAGE_SIZE = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What a pool shows of one image; what may differ between two looks is left out."""

    made_by: str
    cluster_id: str
    generation: int
    format: int
    size_bytes: int
    snapshots: tuple[tuple[str, str], ...]  # (id, the attempt that took it)
    chain: tuple[str, ...] | None  # None, in what is expected: any


@dataclass(slots=True, kw_only=True)
class Subject:
    """The agent that is checked, and what the command was told about it."""

    calls: Calls
    address: str
    host: HostReport
    cluster_id: str
    run: str  # a part of every name that this run makes
    intent: int  # the last intent's number; the next is higher
    pools: tuple[str, ...]
    verbs: tuple[str, ...] = ()  # only these; empty: all that are offered
    source: ImageAddress | None = None  # an image that holds data
    patience_s: float = 60.0
    restart: Callable[[], Awaitable[None]] | None = None
    other: Subject | None = None  # the agent of another host that reaches the same storage
    workflows: list[str] = field(default_factory=list)

    def next_intent(self) -> int:
        """Returns the number of a new intent."""
        self.intent += 1
        return self.intent

    def pool(self, pool_id: str) -> Pool:
        """Returns a pool as the agent describes it.

        Raises:
            NotOffered: It does not.
        """
        for pool in self.host.pools:
            if pool.pool_id == pool_id:
                return pool
        raise NotOffered(f"the agent reports no pool {pool_id}")

    def offers(self, verb: str, pool: Pool) -> bool:
        """Returns whether a verb is offered in a pool, and wanted by the command."""
        return verb in pool.verbs and (not self.verbs or verb in self.verbs)

    async def look(self) -> HostReport:
        """Asks the agent to describe itself anew."""
        self.host = (await self.calls.ask("GetHost", GetHostRequest())).host
        return self.host

    async def forget(self) -> None:
        """Allows the agent to drop what this run has left in its journal."""
        request = ForgetRequest(cluster_id=self.cluster_id, workflows=self.workflows)
        await self.calls.ask("Forget", request)


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
        """Sends an action.

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


def seen(image: Image) -> Seen:
    """Returns what matters of an image."""
    return Seen(
        made_by=image.owner.attempt,
        cluster_id=image.owner.cluster_id,
        generation=image.generation,
        format=image.format,
        size_bytes=image.virtual_size_bytes,
        snapshots=tuple((one.snapshot_id, one.owner.attempt) for one in image.snapshots),
        chain=tuple(below.image_id for below in image.chain),
    )


def without_generations(picture: Mapping[str, Seen]) -> dict[str, Seen]:
    """Returns a picture in which nobody counts."""
    return {image_id: replace(one, generation=0) for image_id, one in picture.items()}


def shows(picture: Mapping[str, Seen], expected: Mapping[str, Seen], about: str) -> None:
    """Raises unless a picture is what was expected.

    Raises:
        Broken: It is not.
    """
    for image_id in sorted(picture.keys() | expected.keys()):
        one, other = picture.get(image_id), expected.get(image_id)
        if one is not None and other is not None and other.chain is None:
            one = replace(one, chain=None)
        equal(one or "no image", other or "no image", f"{about}, image {image_id}")


def must(attempt: Attempt, *states: Attempt.State.ValueType) -> Attempt:
    """Returns an attempt, which must be in one of these states.

    Raises:
        Broken: It is not.
    """
    if attempt.state not in states:
        expected = " or ".join(Attempt.State.Name(state) for state in states)
        raise Broken(expected=f"{attempt.name} is {expected}", seen=told(attempt))
    return attempt


def failed(attempt: Attempt, *reasons: str) -> Attempt:
    """Returns an attempt, which must have failed for one of these reasons.

    Raises:
        Broken: It has not.
    """
    if attempt.state != Attempt.STATE_FAILED or attempt.failure.reason not in reasons:
        expected = " or ".join(reasons)
        raise Broken(expected=f"{attempt.name} is STATE_FAILED / {expected}", seen=told(attempt))
    return attempt


def told(attempt: Attempt) -> str:
    """Returns what a person reads of an attempt's state."""
    state = Attempt.State.Name(attempt.state)
    failure = attempt.failure
    return f"{state} / {failure.reason}: {failure.message}" if failure.reason else state
