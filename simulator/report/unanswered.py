"""Why requests of a simulated run were rejected, or cut, in words. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from broker.model.units import format_count
from simulator.engine.profile import EngineProfile
from simulator.fleet import SimulatedReplica
from simulator.report.summary import OUTCOMES, Cut, CutCause, Outcome, Outcomes

CAUSES = {
    CutCause.WALL_TIME: "when their replicas' jobs reached their time limit",
    CutCause.PREEMPTED: "when jobs of a higher tier took their replicas' nodes",
    CutCause.NODE_FAILED: "when their replicas' nodes failed",
    CutCause.DRAIN_LIMIT: "when the drain limit of their replicas had passed",
    CutCause.CANCELLED: "when somebody else cancelled their replicas' jobs",
    CutCause.CRASHED: "when their replicas exited by themselves",
}


def cuts_of(ended: Iterable[tuple[SimulatedReplica, int]]) -> tuple[Cut, ...]:
    """From the replicas that ended under so many requests: by model, pool and cause, in the order of the first ones."""
    found: dict[tuple[str, str, CutCause], Cut] = {}
    for replica, requests in ended:
        assert replica.cut_by is not None, "a replica that has ended knows by what"
        key = (replica.launch.model_id, replica.launch.pool_id, replica.cut_by)
        known = found.get(key, Cut(*key, 0, 0))
        found[key] = Cut(*key, known.requests + requests, known.replicas + 1)
    return tuple(found.values())


def cut_words(cuts: Sequence[Cut]) -> tuple[str, ...]:
    """A line for each of them."""
    return tuple(
        f"{one.requests:,} requests for {one.model_id} cut {CAUSES[one.cause]} (pool {one.pool_id}, "
        f"{format_count(one.replicas, 'replica')})"
        for one in cuts
    )


def rejected_words(
    outcomes: Outcomes, models: tuple[str, ...], profiles: Mapping[str, EngineProfile]
) -> tuple[str, ...]:
    """A line for each model of which engines rejected requests: they do so with what their whole KV cache could not
    hold, and with nothing else."""
    rejected = outcomes.status == OUTCOMES.index(Outcome.REJECTED)
    lines = []
    for number, model_id in enumerate(models):
        asked = outcomes.model == number
        count = int(np.count_nonzero(rejected & asked))
        if not count:
            continue
        profile = profiles[model_id]
        tokens = (outcomes.prompt_tokens + outcomes.answer_tokens)[rejected & asked]
        lines.append(
            f"{count:,} of {int(np.count_nonzero(asked)):,} requests for {model_id} rejected: longer than the engine's "
            f"KV cache of {profile.kv_capacity_tokens:,} tokens (profile {profile.name}); the longest has "
            f"{int(tokens.max()):,}, prompt and answer together"
        )
    return tuple(lines)
