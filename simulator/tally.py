"""What the simulated gateway counts between two summaries, compiled: a busy second has a hundred requests, for which
numpy's calls cost more than the counting.

Columns are those of the ledger, in the order of ``Ledger.columns``; counts are by kind of sketch, model and bucket.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from broker.model.sketch import BUCKETS, BUCKETS_PER_DOUBLING, EMPTY_SKETCH, SMALLEST, Sketch
from simulator.engine import layout
from simulator.engine.compiled import entry_point, inner, times_compiled
from simulator.engine.layout import Records
from simulator.engine.ticks import TICKS_PER_S
from simulator.ledger import ABANDONED, FINISHED, OPEN, Columns, Ledger, Rows

Counts = NDArray[np.int64]

QUEUE_AGE, FIRST_TOKEN, INTER_TOKEN, PROMPT, OUTPUT, KINDS = 0, 1, 2, 3, 4, 5
_ARRIVED, _FINISHED, _FAILED, _WAITING, _OPEN, _NUMBERS = 0, 1, 2, 3, 4, 5
_SINCE_LAST = slice(_ARRIVED, _WAITING + 1)
_LARGEST = SMALLEST * 2.0 ** ((BUCKETS - 1) / BUCKETS_PER_DOUBLING)


@inner
def _bucket(value: float) -> int:
    """``bucket_of``."""
    if value <= SMALLEST:
        return 0
    if value >= _LARGEST:
        return BUCKETS - 1
    return math.ceil(math.log2(value / SMALLEST) * BUCKETS_PER_DOUBLING - 1e-9)


@inner
def _seconds(ticks: int, origin_s: int) -> float:
    """``array_to_seconds`` of one."""
    whole = ticks // TICKS_PER_S
    return (whole + origin_s) + (ticks - whole * TICKS_PER_S) / TICKS_PER_S


@entry_point
def _take(
    first_tokens: Records, completions: Records, origin_s: int, columns: Columns, finished: int, counts: Counts,
    numbers: Counts,
) -> None:  # fmt: skip
    """Write first tokens and ends into the ledger, and count them."""
    arrival_at, first_token_at, ended_at, _, output_tokens, model, status = columns
    for index in range(len(first_tokens)):
        token = first_tokens[index]
        row = token.request
        at = _seconds(token.at, origin_s)
        first_token_at[row] = at
        counts[FIRST_TOKEN, model[row], _bucket(at - arrival_at[row])] += 1
    for index in range(len(completions)):
        done = completions[index]
        row = done.request
        m = model[row]
        tokens = output_tokens[row]
        at = _seconds(done.at, origin_s)
        ended_at[row] = at
        status[row] = finished
        numbers[_OPEN, m] -= 1
        numbers[_FINISHED, m] += 1
        counts[OUTPUT, m, _bucket(float(tokens))] += 1
        if tokens > 1:
            counts[INTER_TOKEN, m, _bucket((at - first_token_at[row]) / (tokens - 1))] += 1


@entry_point
def _arrive(begin: int, end: int, columns: Columns, counts: Counts, numbers: Counts) -> None:
    """Count the rows from ``begin`` to before ``end``, which have arrived."""
    _, _, _, prompt_tokens, _, model, _ = columns
    for row in range(begin, end):
        m = model[row]
        numbers[_ARRIVED, m] += 1
        numbers[_OPEN, m] += 1
        counts[PROMPT, m, _bucket(float(prompt_tokens[row]))] += 1


@entry_point
def _wait(
    waiting: Rows, known: int, begin: int, end: int, now: float, columns: Columns, open_: int, counts: Counts,
    numbers: Counts, oldest: Any,
) -> int:  # fmt: skip
    """Of the ``known`` rows that waited at the last summary, and those from ``begin`` to before ``end``, those that
    wait now: how many they are, the first of ``waiting``, by rising row. Rows are in order of arrival."""
    arrival_at, first_token_at, _, _, _, model, status = columns
    kept = 0
    for index in range(known + end - begin):
        row = waiting[index] if index < known else begin + index - known
        if math.isnan(first_token_at[row]) and status[row] == open_:
            waiting[kept] = row
            kept += 1
            m = model[row]
            if numbers[_WAITING, m] == 0:
                oldest[m] = arrival_at[row]
            numbers[_WAITING, m] += 1
            counts[QUEUE_AGE, m, _bucket(now - arrival_at[row])] += 1
    return kept


@entry_point
def _pack(counts: Counts, entries: Any, ends: Any) -> None:
    """Write out what is not zero as entries of 16-bit words (bucket, low and high word of the count), sketch after
    sketch, and set it to zero. Each sketch ends at the byte in ``ends`` behind that of the one before."""
    word = 0
    for kind in range(counts.shape[0]):
        for m in range(counts.shape[1]):
            for bucket in range(counts.shape[2]):
                count = counts[kind, m, bucket]
                if count:
                    entries[word] = bucket
                    entries[word + 1] = count & 0xFFFF
                    entries[word + 2] = count >> 16
                    counts[kind, m, bucket] = 0
                    word += 3
            ends[kind * counts.shape[1] + m + 1] = 2 * word


class Tally:
    """The counts of one gateway by model. ``arrived``, ``finished`` and ``failed`` are since the last summary,
    ``waiting`` and ``oldest`` (the first arrival among those) as of it, ``open`` is as of now."""

    def __init__(self, models: int, ledger: Ledger) -> None:
        self._ledger = ledger
        self._counts = np.zeros((KINDS, models, BUCKETS), np.int64)
        self._numbers = np.zeros((_NUMBERS, models), np.int64)
        self._entries = np.zeros(3 * self._counts.size, "<u2")
        self._ends = np.zeros(KINDS * models + 1, np.int64)
        self._waiting: Rows = np.zeros(1024, np.int64)
        self._known = 0
        self._models = models
        self._summarised = 0
        self.total_arrived = 0
        self.oldest = np.zeros(models)
        self.arrived, self.finished, self.failed, self.waiting, self.open = self._numbers

    def arrive(self, rows: int) -> None:
        """All rows before ``rows`` have arrived."""
        _arrive(self.total_arrived, rows, self._ledger.columns, self._counts, self._numbers)
        self.total_arrived = rows

    def take(self, first_tokens: Records, completions: Records, origin_s: int) -> None:
        """What the fleet has told, in its own records."""
        _take(first_tokens, completions, origin_s, self._ledger.columns, FINISHED, self._counts, self._numbers)

    def close(self, rows: Rows, at: Any, status: int) -> None:
        """Requests ended at ``at`` unanswered. As in the gateway's tally, who went away counts as served."""
        self._ledger.close(rows, at, status)
        by_model = np.bincount(self._ledger.model[rows], minlength=self._models)
        self.open -= by_model
        (self.finished if status == ABANDONED else self.failed)[:] += by_model

    def look(self, now: float) -> None:
        """Find out who waits at ``now``."""
        self.waiting[:] = 0
        most = self._known + self.total_arrived - self._summarised
        if most > len(self._waiting):
            longer = np.zeros(2 * most, np.int64)
            longer[: self._known] = self._waiting[: self._known]
            self._waiting = longer
        self._known = _wait(
            self._waiting, self._known, self._summarised, self.total_arrived, now, self._ledger.columns, OPEN,
            self._counts, self._numbers, self.oldest,
        )  # fmt: skip
        self._summarised = self.total_arrived

    def take_sketches(self) -> list[list[Sketch]]:
        """By kind and model; they begin anew."""
        _pack(self._counts, self._entries, self._ends)
        ends = self._ends.tolist()
        packed = self._entries[: ends[-1] // 2].tobytes()
        return [
            [
                Sketch(packed[ends[at] : ends[at + 1]]) if ends[at] < ends[at + 1] else EMPTY_SKETCH
                for at in range(kind * self._models, (kind + 1) * self._models)
            ]
            for kind in range(KINDS)
        ]

    def begin_anew(self) -> None:
        """A new interval."""
        self._numbers[_SINCE_LAST] = 0


_ENTRY_POINTS: tuple[Callable[..., Any], ...] = (_take, _arrive, _wait, _pack)


def make_ready() -> bool:
    """As ``simulator.engine.fleet.make_ready``."""
    compiled_before = sum(map(times_compiled, _ENTRY_POINTS))
    tally = Tally(1, Ledger())
    tally.arrive(0)
    tally.take(np.zeros(0, layout.FIRST_TOKEN), np.zeros(0, layout.COMPLETION), 0)
    tally.look(0.0)
    tally.take_sketches()
    return sum(map(times_compiled, _ENTRY_POINTS)) > compiled_before
