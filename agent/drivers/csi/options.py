"""What an administrator says of a pool behind a CSI plug-in, and where our own truth about it is.

path         the plug-in's socket
labels       a folder that the pool has to itself: what is an image is decided there
targets      a folder of this host, where volumes are shown while they are read or written
parameters   a JSON file of words for CreateVolume, as a storage class has them
secrets      a JSON file of words that go with every call and into no log
zeroed       new volumes read as zeros: nothing needs to be wiped
patience     how long a plug-in that does not answer is asked again, in seconds
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from agent.drivers.driver import PoolConfig
from agent.drivers.plugins import ConfigInvalid, flag

OPTIONS: Mapping[str, str] = {
    "labels": "an absolute path: the folder that says which volume is which image",
    "targets": "an absolute path: where volumes are shown on this host; labels' own if not given",
    "parameters": "an absolute path: a JSON file of words for CreateVolume",
    "secrets": "an absolute path: a JSON file of words that go with every call",
    "zeroed": "true if new volumes read as zeros; else they are wiped before use",
    "patience": "seconds for which a plug-in that does not answer is asked again",
}

# A plug-in that is restarted is back by then; beyond it the attempt is left open, and looked at
# again every now and then.
PATIENCE_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The options of one pool."""

    labels: Path
    targets: Path
    zeroed: bool = False
    patience_s: float = PATIENCE_S
    parameters: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)


def read(pool: PoolConfig) -> Options:
    """Returns the options of a pool; reads the files that it names.

    Raises:
        ConfigInvalid: One is missing, or says what cannot be.
    """
    told = pool.options
    if "labels" not in told:
        why = "the driver csi needs labels=/folder: it says which volume is which image"
        raise ConfigInvalid(why)
    if pool.shared and "targets" not in told:
        why = "a shared pool needs targets=/folder, one of each host's own"
        raise ConfigInvalid(why)
    if pool.quota_bytes is not None:
        why = "the driver csi keeps no quota: set one in the plug-in, or in its parameters"
        raise ConfigInvalid(why)
    labels = _folder(pool, "labels")
    return Options(
        labels=labels,
        targets=_folder(pool, "targets") if "targets" in told else labels / "targets",
        zeroed=flag(pool, "zeroed"),
        patience_s=_seconds(pool, "patience"),
        parameters=_words(pool, "parameters"),
        secrets=_words(pool, "secrets"),
    )


def _folder(pool: PoolConfig, option: str) -> Path:
    path = Path(pool.options[option])
    if not path.is_absolute():
        raise ConfigInvalid(f"{option} must be absolute, not {str(path)!r}")
    return path


def _seconds(pool: PoolConfig, option: str) -> float:
    told = pool.options.get(option, str(PATIENCE_S))
    try:
        seconds = float(told)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise ConfigInvalid(f"{option} must be seconds, not {told!r}")
    return seconds


def _words(pool: PoolConfig, option: str) -> Mapping[str, str]:
    """Returns the words in a file; never says which, they may be secret."""
    if option not in pool.options:
        return {}
    path = _folder(pool, option)
    try:
        words = json.loads(path.read_text())
    except OSError as error:
        why = error.strerror or str(error)
        raise ConfigInvalid(f"{option}: {path}: {why}") from error
    except ValueError:
        words = None
    match words:
        case dict() if all(isinstance(word, str) for word in words.values()):
            return words
    raise ConfigInvalid(f'{option}: {path} must be JSON, {{"word": "text"}}')
