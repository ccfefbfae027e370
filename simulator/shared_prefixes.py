"""What of each request's prompt an engine may have computed before, as its trace tells, or by a share for all."""

from __future__ import annotations

from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from simulator.engine.fleet import NO_GROUP

Rows = NDArray[np.int64]
Integers = NDArray[np.integer[Any]]


class Shared(TypedDict):
    """Arguments of ``EngineFleet.submit``."""

    group: Integers
    prefix_tokens: Integers
    cached_tokens: Integers


class SharedPrefixes:
    """By rows of a ledger. Where the trace names prefix groups each replica finds out what it still holds; of requests
    without one ``cached_share`` of the prompt counts as cached wherever they go, and never all of it.

    Memory: nothing for a trace without groups; else 8 bytes for each request, and here and in the engines about 200 for
    each group, kept to the end of the run.
    """

    def __init__(self, cached_share: float = 0.0) -> None:
        self._cached_share = cached_share
        self._numbers: dict[int, int] = {NO_GROUP: NO_GROUP}
        self._group = np.empty(0, np.int32)
        self._tokens = np.empty(0, np.int32)

    def note(self, rows: Rows, prefix_group: Integers, prefix_tokens: Integers) -> None:
        """The groups of new rows, by any numbers (-1 for none), and what their prompts share with earlier ones."""
        if not len(rows) or (not len(self._group) and bool(np.all(prefix_group == NO_GROUP))):
            return
        self._grow(int(rows[-1]) + 1)
        self._group[rows] = self._numbered(prefix_group)
        self._tokens[rows] = prefix_tokens

    def _grow(self, wanted: int) -> None:
        known = len(self._group)
        if wanted > known:
            length = max(wanted, 2 * known)
            group, tokens = np.full(length, NO_GROUP, np.int32), np.zeros(length, np.int32)
            group[:known], tokens[:known] = self._group, self._tokens
            self._group, self._tokens = group, tokens

    def _numbered(self, prefix_group: Integers) -> Integers:
        """The fleet numbers groups from 0, traces by 63 bits that mean nothing."""
        distinct, inverse = np.unique(prefix_group, return_inverse=True)
        numbers = [self._numbers.setdefault(group, len(self._numbers) - 1) for group in distinct.tolist()]
        return np.array(numbers, np.int32)[inverse]

    def of(self, rows: Rows, prompt_tokens: Integers) -> Shared:
        """What the fleet is told of these rows."""
        if len(self._group):
            group = self._group[rows]
            tokens: Integers = np.minimum(self._tokens[rows], prompt_tokens)
        else:
            group, tokens = np.array(NO_GROUP, np.int32), np.array(0, np.int32)
        cached = np.array(0, np.int32)
        if self._cached_share:
            share = np.minimum((prompt_tokens * self._cached_share).astype(np.int32), prompt_tokens - 1)
            cached = np.where(group == NO_GROUP, share, 0)
        return Shared(group=group, prefix_tokens=tokens, cached_tokens=cached)

    def at_most(self, prompt_tokens: Integers) -> Integers | None:
        """Of each prompt, of all rows in order, what no engine may have to compute; None if that is nothing."""
        if not (len(self._group) or self._cached_share):
            return None
        shared = self.of(np.arange(len(prompt_tokens)), prompt_tokens)
        return np.maximum(shared["prefix_tokens"], shared["cached_tokens"])
