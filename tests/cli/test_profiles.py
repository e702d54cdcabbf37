"""Profiles, the environment and flags: which is believed, and what is wrong with them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from countermand.cli import profiles
from countermand.cli.main import main

FILE = """
profile = "lab"

[profiles.lab]
coordinator = "10.0.0.1:7700"
output = "wide"
timeout = "30s"

[profiles.production]
coordinator = "10.0.0.2:7700"
color = false
"""


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.delenv("COUNTERMAND_CONFIG", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    file = tmp_path / "countermand" / "config.toml"
    file.parent.mkdir()
    file.write_text(FILE)
    return file


def run(*args, **environment):
    return CliRunner().invoke(main, args, env=environment)


def shown(*args, **environment):
    """Returns value and origin of every setting."""
    done = run(*args, "config", "show", "-o", "json", **environment)
    assert done.exit_code == 0, done.output
    return {name: tuple(each.values()) for name, each in json.loads(done.stdout).items()}


def test_without_a_file_what_holds_by_itself_holds(tmp_path):
    assert shown(XDG_CONFIG_HOME=str(tmp_path)) == {
        "profile": (None, "default"),
        "coordinator": ("127.0.0.1:7700", "default"),
        "output": ("json", "--output"),
        "timeout": (None, "default"),
        "color": (True, "default"),
    }


def test_the_files_own_profile_is_used_unless_another_is_named(config):
    lab = f"profile lab in {config}"

    assert shown()["profile"] == ("lab", str(config))
    assert shown()["coordinator"] == ("10.0.0.1:7700", lab)
    assert shown()["timeout"] == (30.0, lab)
    assert shown("--profile", "production")["coordinator"][0] == "10.0.0.2:7700"
    assert shown("--profile", "production")["timeout"] == (None, "default")
    assert shown(COUNTERMAND_PROFILE="production")["color"] == (
        False,
        f"profile production in {config}",
    )


def test_a_flag_comes_before_the_environment_and_that_before_a_profile(config):
    environment = {"COUNTERMAND_COORDINATOR": "10.0.0.3:7700", "COUNTERMAND_TIMEOUT": "5s"}

    assert shown(**environment)["coordinator"] == ("10.0.0.3:7700", "COUNTERMAND_COORDINATOR")
    assert shown(**environment)["timeout"] == (5.0, "COUNTERMAND_TIMEOUT")
    flag = ("--coordinator", "10.0.0.4:7700")
    assert shown(*flag, **environment)["coordinator"] == ("10.0.0.4:7700", "--coordinator")
    later = run("config", "show", "--profile", "production", "-o", "json", **environment)
    assert json.loads(later.stdout)["coordinator"]["value"] == "10.0.0.3:7700"


def test_origins_are_shown_on_demand(config):
    plain = run("config", "show").stdout.splitlines()
    whole = run("config", "show", "--origin").stdout.splitlines()

    assert [line.split() for line in plain[:3]] == [
        ["SETTING", "VALUE"],
        ["profile", "lab"],
        ["coordinator", "10.0.0.1:7700"],
    ]
    assert whole[2].split(None, 2)[2] == f"profile lab in {config}"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[profiles.lab]\ncoordinater = 'x'", "there is no key 'coordinater': did you mean 'coord"),
        ("[profiles.lab]\ncoordinator = 'x'", "profiles.lab.coordinator: 'x' is not an address"),
        ("[profiles.lab]\noutput = 'tabel'", "profiles.lab.output: 'tabel' is not one of 'table'"),
        ("[profiles.lab]\ntimeout = 'soon'", "profiles.lab.timeout: 'soon' is not a duration"),
        ("[profiles.lab]\ntimeout = true", "profiles.lab.timeout: True is not a duration"),
        ("[profiles.lab]\ncolor = 'no'", "profiles.lab.color: 'no' is neither true nor false"),
        ("profil = 'lab'", "there is no key 'profil': did you mean 'profile'?"),
        ("profile = 'lib'\n[profiles.lab]", "there is no profile 'lib': did you mean 'lab'?"),
        ("profile = 'lab'", "there is no profile 'lab': there are none"),
        ("profile = 7", "profile is no text"),
        ("profiles = 7", "profiles is no table"),
        ("[profiles]\nlab = 7", "profiles.lab is no table"),
        ("profile = ", "Invalid value"),
        (b"\xff", "codec can't decode"),
    ],
)
def test_what_is_wrong_with_the_file_is_told_and_nothing_is_done(config, text, said):
    config.write_bytes(text if isinstance(text, bytes) else text.encode())
    checked = run("config", "check")
    used = run("workflow", "list")

    assert checked.exit_code == 1
    assert said in checked.stdout
    assert used.exit_code == 2
    assert said in used.stderr
    assert run("workflow", "list", "--help").exit_code == 0


def test_all_that_is_wrong_is_told_at_once(config):
    config.write_text("[profiles.lab]\noutput = 'x'\ncolour = true\n[profiles.b]\ntimeout = 'x'")

    told = run("config", "check").stdout
    assert [word in told for word in ("lab.output", "'colour'", "b.timeout")] == [True] * 3


def test_a_variable_that_nothing_reads_is_told(config):
    done = run("config", "check", COUNTERMAND_COORDINATER="10.0.0.1:7700")

    assert done.exit_code == 1
    assert done.stdout == (
        "environment: nothing reads COUNTERMAND_COORDINATER: "
        "did you mean COUNTERMAND_COORDINATOR?\n"
    )


def test_a_right_file_is_said_to_be(config):
    done = run("config", "check")

    assert (done.exit_code, done.stdout) == (0, f"{config}: lab, production.\n")


def test_a_file_that_was_named_is_meant_to_be_there(tmp_path):
    done = run("workflow", "list", COUNTERMAND_CONFIG=str(tmp_path / "none.toml"))

    assert done.exit_code == 2
    assert "there is no such file" in done.stderr


@pytest.mark.parametrize("written", ['"10.0.0.1:7700, b:7700"', '["10.0.0.1:7700", "b:7700"]'])
def test_a_profile_may_name_several_coordinators(config, written):
    config.write_text(FILE.replace('"10.0.0.1:7700"', written))

    assert shown()["coordinator"][0] == "10.0.0.1:7700,b:7700"
    config.write_text(FILE.replace('"10.0.0.1:7700"', '["10.0.0.1:7700", "b"]'))
    assert "'b' is not an address: write host:port" in run("config", "check").output


def test_an_unknown_profile_is_answered_with_those_there_are(config):
    done = run("--profile", "prodution", "workflow", "list")

    assert done.exit_code == 2
    assert "there is no profile 'prodution': did you mean 'production'?" in done.stderr


def test_the_sample_is_right(config):
    config.write_text(run("config", "sample").stdout)

    assert run("config", "check").exit_code == 0


def test_no_variable_of_a_service_is_taken_for_a_mistake():
    root = Path(profiles.__file__).parents[2]
    read = {
        word
        for room in ("countermand", "coordinator", "agent")
        for file in (root / room).rglob("*.py")
        for word in re.findall(r"(?<![A-Z_])COUNTERMAND_[A-Z_]*[A-Z]", file.read_text())
    }

    assert "COUNTERMAND_LISTEN" in read
    assert list(profiles.strangers(dict.fromkeys(read, ""))) == []
