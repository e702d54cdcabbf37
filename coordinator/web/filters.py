"""Filters of the list of workflows, from the address and back: a filtered list is a link."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Final, Self
from urllib.parse import urlencode

from starlette.datastructures import QueryParams

from coordinator.web import asked
from countermand.drawing.words import WORKFLOW, Look
from countermand.rpc.errors import Violation
from countermand.v1 import workflow_pb2 as pb
from countermand.v1.workflow_state_pb2 import WorkflowState

# Of those that are open, the others always need somebody.
UNDER_WAY: Final = frozenset(
    {
        WorkflowState.WORKFLOW_STATE_RUNNING,
        WorkflowState.WORKFLOW_STATE_PAUSING,
        WorkflowState.WORKFLOW_STATE_COMPENSATING,
        WorkflowState.WORKFLOW_STATE_ENDING,
    }
)
STATES: Final[Mapping[str, Look]] = {look.word: look for look in WORKFLOW.values()}
AGES: Final = ("5m", "1h", "1d", "7d")
PARTS: Final = ("attention", "open", "settled")
KNOWN: Final = (
    *("state", "kind", "label", "id", "host", "older", "part"),
    *(f"{part}_after" for part in PARTS),
)

_BY_WORD: Final = {look.word: WorkflowState.ValueType(state) for state, look in WORKFLOW.items()}
_SPAN: Final = re.compile(r"(\d{1,6})([smhd])")
_LABEL: Final = re.compile(r"[^=]+=.*", re.DOTALL)
_UNITS_S: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


@dataclass(frozen=True, slots=True, kw_only=True)
class Filters:
    """What a list is narrowed to."""

    states: tuple[WorkflowState.ValueType, ...] = ()
    kind: str = ""
    id: str = ""  # what ids begin with
    labels: tuple[str, ...] = ()  # "key=value"
    host: str = ""
    older: str = ""  # "1h"
    part: str = ""  # one of the parts alone
    after: Mapping[str, str]  # the token of each part that is not on its first page

    @classmethod
    def of(cls, given: QueryParams) -> Self:
        """Returns what an address says; raises FieldInvalid."""
        asked.check(asked.unknown(given, KNOWN), asked.no_state(given, _BY_WORD), _wrong(given))
        return cls(
            states=tuple(_BY_WORD[word] for word in given.getlist("state")),
            kind=given.get("kind", "").strip(),
            id=given.get("id", "").strip(),
            labels=tuple(label.strip() for label in given.getlist("label") if label.strip()),
            host=given.get("host", "").strip(),
            older=given.get("older", "").strip(),
            part=given.get("part", ""),
            after={key: given[f"{key}_after"] for key in PARTS if given.get(f"{key}_after")},
        )

    @property
    def active(self) -> bool:
        """Returns whether anything is left out."""
        return bool(self.query(after={}))

    @property
    def words(self) -> list[str]:
        """Returns the states that are asked for, in words."""
        return [WORKFLOW[state].word for state in self.states]

    def request(self, **fields: Any) -> pb.ListWorkflowsRequest:  # noqa: ANN401 - of the message
        """Returns what is asked of the coordinator."""
        made = pb.ListWorkflowsRequest(
            states=self.states,
            kind=self.kind,
            id_prefix=self.id,
            host_id=self.host,
            labels=dict(tuple(label.split("=", 1)) for label in self.labels),  # type: ignore[misc]
            **fields,
        )
        if match := _SPAN.fullmatch(self.older):
            made.min_age.FromTimedelta(timedelta(seconds=int(match[1]) * _UNITS_S[match[2]]))
        return made

    def query(self, **changes: Any) -> str:  # noqa: ANN401 - of the fields
        """Returns the query of an address, with some of it changed; changed filters begin anew."""
        if changes and "after" not in changes:
            changes["after"] = {}
        one = replace(self, **changes)
        pairs = [("state", word) for word in one.words]
        pairs += [(name, getattr(one, name)) for name in ("kind", "id", "host", "older", "part")]
        pairs += [("label", label) for label in one.labels]
        pairs += [(f"{key}_after", token) for key, token in one.after.items()]
        return urlencode([(name, value) for name, value in pairs if value])

    def toggled(self, word: str) -> str:
        """Returns the query with a state added, or taken away."""
        state = _BY_WORD[word]
        kept: Sequence[WorkflowState.ValueType] = [each for each in self.states if each != state]
        return self.query(states=tuple(kept) if state in self.states else (*kept, state), part="")


def _wrong(given: QueryParams) -> Iterator[Violation]:
    """Yields what is wrong with the other values of an address."""
    for label in given.getlist("label"):
        if label.strip() and not _LABEL.fullmatch(label.strip()):
            yield Violation("label", f"{label!r} is no label: write key=value")
    older, part = given.get("older", "").strip(), given.get("part", "")
    if older and not _SPAN.fullmatch(older):
        yield Violation("older", f"{older!r} is no age: write 30m, 12h or 7d")
    if part and part not in PARTS:
        yield Violation("part", f"{part!r} is none; there are: {', '.join(PARTS)}")
