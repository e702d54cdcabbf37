"""Whether a trace of a workflow is sent: decided once, when it starts, and stored with it.

The settings have OpenTelemetry's names: OTEL_TRACES_SAMPLER and its _ARG, of
https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from coordinator.traces.ids import SPAN_BYTES, digest
from countermand.rpc.collector import CollectorInvalid
from countermand.rpc.telemetry import TraceContext

_NAME, _ARGUMENT = "OTEL_TRACES_SAMPLER", "OTEL_TRACES_SAMPLER_ARG"
_PARENT = "parentbased_"
_SHARES = {"always_on": 1.0, "always_off": 0.0}
_RATIO = "traceidratio"


@dataclass(frozen=True, slots=True)
class Sampler:
    """What share of the workflows is sent, and whether an engine's own choice comes first."""

    share: float = 1.0
    asks_parent: bool = True

    def takes(self, workflow_id: str, engine: TraceContext | None) -> bool:
        """Returns whether a trace of a workflow is to be sent."""
        if self.asks_parent and engine is not None:
            return engine.sampled
        drawn = int.from_bytes(digest(workflow_id, SPAN_BYTES))
        return drawn < self.share * (1 << 8 * SPAN_BYTES)


ALL = Sampler()


def sampler_of(environment: Mapping[str, str]) -> Sampler:
    """Returns what the environment asks for.

    Raises:
        CollectorInvalid: There is no such sampler, or it has another argument.
    """
    name = environment.get(_NAME) or f"{_PARENT}always_on"
    kind = name.removeprefix(_PARENT)
    asks_parent = name.startswith(_PARENT)
    if kind in _SHARES:
        return Sampler(_SHARES[kind], asks_parent)
    if kind != _RATIO:
        known = ", ".join((*_SHARES, _RATIO))
        raise CollectorInvalid(
            f"{_NAME} is {name!r}: write {known}, or {_PARENT} before one of them"
        )
    text = environment.get(_ARGUMENT, "1")
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0.0 <= share <= 1.0:
        raise CollectorInvalid(f"{_ARGUMENT} is {text!r}: write a share from 0 to 1, as 0.1")
    return Sampler(share, asks_parent)
