"""A distribution of token counts as its quantiles, drawn from by normal scores."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np

from traces.blocks import Floats, Ints

_FARTHEST = 8.0
"""A normal score beyond this comes once in 10^15 draws."""

_STEPS = 4096


@dataclass(frozen=True, slots=True)
class TokenQuantiles:
    """A distribution of token counts: ``tokens[i]`` is the ``probabilities[i]``-quantile, straight in log between.

    Quantiles rather than a lognormal: production outputs have two humps (short answers, and those that ran into a
    length limit), which no single lognormal has.
    """

    probabilities: tuple[float, ...]
    tokens: tuple[float, ...]

    def at(self, probability: Floats | float) -> Floats:
        """The quantile of these probabilities in [0, 1]."""
        found = np.exp(np.interp(probability, self.probabilities, np.log(self.tokens)))
        return np.clip(found, self.tokens[0], self.tokens[-1])

    def of_scores(self, scores: Floats) -> Ints:
        """Whole tokens, 1 at least, of standard normal scores."""
        table = self._by_score()
        tokens: Ints = np.maximum(1, np.rint(np.exp(np.interp(scores, _scores(), table)))).astype(np.int64)
        return tokens

    def _by_score(self) -> Floats:
        return np.asarray(np.log(self.at(normal_cdf(_scores()))))

    def scaled(self, factor: float) -> TokenQuantiles:
        return replace(self, tokens=tuple(tokens * factor for tokens in self.tokens))


@functools.lru_cache(maxsize=1)
def _scores() -> Floats:
    return np.linspace(-_FARTHEST, _FARTHEST, _STEPS + 1)


def normal_cdf(scores: Floats) -> Floats:
    """Probability below each score, element by element: for tables and curves, not for millions."""
    return np.array([0.5 * math.erfc(-score / math.sqrt(2.0)) for score in scores.tolist()])


def lognormal_quantiles(median: float, sigma: float, longest: float) -> TokenQuantiles:
    """A lognormal cut off at ``longest`` tokens, as quantiles."""
    probabilities = (0.0, 0.001, 0.01, *(n / 20 for n in range(1, 20)), 0.99, 0.999, 1.0)
    tokens = [
        min(longest, max(1.0, median * math.exp(sigma * NormalDist().inv_cdf(min(max(p, 1e-4), 1 - 1e-4)))))
        for p in probabilities
    ]
    return TokenQuantiles(probabilities, tuple(tokens))
