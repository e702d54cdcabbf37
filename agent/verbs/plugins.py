"""How verbs of somebody else's are found: by name, among what the installed packages declare.

A package declares its verbs as entry points of the group `countermand.verbs`. The entry point's
name is what specs write as `custom.verb`, "<vendor>/<name>"; it leads to a `VerbType`. All of them
are imported when the agent starts; one that is broken is told of, and is not served.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType
from typing import Protocol, TypeAlias, TypedDict, runtime_checkable

from agent.closed import ClosedPool
from agent.drivers.driver import Driver, Steps
from agent.drivers.plugins import ConfigInvalid, Declared, Installed
from agent.verbs.context import Context
from countermand.rpc.names import VERB_RULE, is_custom_verb
from countermand.v1.image_pb2 import ImageAddress

log = logging.getLogger(__name__)

GROUP = "countermand.verbs"

Json: TypeAlias = "Mapping[str, Json] | list[Json] | str | int | float | bool | None"
Scalar: TypeAlias = str | int | float | bool


class Effect(StrEnum):
    """What a verb does to the world, and so what a workflow does about it."""

    READ_ONLY = "READ_ONLY"
    REVERSIBLE = "REVERSIBLE"  # then it is a `MakesUp` besides
    PIVOT = "PIVOT"
    FORWARD_ONLY = "FORWARD_ONLY"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a verb is asked for; images that it does not take are empty."""

    source: ImageAddress
    target: ImageAddress
    arguments: Mapping[str, Json]  # whole numbers are ints


@runtime_checkable
class VerbType(Protocol):
    """A verb: says what it needs, refuses what it cannot do, and does the rest."""

    @property
    def effect(self) -> Effect:
        """Returns what it does to the world; a request that says otherwise is refused."""
        ...

    @property
    def source(self) -> type[Driver] | None:
        """Returns what the driver of its source's pool must be; None if it takes no source."""
        ...

    @property
    def target(self) -> type[Driver] | None:
        """Returns what the driver of its target's pool must be; None if it takes no target."""
        ...

    def check(self, arguments: Mapping[str, Json]) -> Mapping[str, str]:
        """Returns what is wrong with arguments, by their keys; touches nothing."""
        ...

    def act(self, context: Context, request: Request) -> Steps[Mapping[str, Scalar]]:
        """Does it, and returns what later tasks may be bound to; safe to repeat."""
        ...


@runtime_checkable
class MakesUp(VerbType, Protocol):
    """A verb that is REVERSIBLE."""

    def make_up(self, context: Context, request: Request, made_by: str) -> Steps[None]:
        """Takes back what exactly that attempt did; nothing is fine. Safe to repeat."""
        ...


Plugins = Mapping[str, VerbType]
NO_PLUGINS: Plugins = MappingProxyType({})


class Description(TypedDict):
    """What is told of a verb."""

    name: str
    package: str
    effect: str
    source: str  # what it needs of the source's driver; empty if it takes no source
    target: str
    problem: str  # why it is not served; empty if it is


class Verbs(Installed[VerbType]):
    """The verbs of others that are installed on this host."""

    def __init__(self, declared: Iterable[EntryPoint]) -> None:
        """Sorts what is declared by name; imports nothing."""
        super().__init__(declared, "verb", VerbType)

    def served(self) -> Plugins:
        """Imports all of them; returns those that can be used, and logs why others cannot."""
        return MappingProxyType(dict(self._served()))

    def _served(self) -> Iterator[tuple[str, VerbType]]:
        for name in self.names:
            try:
                found = self.declared(name)
                yield name, _usable(found)
            except ConfigInvalid as error:
                log.exception("verb.broken", extra={"verb": name, "error": str(error)})

    def describe(self) -> Iterator[Description]:
        """Yields what each is, or why it is not served."""
        for found in self.all():
            about = Description(
                name=found.name, package=found.package, effect="", source="", target="", problem=""
            )
            try:
                self.declared(found.name)
                kind = _usable(found)
            except ConfigInvalid as error:
                yield {**about, "problem": str(error)}
                continue
            yield {
                **about,
                "effect": kind.effect,
                "source": kind.source.__name__ if kind.source else "",
                "target": kind.target.__name__ if kind.target else "",
            }


def installed() -> Verbs:
    """Returns the verbs that the installed packages declare."""
    return Verbs(entry_points(group=GROUP))


def tell(about: Description) -> str:
    """Returns what is told of a verb, for people."""
    lines = [f"{about['name']}  ({about['package']})"]
    if about["problem"]:
        return "\n".join([*lines, f"  not served: {about['problem']}"])
    lines.append(f"  effect   {about['effect']}")
    if about["source"]:
        lines.append(f"  source   in a pool whose driver {about['source'].lower()}")
    if about["target"]:
        lines.append(f"  target   in a pool whose driver {about['target'].lower()}")
    return "\n".join(lines)


def works_in(verb: VerbType, driver: Driver) -> bool:
    """Returns whether a verb can do something in a pool."""
    needs = {verb.source} if driver.config.read_only else {verb.source, verb.target}
    if verb.effect is Effect.READ_ONLY:
        needs.add(verb.target)
    # Of a pool that is not open nobody knows what it cannot do: it is told of as failing.
    is_open = not isinstance(driver, ClosedPool)
    return any(not is_open or isinstance(driver, needed) for needed in needs if needed is not None)


def _usable(found: Declared[VerbType]) -> VerbType:
    """Imports a verb, and makes sure that it is what it says.

    Raises:
        ConfigInvalid: It is not.
    """
    where = f"verb {found.name} of {found.package}"
    if not is_custom_verb(found.name):
        raise ConfigInvalid(f"{where}: its name {VERB_RULE}")
    kind = found.load()
    if not isinstance(kind.effect, Effect):  # it is what it says, not what its types say
        raise ConfigInvalid(f"{where}: its effect must be an Effect: one of {', '.join(Effect)}")
    if kind.effect is Effect.REVERSIBLE and not isinstance(kind, MakesUp):
        raise ConfigInvalid(f"{where} is REVERSIBLE, and has no make_up")
    return kind
