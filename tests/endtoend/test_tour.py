"""A page that waits for ever: its tour ends, says what it waited for, and leaves nothing behind."""

from __future__ import annotations

import shutil

import pytest

from tests import guard
from tests.endtoend.cluster import HangError
from tests.endtoend.tour import Shell

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("bash") is None, reason="the pages are written for bash"),
]

ENDLESS = """
echo from the page
setsid sleep 600 &
sleep 600 &
until countermand template list -o name | grep -q 'what never comes'; do sleep 0.1; done
"""


def test_a_loop_without_an_end_has_one_in_its_tour(tmp_path):
    shell = Shell(tmp_path)
    try:
        with pytest.raises(HangError) as hang:
            shell.run(ENDLESS, s_max=3)
        assert sum("sleep 600" in line for line in guard.living(shell.mark).values()) == 2
    finally:
        shell.end()

    told = str(hang.value)
    assert "from the page" in told
    assert "+ grep -q 'what never comes'" in told
    assert "what 'countermand template list -o name' says:\n" in told
    assert "\nclone-vm\n" in told
    assert guard.living(shell.mark) == {}
