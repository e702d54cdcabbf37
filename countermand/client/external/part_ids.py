"""Ids of the parts that one block adds: told apart, and the same ones in every life.

A part is found again by its id alone. So what is called for twice in one life must have two ids:
else the first would seem to have done the work of the second.
"""

from __future__ import annotations

from countermand.client.external.outcome import TaskFailed
from countermand.rpc import names


class PartIds:
    """The ids of the parts of one attempt, as its block calls for them in one life."""

    def __init__(self, whole: str) -> None:
        """Keeps the name of the attempt; it has no parts yet."""
        self._whole = whole
        self._given: set[str] = set()
        self._counts: dict[str, int] = {}  # by kind

    def next(self, kind: str, said: str = "") -> str:
        """Returns the id of the next part: what was said, or counted.

        Raises:
            TaskFailed: What was said was the id of an earlier one.
        """
        whole = names.parse_attempt(self._whole)
        assert whole is not None, self._whole
        if said in self._given:
            message = (
                f"A part {said} was begun before: give each a task_id of its own, made of what it "
                "is about; or give none, and they are counted."
            )
            raise TaskFailed("PART_REPEATED", message)
        task_id = said or self._counted(whole.task_id, kind)
        self._given.add(task_id)
        # Of a later attempt they are others: an id is never given out again.
        return task_id if whole.number == 1 else f"{task_id}.{whole.number}"

    def _counted(self, whole: str, kind: str) -> str:
        """Returns "job.copy", then "job.copy-2" and so on; leaves out what was said."""
        while True:
            self._counts[kind] = number = self._counts.get(kind, 0) + 1
            task_id = f"{whole}.{kind}" if number == 1 else f"{whole}.{kind}-{number}"
            if task_id not in self._given:
                return task_id
