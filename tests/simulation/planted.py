"""What tests of planted bugs have in common."""

from __future__ import annotations

import pytest

from tests.simulation.world import Faults, Violation, World


def expect_violation(
    words: str,
    *,
    seeds: int,
    first: int = 1,
    faults: Faults | None = None,
    external: float = 0.0,
    several: bool = False,
    rewound: bool = False,
) -> None:
    """Asserts that one of so many seeds breaks a promise, in one of these words."""
    with pytest.raises(Violation, match=words):
        _play(
            range(first, first + seeds),
            faults or Faults(),
            external,
            several=several,
            rewound=rewound,
        )


def _play(seeds: range, faults: Faults, external: float, *, several: bool, rewound: bool) -> None:
    for seed in seeds:
        World(
            seed, plain=0.0, external=external, several=several, rewound=rewound, faults=faults
        ).run()
