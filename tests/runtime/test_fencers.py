"""Which host settles the attempt of a lost one: one with the same storage, for certain (S-V8)."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from coordinator.agents.placing import Offer, choose_fencer
from coordinator.runtime.ports import HostState
from countermand.v1.agent_pb2 import HostReport
from countermand.v1.image_pb2 import Pool

FAST = frozenset({"fast"})
ONE: Mapping[str, str] = {"fast": "one"}


def report(identity: str = "one", *, shared: bool = True, read_only: bool = False) -> HostReport:
    pool = Pool(pool_id="fast", identity=identity, shared=shared, read_only=read_only)
    return HostReport(pools=[pool])


def lost(said: HostReport | None = None, identities: Mapping[str, str] = ONE) -> Offer:
    """Returns the lost host; said is None after a restart of the coordinator."""
    return Offer(
        host="a",
        state=HostState.UNREACHABLE,
        draining=False,
        report=said,
        load=0,
        identities=identities,
    )


def other(said: HostReport, host: str = "b") -> Offer:
    return Offer(host=host, state=HostState.READY, draining=False, report=said, load=0)


@pytest.mark.parametrize("said", [None, report()])
def test_one_that_is_known_to_reach_the_same_storage_settles_it(said):
    assert choose_fencer([lost(said), other(report())], "a", FAST) == ("b", "")


@pytest.mark.parametrize(
    ("gone", "there", "why"),
    [
        (lost(), report("two"), "the pool 'fast' of b is another storage than that of a"),
        (lost(), report(""), "which storage the pool 'fast' of b is, is not known"),
        (lost(identities={}), report(), "which storage the pool 'fast' of a was, is not known"),
        (
            lost(identities={"fast": ""}),
            report(""),
            "which storage the pool 'fast' of a was, is not known",
        ),
        (lost(report(shared=False)), report(), "a does not call its pool 'fast' shared"),
        (lost(), report(shared=False), "b reaches pool 'fast', and does not call it shared"),
        (lost(), report(read_only=True), "b reaches pool 'fast', and may only read it"),
    ],
)
def test_where_that_is_not_certain_nobody_does(gone, there, why):
    """What another storage says of an attempt is nothing: it would fail, and go on all the same."""
    assert choose_fencer([gone, other(there)], "a", FAST) == ("", why)


def test_of_a_host_that_is_no_more_nothing_is_known():
    why = "which storage the pool 'fast' of a was, is not known"
    assert choose_fencer([other(report())], "a", FAST) == ("", why)


def test_who_was_asked_before_is_passed_over():
    offers = [lost(), other(report()), other(report(), "c")]
    assert choose_fencer(offers, "a", FAST, asked={"b"}) == ("c", "")
    assert choose_fencer(offers, "a", FAST, "b") == ("b", "")
    why = "b was asked, and cannot; c was asked, and cannot"
    assert choose_fencer(offers, "a", FAST, asked={"b", "c"}) == ("", why)
