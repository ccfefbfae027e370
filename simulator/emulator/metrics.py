"""Prometheus instruments that are cheap to write out: all text but the values is made once.

A library's registry would want a lock and a lookup for each of thousands of token observations per second, and its
names cannot be vLLM's with vLLM's ``_created`` companions in vLLM's order. What is needed is this small.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

from broker.prometheus_text import Labels, label_text


class Scalar:
    """A counter or gauge: one value for each set of labels, all of them there from the start."""

    def __init__(self, name: str, kind: str, series: Sequence[Labels], created_at: float | None = None) -> None:
        self.values = [0.0] * len(series)
        self._head = f"# TYPE {name} {kind}\n"
        self._prefixes = [f"{name}{label_text(labels)} " for labels in series]
        self._tail = "" if created_at is None else _created(name.removesuffix("_total"), series, created_at)

    def text(self) -> str:
        lines = (f"{prefix}{float(value)!r}\n" for prefix, value in zip(self._prefixes, self.values, strict=True))
        return self._head + "".join(lines) + self._tail


class Histogram:
    """A histogram with one set of labels; its text is made anew only after an observation."""

    def __init__(self, name: str, bounds: Sequence[float], labels: Labels, created_at: float) -> None:
        self.samples = HistogramSamples(name, bounds, labels)
        self._head = f"# TYPE {name} histogram\n"
        self._tail = _created(name, [labels], created_at)
        self.observe = self.samples.observe

    def text(self) -> str:
        return self._head + self.samples.text() + self._tail


class HistogramSamples:
    """The sample lines of one histogram series."""

    def __init__(self, name: str, bounds: Sequence[float], labels: Labels) -> None:
        self.count = 0
        self.total = 0.0
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(bounds) + 1)
        limits = [*(repr(float(bound)) for bound in bounds), "+Inf"]
        self._prefixes = [f"{name}_bucket{label_text({**labels, 'le': limit})} " for limit in limits]
        self._suffix_prefixes = (f"{name}_count{label_text(labels)} ", f"{name}_sum{label_text(labels)} ")
        self._text = ""
        self._text_count = -1

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self.count += 1
        self.total += value

    def text(self) -> str:
        if self._text_count != self.count:
            lines = []
            cumulative = 0
            for prefix, count in zip(self._prefixes, self._counts, strict=True):
                cumulative += count
                lines.append(f"{prefix}{cumulative}.0\n")
            count_prefix, sum_prefix = self._suffix_prefixes
            lines.append(f"{count_prefix}{self.count}.0\n{sum_prefix}{float(self.total)!r}\n")
            self._text = "".join(lines)
            self._text_count = self.count
        return self._text


def _created(family: str, series: Sequence[Labels], created_at: float) -> str:
    """The companion gauge that the Prometheus client of vLLM writes for each counter and histogram."""
    lines = (f"{family}_created{label_text(labels)} {created_at!r}\n" for labels in series)
    return f"# TYPE {family}_created gauge\n" + "".join(lines)
