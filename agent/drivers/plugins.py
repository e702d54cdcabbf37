"""How drivers are found: by name, among what the installed packages declare.

A package declares its drivers as entry points of the group `countermand.drivers`, ours included.
The entry point's name is what administrators write as `driver=…`; it leads to a `DriverType`, which
knows which pools it can serve and opens them. Nothing of a driver is imported before it is asked
for, so one that is broken harms nobody who does not use it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Generic, Protocol, TypedDict, TypeVar, runtime_checkable

from agent.drivers.driver import NEEDS, Driver, PoolConfig

T = TypeVar("T")

GROUP = "countermand.drivers"

_FLAG_VALUES = {"": True, "true": True, "false": False}


class ConfigInvalid(Exception):
    """The configuration says something that cannot be."""


@runtime_checkable
class DriverType(Protocol):
    """A kind of driver: says what may be written about its pools, and opens them."""

    @property
    def verbs(self) -> frozenset[str]:
        """Returns what its pools can do at best."""
        ...

    @property
    def options(self) -> Mapping[str, str]:
        """Returns its own options, each with a word for people; they come as `config.options`."""
        ...

    def folder(self, pool: PoolConfig) -> Path | None:
        """Returns the folder that a pool must have to itself; None if it needs none."""
        ...

    def check(self, pool: PoolConfig) -> None:
        """Refuses a pool that it cannot serve, whatever is there; touches nothing.

        Raises:
            ConfigInvalid: Says which option is wrong, and what to write instead.
        """
        ...

    def identity(self, pool: PoolConfig) -> str:
        """Returns which storage is there now; empty if it carries no identity so far.

        Raises:
            ConfigInvalid: It is not what the pool is said to be.
        """
        ...

    def mark(self, pool: PoolConfig, identity: str) -> str:
        """Returns the identity that the storage durably carries: this one, if it had none.

        Raises:
            ConfigInvalid: It cannot be written.
        """
        ...

    def open(self, pool: PoolConfig, identity: str) -> Driver:
        """Serves a pool; believes the storage only while it carries that identity.

        Raises:
            ConfigInvalid: It cannot be served.
            OSError: What the operating system says to it.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Declared(Generic[T]):
    """A driver, or a verb, as a package declares it."""

    name: str
    package: str
    entry_point: EntryPoint
    what: str  # "driver"
    kind: type[T]  # what it must be

    def load(self) -> T:
        """Imports it.

        Raises:
            ConfigInvalid: That fails, or it is no such thing.
        """
        where = f"{self.what} {self.name} of {self.package} ({self.entry_point.value})"
        try:
            found: object = self.entry_point.load()
        except Exception as error:  # it is somebody else's code
            why = f"{type(error).__name__}: {error}"
            raise ConfigInvalid(f"{where} cannot be imported: {why}") from error
        if not isinstance(found, self.kind):
            raise ConfigInvalid(f"{where} is no {self.what}: it lacks {_lacks(found, self.kind)}")
        return found


class Description(TypedDict):
    """What is told of a driver."""

    name: str
    package: str
    verbs: list[str]
    options: dict[str, str]
    problem: str  # why it cannot be used; empty if it can


class Installed(Generic[T]):
    """What the packages on this host declare of one kind."""

    def __init__(self, declared: Iterable[EntryPoint], what: str, kind: type[T]) -> None:
        """Sorts what is declared by name; imports nothing."""
        self._what = what
        self._declared: dict[str, list[Declared[T]]] = {}
        for point in declared:
            found = Declared(
                name=point.name, package=_package(point), entry_point=point, what=what, kind=kind
            )
            same = self._declared.setdefault(point.name, [])
            if found.package not in {other.package for other in same}:
                same.append(found)

    @property
    def names(self) -> list[str]:
        """Returns their names, sorted."""
        return sorted(self._declared)

    def declared(self, name: str) -> Declared[T]:
        """Returns one by its name.

        Raises:
            ConfigInvalid: No package declares it, or more than one.
        """
        match self._declared.get(name, []):
            case [found]:
                return found
            case []:
                there = ", ".join(self.names) or "none"
                raise ConfigInvalid(f"no {self._what} {name!r} is installed; there are {there}")
            case several:
                packages = " and ".join(sorted(found.package for found in several))
                what = f"{self._what} {name}"
                raise ConfigInvalid(f"{what} is declared by {packages}: uninstall one")

    def all(self) -> list[Declared[T]]:
        """Returns whatever is declared, in order of the names."""
        return [found for name in self.names for found in self._declared[name]]

    def load(self, name: str) -> T:
        """Imports one by its name.

        Raises:
            ConfigInvalid: There is none of this name, or it is broken.
        """
        return self.declared(name).load()


class Drivers(Installed[DriverType]):
    """The drivers that are installed on this host."""

    def __init__(self, declared: Iterable[EntryPoint]) -> None:
        """Sorts what is declared by name; imports nothing."""
        super().__init__(declared, "driver", DriverType)

    def open(self, pool: PoolConfig, identity: str) -> Driver:
        """Serves a pool, by a driver that can do what it says.

        Raises:
            ConfigInvalid: The pool cannot be served.
        """
        where = f"pool {pool.pool_id} at {pool.path}"
        try:
            driver = self.load(pool.driver).open(pool, identity)
        except OSError as error:
            raise ConfigInvalid(f"{where}: {error.strerror or error}") from error
        try:
            check_abilities(driver)
        except ValueError as error:
            raise ConfigInvalid(f"{where}: driver {pool.driver} {error}") from error
        return driver


def installed() -> Drivers:
    """Returns the drivers that the installed packages declare."""
    return Drivers(entry_points(group=GROUP))


def parse_flag(name: str, text: str) -> bool:
    """Returns whether a flag is set: by its name alone, or by true or false.

    Raises:
        ConfigInvalid: It says something else.
    """
    if text.lower() not in _FLAG_VALUES:
        raise ConfigInvalid(f"{name} is true or false, not {text!r}")
    return _FLAG_VALUES[text.lower()]


def flag(pool: PoolConfig, name: str) -> bool:
    """Returns whether a flag among a driver's own options is set for a pool.

    Raises:
        ConfigInvalid: It says something that is neither.
    """
    return parse_flag(name, pool.options.get(name, "false"))


def describe(found: Declared[DriverType]) -> Description:
    """Returns what a driver can do, or why it cannot be used."""
    about = Description(name=found.name, package=found.package, verbs=[], options={}, problem="")
    try:
        kind = found.load()
    except ConfigInvalid as error:
        return {**about, "problem": str(error)}
    return {**about, "verbs": sorted(kind.verbs), "options": dict(kind.options)}


def tell(about: Description) -> str:
    """Returns what is told of a driver, for people."""
    lines = [f"{about['name']}  ({about['package']})"]
    if about["problem"]:
        return "\n".join([*lines, f"  cannot be used: {about['problem']}"])
    lines.append(f"  verbs    {' '.join(about['verbs'])}")
    for index, (option, word) in enumerate(sorted(about["options"].items())):
        lines.append(f"  {'' if index else 'options':8} {option}: {word}")
    return "\n".join(lines)


def check_abilities(driver: Driver) -> None:
    """Makes sure that a driver is what its verbs need, so that no attempt finds out first.

    Raises:
        ValueError: It names a verb that it cannot do; says what it lacks.
    """
    if lacking := _lacks(driver, Driver):
        raise ValueError(f"is no driver: it lacks {lacking}")
    for verb in sorted(driver.verbs):
        if verb not in NEEDS:
            raise ValueError(f"names {verb}, which is no verb")
        needed = NEEDS[verb]
        if needed is not None and not isinstance(driver, needed):
            lacking = _lacks(driver, needed)
            raise ValueError(f"names {verb}, and is none that {needed.__name__}: lacks {lacking}")


def _lacks(found: object, protocol: type) -> str:
    """Returns the members of a protocol that something has not."""
    members = [name for name in dir(protocol) if not name.startswith("_")]
    return ", ".join(name for name in members if not hasattr(found, name))


def _package(point: EntryPoint) -> str:
    """Returns which package declares something, and its version."""
    return f"{point.dist.name} {point.dist.version}" if point.dist else "an unknown package"
