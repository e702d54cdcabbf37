"""Filters of the list of workflows, from the address and back: a filtered list is a link."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Final, Self
from urllib.parse import urlencode

from starlette.datastructures import QueryParams

from countermand.drawing.words import WORKFLOW, Look
from countermand.rpc.errors import FieldInvalid, Violation
from countermand.v1 import workflow_pb2 as pb
from countermand.v1.workflow_state_pb2 import WorkflowState

SETTLED: Final = frozenset(
    {
        WorkflowState.WORKFLOW_STATE_SUCCEEDED,
        WorkflowState.WORKFLOW_STATE_COMPENSATED,
        WorkflowState.WORKFLOW_STATE_FAILED,
    }
)
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

_BY_WORD: Final = {look.word: WorkflowState.ValueType(state) for state, look in WORKFLOW.items()}
_SPAN: Final = re.compile(r"(\d{1,6})([smhd])")
_UNITS_S: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


@dataclass(frozen=True, slots=True, kw_only=True)
class Filters:
    """What a list is narrowed to."""

    states: tuple[WorkflowState.ValueType, ...] = ()
    kind: str = ""
    labels: tuple[str, ...] = ()  # "key=value"
    host: str = ""
    older: str = ""  # "1h"
    part: str = ""  # one of the parts alone
    after: Mapping[str, str]  # the token of each part that is not on its first page

    @classmethod
    def of(cls, given: QueryParams) -> Self:
        """Returns what an address says; raises FieldInvalid."""
        wrong = [
            *(
                Violation("state", f"{word!r} is no state; there are: {', '.join(_BY_WORD)}")
                for word in given.getlist("state")
                if word not in _BY_WORD
            ),
            *(
                Violation("label", f"{label!r} is no label: write key=value")
                for label in given.getlist("label")
                if label and "=" not in label
            ),
        ]
        older, part = given.get("older", "").strip(), given.get("part", "")
        if older and not _SPAN.fullmatch(older):
            wrong.append(Violation("older", f"{older!r} is no age: write 30m, 12h or 7d"))
        if part and part not in PARTS:
            wrong.append(Violation("part", f"{part!r} is none; there are: {', '.join(PARTS)}"))
        if wrong:
            raise FieldInvalid(*wrong)
        return cls(
            states=tuple(_BY_WORD[word] for word in given.getlist("state")),
            kind=given.get("kind", "").strip(),
            labels=tuple(label.strip() for label in given.getlist("label") if label.strip()),
            host=given.get("host", "").strip(),
            older=older,
            part=part,
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
        asked = pb.ListWorkflowsRequest(
            states=self.states,
            kind=self.kind,
            host_id=self.host,
            labels=dict(tuple(label.split("=", 1)) for label in self.labels),  # type: ignore[misc]
            **fields,
        )
        if match := _SPAN.fullmatch(self.older):
            asked.min_age.FromTimedelta(timedelta(seconds=int(match[1]) * _UNITS_S[match[2]]))
        return asked

    def query(self, **changes: Any) -> str:  # noqa: ANN401 - of the fields
        """Returns the query of an address, with some of it changed; changed filters begin anew."""
        if changes and "after" not in changes:
            changes["after"] = {}
        one = replace(self, **changes)
        pairs = [("state", word) for word in one.words]
        pairs += [("kind", one.kind), ("host", one.host), ("older", one.older), ("part", one.part)]
        pairs += [("label", label) for label in one.labels]
        pairs += [(f"{key}_after", token) for key, token in one.after.items()]
        return urlencode([(name, value) for name, value in pairs if value])

    def toggled(self, word: str) -> str:
        """Returns the query with a state added, or taken away."""
        state = _BY_WORD[word]
        kept: Sequence[WorkflowState.ValueType] = [each for each in self.states if each != state]
        return self.query(states=tuple(kept) if state in self.states else (*kept, state), part="")
