"""How an administrator describes a pool: on the command line, or in a file."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path

from agent.drivers.driver import FLUSH_BYTES, PoolConfig
from countermand.rpc import names

_UNITS = {"": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
_SIZE = re.compile(r"(\d+)\s*([KMGT]iB|)")

FLAGS = {"read_only", "shared"}
SIZES = {
    "quota": "quota_bytes",
    "bandwidth": "bandwidth_bytes_per_s",
    "flush": "flush_bytes",
}


class ConfigInvalid(Exception):
    """The configuration says something that cannot be."""


def parse_size(text: str) -> int:
    """Returns the bytes of "4096" or "64MiB"."""
    match = _SIZE.fullmatch(text.strip())
    if match is None or int(match[1]) == 0:
        raise ConfigInvalid(f"{text!r} is no size: write a number, and KiB, MiB, GiB or TiB")
    return int(match[1]) * _UNITS[match[2]]


def tell_size(size_bytes: int) -> str:
    """Returns a size as `parse_size` reads it, in the largest unit that says it exactly."""
    units = [unit for unit, size in _UNITS.items() if size_bytes % size == 0]
    unit = units[-1] if size_bytes else ""
    return f"{size_bytes // _UNITS[unit]} {unit or 'bytes'}"


def parse_pool(text: str) -> PoolConfig:
    """Returns the pool of "fast=/srv/fast,quota=1GiB,bandwidth=64MiB,read_only,shared"."""
    pool_id, separator, rest = text.partition("=")
    path, *options = rest.split(",")
    if not separator:
        raise ConfigInvalid(f"{text!r} is no pool: write id=/path[,option…]")
    fields: dict[str, str] = {}
    for option in options:
        key, _, value = option.partition("=")
        fields[key] = value
    return make_pool(pool_id, path, fields)


def make_pool(pool_id: str, path: str, options: Mapping[str, str]) -> PoolConfig:
    """Returns a pool, having checked every word of it."""
    if not names.is_id(pool_id):
        raise ConfigInvalid(f"pool id {pool_id!r} {names.ID_RULE}")
    if not Path(path).is_absolute():
        raise ConfigInvalid(f"the path of pool {pool_id} must be absolute, not {path!r}")
    unknown = options.keys() - FLAGS - SIZES.keys()
    if unknown:
        known = ", ".join(sorted(FLAGS | SIZES.keys()))
        raise ConfigInvalid(f"pool {pool_id}: no option {min(unknown)!r}; there are {known}")
    sizes = {SIZES[key]: parse_size(value) for key, value in options.items() if key in SIZES}
    flags = {key: options[key].lower() != "false" for key in FLAGS & options.keys()}
    return PoolConfig(
        pool_id=pool_id,
        path=Path(path),
        read_only=flags.get("read_only", False),
        shared=flags.get("shared", False),
        quota_bytes=sizes.get("quota_bytes"),
        bandwidth_bytes_per_s=sizes.get("bandwidth_bytes_per_s"),
        flush_bytes=sizes.get("flush_bytes", FLUSH_BYTES),
    )


def read_pools(path: Path) -> list[PoolConfig]:
    """Returns the pools of a file, one table [pools.<id>] with a path and options each."""
    try:
        tables = tomllib.loads(path.read_text()).get("pools", {})
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise ConfigInvalid(f"{path}: {error}") from error
    pools: list[PoolConfig] = []
    for pool_id, table in tables.items():
        options = {key: str(value) for key, value in table.items()}
        pools.append(make_pool(pool_id, options.pop("path", ""), options))
    return pools
