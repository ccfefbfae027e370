"""The time that engines count in: whole picoseconds.

Sums of whole numbers are exact in any order, so that a run of iterations computed at once ends at the very instant at
which it ends when computed one by one.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

TICKS_PER_S = 10**12
END_OF_TIME = 10**30


def to_ticks(seconds: float) -> int:
    """The tick of ``seconds``, rounded up: what an arrival causes never lies before it.

    Whole seconds and the rest apart, so that ``array_to_ticks`` finds the same ticks.
    """
    whole = math.floor(seconds)
    return whole * TICKS_PER_S + math.ceil((seconds - whole) * TICKS_PER_S)


def to_seconds(ticks: int) -> float:
    whole, rest = divmod(ticks, TICKS_PER_S)
    return whole + rest / TICKS_PER_S


def last_tick(until: float) -> int:
    """The last tick that reads as ``until`` or less, so that advancing to an event's time reaches that event; not
    before ``to_ticks(until)``, so that it reaches what arrives then.

    Seconds since 1970 as float are 240,000 ticks apart: an event's time may read earlier than it is.
    """
    if until == math.inf:
        return END_OF_TIME
    arrival = to_ticks(until)
    tick = arrival + int(math.ulp(until) * TICKS_PER_S / 2) + 1
    while tick > arrival and to_seconds(tick) > until:
        tick -= 1
    return tick


def array_to_ticks(seconds: npt.NDArray[np.float64], origin_s: int) -> npt.NDArray[np.int64]:
    """``to_ticks`` of each, counted from second ``origin_s``."""
    whole = np.floor(seconds)
    rest = np.ceil((seconds - whole) * TICKS_PER_S).astype(np.int64)
    ticks: npt.NDArray[np.int64] = (whole - origin_s).astype(np.int64) * TICKS_PER_S + rest
    return ticks


def array_to_seconds(ticks: npt.NDArray[np.int64], origin_s: int) -> npt.NDArray[np.float64]:
    """``to_seconds`` of each, counted from second ``origin_s``."""
    whole = ticks // TICKS_PER_S
    seconds: npt.NDArray[np.float64] = (whole + origin_s) + (ticks - whole * TICKS_PER_S) / TICKS_PER_S
    return seconds
