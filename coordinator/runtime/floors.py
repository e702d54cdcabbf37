"""The intents below which coordinators send nothing new: what one says to the others.

An agent forgets what is below the lowest of them. So a floor only rises while its coordinator
lives; it is lowered by the very transaction that gives it workflows whose intents may be lower.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Floor:
    """The intents below which one coordinator sends nothing new."""

    next_intent: int  # to any host
    hosts: Mapping[str, int]  # but to these, where something lower is still under way: all are
    fences: int  # for fencing, which may be asked of any host

    def of(self, host_id: str) -> int:
        """Returns the intent below which nothing new is sent to a host."""
        return self.hosts.get(host_id, self.next_intent)


def lower(one: Floor, other: Floor) -> Floor:
    """Returns the floor of somebody who sends what either of two would have sent."""
    return Floor(
        next_intent=min(one.next_intent, other.next_intent),
        hosts={
            host: min(one.of(host), other.of(host))
            for host in sorted(one.hosts.keys() | other.hosts.keys())
        },
        fences=min(one.fences, other.fences),
    )


NOBODYS = Floor(next_intent=1 << 62, hosts={}, fences=1 << 62)  # who sends nothing
UNHEARD = Floor(next_intent=1, hosts={}, fences=1)  # of who may send anything


def lowest(floors: Iterable[Floor]) -> Floor:
    """Returns the floor of all of them together."""
    return common(floors).lowest


@dataclass(frozen=True, slots=True, kw_only=True)
class Common:
    """What the floors of several coordinators come to.

    That of all of them never falls, whoever claims from whom: what was read a while ago is true.
    """

    lowest: Floor
    newest: int  # the highest next intent of any


def common(floors: Iterable[Floor]) -> Common:
    """Returns what some floors come to; there may be a hundred with thousands of hosts each."""
    next_intent, fences, newest = NOBODYS.next_intent, NOBODYS.fences, 0
    hosts: dict[str, int] = {}
    for floor in floors:
        next_intent = min(next_intent, floor.next_intent)
        fences = min(fences, floor.fences)
        newest = max(newest, floor.next_intent)
        for host, intent in floor.hosts.items():
            if intent < hosts.get(host, next_intent):
                hosts[host] = intent
    named = {host: intent for host, intent in hosts.items() if intent < next_intent}
    return Common(lowest=Floor(next_intent=next_intent, hosts=named, fences=fences), newest=newest)
