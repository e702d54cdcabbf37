"""Requests that are decided at the same time as their own repeats."""

from __future__ import annotations

from typing import Any

from coordinator.api import requests
from coordinator.api.deciding import Deciding
from coordinator.runtime.ports import Request
from coordinator.saga.workflow import Workflow
from countermand.rpc.errors import FieldInvalid, Violation
from countermand.v1.external_task_pb2 import AddExternalTaskRequest
from tests.saga.language import play


class _Known:
    """A store and what is shown of it; the first request is committed between two looks."""

    def __init__(self, request: AddExternalTaskRequest, workflow: Workflow) -> None:
        hash_ = requests.hash_of_request(request)
        self._kept = Request(request_id=request.request_id, hash=hash_), workflow.id
        self._workflow = workflow
        self._looks = 0

    async def request(self, _request_id: str) -> tuple[Request, str] | None:
        self._looks += 1
        return self._kept if self._looks > 1 else None

    async def find(self, _workflow_id: str) -> Workflow:
        return self._workflow

    newest = find


async def test_a_repeat_is_a_success_though_what_it_asks_for_is_there_by_now():
    """I8: the first is committed after the repeat has looked for it, and before it is made out."""
    workflow = play("a | b", "a:hang b:hang").workflow
    request = AddExternalTaskRequest(parent="workflows/w", task_id="b", request_id="once")
    known: Any = _Known(request, workflow)
    nobody: Any = None
    deciding = Deciding(loop=nobody, store=known, showing=known, clock=nobody)

    def taken(*_: object) -> Any:
        raise FieldInvalid(Violation("task_id", "'b' is taken in this workflow"))

    found = await deciding.decide(workflow.id, "add", request, taken)
    assert found.workflow == workflow
    assert found.before is None
