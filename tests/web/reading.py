"""Pages as people without a browser read them: their words, links and headers."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from html.parser import HTMLParser

import aiohttp

NO_TEXT = frozenset({"script", "style"})
# Words on either side of one of these do not belong together.
BLOCKS = frozenset(
    {"p", "li", "h1", "h2", "section", "tr", "td", "th", "dt", "dd", "caption", "time", "title"}
)


class _Words(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.labels: list[str] = []
        self._silent = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self._silent += tag in NO_TEXT
        self.links += [given["href"] or ""] if tag == "a" and "href" in given else []
        self.ids += [given["id"] or ""] if "id" in given else []
        self.labels += [given["aria-label"] or ""] if "aria-label" in given else []
        self.parts.append(" " if tag in BLOCKS else "")

    def handle_endtag(self, tag: str) -> None:
        self._silent -= tag in NO_TEXT

    def handle_data(self, data: str) -> None:
        if not self._silent:
            self.parts.append(data)


@dataclass(frozen=True, slots=True)
class Page:
    """One page."""

    status: int
    html: str
    headers: Mapping[str, str]
    words: str = field(init=False)
    links: list[str] = field(init=False)
    ids: list[str] = field(init=False)
    labels: list[str] = field(init=False)

    def __post_init__(self) -> None:
        """Reads it."""
        parser = _Words()
        parser.feed(self.html)
        object.__setattr__(self, "words", " ".join("".join(parser.parts).split()))
        object.__setattr__(self, "links", parser.links)
        object.__setattr__(self, "ids", parser.ids)
        object.__setattr__(self, "labels", parser.labels)

    def part(self, id_: str) -> Page:
        """Returns the section with an id, as a page of its own."""
        start = self.html.index(f'id="{id_}"')
        start = self.html.rindex("<", 0, start)
        tag = re.match(r"<(\w+)", self.html[start:])
        assert tag is not None, id_
        depth = 0
        for found in re.finditer(rf"<(/?){tag[1]}\b", self.html[start:]):
            depth += -1 if found[1] else 1
            if depth == 0:
                end = self.html.index(">", start + found.start()) + 1
                return Page(self.status, self.html[start:end], self.headers)
        raise AssertionError(f"{id_} has no end")

    @property
    def workflows(self) -> list[str]:
        """Returns the workflows that it lists, in order."""
        return [id_.removeprefix("workflow-") for id_ in self.ids if id_.startswith("workflow-")]


@dataclass(frozen=True, slots=True)
class Frame:
    """One message of a stream."""

    id: int | None
    event: str
    data: str

    @property
    def words(self) -> str:
        """Returns what it says."""
        return Page(200, self.data, {}).words


class Reader:
    """Reads pages and streams of one coordinator."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def __call__(self, path: str, **headers: str) -> Page:
        """Returns a page."""
        asked = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self._session.get(path, headers=asked, allow_redirects=False) as answer:
            return Page(answer.status, await answer.text(), dict(answer.headers))

    async def stream(self, path: str, last: int | None = None) -> AsyncIterator[Frame]:
        """Yields the messages of a stream."""
        headers = {} if last is None else {"Last-Event-ID": str(last)}
        async with self._session.get(path, headers=headers) as answer:
            assert answer.status == 200, await answer.text()
            assert answer.headers["Content-Type"].startswith("text/event-stream")
            lines: list[str] = []
            async for raw in answer.content:
                line = raw.decode().rstrip("\n")
                if line:
                    lines.append(line)
                elif lines:
                    yield _frame(lines)
                    lines = []


def _frame(lines: list[str]) -> Frame:
    fields: dict[str, list[str]] = {}
    for line in lines:
        name, _, value = line.partition(":")
        fields.setdefault(name, []).append(value.removeprefix(" "))
    number = fields.get("id", [""])[0]
    return Frame(
        id=int(number) if number else None,
        event=fields.get("event", [""])[0],
        data="\n".join(fields.get("data", [])),
    )
