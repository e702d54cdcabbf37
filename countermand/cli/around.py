"""What is around every command: its streams, its words, and how it tells what went wrong.

Part of every start, and so imports nothing heavy.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Mapping, Sequence

import click

from countermand.cli import profiles
from countermand.cli.settings import CHECKS, FORMATS, Settings
from countermand.drawing import plain

FAILED = 1
_FORM_OPTIONS = ("-o", "--output")
# Of errors that no coordinator has told, in the form for programs: how it was asked, or what is
# wrong here, such as with a file.
USAGE = ("INVALID_ARGUMENT", "USAGE")
LOCAL = ("FAILED_PRECONDITION", "LOCAL")


def open_streams() -> None:
    """Opens the streams that whoever starts us has closed, as cron may: nobody is there.

    Otherwise the next file or connection would be taken for one of them.
    """
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        if getattr(sys, name) is None:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8", closefd=False))
    for stream in (sys.stdout, sys.stderr):
        # What a terminal cannot show has something that stands for it, and is no traceback.
        if isinstance(stream, io.TextIOWrapper):
            plain.make_do(stream)


def check_words(words: Sequence[str], environment: Mapping[str, str]) -> None:
    """Refuses words that are no text: nothing of ours has such a name.

    Raises:
        click.UsageError: Names the first of them.
    """
    ours = [f"{key}={value}" for key, value in environment.items() if key.startswith("COUNTERMAND")]
    for word in (*words, *ours):
        try:
            word.encode()
        except UnicodeEncodeError:
            shown = os.fsencode(word).decode("utf-8", "backslashreplace")
            raise click.UsageError(f"'{shown}' is not UTF-8 text") from None


def tell(settings: Settings, words: Sequence[str], error: click.ClickException) -> int:
    """Tells an error of the command line in the form that was asked for; returns its exit code."""
    settings.output = _form(settings, words)
    if settings.for_programs:
        from countermand.cli.forms import show_failure

        code, reason = USAGE if error.exit_code == click.UsageError.exit_code else LOCAL
        show_failure(settings, code, reason, error.format_message())
    else:
        error.show()
    return error.exit_code


def tell_unwritten(settings: Settings, words: Sequence[str], error: OSError) -> int:
    """Tells an error of a file or of the output, which is then closed: its rest has no place."""
    where = f"{error.filename}" if error.filename else "the output"
    with contextlib.suppress(OSError):
        tell(settings, words, click.ClickException(f"{where}: {error.strerror or error}"))
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return FAILED


def _form(settings: Settings, words: Sequence[str]) -> str:
    """Returns the form of output, also where a word before it was wrong and it was never read."""
    if "output" in settings.origins:
        return settings.output
    asked = [
        form
        for word, following in zip(words, (*words[1:], ""), strict=True)
        if (form := _of(word, following)) in FORMATS
    ]
    if asked:
        return asked[-1]
    if (form := os.environ.get("COUNTERMAND_OUTPUT", "")) in FORMATS:
        return form
    with contextlib.suppress(click.ClickException):
        name = settings.profile or os.environ.get("COUNTERMAND_PROFILE", "")
        profile = profiles.load(profiles.path_from(os.environ), name, CHECKS)
        return str(profile.values.get("output", settings.output)) if profile else settings.output
    return settings.output


def _of(word: str, following: str) -> str:
    """Returns the form that a word asks for, if it does."""
    if word in _FORM_OPTIONS:
        return following
    for option in ("--output=", "-o"):
        if word.startswith(option):
            return word.removeprefix(option)
    return ""
