"""Least squares with bounds, and what its Jacobian says about each parameter: known, unknown, or known only together
with another.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from broker.model.errors import ConfigError
from simulator.calibration.replay import Floats

STEPS = (0.2, 0.05)
"""Shares of a parameter by which it is changed to see its effect, first to come near and then to settle. Simulated
times jump where a request just misses an iteration; wide steps average over many such jumps."""
APART = 2.0
"""By which factor, at most, other places to begin at differ from the first in each parameter."""
LEAST_NOISE = 0.01
"""No measurement of a running server repeats to better than a percent; a perfect fit of few figures claims no more."""
UNKNOWN_BEYOND = 0.5
"""A relative standard error from which on a value is not known."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """One free number. ``scale`` is a value that matters: the least change worth telling apart is a share of it."""

    name: str
    start: float
    scale: float
    low: float = 0.0
    high: float = np.inf


@dataclass(frozen=True, slots=True)
class Solution:
    """The best values, what remains, and what they are worth.

    ``relative_errors`` are standard errors as shares of the value (or of its scale, where that is larger);
    ``unknown`` lists combinations of parameters that can change together while the residuals stay within the noise,
    the worst first: a single name is a parameter without effect. ``at_bound`` lists parameters that would go on beyond
    their bound.
    """

    values: dict[str, float]
    residuals: Floats
    relative_errors: dict[str, float]
    unknown: tuple[tuple[str, ...], ...]
    at_bound: tuple[str, ...]
    condition: float
    evaluations: int

    @property
    def rms(self) -> float:
        return float(np.sqrt(np.mean(self.residuals**2))) if self.residuals.size else 0.0


Residuals = Callable[[dict[str, float]], Floats]


def solve(
    residuals: Residuals,
    parameters: Sequence[Parameter],
    *,
    places: int = 1,
    tell: Callable[[int, float], None] | None = None,
) -> Solution:
    """Find the values that make ``residuals`` (relative errors, one for each measured figure) least in the sum of
    squares. The jumps make many hollows, so that the search may begin at several ``places``, always the same, and goes
    on from the lowest. ``tell`` hears the count of evaluations and the root mean square of each. Raises ``ValueError``
    without parameters, and ``ConfigError`` where scipy is not installed."""
    if not parameters:
        raise ValueError("nothing to fit: every parameter is held")
    problem = _Problem(residuals, parameters, tell)
    least_squares = _least_squares()
    begins = [problem.start * factors for factors in _factors(places, len(parameters))]
    for step in STEPS:
        problem.step = step
        found = [
            least_squares(
                problem.at, problem.inside(begin), jac=problem.jacobian, bounds=(problem.low, problem.high), xtol=1e-4,
                ftol=1e-4, gtol=1e-8, max_nfev=40,
            )
            for begin in begins
        ]  # fmt: skip
        begins = [np.asarray(min(found, key=lambda each: each.cost).x, dtype=np.float64)]
    return problem.judge(begins[0])


def _least_squares() -> Callable[..., Any]:
    """scipy is an extra: only calibration needs it."""
    try:
        from scipy.optimize import least_squares
    except ImportError:
        raise ConfigError("calibration needs scipy: pip install 'tidegate[sim]'") from None
    found: Callable[..., Any] = least_squares
    return found


def _factors(places: int, parameters: int) -> Floats:
    """What the start is multiplied by at each place; by 1 at the first."""
    exponents = np.random.default_rng(1).uniform(-1, 1, (places, parameters))
    exponents[0] = 0.0
    factors: Floats = APART**exponents
    return factors


class _Problem:
    """The residuals as a function of the parameters in units of their scales."""

    def __init__(
        self, residuals: Residuals, parameters: Sequence[Parameter], tell: Callable[[int, float], None] | None
    ) -> None:
        self._residuals = residuals
        self._names = [parameter.name for parameter in parameters]
        self._scale = np.array([parameter.scale for parameter in parameters])
        self.low = np.array([parameter.low for parameter in parameters]) / self._scale
        self.high = np.array([parameter.high for parameter in parameters]) / self._scale
        self.start = np.array([parameter.start for parameter in parameters]) / self._scale
        self.step = STEPS[0]
        self._tell = tell
        self._evaluations = 0

    def at(self, x: Floats) -> Floats:
        found = self._residuals(self._named(x))
        self._evaluations += 1
        if self._tell is not None:
            self._tell(self._evaluations, float(np.sqrt(np.mean(found**2))))
        return found

    def inside(self, x: Floats) -> Floats:
        """Strictly between the bounds, where the search has to begin."""
        clipped: Floats = np.clip(x, self.low + 1e-6, self.high - 1e-6)
        return clipped

    def jacobian(self, x: Floats) -> Floats:
        here = self.at(x)
        columns = []
        for index in range(len(x)):
            step = self.step * max(abs(x[index]), 0.25)
            if x[index] + step > self.high[index]:
                step = -step
            moved = x.copy()
            moved[index] += step
            columns.append((self.at(moved) - here) / step)
        return np.stack(columns, axis=1)

    def judge(self, x: Floats) -> Solution:
        residuals = self.at(x)
        weight = np.maximum(np.abs(x), 0.25)
        effects = self.jacobian(x) * weight
        noise = max(float(np.sqrt(np.sum(residuals**2) / max(1, residuals.size - len(x)))), LEAST_NOISE)
        _, strengths, directions = np.linalg.svd(effects, full_matrices=True)
        strengths = np.pad(strengths, (0, len(x) - len(strengths)))
        uncertainty = noise / np.maximum(strengths, 1e-12)
        errors = np.sqrt(np.sum((directions * uncertainty[:, None]) ** 2, axis=0))
        weak = [index for index in np.argsort(strengths) if uncertainty[index] > UNKNOWN_BEYOND]
        return Solution(
            values=self._named(x),
            residuals=residuals,
            relative_errors=dict(zip(self._names, errors.tolist(), strict=True)),
            unknown=tuple(self._involved(directions[index]) for index in weak),
            at_bound=tuple(
                name
                for name, value, low, high in zip(self._names, x, self.low, self.high, strict=True)
                if value - low < 1e-3 or high - value < 1e-3
            ),
            condition=float(strengths.max() / max(strengths.min(), 1e-12)),
            evaluations=self._evaluations,
        )

    def _involved(self, direction: Floats) -> tuple[str, ...]:
        """Parameters that take part in a direction, the strongest first."""
        order = np.argsort(-np.abs(direction))
        return tuple(self._names[index] for index in order if abs(direction[index]) > 0.3)

    def _named(self, x: Floats) -> dict[str, float]:
        return dict(zip(self._names, (x * self._scale).tolist(), strict=True))
