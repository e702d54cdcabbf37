"""The window of one host: how many of its actions are asked for at once, and who comes next.

Whatever waits here is durable and can still be cancelled, drained or overtaken by what matters
more; what an agent has in its queue cannot. Compensations, cancels and questions need no slot.
"""

from __future__ import annotations

from bisect import bisect_left, insort

# An agent works on a handful of copies at a time and answers light verbs within milliseconds: more
# would not get done sooner, and would only wait where its order is settled.
WINDOW = 64

_Place = tuple[int, int, str]  # (-priority, intent, name): the first goes first


class Slots:
    """The attempts of one host that are out, and the line of those that wait."""

    def __init__(self, window: int = WINDOW) -> None:
        """Begins with every slot free."""
        assert window > 0, window
        self.window = window
        self._taken: set[str] = set()
        self._line: list[_Place] = []
        self._places: dict[str, _Place] = {}

    @property
    def waiting(self) -> int:
        """Returns how many wait."""
        return len(self._line)

    def take(self, name: str, *, priority: int, intent: int) -> bool:
        """Returns whether an attempt has a slot; if not, it stands in line from now on."""
        if name in self._taken:
            return True
        if name not in self._places:
            self._places[name] = place = (-priority, intent, name)
            insort(self._line, place)
        if self._line[0][2] != name or len(self._taken) >= self.window:
            return False
        self._leave_line(name)
        self._taken.add(name)
        return True

    def occupy(self, name: str) -> None:
        """Gives an attempt a slot that it has anyway: it is out, whoever else is."""
        self._leave_line(name)
        self._taken.add(name)

    def free(self, name: str) -> None:
        """Takes an attempt out: its outcome is known, or nobody asks for it any more."""
        self._leave_line(name)
        self._taken.discard(name)

    def next(self) -> str | None:
        """Returns who may take a slot now, if anybody may."""
        if self._line and len(self._taken) < self.window:
            return self._line[0][2]
        return None

    def position(self, name: str) -> int:
        """Returns the place of an attempt in line, from 1; 0 if it does not wait."""
        place = self._places.get(name)
        return 0 if place is None else bisect_left(self._line, place) + 1

    def _leave_line(self, name: str) -> None:
        if place := self._places.pop(name, None):
            del self._line[bisect_left(self._line, place)]
