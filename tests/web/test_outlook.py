"""What is said before a cancel, also of a workflow of which not all tasks are read for it."""

from __future__ import annotations

from coordinator.web.forms.outlook import items, outlook, sentences
from countermand.v1.annotation_pb2 import Effect
from countermand.v1.task_pb2 import Task

DONE, RUNS, WAITS = Task.STATE_SUCCEEDED, Task.STATE_RUNNING, Task.STATE_PENDING


def some(number: int, state: Task.State.ValueType) -> list[Task]:
    return [
        Task(
            name=f"workflows/w/tasks/copy-{state}-{n}",
            kind=Task.KIND_VERB,
            state=state,
            host_id="host-a",
            effect=Effect.EFFECT_REVERSIBLE,
            opposite="delete the copy",
        )
        for n in range(number)
    ]


def test_of_what_was_read_whole_all_is_told() -> None:
    seen = outlook([*some(2, DONE), *some(1, RUNS)], {DONE: 2, RUNS: 1, WAITS: 4})
    assert sentences(seen) == [
        "2 tasks will be compensated on host-a.",
        "1 task at work on host-a will be stopped; it is compensated if it took effect meanwhile.",
        "4 tasks that have not begun never will.",
    ]
    assert items(seen)[-1] == f"copy-{DONE}-1 on host-a: delete the copy"


def test_of_thousands_all_are_counted_although_few_are_read() -> None:
    counts = {DONE: 2500, RUNS: 2400, WAITS: 100}
    seen = outlook([*some(200, DONE), *some(200, RUNS)], counts, is_all=False)
    each = "each is compensated if it took effect meanwhile."
    assert sentences(seen) == [
        "2500 tasks took effect: what they made will be compensated, such as those on host-a.",
        f"2400 tasks at work on host-a will be stopped; {each}",
        "100 tasks that have not begun never will.",
    ]
    assert items(seen)[-1] == "and 2488 more"
