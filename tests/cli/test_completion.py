"""What shells complete: words of commands, and ids as the coordinator knows them at that moment."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from countermand.cli.main import main
from tests.cli.shell import Shell

COMMAND = Path(sys.executable).with_name("countermand")


def completed(address: str, *words: str, **environment: str) -> list[str]:
    """Returns what bash offers after these words, the last of which is being written."""
    script = f"""
eval "$({COMMAND} completion bash)"
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
_countermand_completion countermand
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    path = f"{COMMAND.parent}:{os.environ['PATH']}"
    known = {"COUNTERMAND_COORDINATOR": address, "PATH": path}
    done = subprocess.run(
        ["bash", "-c", script, "bash", "countermand", *words],
        env=os.environ | known | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout.split()


@pytest.fixture(scope="module")
def named(real):
    shell = Shell(real, "complete")
    shell.submit(shell.task("copy-1"), shell.task("copy-2"), workflow_id="complete-1")
    shell.submit(shell.task("copy-1"), workflow_id="complete-2")
    return shell.address


def test_ids_of_workflows_are_those_of_the_coordinator(named):
    assert completed(named, "workflow", "get", "comp") == ["complete-2", "complete-1"]
    assert completed(named, "workflow", "cancel", "complete-1", "complete-") == [
        "complete-2",
        "complete-1",
    ]
    assert completed(named, "workflow", "get", "@") == ["@latest"]


def test_tasks_are_those_of_the_workflow_before_them(named):
    assert completed(named, "workflow", "task", "complete-1", "copy") == ["copy-1", "copy-2"]
    assert completed(named, "workflow", "resume", "complete-1", "--rerun", "copy-2") == ["copy-2"]


def test_hosts_states_and_words_are_completed(shell):
    shell("host", "add", "complete-host", "127.0.0.1:27", "--unreachable-allowed")

    assert completed(shell.address, "host", "get", "complete-h") == ["complete-host"]
    assert completed(shell.address, "workflow", "list", "--state", "pause") == ["paused"]
    assert completed(shell.address, "workflow", "wait", "x", "--for", "set") == ["settled"]
    assert completed(shell.address, "workf") == ["workflow"]


def test_what_waits_for_an_owner_is_completed_and_owners_are(named):
    assert completed(named, "external", "accept", "complete-1/") == ["complete-1/copy-1"]
    assert completed(named, "external", "end", "complete-") == [
        "complete-1/copy-1",
        "complete-2/copy-1",
    ]
    assert completed(named, "external", "list", "--owner", "complet") == ["complete"]
    assert completed(named, "external", "finish", "complete-1") == ["complete-1"]


def test_every_decision_of_a_resume_is_completed(named):
    resume = ("workflow", "resume", "complete-1")
    assert completed(named, *resume, "--compensate", "copy-2") == ["copy-2"]
    assert completed(named, *resume, "--host", "copy-2") == ["copy-2="]


def test_templates_are_completed_without_a_coordinator():
    for words in (
        ("template", "show"),
        ("template", "render"),
        ("workflow", "submit", "--template"),
    ):
        assert completed("127.0.0.1:1", *words, "move-") == ["move-disk"]


def test_with_no_coordinator_nothing_is_offered_and_nothing_said():
    assert completed("127.0.0.1:1", "workflow", "get", "x") == []


def test_a_wrong_configuration_is_none_of_a_half_written_lines_matters(named, tmp_path):
    file = tmp_path / "config.toml"
    file.write_text("nonsense")

    assert completed(named, "workflow", "get", "comp", COUNTERMAND_CONFIG=str(file)) == []


def test_profiles_are_completed_from_the_file(named, tmp_path):
    file = tmp_path / "config.toml"
    file.write_text(f"[profiles.here]\ncoordinator = '{named}'\n[profiles.there]\n")
    environment = {"COUNTERMAND_CONFIG": str(file)}

    assert completed(named, "workflow", "list", "--profile", "", **environment) == ["here", "there"]
    # The coordinator of the profile is asked, since nothing else names one.
    environment["COUNTERMAND_COORDINATOR"] = ""
    words = ("--profile", "here", "workflow", "get", "complete-1")
    assert completed(named, *words, **environment) == ["complete-1"]


@pytest.mark.parametrize("shell_name", ["bash", "zsh", "fish"])
def test_each_shell_takes_its_script(shell_name, tmp_path):
    script = CliRunner().invoke(main, ["completion", shell_name]).stdout
    assert "_COUNTERMAND_COMPLETE" in script
    if shutil.which(shell_name) is None:
        pytest.skip(f"there is no {shell_name} here")
    file = tmp_path / "script"
    file.write_text(script)
    subprocess.run([shell_name, "-n", str(file)], check=True)


FISH = """
source $argv[1]
complete -C $argv[2]
"""
# What is offered is drawn below the line; what there is only one of is put into it.
ZSH = r"""
zmodload zsh/zpty
zpty shell zsh -f -i
zpty -w shell "autoload -U compinit; compinit -u; source $1; zstyle ':completion:*' list-prompt ''"
zpty -w shell 'print loa""ded'
zpty -r shell out '*loaded*'
zpty -w -n shell "$2"$'\t'
zpty -r shell out "*$3*"
print -r -- "$out"
zpty -d shell
"""
SHELLS = {
    "fish": ("fish", "--no-config", "-c", FISH),
    "zsh": ("zsh", "-f", "-c", ZSH, "zsh"),
}


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("countermand workflow get complete-", ["complete-1", "complete-2"]),
        ("countermand external accept complete-1/", ["complete-1/copy-1"]),
        ("countermand workflow list --state quaran", ["quarantined"]),
    ],
)
def test_fish_offers_what_there_is(named, tmp_path, line, offered):
    said = _in_shell(named, tmp_path, "fish", line)

    assert sorted(one.partition("\t")[0] for one in said.splitlines()) == offered


def test_zsh_offers_what_there_is(named, tmp_path):
    word = ("countermand workflow get complete-", "complete-1")
    assert "complete-2" in _in_shell(named, tmp_path, "zsh", *word)


def _in_shell(address: str, folder: Path, name: str, *args: str) -> str:
    """Returns what a shell says that has our completion."""
    if shutil.which(name) is None:
        pytest.skip(f"there is no {name} here")
    completion = folder / "completion"
    completion.write_text(CliRunner().invoke(main, ["completion", name]).stdout)
    known = {"COUNTERMAND_COORDINATOR": address, "HOME": str(folder), "TERM": "xterm"}
    known["PATH"] = f"{COMMAND.parent}:{os.environ['PATH']}"
    done = subprocess.run(
        [*SHELLS[name], str(completion), *args],
        env=os.environ | known,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return done.stdout
