"""How long before its load a simulated run begins, so that the first replicas have started when the first users come."""

from __future__ import annotations

import math
from collections.abc import Iterable

from broker.model.spec import ModelSpec
from simulator.cluster.plan import ClusterPlan
from simulator.profiles.document import load_profile

LEAST_S = 120.0
_SLACK_S = 60.0
"""Beyond the start itself: the replica is found ready and published, and others may start before it."""


def warm_up_for(models: Iterable[ModelSpec], cluster: ClusterPlan | None) -> float:
    """Whole minutes that cover the slowest of the models' starts, but no wait in a queue: a service that is looked at
    has been running. It hangs on no policy, so that all that are compared meet the same cluster.

    Raises ``ConfigError`` for an unknown engine profile.
    """
    longest_s = max((_start_s(model, cluster) for model in models), default=0.0)
    return max(LEAST_S, 60.0 * math.ceil((longest_s + _SLACK_S) / 60.0))


def _start_s(model: ModelSpec, cluster: ClusterPlan | None) -> float:
    start = None if cluster is None else cluster.cold_starts.get(model.model_id)
    return load_profile(model.engine.profile or "demo").engine.load_time_s if start is None else start.long_s
