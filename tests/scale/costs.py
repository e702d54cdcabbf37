"""What each thing takes that many coordinators do all the time: measured, see `calibrate.py`.

`MEASURED` is what `make scale ARGS=--measure` has said on a machine with two cores, the database
beside the coordinator, and a disk on which what is committed is safe within a millisecond.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What one call takes."""

    server_ms: float  # of a core of the database's machine
    client_ms: float  # of the core that a coordinator has, since it is one process of Python's
    whole_ms: float  # with what both wait for: each other, the network, the disk

    @property
    def waits_ms(self) -> float:
        """Returns what it takes though nobody computes."""
        return max(0.0, self.whole_ms - self.server_ms - self.client_ms)

    def times(self, number: float) -> Cost:
        """Returns what so many take, one after the other."""
        return Cost(
            server_ms=number * self.server_ms,
            client_ms=number * self.client_ms,
            whole_ms=number * self.whole_ms,
        )

    def plus(self, other: Cost) -> Cost:
        """Returns what both take, one after the other."""
        return Cost(
            server_ms=self.server_ms + other.server_ms,
            client_ms=self.client_ms + other.client_ms,
            whole_ms=self.whole_ms + other.whole_ms,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """What everything takes."""

    # The database, one call each.
    renew: Cost  # with 100 sessions and an empty floor
    renew_host: Cost  # for each host that the own floor names
    floors_host: Cost  # to read floors, for each host that one names
    floor_bytes: float  # of a session's row, for each host that its floor names
    letters: Cost  # a look into an empty inbox
    moves: Cost  # a look at the history, nothing new
    moves_row: Cost  # for each entry that is new
    look: Cost  # for what nobody owns, and there is nothing
    keep_house: Cost
    hosts_row: Cost  # to read all hosts, for each
    evidence: Cost  # of one host, and there is none
    change_host: Cost
    claim: Cost  # of 100
    claim_holds_ms: float  # so long no other claim gets its epoch
    claim_host: Cost  # for each host that the own floor names
    claim_host_holds_ms: float
    load: Cost  # of 100 workflows of three tasks
    commit: Cost  # of one decision
    commit_more: Cost  # for each further one
    holds_ms: float  # so long no other commit gets its position, with one decision
    holds_more_ms: float  # for each further one
    # One host, as its coordinator sees it.
    line_ms: float  # of the coordinator's core each second, in all that it does for a quiet host
    dial_ms: float  # of the coordinator's core, until it is ready
    line_kib: float  # of the coordinator's memory
    mark_ms: float  # to look at one watermark: who tells an agent something looks at all
    heard_ms: float  # of the coordinator's core for each change of any attempt there
    # One coordinator, as its agents see it.
    stream_kib: float  # of an agent's memory
    stream_ms: float  # of an agent's core each second, nothing happening


MEASURED = Costs(
    commit=Cost(server_ms=0.417, client_ms=1.24, whole_ms=1.91),
    commit_more=Cost(server_ms=0.0373, client_ms=0.0864, whole_ms=0.126),
    holds_ms=0.54,
    holds_more_ms=0.023,
    load=Cost(server_ms=3.09, client_ms=18.7, whole_ms=21.2),
    moves=Cost(server_ms=0.057, client_ms=0.357, whole_ms=0.422),
    moves_row=Cost(server_ms=0.00174, client_ms=0.00315, whole_ms=0.00485),
    renew=Cost(server_ms=0.273, client_ms=1.71, whole_ms=2.23),
    renew_host=Cost(server_ms=0.000767, client_ms=0.00065, whole_ms=0.00144),
    floors_host=Cost(server_ms=5.58e-05, client_ms=0.000471, whole_ms=0.000515),
    floor_bytes=43,
    letters=Cost(server_ms=0.0566, client_ms=0.537, whole_ms=0.607),
    look=Cost(server_ms=0.183, client_ms=0.969, whole_ms=1.25),
    keep_house=Cost(server_ms=0.103, client_ms=0.625, whole_ms=1.04),
    evidence=Cost(server_ms=0.0447, client_ms=0.607, whole_ms=0.683),
    hosts_row=Cost(server_ms=0.000882, client_ms=0.0104, whole_ms=0.0111),
    change_host=Cost(server_ms=0.234, client_ms=0.858, whole_ms=1.27),
    claim=Cost(server_ms=4.06, client_ms=2.98, whole_ms=9.49),
    claim_holds_ms=0.612,
    claim_host=Cost(server_ms=0.000369, client_ms=0.00179, whole_ms=0.00279),
    claim_host_holds_ms=0.0000836,
    line_ms=0.293,
    dial_ms=3.76,
    line_kib=120,
    mark_ms=0.00064,
    heard_ms=0.112,
    stream_kib=66,
    stream_ms=0.04,
)
