"""Where there is no UTF-8 a glyph is a letter of its own, and drawings keep their shape."""

import os
import re
import subprocess
import sys

import pytest

from countermand.drawing import plain, terminal, words
from countermand.drawing.words import ATTEMPT, HOST, TASK, WEBHOOK, WORKFLOW, Look

OF_C = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "COLUMNS": "100"}


@pytest.mark.parametrize("looks", [WORKFLOW, TASK, ATTEMPT, WEBHOOK, HOST])
def test_every_glyph_has_a_letter_and_no_two_the_same(looks: dict[int, Look]):
    glyphs = {look.glyph for look in looks.values()}
    letters = {plain.PLAIN.get(glyph, glyph) for glyph in glyphs}

    assert len(letters) == len(glyphs)
    assert all(letter.isascii() and len(letter) == 1 for letter in letters)
    assert {glyph for glyph in glyphs if plain.PLAIN.get(glyph, glyph) == "?"} <= {"?"}


def test_every_line_of_a_drawing_has_a_letter():
    lines = {terminal.ACTION, terminal.STOPPING, terminal.UNKNOWN, terminal.WAIT}
    letters = {plain.PLAIN.get(line, line) for line in lines | {terminal.COMPENSATION}}

    assert len(letters) == len(lines) + 1
    assert words.UNHEARD_OF.glyph in letters


@pytest.mark.parametrize("look", ["get", "timeline", "tasks"])
def test_what_is_drawn_in_ascii_has_the_same_shape(coordinator, look):
    command = [sys.executable, "-m", "countermand.cli", "--coordinator", coordinator]
    command += ["workflow", look, "made-up"]
    drawn = [
        subprocess.run(command, env=os.environ | env, capture_output=True, check=True).stdout
        for env in (OF_C, OF_C | {"PYTHONIOENCODING": "utf-8"})
    ]
    ours, theirs = drawn[0].decode("ascii"), drawn[1].decode()

    assert "?" not in ours
    at_times = r"\d+(\.\d+)? m?s ago"  # it is later by now
    stood_for = "".join(plain.PLAIN.get(letter, letter) for letter in theirs)
    assert re.sub(at_times, "", ours) == re.sub(at_times, "", stood_for)
