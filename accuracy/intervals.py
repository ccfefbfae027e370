"""How sure a figure of a recording is: what becomes of it where whole blocks of time are drawn again."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from accuracy.base import percent
from simulator.calibration.replay import Floats

BLOCK_S = 5.0
"""Requests of the same seconds are slow together: drawn one by one they would look surer than they are."""
RESAMPLES = 1000
Places = npt.NDArray[np.int64]


def blocks_of(at: Floats) -> list[Places]:
    """Places in ``at`` (times in seconds) by block of ``BLOCK_S``; blocks without any are left out."""
    number = np.floor(at / BLOCK_S)
    return [np.flatnonzero(number == each) for each in np.unique(number)]


def resampled(at: Floats, seed: int = 0) -> list[Places]:
    """``RESAMPLES`` draws of as many blocks as there are, with replacement: the places in ``at`` that each holds."""
    blocks = blocks_of(at)
    rng = np.random.default_rng(seed)
    return [np.concatenate([blocks[each] for each in rng.integers(len(blocks), size=len(blocks))])
            for _ in range(RESAMPLES)]  # fmt: skip


def middle_90(values: Floats) -> tuple[float, float]:
    low, high = np.nanpercentile(values, [5, 95])
    return float(low), float(high)


def told(interval: tuple[float, float]) -> str:
    """An interval of shares in words."""
    return f"{percent(interval[0])} to {percent(interval[1])}"


def verdict(difference: tuple[float, float]) -> str:
    """Of an interval of a prediction's error less its null's."""
    if difference[1] < 0:
        return "better"
    return "worse" if difference[0] > 0 else "not told apart"
