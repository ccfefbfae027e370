"""Requests drawn from a fitted profile under a given rate curve.

Arrivals are a gamma renewal process whose clock runs with the rate: gaps of mean 1 and the profile's coefficient of
variation are laid along the curve's integral (ServeGen, arXiv 2505.09999, describes production
arrivals by Gamma and Weibull gaps within minutes). Lengths have the profile's quantiles, joined by a Gaussian copula.
What comes out has the shape of its source in these respects and no others; call it "azure2023_conv-shaped".
"""

from __future__ import annotations

import math
import random
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from traces.schema import Requests, TraceRequest


@dataclass(frozen=True, slots=True)
class TokenQuantiles:
    """A distribution of token counts: ``tokens[i]`` is the ``probabilities[i]``-quantile, straight in log between.

    Quantiles rather than a lognormal: production outputs have two humps (short answers, and those that ran into a
    length limit), which no single lognormal has.
    """

    probabilities: tuple[float, ...]
    tokens: tuple[float, ...]

    def at(self, probability: float) -> float:
        """The quantile of this probability in [0, 1]."""
        right = min(max(bisect_right(self.probabilities, probability), 1), len(self.probabilities) - 1)
        low, high = self.probabilities[right - 1], self.probabilities[right]
        part = (probability - low) / (high - low)
        return self.tokens[right - 1] * math.exp(part * math.log(self.tokens[right] / self.tokens[right - 1]))


@dataclass(frozen=True, slots=True)
class LoadProfile:
    """Everything about a load but its rate.

    ``arrival_cv`` is the coefficient of variation of gaps after slow changes of the rate are taken out;
    ``correlation`` that of the normal scores of prompt and output length. ``daily_shape`` has the rate of each hour
    of the day relative to its mean, empty where the source is too short to know. ``provenance`` says what it was
    fitted to, and how.
    """

    name: str
    provenance: str
    requests: int
    arrival_cv: float
    prompt: TokenQuantiles
    output: TokenQuantiles
    correlation: float
    daily_shape: tuple[float, ...] = ()


def scale_tokens(profile: LoadProfile, *, prompt: float = 1.0, output: float = 1.0) -> LoadProfile:
    """The same profile with prompts and outputs longer or shorter by these factors."""

    def scaled(quantiles: TokenQuantiles, factor: float) -> TokenQuantiles:
        return replace(quantiles, tokens=tuple(tokens * factor for tokens in quantiles.tokens))

    return replace(profile, prompt=scaled(profile.prompt, prompt), output=scaled(profile.output, output))


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

    def expected_until(self) -> list[float]:
        """Expected requests from the start to each point."""
        total, totals = 0.0, [0.0]
        for index in range(1, len(self.times_s)):
            mean = (self.rates_per_s[index - 1] + self.rates_per_s[index]) / 2
            total += mean * (self.times_s[index] - self.times_s[index - 1])
            totals.append(total)
        return totals

    def time_of(self, expected: float, until: Sequence[float]) -> float:
        """When ``expected`` requests have arrived, given ``until = expected_until()``."""
        index = min(max(bisect_right(until, expected), 1), len(until) - 1)
        span_s = self.times_s[index] - self.times_s[index - 1]
        before, after = self.rates_per_s[index - 1], self.rates_per_s[index]
        area = expected - until[index - 1]
        # The root of before*x + (after-before)/span * x^2/2 = area, in the form that survives before == after.
        root = math.sqrt(max(0.0, before * before + 2 * area * (after - before) / span_s))
        return self.times_s[index - 1] + (min(span_s, 2 * area / (before + root)) if area > 0 else 0.0)


def generate(profile: LoadProfile, curve: RateCurve, seed: int) -> Requests:
    """Requests shaped like ``profile`` at the rates of ``curve``, in order of arrival; the same for the same seed."""
    return Requests(lambda: _generate(profile, curve, seed))


def _generate(profile: LoadProfile, curve: RateCurve, seed: int) -> Iterator[TraceRequest]:
    rng = random.Random(seed)
    until = curve.expected_until()
    variance = profile.arrival_cv**2
    shared, own = profile.correlation, math.sqrt(1 - profile.correlation**2)
    expected = rng.gammavariate(1 / variance, variance)
    while expected < until[-1]:
        prompt_score = rng.gauss(0.0, 1.0)
        output_score = shared * prompt_score + own * rng.gauss(0.0, 1.0)
        yield TraceRequest(
            arrival_s=curve.time_of(expected, until),
            prompt_tokens=max(1, round(profile.prompt.at(_normal_cdf(prompt_score)))),
            output_tokens=max(1, round(profile.output.at(_normal_cdf(output_score)))),
        )
        expected += rng.gammavariate(1 / variance, variance)


def _normal_cdf(score: float) -> float:
    return 0.5 * (1.0 + math.erf(score / math.sqrt(2.0)))


DEMO_PEAK = 3.0
"""The demo's peak over what one replica can do: it must scale out twice to keep up, and can be seen to scale in."""

_DEMO_SHAPE = (
    (0.0, 0.5),
    (0.08, 0.5),
    (0.28, DEMO_PEAK),
    (0.5, DEMO_PEAK),
    (0.56, 1.7),
    (0.78, 1.7),
    (0.84, 0.15),
    (1.0, 0.15),
)
"""(share of the duration, rate over one replica's capacity): calm, ramp, hold, a shoulder on which a drain begins while
many streams are open, quiet tail."""


def demo_curve(one_replica_per_s: float, duration_s: float) -> RateCurve:
    """A rate that ramps to three times one replica's capacity in requests per second, holds, falls, and goes quiet."""
    return RateCurve(
        times_s=tuple(share * duration_s for share, _ in _DEMO_SHAPE),
        rates_per_s=tuple(load * one_replica_per_s for _, load in _DEMO_SHAPE),
    )


def demo_load(profile: LoadProfile, one_replica_per_s: float, duration_s: float, seed: int) -> Requests:
    """The demo's requests when no trace is given."""
    return generate(profile, demo_curve(one_replica_per_s, duration_s), seed)
