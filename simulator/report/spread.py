"""How sure a run's printed figures are. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from simulator.report.document import Interval


@dataclass(frozen=True, slots=True)
class Spread:
    """``words`` tell n, blocks and seeds. ``intervals``: of a summary's latencies, by their fields in it and the
    quantiles' fields in them; none of a run of one block, of which no spread is known."""

    words: str
    intervals: Mapping[str, Mapping[str, Interval]]
