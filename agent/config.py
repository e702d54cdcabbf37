"""How an administrator describes a pool: on the command line, or in a file."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path

from agent.drivers.driver import FLUSH_BYTES, PoolConfig
from agent.drivers.plugins import ConfigInvalid, Drivers, DriverType, parse_flag
from countermand.rpc import names

_UNITS = {"": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
_BARE_BYTES_MIN = 2**20  # fewer without a unit are GiB that somebody has forgotten to write
_SIZE = re.compile(r"(\d+)\s*([KMGT]iB|)")

# What may be written about every pool; whatever else is its driver's to know.
FLAGS = {
    "read_only": "nothing is ever written to it",
    "shared": "several hosts reach it",
    "journals_beside": "journals lie on its disk",
}
SIZES = {
    "quota": "quota_bytes",
    "bandwidth": "bandwidth_bytes_per_s",
    "flush": "flush_bytes",
}
COUNTS = {"attempts_max": "attempts_max"}
DRIVER = "driver"
DRIVER_DEFAULT = "file"
COMMON = frozenset({DRIVER, *FLAGS, *SIZES, *COUNTS})


def parse_size(text: str) -> int:
    """Returns the bytes of "64MiB"; without a unit, of as many as somebody may mean."""
    match = _SIZE.fullmatch(text.strip())
    if match is None or int(match[1]) == 0:
        raise ConfigInvalid(f"{text!r} is no size: write a number, and KiB, MiB, GiB or TiB")
    size_bytes = int(match[1]) * _UNITS[match[2]]
    if not match[2] and size_bytes < _BARE_BYTES_MIN:
        raise ConfigInvalid(
            f"{match[1]} bytes: write its unit, as in {match[1]}GiB or {match[1]}MiB"
        )
    return size_bytes


def parse_count(name: str, text: str) -> int:
    """Returns a whole number above zero."""
    if not (text.isdecimal() and int(text)):
        raise ConfigInvalid(f"{name} is a number from 1, not {text!r}")
    return int(text)


def tell_size(size_bytes: int) -> str:
    """Returns a size as `parse_size` reads it, in the largest unit that says it exactly."""
    units = [unit for unit, size in _UNITS.items() if size_bytes % size == 0]
    unit = units[-1] if size_bytes else ""
    return f"{size_bytes // _UNITS[unit]} {unit or 'bytes'}"


def parse_pool(text: str, drivers: Drivers) -> PoolConfig:
    """Returns the pool of "fast=/srv/fast,driver=btrfs,quota=1GiB,read_only"."""
    pool_id, separator, rest = text.partition("=")
    path, *options = rest.split(",")
    if not separator:
        raise ConfigInvalid(f"{text!r} is no pool: write id=/path[,option…]")
    fields: dict[str, str] = {}
    for option in options:
        key, _, value = option.partition("=")
        if key in fields:
            raise ConfigInvalid(f"pool {pool_id}: {key} is written twice")
        fields[key] = value
    return make_pool(pool_id, path, fields, drivers)


def make_pool(pool_id: str, path: str, options: Mapping[str, str], drivers: Drivers) -> PoolConfig:
    """Returns a pool, having checked every word of it."""
    if not names.is_id(pool_id):
        raise ConfigInvalid(f"pool id {pool_id!r} {names.ID_RULE}")
    if not Path(path).is_absolute():
        raise ConfigInvalid(f"the path of pool {pool_id} must be absolute, not {path!r}")
    name = options.get(DRIVER, DRIVER_DEFAULT)
    try:
        return _make_pool(pool_id, Path(path), name, options, drivers.load(name))
    except ConfigInvalid as error:
        raise ConfigInvalid(f"pool {pool_id}: {error}") from error


def _make_pool(
    pool_id: str, path: Path, driver: str, options: Mapping[str, str], kind: DriverType
) -> PoolConfig:
    if unknown := options.keys() - COMMON - kind.options.keys():
        known = ", ".join(sorted(COMMON | kind.options.keys()))
        raise ConfigInvalid(f"driver {driver} has no option {min(unknown)!r}; there are {known}")
    sizes = {SIZES[key]: parse_size(value) for key, value in options.items() if key in SIZES}
    flags = {key: parse_flag(key, options[key]) for key in FLAGS.keys() & options.keys()}
    counts = {key: parse_count(key, options[key]) for key in COUNTS.keys() & options.keys()}
    pool = PoolConfig(
        pool_id=pool_id,
        driver=driver,
        path=path,
        read_only=flags.get("read_only", False),
        shared=flags.get("shared", False),
        journals_beside=flags.get("journals_beside"),
        quota_bytes=sizes.get("quota_bytes"),
        bandwidth_bytes_per_s=sizes.get("bandwidth_bytes_per_s"),
        attempts_max=counts.get("attempts_max"),
        flush_bytes=sizes.get("flush_bytes", FLUSH_BYTES),
        options={key: value for key, value in options.items() if key in kind.options},
    )
    kind.check(pool)
    return pool


def read_pools(path: Path, drivers: Drivers) -> list[PoolConfig]:
    """Returns the pools of a file, one table [pools.<id>] with a path and options each."""
    try:
        said = tomllib.loads(path.read_text())
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise ConfigInvalid(f"{path}: {error}") from error
    if unknown := said.keys() - {"pools"}:
        raise ConfigInvalid(f"{path}: {min(unknown)!r} means nothing; write tables [pools.<id>]")
    tables = said.get("pools", {})
    if not isinstance(tables, dict):
        raise ConfigInvalid(f"{path}: pools must be tables [pools.<id>]")
    pools: list[PoolConfig] = []
    for pool_id, table in tables.items():
        if not isinstance(table, dict) or not table.get("path"):
            raise ConfigInvalid(f'{path}: [pools.{pool_id}] needs a path, as in path = "/srv"')
        options = {key: str(value) for key, value in table.items()}
        try:
            pools.append(make_pool(pool_id, options.pop("path", ""), options, drivers))
        except ConfigInvalid as error:
            raise ConfigInvalid(f"{path}: {error}") from error
    return pools
