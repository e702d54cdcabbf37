"""The stories that any driver can be put through, and ours are; and that they can fail.

They promise what the agent's do, without an agent: S-V6, S-V7, S-V19, S-Z5, S-Z9.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from agent.drivers.conformance import Fresh, Open, stories, tell
from agent.drivers.driver import Driver, PoolConfig
from agent.drivers.file import FileDriver
from agent.drivers.files import RealFiles
from agent.drivers.plugins import installed
from countermand.rpc.errors import CountermandError
from tests.agent.storages import STORAGES, Places

DRIVERS = installed()
TOLD = {
    f"{name}-{story}": (storage, story)
    for name, storage in STORAGES.items()
    # What differs by the file system only is told by `test_conformance`.
    if not storage.verbs or storage.plugin_needed
    for story in stories(DRIVERS.load(storage.driver).verbs)
}


def fresh_of(places: Places) -> Fresh:
    """Returns what makes empty storage for one story."""

    @contextlib.contextmanager
    def fresh() -> Iterator[Open]:
        with places() as place:
            pool = PoolConfig(pool_id="fast", **place.config(place.folder))
            yield partial(DRIVERS.open, pool, DRIVERS.load(place.driver).mark(pool, "one"))

    return fresh


@pytest.mark.parametrize("name", TOLD)
def test_a_driver_keeps_what_is_promised(name, request, tmp_path):
    storage, story = TOLD[name]
    tell(story, fresh_of(storage.places(request, tmp_path)))


# -- bugs that it must find -----------------------------------------------------------------------


def forgets_whose_it_is(driver: FileDriver) -> None:
    label = driver._staging.label
    driver._staging.label = lambda *about: replace(label(*about), attempt="")  # type: ignore[method-assign]


def makes_up_for_anybody(driver: FileDriver) -> None:
    driver._staging.is_of = lambda *_about: True  # type: ignore[method-assign]


def sweeps_nothing(driver: FileDriver) -> None:
    driver._staging.discard = lambda attempt: None  # type: ignore[method-assign]


def makes_up_for_nothing(driver: FileDriver) -> None:
    driver._staging.take_back = lambda _image, **_about: None  # type: ignore[method-assign]


def lists_in_no_order(driver: FileDriver) -> None:
    listed = driver.list_images
    driver.list_images = lambda **about: listed(**about)[::-1]


def shares_nothing(driver: FileDriver) -> None:
    def share(path: Path, target: Path) -> bool:
        target.write_bytes(bytes(path.stat().st_size))
        return True

    driver._staging.share = share  # type: ignore[method-assign]


def names_a_verb_too_many(driver: FileDriver) -> None:
    driver.verbs = driver.verbs | {"paint_image"}


BUGS: Mapping[Callable[[FileDriver], None], tuple[str, str]] = {
    forgets_whose_it_is: ("create: once", r"owner's tag, not \('conformance', ''\)"),
    makes_up_for_anybody: ("create: once", "has touched this one's"),
    makes_up_for_nothing: ("create: once", r"there was \{\}, and there is \{'made'"),
    sweeps_nothing: ("create: stopped", "half-made and left behind"),
    lists_in_no_order: ("clone: once", "in order of ids"),
    shares_nothing: ("clone what was written: once", "made holds something else"),
    names_a_verb_too_many: ("create: once", "names paint_image, which is no verb"),
}


@pytest.mark.parametrize("plant", BUGS, ids=lambda plant: plant.__name__)
def test_a_planted_bug_is_found(plant, tmp_path):
    story, words = BUGS[plant]
    pools = map(tmp_path.joinpath, map(str, range(1000)))

    @contextlib.contextmanager
    def fresh() -> Iterator[Open]:
        pool = PoolConfig(pool_id="fast", path=next(pools))
        pool.path.mkdir()

        def opening() -> Driver:
            driver = FileDriver(pool, RealFiles())
            plant(driver)
            return driver

        yield opening

    with pytest.raises((AssertionError, ValueError, CountermandError), match=words):
        tell(story, fresh)
