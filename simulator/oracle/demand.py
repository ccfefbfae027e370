"""The fluid demand: requests as work that flows in, step by step. Pure.

Work is counted in replica-seconds of a reference engine. ``least_work_s`` gives, for each request, a time below which
no schedule of that engine can bring it, so that a bound made from it stays one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simulator.engine.profile import EngineProfile

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Demand:
    """``work_s``: (groups, steps), work that arrives in each step of ``step_s`` seconds, by groups of requests of about
    equal work. ``heaviest_s``: (groups,), the most work of one request of the group, which is what a miss can save at
    most. ``requests`` counts all arrivals. ``deadline_s``: how long after its arrival a request's work may still be
    done without being a miss.
    """

    step_s: float
    work_s: Floats
    heaviest_s: Floats
    requests: int
    deadline_s: float = 0.0

    @property
    def steps(self) -> int:
        return int(self.work_s.shape[1])

    @property
    def patience_steps(self) -> int:
        """How many steps after its own some work can wait, rounded up: a bound must not be too strict."""
        return math.ceil(self.deadline_s / self.step_s - 1e-9)


def fluid_demand(
    arrival_s: Floats, work_s: Floats, *, step_s: float, horizon_s: float, groups: int = 8, deadline_s: float = 0.0
) -> Demand:
    """Bin requests by arrival (seconds from the run's start, below ``horizon_s``) and by quantiles of their work.

    A miss is credited with the work of its group's heaviest request, so that few groups make the bound loose. They lie
    densely at the heavy end, up to the heaviest ten-thousandth: those are what an oracle misses.
    """
    steps = max(1, math.ceil(horizon_s / step_s - 1e-9))
    if not len(arrival_s):
        return Demand(step_s, np.zeros((0, steps)), np.zeros(0), 0, deadline_s)
    quantiles = 1 - 10 ** np.linspace(0, -4, groups + 1)[1:]
    quantiles[-1] = 1.0
    edges = np.unique(np.quantile(work_s, quantiles))
    group = np.minimum(np.searchsorted(edges, work_s), len(edges) - 1)
    step = np.floor(arrival_s / step_s).astype(np.int64)
    if step.min() < 0 or step.max() >= steps:
        raise ValueError(f"arrivals lie between 0 and the horizon of {horizon_s} s")
    flat = np.bincount(group * steps + step, weights=work_s, minlength=len(edges) * steps).astype(np.float64)
    heaviest = np.zeros(len(edges))
    np.maximum.at(heaviest, group, work_s)
    some = heaviest > 0  # where values repeat, quantiles leave groups empty
    return Demand(step_s, flat.reshape(len(edges), steps)[some], heaviest[some], len(work_s), deadline_s)


def least_work_s(
    profile: EngineProfile, prompt_tokens: Floats, output_tokens: Floats, cached_tokens: Floats | float = 0.0
) -> Floats:
    """Seconds of one replica that each request takes at the very least.

    An iteration with D sequences lasts at least ``D * base_s / max_num_seqs`` plus what its tokens cost, so a
    request's share of all its iterations adds up to this, however they are batched. The first token comes with the
    last prompt token's iteration; the k-th decoding iteration reads the prompt and the k - 1 tokens computed since.
    Of the prompt ``cached_tokens`` cost nothing; at least one is computed.
    """
    prompt, output = np.maximum(1.0, prompt_tokens), np.maximum(1.0, output_tokens)
    computed = np.maximum(1.0, prompt - cached_tokens)
    decodes = output - 1
    read_tokens = decodes * prompt + decodes * (decodes - 1) / 2
    share_s = profile.base_s / profile.max_num_seqs
    work: Floats = (
        share_s * output
        + profile.s_per_prefill_token * computed
        + profile.s_per_decode_sequence * decodes
        + profile.s_per_kv_token * read_tokens
    )
    return work
