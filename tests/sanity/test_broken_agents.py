"""Agents that are broken on purpose: each is caught, by the check whose promise it breaks.

Each is ours with one defect, at the service or inside. That a check can be kept says little; that
it notices its own fault is what makes it worth a vendor's time.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from agent import admission, attempts, watch
from agent.attempts import Admit, Join
from agent.drivers.staging import Staging
from agent.journal import Transaction
from agent.runner import Runner
from agent.service import AgentService
from countermand.rpc import names
from countermand.rpc.errors import (
    AttemptFenced,
    AttemptNotFound,
    AttemptReused,
    Bug,
    CountermandError,
    Expired,
    Fenced,
    FieldInvalid,
    ImageNotFound,
    IncarnationChanged,
    StoreUnavailable,
    Violation,
    WrongCluster,
)
from countermand.v1.agent_pb2 import (
    ContentHead,
    FenceAttemptResponse,
    Heard,
    ReadImageResponse,
)
from countermand.v1.attempt_pb2 import Attempt
from tests.agent.rig import NOW
from tests.sanity.served import SLOW, broken, results, subject

Monkeypatch = pytest.MonkeyPatch


class Service(AgentService):
    """Ours, made as the tests make it."""

    def __init__(self, running: Runner) -> None:
        super().__init__(running, now=lambda: NOW, version="1.2.3")


# -- broken at the service ----------------------------------------------------------------------


class KnowsNothing(Service):
    async def GetAttempt(self, request, context):
        raise AttemptNotFound(attempt=request.name, incarnation=self._runner.identity.incarnation)


class LosesOwnerTags(Service):
    async def ListImages(self, request, context):
        answer = await super().ListImages(request, context)
        for image in answer.images:
            image.owner.ClearField("attempt")
        return answer

    async def Inspect(self, request, context):
        answer = await super().Inspect(request, context)
        answer.image.owner.ClearField("attempt")
        return answer


class InspectsSomethingElse(Service):
    async def Inspect(self, request, context):
        answer = await super().Inspect(request, context)
        answer.image.generation += 1
        return answer


class StuckPages(Service):
    async def ListAttempts(self, request, context):
        request.page_token = ""
        return await super().ListAttempts(request, context)


class BackwardPages(Service):
    async def ListImages(self, request, context):
        answer = await super().ListImages(request, context)
        listed = list(reversed(answer.images))
        del answer.images[:]
        answer.images.extend(listed)
        return answer


class ForgetsPrefixes(Service):
    async def ListAttempts(self, request, context):
        request.name_prefix = request.name_prefix.partition("/tasks/")[0]
        return await super().ListAttempts(request, context)


class NamesNoField(Service):
    async def CreateImage(self, request, context):
        try:
            return await super().CreateImage(request, context)
        except FieldInvalid:
            raise FieldInvalid(Violation("request", "is wrong")) from None


class WrongCode(Service):
    async def Noop(self, request, context):
        try:
            return await super().Noop(request, context)
        except Fenced as error:
            raise OddlyFenced(**error.metadata) from None


class OddlyFenced(Fenced):
    """Owner epoch {owner_epoch} of {workflow} is lower than {highest}."""

    code = StoreUnavailable.code


class NoDigest(Service):
    async def Inspect(self, request, context):
        answer = await super().Inspect(request, context)
        if request.take_digest:
            answer.image.digest = "blake3-4m:" + "0" * 64
        return answer


class SkipsChanges(Service):
    async def WatchAttempts(self, request, context):
        async for message in super().WatchAttempts(request, context):
            if message.updates:
                del message.updates[0]
            yield message


class RepeatsChanges(Service):
    async def WatchAttempts(self, request, context):
        request.after_sequence = max(0, request.after_sequence - 3)
        async for message in super().WatchAttempts(request, context):
            yield message


class BooksNoMark(Service):
    async def WatchAttempts(self, request, context):
        async for message in super().WatchAttempts(request, context):
            message.bookmark = 0
            yield message


class GoesOnAnywhere(Service):
    async def WatchAttempts(self, request, context):
        request.ClearField("after_sequence")
        async for message in super().WatchAttempts(request, context):
            yield message


class DeletesNothingBadly(Service):
    async def DeleteImage(self, request, context):
        target = request.delete_image.target
        listed = self._runner.pools[target.pool_id].list_images(after="", count_max=1000)
        if target.image_id not in {image.image_id for image in listed}:
            raise ImageNotFound(image=target.image_id, pool=target.pool_id)
        return await super().DeleteImage(request, context)


class Boasts(Service):
    async def GetHost(self, request, context):
        answer = await super().GetHost(request, context)
        answer.host.pools[0].verbs.append("resize_image" if _resizes(answer) else "noop")
        answer.host.ClearField("version")
        return answer


def _resizes(answer) -> bool:
    return "resize_image" not in answer.host.pools[0].verbs


class HearsOfWhatItHas(Service):
    async def GetHost(self, request, context):
        answer = await super().GetHost(request, context)
        kept = await self._runner.transact(
            lambda tx: tx.page("", after="", count_max=1, open_only=False)
        )
        if not kept:
            answer.host.heard.CopyFrom(Heard())
        return answer


class CancelsAnything(Service):
    async def CancelAttempt(self, request, context):
        try:
            return await super().CancelAttempt(request, context)
        except AttemptNotFound:
            raise Bug(what="no such attempt") from None


class FencesNothing(Service):
    async def FenceAttempt(self, request, context):
        failure = AttemptFenced(attempt=request.header.attempt).failure()
        attempt = Attempt(name=request.header.attempt, state=Attempt.STATE_FAILED, failure=failure)
        return FenceAttemptResponse(attempt=attempt)


class TakesAnyTicket(Service):
    async def ReadImage(self, request, context):
        yield ReadImageResponse(head=ContentHead(size_bytes=512))


# -- broken inside ------------------------------------------------------------------------------


def forgets_tombstones(patch: Monkeypatch) -> None:
    patch.setattr(admission, "_bury", lambda *arguments: None)


def _challenge(patch: Monkeypatch, ignored: type[CountermandError]) -> None:
    """Makes the agent not mind one of what it looks at first."""
    challenge = attempts.challenge

    def ignoring(header, facts):
        error = challenge(header, facts)
        return None if isinstance(error, ignored) else error

    patch.setattr(attempts, "challenge", ignoring)


def accepts_lower_epochs(patch: Monkeypatch) -> None:
    _challenge(patch, Fenced)


def accepts_any_cluster(patch: Monkeypatch) -> None:
    _challenge(patch, WrongCluster)


def accepts_any_incarnation(patch: Monkeypatch) -> None:
    _challenge(patch, IncarnationChanged)


def forgets_epochs(patch: Monkeypatch) -> None:
    patch.setattr(Transaction, "remember_owner", lambda *arguments, **fields: None)


def _admit(patch: Monkeypatch, change: Callable[..., Any]) -> None:
    admit = attempts.admit

    def changed(header, facts, **others):
        return change(admit(header, facts, **others), header, facts)

    patch.setattr(attempts, "admit", changed)


def reruns_repeats(patch: Monkeypatch) -> None:
    _admit(patch, lambda decision, *_: Admit() if isinstance(decision, Join) else decision)


def _refusing(decision, error: type[CountermandError]) -> bool:
    return isinstance(getattr(decision, "error", None), error)


def takes_other_arguments(patch: Monkeypatch) -> None:
    _admit(
        patch,
        lambda decision, _header, facts: (
            Join(facts.attempt) if _refusing(decision, AttemptReused) else decision
        ),
    )


def forgets_the_watermark(patch: Monkeypatch) -> None:
    _admit(patch, lambda decision, *_: Admit() if _refusing(decision, Expired) else decision)


def forgets_nothing(patch: Monkeypatch) -> None:
    patch.setattr(Transaction, "forget", lambda *arguments: 0)


def looks_at_the_attempt_first(patch: Monkeypatch) -> None:
    """It tells whoever asks what it knows, and only then asks who it was."""
    admit = attempts.admit

    def changed(header, facts, **others):
        known = facts.attempt
        if known is not None and known.request_hash != header.request_hash:
            return attempts.Refuse(AttemptReused(attempt=header.attempt))
        return admit(header, facts, **others)

    patch.setattr(attempts, "admit", changed)


def removes_by_bare_name(patch: Monkeypatch) -> None:
    patch.setattr(Staging, "is_of", lambda *arguments: True)


def makes_up_for_nothing(patch: Monkeypatch) -> None:
    patch.setattr(Staging, "is_of", lambda *arguments: False)


def takes_any_id(patch: Monkeypatch) -> None:
    patch.setattr(names, "is_id", lambda text: "\x00" not in text and text not in {"", ".", ".."})


def takes_upper_case(patch: Monkeypatch) -> None:
    is_id = names.is_id
    patch.setattr(names, "is_id", lambda text: is_id(text.lower()))


def refuses_long_ids(patch: Monkeypatch) -> None:
    is_id = names.is_id
    patch.setattr(names, "is_id", lambda text: is_id(text) and len(text) < 63)


def counts_no_generations(patch: Monkeypatch) -> None:
    from agent.drivers.looking import Looking

    found = Looking._found

    def uncounted(*arguments):
        return replace(found(*arguments), generation=1)

    patch.setattr(Looking, "_found", uncounted)


def is_full_in_silence(patch: Monkeypatch) -> None:
    """What stands beyond the queue is journalled, and then forgotten about."""
    from agent.running import Slots

    patch.setattr(Slots, "take", lambda slots: slots.retake())


def is_mute(patch: Monkeypatch) -> None:
    from countermand.sanity.checks import watching

    patch.setattr(watch, "BOOKMARK_INTERVAL_S", 3600.0)
    patch.setattr(watching, "BOOKMARK_S_MAX", 0.5)


def stops_for_compensations(patch: Monkeypatch) -> None:
    """A compensation that is asked to stop is recorded as cancelled."""
    cancel = Runner.cancel

    async def stopping(self, message):
        told = await cancel(self, message)
        if told.kind == Attempt.KIND_COMPENSATION:
            record = await self.transact(lambda tx: tx.get(told.name))
            stopped = replace(record, state=attempts.State.CANCELLED)
            await self.transact(lambda tx: tx.put(stopped))
        return told

    patch.setattr(Runner, "cancel", stopping)


SERVICES = {
    KnowsNothing: "header.repeat",
    LosesOwnerTags: "verbs.acts",
    InspectsSomethingElse: "listing.images_and_inspect",
    StuckPages: "listing.attempts",
    BackwardPages: "listing.images",
    ForgetsPrefixes: "listing.attempts",
    NamesNoField: "fields.sizes",
    WrongCode: "header.lower_epoch",
    NoDigest: "verbs.digests",
    SkipsChanges: "watch.from_the_beginning",
    RepeatsChanges: "watch.gapless",
    BooksNoMark: "watch.first_message",
    GoesOnAnywhere: "watch.sequence_ahead",
    DeletesNothingBadly: "verbs.delete_absent",
    Boasts: "listing.host",
    HearsOfWhatItHas: "listing.heard",
    CancelsAnything: "cancel.unknown",
    FencesNothing: "fence.before",
    TakesAnyTicket: "serve.tickets",
}
DEFECTS = {
    forgets_tombstones: "header.tombstone",
    accepts_lower_epochs: "header.lower_epoch",
    accepts_any_cluster: "header.other_cluster",
    accepts_any_incarnation: "header.other_incarnation",
    forgets_epochs: "header.higher_epoch",
    reruns_repeats: "header.repeat",
    takes_other_arguments: "header.reused",
    looks_at_the_attempt_first: "header.order",
    forgets_the_watermark: "header.forgotten",
    forgets_nothing: "header.forgotten",
    is_full_in_silence: "header.queue_full",
    removes_by_bare_name: "verbs.taken",
    makes_up_for_nothing: "verbs.made_up_for",
    takes_any_id: "fields.ids",
    takes_upper_case: "fields.ids",
    refuses_long_ids: "fields.good_ids",
    counts_no_generations: "verbs.acts",
    is_mute: "watch.bookmarks",
    stops_for_compensations: "cancel.compensation",
}


async def caught(folder, check: str, **fields) -> dict[str, str]:
    """Returns what a check finds broken."""
    async with subject(folder, source=True, **fields) as one:
        one.patience_s = 0.5
        found = await results(one, check, skip=("qcow2",))
        with contextlib.suppress(Exception):
            await one.forget()
    return broken(found)


def _named(faults: dict[Any, str]) -> list[Any]:
    return [pytest.param(fault, check, id=fault.__name__) for fault, check in faults.items()]


@pytest.mark.parametrize(("make", "check"), _named(SERVICES))
async def test_what_a_broken_service_says_is_noticed(make, check, tmp_path):
    options = {"shared": True} if "fence" in check else None
    found = await caught(tmp_path, check, make=make, options=options)
    assert found, f"{make.__name__} was not noticed by {check}"
    assert all(label.startswith(check) for label in found)


@pytest.mark.parametrize(("defect", "check"), _named(DEFECTS))
async def test_a_defect_inside_is_noticed(defect, check, tmp_path, monkeypatch):
    defect(monkeypatch)
    found = await caught(tmp_path, check, **(SLOW if "queue" in check else {}))
    assert found, f"{defect.__name__} was not noticed by {check}"
    assert all(label.startswith(check) for label in found)
