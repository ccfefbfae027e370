"""How a model stands now, in sentences: what has begun, waits or was ordered since its last decision. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator

from broker.control import lifecycle
from broker.model.state import BrokerState
from broker.model.units import clock_time, format_duration


def standing(state: BrokerState, model_id: str, now: float) -> Iterator[str]:
    """What a decision of some time ago cannot know of ``now``: nothing is decided anew while only time passes."""
    model = state.models[model_id]
    open_until = model.breaker.open_until
    if open_until is not None and lifecycle.breaker_is_open(model.breaker, now):
        why = lifecycle.failures_words(state.replicas_of(model_id).values())
        left = format_duration(math.ceil(open_until - now))
        yield f"Now: {why}. The next try is in {left}, at {clock_time(open_until)}."
