"""The table of verbs: what each does, what makes up for it, and what is refused beforehand."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

from agent.closed import driver_of
from agent.drivers.driver import Driver
from agent.verbs.clone_image import clone_image, unclone_image
from agent.verbs.context import FORMATS, Act, MakeUp
from agent.verbs.copy_image import copy_image, uncopy_image
from agent.verbs.create_image import create_image, uncreate_image
from agent.verbs.create_snapshot import create_snapshot, uncreate_snapshot
from agent.verbs.custom import can_uncustom, check_custom, custom, refuse_custom, uncustom
from agent.verbs.delete_image import delete_image
from agent.verbs.delete_snapshot import delete_snapshot
from agent.verbs.noop import noop, unnoop
from agent.verbs.plugins import NO_PLUGINS, Effect, Plugins
from agent.verbs.resize_image import can_unresize, resize_image, unresize_image
from agent.verbs.revert_image import can_unrevert, revert_image, unrevert_image
from agent.verbs.verify_image import unverify_image, verify_image
from countermand.rpc import names
from countermand.rpc.errors import (
    CountermandError,
    FieldInvalid,
    PoolFailing,
    PoolNotFound,
    PoolReadOnly,
    VerbUnsupported,
    Violation,
)
from countermand.v1.image_pb2 import ImageAddress
from countermand.v1.verb_pb2 import Action

SIZE_BYTES_MAX = 2**50
SIZE_BYTES_UNIT = 512

_DIGEST = re.compile(r"blake3-4m:[0-9a-f]{64}")


def _always(_action: Action) -> bool:
    """Returns that a verb's opposite does not depend on its arguments."""
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Verb:
    """One verb; those that touch no storage never leave the event loop."""

    act: Act
    make_up: MakeUp | None  # None: nothing makes up for it
    can_make_up: Callable[[Action], bool] = _always  # of these arguments
    touches_storage: bool = True
    only_reads: bool = False


VERBS: Mapping[str, Verb] = {
    "create_image": Verb(act=create_image, make_up=uncreate_image),
    "copy_image": Verb(act=copy_image, make_up=uncopy_image),
    "clone_image": Verb(act=clone_image, make_up=unclone_image),
    "delete_image": Verb(act=delete_image, make_up=None),
    "resize_image": Verb(act=resize_image, make_up=unresize_image, can_make_up=can_unresize),
    "create_snapshot": Verb(act=create_snapshot, make_up=uncreate_snapshot),
    "delete_snapshot": Verb(act=delete_snapshot, make_up=None),
    "revert_image": Verb(act=revert_image, make_up=unrevert_image, can_make_up=can_unrevert),
    "verify_image": Verb(act=verify_image, make_up=unverify_image, only_reads=True),
    "noop": Verb(act=noop, make_up=unnoop, touches_storage=False),
}


CUSTOM = "custom"  # in no table: what is installed is found when the agent starts


def verb_of(action: Action, plugins: Plugins) -> Verb | None:
    """Returns what does an action; None if nothing here does."""
    if name_of(action) != CUSTOM:
        return VERBS.get(name_of(action))
    plugin = plugins.get(action.custom.verb)
    if plugin is None:
        return None
    return Verb(
        act=partial(custom, plugin),
        make_up=partial(uncustom, plugin) if can_uncustom(plugin) else None,
        only_reads=plugin.effect is Effect.READ_ONLY,
    )


def name_of(action: Action) -> str:
    """Returns the name of an action's verb; empty when it has none."""
    return action.WhichOneof("verb") or ""


def make_up_of(action: Action, plugins: Plugins) -> MakeUp | None:
    """Returns what makes up for an action, or None if nothing does here."""
    verb = verb_of(action, plugins)
    return verb.make_up if verb is not None and verb.can_make_up(action) else None


def addresses(action: Action) -> Iterator[tuple[str, ImageAddress]]:
    """Yields the images that an action names, with the names of their fields."""
    verb = name_of(action)
    request = getattr(action, verb)
    for field in ("source", "target"):
        if verb == CUSTOM and not request.HasField(field):
            continue  # its plug-in knows whether it needs one
        if field in request.DESCRIPTOR.fields_by_name:
            yield f"{verb}.{field}", getattr(request, field)


def local_addresses(action: Action) -> Iterator[tuple[str, ImageAddress]]:
    """Yields the images that an action names, without one that another host serves."""
    remote = f"{name_of(action)}.source" if action.copy_image.source_host_id else ""
    return (named for named in addresses(action) if named[0] != remote)


def pools(action: Action) -> frozenset[str]:
    """Returns the pools that an action reads or writes; none of a verb that is not known here."""
    if name_of(action) not in VERBS and name_of(action) != CUSTOM:
        return frozenset()
    return frozenset(address.pool_id for _, address in local_addresses(action))


def check(action: Action) -> None:
    """Refuses what no host could do.

    Raises:
        FieldInvalid: A field is missing or malformed; every such field is named.
    """
    verb = name_of(action)
    if not verb:
        raise FieldInvalid(Violation("action", "must have one verb"))
    violations = [
        Violation(f"{field}.{part}", names.ID_RULE)
        for field, address in addresses(action)
        for part in ("pool_id", "image_id")
        if not names.is_id(getattr(address, part))
    ]
    violations += _particulars(action)
    if violations:
        raise FieldInvalid(*violations)


def _particulars(action: Action) -> Iterator[Violation]:
    verb = name_of(action)
    request = getattr(action, verb)
    if verb in {"create_image", "resize_image"}:
        size = request.virtual_size_bytes
        if not 0 < size <= SIZE_BYTES_MAX or size % SIZE_BYTES_UNIT:
            rule = f"must be a multiple of {SIZE_BYTES_UNIT}, up to {SIZE_BYTES_MAX}"
            yield Violation(f"{verb}.virtual_size_bytes", rule)
    if verb in {"create_image", "copy_image"} and request.format not in FORMATS:
        yield Violation(f"{verb}.format", "must be raw or qcow2")
    if verb in {"copy_image", "clone_image"} and request.source == request.target:
        yield Violation(f"{verb}.target", "must not be the source")
    if verb == "clone_image" and request.source.pool_id != request.target.pool_id:
        yield Violation("clone_image.target.pool_id", "must be the source's pool")
    if verb in {"create_snapshot", "delete_snapshot", "revert_image"}:
        yield from _of_snapshots(verb, request.snapshot_id, action.revert_image.safety_snapshot_id)
    if getattr(request, "expected_generation", 0) < 0:
        yield Violation(f"{verb}.expected_generation", "must not be negative")
    source_host = action.copy_image.source_host_id
    if source_host and not names.is_id(source_host):
        yield Violation("copy_image.source_host_id", names.ID_RULE)
    if verb == CUSTOM:
        yield from check_custom(action.custom)
    if verb == "verify_image" and request.digest and not _DIGEST.fullmatch(request.digest):
        yield Violation("verify_image.digest", "must be blake3-4m: and 64 hexadecimal digits")


def _of_snapshots(verb: str, snapshot_id: str, safety_id: str) -> Iterator[Violation]:
    if not names.is_id(snapshot_id):
        yield Violation(f"{verb}.snapshot_id", names.ID_RULE)
    if safety_id and not names.is_id(safety_id):
        yield Violation(f"{verb}.safety_snapshot_id", names.ID_RULE)
    if safety_id and safety_id == snapshot_id:
        yield Violation(f"{verb}.safety_snapshot_id", "must not be the snapshot to go back to")


def refusal(
    action: Action, pools: Mapping[str, Driver], plugins: Plugins = NO_PLUGINS
) -> CountermandError | None:
    """Returns why this host cannot do an action at all, or None."""
    verb = name_of(action)
    if verb == CUSTOM:
        return refuse_custom(action.custom, pools, plugins)
    if verb not in VERBS:
        pool = ", ".join(sorted({address.pool_id for _, address in addresses(action)}))
        return VerbUnsupported(
            pool=pool, verb=verb, why="this version of the agent has no such verb"
        )
    for field, address in local_addresses(action):
        try:
            driver = driver_of(pools, address.pool_id)
        except (PoolNotFound, PoolFailing) as error:
            return error
        if verb not in driver.verbs:
            return VerbUnsupported(pool=address.pool_id, verb=verb, why="its driver cannot")
        if driver.config.read_only and field.endswith(".target") and not VERBS[verb].only_reads:
            return PoolReadOnly(pool=address.pool_id)
    return None
