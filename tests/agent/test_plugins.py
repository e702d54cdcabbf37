"""Drivers that packages bring: found by name, told about, and refused at start when they lie."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import cast

import pytest
from click.testing import CliRunner

from agent.__main__ import main
from agent.check_driver import check_driver
from agent.config import COMMON, make_pool, parse_pool, read_pools
from agent.drivers.btrfs import BTRFS
from agent.drivers.driver import NEEDS, Driver, Format, PoolConfig, PoolFound
from agent.drivers.file import FILE, FileDriver
from agent.drivers.files import RealFiles
from agent.drivers.folders import FolderType
from agent.drivers.plugins import (
    GROUP,
    ConfigInvalid,
    Drivers,
    check_abilities,
    describe,
    installed,
)
from agent.verbs import catalogue
from agent.wire import pool as told
from countermand.v1.verb_pb2 import Action, CloneImage, CreateImage
from tests.agent.requests import address


@dataclass
class Narrow:
    """A driver that finds and removes images, and makes none."""

    config: PoolConfig
    verbs: frozenset[str]

    def find(self, image_id):
        raise NotImplementedError

    list_images = reading = report = staged = discard = make_up_for = delete = find


def opens(*verbs: str) -> Callable[[PoolConfig, str], Driver]:
    """Returns what opens a narrow driver, which says that it has these verbs."""
    return lambda pool, _identity: cast("Driver", Narrow(pool, verbs=frozenset(verbs)))


NARROW = FolderType(
    verbs=frozenset({"delete_image"}),
    options={"colour": "what it is painted in"},
    opening=opens("delete_image"),
)
LIAR = FolderType(verbs=frozenset(NEEDS), opening=opens("clone_image", "delete_image"))
STRANGER = FolderType(verbs=frozenset(), opening=opens("paint"))
HOLLOW = FolderType(verbs=frozenset(), opening=lambda _pool, _identity: cast("Driver", object()))


def sloppy(pool: PoolConfig, identity: str) -> Driver:
    """Returns a driver that sweeps nothing."""
    driver = FileDriver(pool, RealFiles(), identity)
    driver._staging.discard = lambda attempt: None  # type: ignore[method-assign]
    return driver


SLOPPY = FolderType(verbs=frozenset({"create_image"}), opening=sloppy)
NOTHING = "not a driver"

ORDER = (
    "driver",
    "read_only",
    "shared",
    "quota",
    "bandwidth",
    "flush",
    "attempts_max",
    "journals_beside",
)


def declared(**values: str) -> Drivers:
    """Returns drivers as a package of somebody else's would declare them."""
    return Drivers(EntryPoint(name, value, GROUP) for name, value in values.items())


@pytest.fixture
def drivers(monkeypatch):
    monkeypatch.setitem(sys.modules, "third_party", sys.modules[__name__])
    return declared(
        file="agent.drivers.file:FILE",
        narrow="third_party:NARROW",
        liar="third_party:LIAR",
        stranger="third_party:STRANGER",
        hollow="third_party:HOLLOW",
        sloppy="third_party:SLOPPY",
        nothing="third_party:NOTHING",
        broken="no_such_package:DRIVER",
    )


def pool_of(drivers: Drivers, text: str, tmp_path: Path) -> Driver:
    return drivers.open(parse_pool(f"fast={tmp_path}{text}", drivers), "")


# -- what may be written ------------------------------------------------------------------------


def test_a_pool_names_its_driver_and_that_drivers_options(drivers, tmp_path):
    pool = parse_pool("fast=/srv/fast,driver=narrow,colour=red,attempts_max=2", drivers)
    assert pool == PoolConfig(
        pool_id="fast",
        driver="narrow",
        path=Path("/srv/fast"),
        attempts_max=2,
        options={"colour": "red"},
    )
    file = tmp_path / "agent.toml"
    file.write_text(
        '[pools.fast]\ndriver = "narrow"\npath = "/srv/fast"\ncolour = "red"\nattempts_max = 2\n'
    )
    assert read_pools(file, drivers) == [pool]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (",colour=red", r"fast: driver file has no option 'colour'; there are attempts_max, band"),
        (",driver=narrow,color=red", r"driver narrow has no option 'color'; .* colour, driver"),
        (",driver=zfs", r"no driver 'zfs' is installed; there are broken, file, hollow, liar"),
        (",driver=broken", r"driver broken of .*cannot be imported: ModuleNotFoundError: No mod"),
        (",driver=nothing", r"is no driver: it lacks check, folder, identity, mark, open"),
        (",attempts_max=0", r"attempts_max is a number from 1, not '0'"),
        (",attempts_max=many", r"attempts_max is a number from 1"),
        (",read_only=perhaps", r"read_only is true or false, not 'perhaps'"),
        (",shared,shared", r"shared is written twice"),
    ],
)
def test_what_is_wrong_with_a_pool_is_named(drivers, options, words):
    with pytest.raises(ConfigInvalid, match=words):
        parse_pool(f"fast=/srv/fast{options}", drivers)


def test_a_driver_may_refuse_a_pool_by_its_options():
    with pytest.raises(ConfigInvalid, match="pool fast: shared: a btrfs is mounted by one host"):
        make_pool("fast", "/srv/fast", {"driver": "btrfs", "shared": ""}, installed())
    with pytest.raises(ConfigInvalid, match="nocow is true or false"):
        make_pool("fast", "/srv/fast", {"driver": "btrfs", "nocow": "no"}, installed())


def test_a_name_that_two_packages_declare_is_nobodys(tmp_path):
    for package in ("one", "two"):
        folder = tmp_path / f"{package}-1.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Name: {package}\nVersion: 1\n")
        (folder / "entry_points.txt").write_text(f"[{GROUP}]\nflat = {package}:DRIVER\n")
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from agent.drivers.plugins import installed; installed().load('flat')"
    )
    found = subprocess.run(
        [sys.executable, "-c", script, tmp_path], check=False, capture_output=True, text=True
    )
    assert "driver flat is declared by one 1 and two 1: uninstall one" in found.stderr


# -- what a driver must be ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("driver", "words"),
    [
        ("liar", "driver liar names clone_image, and is none that Clones: lacks clone"),
        ("stranger", "driver stranger names paint, which is no verb"),
        ("hollow", "driver hollow is no driver: it lacks config, discard, find, list_images"),
    ],
)
def test_a_driver_that_is_not_what_it_says_is_refused_at_start(drivers, driver, words, tmp_path):
    with pytest.raises(ConfigInvalid, match=words):
        pool_of(drivers, f",driver={driver}", tmp_path)


def test_every_driver_of_ours_is_what_its_verbs_need(tmp_path):
    driver = FILE.open(PoolConfig(pool_id="fast", path=tmp_path), "")
    check_abilities(driver)
    assert driver.verbs == FILE.verbs
    assert isinstance(driver, Driver)


def test_a_verb_that_a_driver_cannot_do_is_unsupported_and_not_listed(drivers, tmp_path):
    driver = pool_of(drivers, ",driver=narrow", tmp_path)
    target = address("fast/disk")
    for action in (
        Action(create_image=CreateImage(target=target, virtual_size_bytes=512)),
        Action(clone_image=CloneImage(source=address("fast/base"), target=target)),
    ):
        refused = catalogue.refusal(action, {"fast": driver})
        assert refused is not None
        assert (refused.code.name, refused.reason) == ("UNIMPLEMENTED", "VERB_UNSUPPORTED")
    found = PoolFound(
        capacity_bytes=1, used_bytes=0, formats=(Format.RAW,), verbs=frozenset(driver.verbs)
    )
    message = told(driver, found, attempts_max=4, attempts_running=0)
    assert (message.driver, list(message.verbs)) == ("narrow", ["delete_image"])


def test_checking_a_driver_tells_what_is_broken_and_leaves_nothing(drivers, tmp_path):
    pool = parse_pool(f"try={tmp_path},driver=sloppy", drivers)
    told = {one.story: one.problem for one in check_driver(pool, drivers)}
    assert list(told) == ["create: once", "create: stopped", "create: died"]
    assert "half-made and left behind" in told["create: stopped"]
    assert list(tmp_path.iterdir()) == []
    for driver, words in {"liar": "names clone_image", "file": "does not exist"}.items():
        pool = parse_pool(f"try={tmp_path}/{driver},driver={driver}", drivers)
        if driver == "liar":
            pool.path.mkdir()
        with pytest.raises(ConfigInvalid, match=words):
            list(check_driver(pool, drivers))


# -- what is told of drivers --------------------------------------------------------------------


def test_drivers_are_described_even_if_they_are_broken(drivers):
    about = {found.name: describe(found) for found in drivers.all()}
    assert about["narrow"]["verbs"] == ["delete_image"]
    assert about["narrow"]["options"] == {"colour": "what it is painted in"}
    assert "No module named 'no_such_package'" in about["broken"]["problem"]


def test_the_drivers_command_lists_ours():
    answer = CliRunner().invoke(main, ["drivers", "-o", "json"])
    assert answer.exit_code == 0
    listed = {driver["name"]: driver for driver in json.loads(answer.output)["drivers"]}
    assert listed["file"]["verbs"] == sorted(FILE.verbs)
    assert listed["btrfs"]["options"].keys() == {"nocow"}
    assert listed["file"]["package"].startswith("countermand ")
    table = CliRunner().invoke(main, ["drivers"]).output
    assert "btrfs  (countermand " in table
    assert "\n  options  nocow: " in table


def test_serve_names_what_is_installed(tmp_path):
    (tmp_path / "p").mkdir()
    arguments = ["serve", f"--data={tmp_path}/data", f"--pool=p={tmp_path}/p,driver=nonesuch"]
    answer = CliRunner().invoke(main, arguments)
    assert answer.exit_code == 2
    assert "no driver 'nonesuch' is installed; there are btrfs," in answer.output


def test_the_page_on_pools_names_every_option_and_driver_of_ours():
    page = (Path(__file__).parents[2] / "docs/reference/pools.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1].strip() for line in page.splitlines() if line.startswith("| `")]
    ours = [found for found in installed().all() if found.package.startswith("countermand ")]
    assert rows[: len(COMMON)] == [f"`{option}`" for option in ORDER]
    assert set(ORDER) == COMMON
    assert {f"`{found.name}`" for found in ours} == set(rows[len(COMMON) :])
    assert all(f"`{option}`" in page for option in BTRFS.options)
