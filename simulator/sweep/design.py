"""Which settings of a policy are tried: all combinations of a grid, times draws from distributions. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TypeAlias

from broker.model.spec import JsonValue
from traces.randomness import Draws

_DIGITS = 6


@dataclass(frozen=True, slots=True)
class Setting:
    """``path`` into the policies file, and the plain value that it takes."""

    path: str
    value: JsonValue


Settings: TypeAlias = tuple[Setting, ...]
"""In the order in which the sweep names the paths."""


@dataclass(frozen=True, slots=True)
class Between:
    """Uniform between two values, or uniform in the logarithm; rounded to six digits, or to a whole number."""

    low: float
    high: float
    logarithmic: bool = False
    whole: bool = False

    def at(self, share: float) -> JsonValue:
        """The value below which ``share`` of the distribution lies."""
        if self.logarithmic:
            value = math.exp(math.log(self.low) + share * (math.log(self.high) - math.log(self.low)))
        else:
            value = self.low + share * (self.high - self.low)
        return round(value) if self.whole else float(f"{value:.{_DIGITS}g}")


@dataclass(frozen=True, slots=True)
class Choice:
    """One of some values, each as likely."""

    values: tuple[JsonValue, ...]

    def at(self, share: float) -> JsonValue:
        return self.values[int(share * len(self.values))]


Distribution: TypeAlias = "Between | Choice"


@dataclass(frozen=True, slots=True)
class Search:
    """``samples`` draws of what ``random`` names, each with every combination of ``grid``. A path's draws depend on
    ``seed`` and its own name only: another path more leaves them as they were."""

    grid: Mapping[str, Sequence[JsonValue]]
    random: Mapping[str, Distribution]
    samples: int = 1
    seed: int = 1

    def __len__(self) -> int:
        return self.samples * math.prod(len(values) for values in self.grid.values())

    @property
    def paths(self) -> tuple[str, ...]:
        return (*self.grid, *self.random)

    def settings(self) -> Iterator[Settings]:
        """Each once, in a fixed order."""
        drawn = {path: Draws(self.seed, "sweep", path) for path in self.random}
        for sample in range(self.samples):
            chosen = [Setting(path, self.random[path].at(draws.uniform(sample))) for path, draws in drawn.items()]
            for combination in product(*self.grid.values()):
                yield (*map(Setting, self.grid, combination), *chosen)
