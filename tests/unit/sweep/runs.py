"""Results of runs that never were."""

from __future__ import annotations

from collections.abc import Sequence

from simulator.report.gpu_hours import GpuHours
from simulator.report.summary import Latency
from simulator.sweep.cells import Candidate, Cell, CellResult
from simulator.sweep.design import Setting
from simulator.sweep.figures import RunFigures, Worst

KNOB = "models.chat.policy.rules[queue].above"


def candidate(policy: str, knob: float | None = None) -> Candidate:
    return Candidate(policy) if knob is None else Candidate(policy, (Setting(KNOB, knob),), KNOB)


def result(
    who: Candidate, *, seed: int = 1, demand: str = "calm", kept: Sequence[float] = (99.0,), cost: float = 10.0,
    worst: float | None = 0.98, key: str = "",
) -> CellResult:  # fmt: skip
    """One run of as many days as ``kept`` has, a hundred requests on each; ``cost`` is GPU-hours a day. ``worst``: None
    for a run of less than an hour."""
    days = len(kept)
    hour = None if worst is None else Worst(0.0, round(1000 * worst), 1000)
    latency = Latency(1, 1.0, 1.0, 2.0, 3.0, 4.0)
    figures = RunFigures(
        tuple(kept), (100.0,) * days, (GpuHours(busy=cost),) * days, (1.0,) * days,
        hour, Worst(0.0, 1, 2), latency, latency, latency, 99, 1000, 3, 7,
    )  # fmt: skip
    return CellResult(Cell(key or f"{who.words}/{demand}/{seed}", who, demand, seed), figures)
