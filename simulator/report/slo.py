"""Service levels over all arrivals, as ``docs/evaluation.md`` defines them. Pure functions over arrays of requests.

A request is in time if it was answered in full, its first token came within its class's limit for its prompt length,
and its mean time per further token is within the class's limit. Whatever else became of it is a miss: rejected, failed,
cut, abandoned, or still waiting at the run's end.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from broker.model.spec import ServiceObjective

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Booleans = NDArray[np.bool_]

HOUR_S = 3600.0
FIVE_MINUTES_S = 300.0
WINDOW_STRIDE_S = 60.0
"""The worst windows begin on whole minutes of the run."""


@dataclass(frozen=True, slots=True)
class FirstTokenLimit:
    """For prompts of up to ``up_to_tokens`` tokens."""

    up_to_tokens: float
    limit_s: float


@dataclass(frozen=True, slots=True)
class ServiceLevel:
    """One class: limits of the time to first token by prompt length (rising; the last holds beyond), and of the mean
    time per output token after the first."""

    name: str
    first_token: tuple[FirstTokenLimit, ...]
    per_token_s: float

    def __post_init__(self) -> None:
        lengths = [limit.up_to_tokens for limit in self.first_token]
        if not lengths or lengths != sorted(set(lengths)):
            raise ValueError(f"{self.name}: limits of the first token are given by rising prompt lengths, at least one")

    @staticmethod
    def of(name: str, objective: ServiceObjective) -> ServiceLevel:
        """What a model's users are promised, as a class of that name."""
        longer = objective.longer_prompts
        lengths = [*(float(one.over_tokens) for one in longer), math.inf]
        limits = [objective.first_token_s, *(one.first_token_s for one in longer)]
        return ServiceLevel(name, tuple(map(FirstTokenLimit, lengths, limits)), objective.per_token_s)


@dataclass(frozen=True, slots=True)
class RequestTable:
    """Every arrival, one row each. Times are seconds from the run's start as the client saw them at the gateway, with
    the wait for a cold model in them; NaN: never. ``level`` and ``tenant`` are indices."""

    arrival_s: Floats
    first_token_s: Floats
    end_s: Floats
    prompt_tokens: Integers
    output_tokens: Integers
    finished: Booleans
    level: Integers
    tenant: Integers

    def __len__(self) -> int:
        return len(self.arrival_s)


@dataclass(frozen=True, slots=True)
class Share:
    """``kept`` of ``arrivals`` in time."""

    kept: int
    arrivals: int

    @property
    def value(self) -> float | None:
        """None where nothing arrived."""
        return self.kept / self.arrivals if self.arrivals else None


@dataclass(frozen=True, slots=True)
class WorstWindow:
    """The stretch with the least share in time, the first of equals; with its count, since few arrivals say little."""

    begin_s: float
    length_s: float
    share: Share


def kept_in_time(requests: RequestTable, levels: Sequence[ServiceLevel]) -> Booleans:
    """For each arrival, whether both limits held."""
    kept = np.zeros(len(requests), dtype=np.bool_)
    for index, level in enumerate(levels):
        rows = np.flatnonzero((requests.level == index) & requests.finished)
        lengths = np.array([limit.up_to_tokens for limit in level.first_token])
        limits = np.array([limit.limit_s for limit in level.first_token])
        which = np.minimum(np.searchsorted(lengths, requests.prompt_tokens[rows]), len(limits) - 1)
        first = requests.first_token_s[rows]
        further = np.maximum(1, requests.output_tokens[rows] - 1)
        # A single token has no pace; its end is its first token.
        pace_s = np.where(requests.output_tokens[rows] > 1, (requests.end_s[rows] - first) / further, 0.0)
        kept[rows] = (first - requests.arrival_s[rows] <= limits[which]) & (pace_s <= level.per_token_s)
    return kept


def worst_window(arrival_s: Floats, kept: Booleans, length_s: float) -> WorstWindow | None:
    """By arrival, over windows of ``length_s`` that begin on whole minutes up to the one that holds the last arrival; a
    run that is shorter is one window. Windows without arrivals say nothing and are left out."""
    if not len(arrival_s):
        return None
    bins = np.floor(arrival_s / WINDOW_STRIDE_S).astype(np.int64)
    width = max(1, round(length_s / WINDOW_STRIDE_S))
    count = max(int(bins.max()) + 1, width)
    arrived, in_time = (_sliding(np.bincount(bins[rows], minlength=count), width) for rows in (slice(None), kept))
    shares = np.where(arrived > 0, in_time / np.maximum(1, arrived), np.inf)
    worst = int(np.argmin(shares))
    return WorstWindow(worst * WINDOW_STRIDE_S, length_s, Share(int(in_time[worst]), int(arrived[worst])))


def _sliding(counts: Integers, width: int) -> Integers:
    sums = np.concatenate(([0], np.cumsum(counts)))
    return np.asarray(sums[width:] - sums[:-width])
