"""Forms as people without a browser fill them in: what is asked, what is wrong, what came of it."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from dataclasses import dataclass

import aiohttp

from tests.web.reading import Page

NOTICE = "countermand-notice"
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a form that was sent."""

    page: Page
    location: str
    word: str  # of the notice that it leads to

    @property
    def problems(self) -> str:
        """Returns what the summary says."""
        return self.page.part("problems").words if 'id="problems"' in self.page.html else ""


@dataclass(slots=True)
class Filler:
    """Opens and sends forms, with the cookies of one browser."""

    session: aiohttp.ClientSession

    async def open(self, path: str) -> Page:
        """Returns a page."""
        async with self.session.get(path, allow_redirects=False) as answer:
            return Page(answer.status, await answer.text(), answer.headers)

    async def send(
        self, path: str, typed: Mapping[str, str], *, headers: Mapping[str, str] = {}
    ) -> Answer:
        """Sends what was typed, as it is."""
        async with self.session.post(
            path, data=dict(typed), headers=headers, allow_redirects=False
        ) as answer:
            page = Page(answer.status, await answer.text(), answer.headers)
            location = answer.headers.get("Location", "")
            if "?draft=" in location:  # what is wrong with it, or what would come of it
                return Answer(await self.open(location), location, "")
            said = answer.cookies.get(NOTICE)
            word = said.value.partition(".")[0] if said else ""
            return Answer(page, location, word)

    async def fill(self, path: str, **typed: str) -> Answer:
        """Opens a form, types into it and sends it."""
        return await self.send(path, values(await self.open(path)) | typed)

    async def again(self, path: str, before: Page, step: str = "send", **typed: str) -> Answer:
        """Sends what is filled in on a page that was answered."""
        return await self.send(path, values(before) | {"step": step} | typed)


def values(page: Page) -> dict[str, str]:
    """Returns everything that a browser would send of a page's form."""
    main = page.html[page.html.index("<main") :]  # beside what finds a workflow on every page
    text = main[main.index("<form") : main.index("</form>")]
    found: dict[str, str] = {}
    for tag in re.findall(r"<input\b[^>]*>", text):
        given = {
            name: html.unescape(value) for name, value in re.findall(r'([\w:-]+)="([^"]*)"', tag)
        }
        if given["type"] not in ("radio", "checkbox") or re.search(r"\schecked\b", tag):
            found[given["name"]] = given.get("value", "")
    for name, value in re.findall(
        r'<textarea\b[^>]*name="([^"]*)"[^>]*>\n?(.*?)</textarea>', text, re.DOTALL
    ):
        found[html.unescape(name)] = html.unescape(value)
    for name, options in re.findall(
        r'<select\b[^>]*name="([^"]*)"[^>]*>(.*?)</select>', text, re.DOTALL
    ):
        chosen = re.search(r'value="([^"]*)" selected', options)
        found[html.unescape(name)] = html.unescape(chosen[1]) if chosen else ""
    return found


def beside(page: Page, name: str) -> str:
    """Returns what is wrong with a field, as it stands beside it."""
    return page.part(f"field-{name}-error").words.lstrip("! ")
