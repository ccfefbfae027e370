"""How the rate of a load changes: curves, the shape of a day or week, and hours of bursts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike

from broker.model.errors import ConfigError
from traces.blocks import Floats
from traces.lengths import normal_cdf

_CHANGE_S = 60.0
"""How long the rate takes from one hour's level to the next."""


@dataclass(frozen=True, slots=True)
class HourLevels:
    """Rates of whole hours that follow no day: ``relative[i]`` is the ``probabilities[i]``-quantile of an hour's rate
    over the mean, straight between; ``persistence`` the correlation of the normal scores of one hour and the next."""

    probabilities: tuple[float, ...]
    relative: tuple[float, ...]
    persistence: float


@dataclass(frozen=True, slots=True)
class RateCurve:
    """Requests per second over time: straight lines between (``times_s[i]``, ``rates_per_s[i]``).

    Raises ``ValueError`` unless times rise from 0 and rates are 0 or more.
    """

    times_s: tuple[float, ...]
    rates_per_s: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.times_s) != len(self.rates_per_s) or len(self.times_s) < 2 or self.times_s[0] != 0.0:
            raise ValueError("a rate curve needs two points or more, the first at time 0")
        if any(after <= before for before, after in pairwise(self.times_s)):
            raise ValueError("the times of a rate curve must rise")
        if not all(0.0 <= rate < math.inf for rate in self.rates_per_s):
            raise ValueError("the rates of a rate curve must be 0 or more")

    def scaled(self, factor: float) -> RateCurve:
        return replace(self, rates_per_s=tuple(rate * factor for rate in self.rates_per_s))

    def until(self, end_s: float) -> RateCurve:
        """Cut off at ``end_s``, or held at its last rate up to it."""
        keep = [index for index, at in enumerate(self.times_s) if at < end_s]
        last = float(np.interp(end_s, self.times_s, self.rates_per_s))
        return RateCurve(
            (*(self.times_s[index] for index in keep), end_s), (*(self.rates_per_s[index] for index in keep), last)
        )

    def expected_until(self) -> list[float]:
        """Expected requests from the start to each point."""
        times, rates = np.array(self.times_s), np.array(self.rates_per_s)
        return [0.0, *np.cumsum(np.diff(times) * (rates[1:] + rates[:-1]) / 2).tolist()]

    def time_of(self, expected: ArrayLike, until: Sequence[float]) -> Floats:
        """When ``expected`` requests have arrived, given ``until = expected_until()``."""
        times, rates, totals = np.array(self.times_s), np.array(self.rates_per_s), np.array(until)
        index = np.clip(np.searchsorted(totals, expected, side="right"), 1, len(totals) - 1)
        span_s = times[index] - times[index - 1]
        before, after = rates[index - 1], rates[index]
        area = np.maximum(0.0, expected - totals[index - 1])
        # The root of before*x + (after-before)/span * x^2/2 = area, in the form that survives before == after.
        root = np.sqrt(np.maximum(0.0, before * before + 2 * area * (after - before) / span_s))
        with np.errstate(invalid="ignore", divide="ignore"):
            elapsed = np.where(area > 0, np.minimum(span_s, 2 * area / (before + root)), 0.0)
        at: Floats = times[index - 1] + elapsed
        return at


def steady(rate_per_s: float, duration_s: float) -> RateCurve:
    return RateCurve((0.0, duration_s), (rate_per_s, rate_per_s))


def shaped(mean_per_s: float, hourly: Sequence[float], duration_s: float, *, begin_hour: float = 0.0) -> RateCurve:
    """A rate that follows ``hourly`` (24 or 168 relative rates), straight between the middles of hours; ``begin_hour``
    is the hour of the shape at which the curve begins. Its mean is ``mean_per_s`` over whole periods of the shape.

    Raises ``ConfigError`` for a shape of no hours.
    """
    if not hourly:
        raise ConfigError("there is no shape of the day; give hourly rates, or take a steady rate")
    period_s = len(hourly) * 3600.0
    relative = np.asarray(hourly, dtype=float) / float(np.mean(hourly))
    middles = (np.arange(len(hourly)) + 0.5) * 3600.0
    begin_s = begin_hour * 3600.0
    inner = np.arange(math.ceil(begin_s / 3600.0 - 0.5), math.ceil((begin_s + duration_s) / 3600.0)) * 3600.0 + 1800.0
    inner = inner[(inner > begin_s) & (inner < begin_s + duration_s)]
    at = np.concatenate(([begin_s], inner, [begin_s + duration_s]))
    rates = mean_per_s * np.interp(at, middles, relative, period=period_s)
    return RateCurve((0.0, *(at[1:] - begin_s).tolist()), tuple(rates.tolist()))


def bursting(mean_per_s: float, levels: HourLevels, duration_s: float, random: np.random.Generator) -> RateCurve:
    """A rate that stays within an hour and changes from hour to hour as ``levels`` say."""
    hours = math.ceil(duration_s / 3600.0)
    own = math.sqrt(1 - levels.persistence**2)
    score = float(random.standard_normal())
    scores = [score]
    for _ in range(hours - 1):
        score = levels.persistence * score + own * float(random.standard_normal())
        scores.append(score)
    rates = mean_per_s * np.interp(normal_cdf(np.array(scores)), levels.probabilities, levels.relative)
    edges = np.arange(1, hours) * 3600.0
    times = np.concatenate(([0.0], np.stack((edges - _CHANGE_S / 2, edges + _CHANGE_S / 2), axis=1).ravel()))
    values = np.repeat(rates, 2)[: len(times)]
    keep = times < duration_s
    last = float(np.interp(duration_s, times, values))
    return RateCurve((*times[keep].tolist(), duration_s), (*values[keep].tolist(), last))
