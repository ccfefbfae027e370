"""Why requests of a simulated run were rejected, in words. Pure."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from simulator.engine.profile import EngineProfile
from simulator.report.summary import OUTCOMES, Outcome, Outcomes


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
