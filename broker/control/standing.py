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
    for pool_id in model.spec.pools or state.pools:
        pool = state.pools.get(pool_id)
        if pool is not None and pool.unknown_since is not None:
            for_ = format_duration(math.floor(now - pool.unknown_since))
            yield f"Now: nothing is started in pool {pool_id}, which has been unknown for {for_}: {pool.error}."
    for pool_id in sorted(model.breakers):
        open_until = lifecycle.rests_until(model, pool_id, now)
        if open_until is None:
            continue
        why = lifecycle.failures_words(model, pool_id)
        left = format_duration(math.ceil(open_until - now))
        yield f"Now: {why}. The next try is in {left}, at {clock_time(open_until)}."
