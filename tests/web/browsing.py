"""A real Chromium, and what is looked at in it: what keeps people out, what is cut, what fails."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Literal

import pytest
from playwright.async_api import ConsoleMessage, Page, expect

from tests.endtoend.cluster import HANG_S

CHROMIUM = shutil.which("chromium")
needed = pytest.mark.skipif(
    CHROMIUM is None, reason="there is no Chromium: apt install chromium (Debian's), no other"
)

SHOTS = Path(__file__).parents[2] / "build/screenshots"
# A throw-away profile, and no word to anybody outside.
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
SCHEMES: Sequence[Literal["light", "dark"]] = ("light", "dark")
# What a browser says of a page that is not there, and of a coordinator that is killed.
EXPECTED = ("Failed to load resource", "ERR_", "htmx:sse:error", "htmx:error")
expect.set_options(timeout=HANG_S * 1000)  # only a hang takes longer
WIDE, NARROW = 1280, 390


def complaints(page: Page) -> list[str]:
    """Returns what goes wrong in a tab from now on; a lost connection is part of some tests."""
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))

    def said(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and not any(
            word in message.text for word in EXPECTED
        ):
            wrong.append(message.text)

    page.on("console", said)
    return wrong


async def violations(page: Page) -> list[str]:
    """Returns what axe-core finds, by all its rules."""
    script = resources.files("axe_playwright_python").joinpath("axe.min.js").read_text("utf-8")
    if not await page.evaluate("'axe' in window"):
        await page.evaluate(script)
    found = await page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [
        f"{each['id']}: {each['help']}: {node['html'][:200]}"
        for each in found["violations"]
        for node in each["nodes"]
    ]


async def overflow(page: Page) -> int:
    """Returns how far a page is wider than its window."""
    root = "document.documentElement"
    return int(await page.evaluate(f"{root}.scrollWidth - {root}.clientWidth"))


async def spilling(page: Page) -> list[str]:
    """Returns the words of cells that run into what stands beside them."""
    wider = "cell => cell.scrollWidth > cell.clientWidth + 1"
    cells = f"[...document.querySelectorAll('td')].filter({wider})"
    return list(await page.evaluate(f"{cells}.map(cell => cell.innerText)"))
