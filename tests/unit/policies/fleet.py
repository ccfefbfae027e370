"""Fleets to ask policies about, written as short as the question."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from broker.model.reading import Freshness, Reading
from broker.model.signals import Signal
from broker.model.snapshot import FleetSnapshot, ModelSnapshot, Supply, WindowReading
from broker.model.spec import PolicySpec
from broker.model.state import Memory

NOON = 1_750_000_000.0


def window(
    signal: Signal,
    over_s: float,
    low: float | None,
    high: float | None = None,
    *,
    freshness: Freshness = Freshness.FRESH,
    covered: bool = True,
    observed_at: float = NOON,
) -> WindowReading:
    high = low if high is None else high
    return WindowReading(signal, over_s, freshness, covered, low, high, low, observed_at)


def fleet(
    *windows: WindowReading,
    readings: Mapping[Signal, Reading] | None = None,
    target: int = 1,
    ready: int | None = None,
    now: float = NOON,
    minimum: int = 1,
) -> FleetSnapshot:
    model = ModelSnapshot("chat", 1, now, now, readings or {}, windows)
    ready = target if ready is None else ready
    supply = Supply(target=target, ready=ready, on_its_way=max(0, target - ready), draining=0)
    return FleetSnapshot(now, model, supply, minimum, 10)


def threshold(*rules: dict[str, Any]) -> PolicySpec:
    return PolicySpec("threshold", {"rules": list(rules)})


def through_json(memory: Memory) -> Memory:
    """What a restart makes of a memory."""
    restored: dict[str, Any] = json.loads(json.dumps(dict(memory), allow_nan=False))
    return restored
