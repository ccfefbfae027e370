"""A mergeable histogram of positive values in fixed logarithmic buckets, small enough to travel every second.

Buckets grow by 2^(1/8) (9.05 %), so a quantile is off by at most 4.4 % of its value: bucket ``i`` holds values in
(``SMALLEST`` * 2^((i-1)/8), ``SMALLEST`` * 2^(i/8)]. Being fixed, sketches of any gateways, seconds and models add
up without error; adaptive ones (t-digest, KLL) would not merge the same in every order, and replays must be exact.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from broker.model.making import quickly_made

BUCKETS_PER_DOUBLING = 8
SMALLEST = 1e-4
BUCKETS = 320
"""320 buckets reach from 0.1 ms to 10^8 s, and as token counts from 0 to 10^8."""

_LARGEST = SMALLEST * 2.0 ** ((BUCKETS - 1) / BUCKETS_PER_DOUBLING)
_FULL = 2**32 - 1
_ENTRY = struct.Struct("<HI")


def bucket_of(value: float) -> int:
    """The bucket of ``value``; everything at or below ``SMALLEST`` is in bucket 0, the last one is open.

    Raises ``ValueError`` for NaN.
    """
    if value <= SMALLEST:
        return 0
    if value >= _LARGEST:
        return BUCKETS - 1
    # The tolerance keeps a bound such as 2 * SMALLEST in the bucket that it closes, whatever log2 rounds to.
    return math.ceil(math.log2(value / SMALLEST) * BUCKETS_PER_DOUBLING - 1e-9)


def bucket_value(bucket: int) -> float:
    """The value that stands for a bucket: its geometric middle, 0 for bucket 0."""
    return 0.0 if bucket == 0 else SMALLEST * 2.0 ** ((bucket - 0.5) / BUCKETS_PER_DOUBLING)


@quickly_made
@dataclass(frozen=True, slots=True)
class Sketch:
    """``packed`` holds (bucket: uint16, count: uint32) pairs, little-endian, by rising bucket.

    Packed, because a window merges hundreds of thousands a second: numpy reads the joined bytes at once.
    """

    packed: bytes = b""

    @staticmethod
    def of(values: Iterable[float]) -> Sketch:
        counts: dict[int, int] = {}
        for value in values:
            bucket = bucket_of(value)
            counts[bucket] = counts.get(bucket, 0) + 1
        return Sketch.from_counts(counts) if counts else EMPTY_SKETCH

    @staticmethod
    def from_counts(counts: dict[int, int]) -> Sketch:
        """Raises ``ValueError`` for a bucket or count out of range."""
        for bucket, count in counts.items():
            if not 0 <= bucket < BUCKETS or not 0 < count <= _FULL:
                raise ValueError(f"bucket {bucket} with count {count} is not of this sketch")
        return Sketch(b"".join(_ENTRY.pack(bucket, counts[bucket]) for bucket in sorted(counts)))

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return _ENTRY.iter_unpack(self.packed)

    @property
    def count(self) -> int:
        return sum(count for _, count in self)

    def merge(self, *others: Sketch) -> Sketch:
        """The sketch of all values together, in whatever order; a count that is full stays full."""
        counts: dict[int, int] = {}
        for sketch in (self, *others):
            for bucket, count in sketch:
                counts[bucket] = min(counts.get(bucket, 0) + count, _FULL)
        return Sketch.from_counts(counts)

    def quantile(self, q: float) -> float | None:
        """The value at rank ceil(q * count), None for an empty sketch."""
        rank = max(1, math.ceil(q * self.count - 1e-9))
        seen = 0
        for bucket, count in self:
            seen += count
            if seen >= rank:
                return bucket_value(bucket)
        return None


EMPTY_SKETCH = Sketch()
