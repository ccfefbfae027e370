"""Chance that belongs to a name or to a request, never to the order in which something is asked.

Two policies are compared on the same demand only if no draw of one run moves because another part drew more or less.
So every subsystem has a stream of its own, spawned from the run's seed by name (``stream``), and what is drawn for one
request is a function of seed, name and the request's own numbers (``Draws``): however often a policy makes a client
come back, its next question is the same.
"""

from __future__ import annotations

import math
from hashlib import blake2b
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

_MASK = 0xFFFF_FFFF_FFFF_FFFF
_STEP = 0x9E37_79B9_7F4A_7C15
_FIRST, _SECOND = 0xBF58_476D_1CE4_E5B9, 0x94D0_49BB_1331_11EB
_NORMAL = NormalDist()


def sequence(seed: int, *names: str) -> np.random.SeedSequence:
    """The child of ``seed`` with this name; children of other names, or of other seeds, are independent of it."""
    digest = blake2b("\0".join(names).encode(), digest_size=16).digest()
    key = tuple(int(word) for word in np.frombuffer(digest, "<u4"))
    return np.random.SeedSequence(seed % 2**128, spawn_key=key)


def stream(seed: int, *names: str) -> np.random.Generator:
    """A generator for one subsystem: ``stream(seed, "node failures")``, ``stream(seed, "arrivals", "chat")``."""
    return np.random.default_rng(sequence(seed, *names))


class Draws:
    """Chance by key: ``uniform(session, turn)`` is the same number whenever, and however often, it is asked.

    The numbers of the key are mixed by SplitMix64 (Steele, Lea, Flood 2014), whose output passes BigCrush. The methods
    for one key work on Python integers, ``uniforms`` on arrays; both give the same bits.
    """

    __slots__ = ("_state",)

    def __init__(self, seed: int, *names: str) -> None:
        self._state = int(sequence(seed, *names).generate_state(1, np.uint64)[0])

    def uniform(self, *key: int) -> float:
        """In (0, 1), both ends left out."""
        return ((self.bits(*key) >> 11) + 0.5) * 2.0**-53

    def normal(self, *key: int) -> float:
        """Standard normal, by inversion."""
        return _NORMAL.inv_cdf(self.uniform(*key))

    def lognormal(self, median: float, sigma: float, *key: int) -> float:
        return median * math.exp(sigma * self.normal(*key))

    def bits(self, *key: int) -> int:
        """64 bits."""
        state = self._state
        for number in key:
            state = _mixed(state + _STEP ^ (number & _MASK))
        return state

    def uniforms(self, *key: ArrayLike) -> NDArray[np.float64]:
        """``uniform`` for each element of the broadcast key."""
        shifted: NDArray[Any] = self.words(*key) >> np.uint64(11)
        return (shifted.astype(np.float64) + 0.5) * 2.0**-53

    def words(self, *key: ArrayLike) -> NDArray[np.uint64]:
        """``bits`` for each element of the broadcast key."""
        parts = np.broadcast_arrays(*(np.atleast_1d(np.asarray(number)) for number in key))
        state = np.full(parts[0].shape, self._state, dtype=np.uint64)
        for part in parts:
            state = _mixed_words(state + np.uint64(_STEP) ^ part.astype(np.uint64))
        return state


def _mixed(state: int) -> int:
    state &= _MASK
    state = (state ^ state >> 30) * _FIRST & _MASK
    state = (state ^ state >> 27) * _SECOND & _MASK
    return state ^ state >> 31


def _mixed_words(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    state = (state ^ state >> np.uint64(30)) * np.uint64(_FIRST)
    state = (state ^ state >> np.uint64(27)) * np.uint64(_SECOND)
    mixed: NDArray[np.uint64] = state ^ state >> np.uint64(31)
    return mixed
