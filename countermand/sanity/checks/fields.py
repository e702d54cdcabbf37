"""What is refused because it is malformed: no path is ever made of what comes over the wire."""

from __future__ import annotations

from collections.abc import Iterator
from operator import attrgetter

from google.protobuf.message import Message

from countermand.sanity.asking import Refusal, refused
from countermand.sanity.probe import Probe, create
from countermand.sanity.promises import Area, Each, equal, holds
from countermand.v1.agent_pb2 import (
    ForgetRequest,
    GetAttemptRequest,
    InspectRequest,
    ListAttemptsRequest,
    ListImagesRequest,
)
from countermand.v1.image_pb2 import ImageAddress
from countermand.v1.verb_pb2 import Action

AREA = Area("fields", told="image.proto, ImageAddress: [a-z0-9][a-z0-9._-]{0,62}")

BAD_IDS = {
    "empty": "",
    "too long by one": "a" * 64,
    "upper case": "Image",
    "beginning with a dot": ".image",
    "beginning with a dash": "-image",
    "beginning with an underscore": "_image",
    "the folder itself": ".",
    "the folder above": "..",
    "traversal": "../image",
    "traversal further in": "a/../../etc/passwd",
    "an absolute path": "/etc/passwd",
    "a backslash": "a\\b",
    "NUL": "image\x00",
    "NUL and more": "image\x00.raw",
    "a line's end": "image\n",
    "a space": "my image",
    "a snapshot's name": "image@old",
    "a protocol": "nbd:localhost",
    "a full-width look-alike": "\uff49mage",
    "a Cyrillic look-alike": "im\u0430ge",
    "a combining accent": "image\u0301",
    "a bidirectional mark": "image\u202egpj",
}

# All that a verb's message may name a thing by.
_IDS = ("snapshot_id",)
_ADDRESSES = ("source", "target")

SIZES = {
    "nothing": 0,
    "less than nothing": -512,
    "one less than a block": 511,
    "one more than a block": 513,
    "the smallest int64": -(2**63),
    "more than the largest": 2**50 + 512,
    "the largest int64": 2**63 - 1,
}


def _names(refusal: Refusal, field: str) -> None:
    """Raises unless a refusal names a field, with whatever stands before it."""
    holds(
        any(one == field or one.endswith(f".{field}") for one in refusal.fields),
        f"the refusal names {field}",
        refusal,
    )


def _spoilt(action: Action, value: str) -> Iterator[tuple[str, Action]]:
    """Yields an action with each of its ids spoilt, and the path of that id."""
    verb = action.WhichOneof("verb") or ""
    known = getattr(action, verb).DESCRIPTOR.fields_by_name
    for field in _ADDRESSES:
        for part in ("pool_id", "image_id") if field in known else ():
            yield f"{verb}.{field}.{part}", _with(action, verb, (field, part), value)
    for field in _IDS:
        if field in known:
            yield f"{verb}.{field}", _with(action, verb, (field,), value)


def _with(action: Action, verb: str, path: tuple[str, ...], value: str) -> Action:
    spoilt = Action()
    spoilt.CopyFrom(action)
    message: Message = getattr(spoilt, verb)
    for field in path[:-1]:
        message = getattr(message, field)
    setattr(message, path[-1], value)
    return spoilt


@AREA.promise(
    "an id that is none is refused, and the field is named",
    each=Each.VERB,
    fits=attrgetter("names_images"),
)
async def ids(probe: Probe) -> None:
    """Every id of every verb, with everything that has ever led out of a folder."""
    action = await probe.case.prepare(probe)
    before = await probe.picture()
    spoilt = 0
    for what, value in BAD_IDS.items():
        for field, bad in _spoilt(action, value):
            spoilt += 1
            sending = probe.send(probe.attempt(f"bad-{spoilt}"), bad)
            refusal = await refused("FIELD_INVALID", sending, about=f"{field}, {what}")
            _names(refusal, field.partition(".")[2])
    equal(await probe.picture(), before, "what the pool shows")
    journalled = [one.name for one in await probe.attempts(f"{probe.workflow}/tasks/bad-")]
    equal(journalled, [], "attempts that are journalled of it")


@AREA.promise("the longest id and every allowed character are taken", each=Each.POOL)
async def good_ids(probe: Probe) -> None:
    """Up to 63 characters, and not one less."""
    probe.need("create_image")
    for text in ("a" * (63 - len(probe.prefix) - 1), "0..__--z", "9"):
        await probe.created(text)
    equal(len(await probe.picture()), 3, "images of these ids that the pool shows")


@AREA.promise(
    "a size that is none is refused, and the field is named",
    told="verb.proto, CreateImage.virtual_size_bytes",
    each=Each.POOL,
)
async def sizes(probe: Probe) -> None:
    """1 to 2^50, a multiple of 512."""
    probe.need("create_image")
    for number, (what, size) in enumerate(SIZES.items(), 1):
        action = create(probe.address("made"), virtual_size_bytes=size)
        sending = probe.send(probe.attempt(f"t{number}"), action)
        about = f"virtual_size_bytes, {what}"
        _names(await refused("FIELD_INVALID", sending, about=about), "virtual_size_bytes")
    equal(await probe.picture(), {}, "what the pool shows")


@AREA.promise(
    "a format that is none is refused, and the field is named",
    told="image.proto, ImageFormat",
    each=Each.POOL,
)
async def formats(probe: Probe) -> None:
    """A number that no version of the contract knows."""
    probe.need("create_image")
    sending = probe.send(probe.attempt("t"), create(probe.address("made"), format=99))
    _names(await refused("FIELD_INVALID", sending, about="format 99"), "format")
    equal(await probe.picture(), {}, "what the pool shows")


@AREA.promise("a pool that this host does not reach is told, and nothing is journalled")
async def unknown_pool(probe: Probe) -> None:
    """By verbs and by those who look."""
    address = ImageAddress(pool_id=f"{probe.prefix}-none", image_id="image")
    name = probe.attempt("t")
    for pool_id in probe.subject.pools:
        if "create_image" in probe.subject.pool(pool_id).verbs:
            await refused("POOL_NOT_FOUND", probe.send(name, create(address)), about="a verb")
    holds(await probe.find(name) is None, "nothing is journalled of it", f"{name} is known")
    inspection = probe.calls.ask("Inspect", InspectRequest(address=address))
    await refused("POOL_NOT_FOUND", inspection, about="Inspect")
    listing = probe.calls.ask("ListImages", ListImagesRequest(pool_id=address.pool_id))
    await refused("POOL_NOT_FOUND", listing, about="ListImages")


@AREA.promise("malformed names and pages are refused by those who look, too", each=Each.POOL)
async def looking(probe: Probe) -> None:
    """Inspect, GetAttempt, ListAttempts, ListImages, Forget."""
    for what, value in BAD_IDS.items():
        request = InspectRequest(address=ImageAddress(pool_id=probe.pool_id, image_id=value))
        inspection = probe.calls.ask("Inspect", request)
        refusal = await refused("FIELD_INVALID", inspection, about=f"Inspect, {what}")
        _names(refusal, "image_id")
    cases: dict[str, tuple[str, Message]] = {
        "name": ("GetAttempt", GetAttemptRequest(name="workflows/w/tasks/t/attempts/0")),
        "cluster_id": (
            "GetAttempt",
            GetAttemptRequest(name=probe.attempt("t"), owner_epoch=1),
        ),
        "page_size": ("ListAttempts", ListAttemptsRequest(page_size=-1)),
        "low_watermark": (
            "Forget",
            ForgetRequest(cluster_id=probe.subject.cluster_id, low_watermark=-1),
        ),
    }
    for field, (call, request_of) in cases.items():
        _names(await refused("FIELD_INVALID", probe.calls.ask(call, request_of)), field)
    listing = ListImagesRequest(pool_id=probe.pool_id, page_size=-1)
    _names(await refused("FIELD_INVALID", probe.calls.ask("ListImages", listing)), "page_size")


@AREA.promise(
    "a compensation that names no attempt of its own workflow is refused",
    told="agent.proto, CompensateRequest",
)
async def compensations(probe: Probe) -> None:
    """Nor does anything make up for a compensation, or for itself."""
    name, action = probe.attempt("t"), probe.light()
    own = probe.attempt("t", 2)
    wrong = {
        "another workflow's": "workflows/sanity-somebody-else/tasks/t/attempts/1",
        "no attempt's name": "t",
        "itself": own,
    }
    for what, compensates in wrong.items():
        asking = probe.compensate(own, compensates, action)
        refusal = await refused("FIELD_INVALID", asking, about=f"compensates: {what}")
        _names(refusal, "compensates")
    await refused("FIELD_INVALID", probe.compensate(own, name, Action()), about="no action")
    await probe.made_up(own, name, action)
    asking = probe.compensate(probe.attempt("t", 3), own, action)
    await refused("FIELD_INVALID", asking, about="compensates: a compensation")
